//! Text of strangers, made fit for terminals, Markdown and spreadsheets.

/// Replaces control characters, which could move the cursor, change colours or set a title, and marks that turn the direction of writing, by
/// the replacement character. Line breaks become spaces, tabs stay.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => c,
            '\n' | '\r' => ' ',
            c if c.is_control() || turns(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// As [`printable`], at most so many characters: of a longer text, the beginning and the end, for what tells paths and names of images apart
/// stands there.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let characters = text.chars().count();
    if characters <= most {
        return printable(text);
    }
    let end = most.saturating_sub(1) / 3;
    let start: String = text.chars().take(most.saturating_sub(end + 1)).collect();
    let end: String = text.chars().skip(characters - end).collect();
    format!("{}…{}", printable(&start), printable(&end))
}

/// Text that GitHub's Markdown shows as it is: no markup, no link, no mention of a user.
pub(crate) fn markdown(text: &str) -> String {
    // A joiner that nobody sees keeps names from being mentions, and addresses from being links.
    let joined = printable(text).replace("://", ":\u{2060}//").replace("www.", "www\u{2060}.");
    let mut escaped = String::with_capacity(joined.len());
    for c in joined.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '@' | '#' => escaped.extend(['\\', c, '\u{2060}']),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '!' | '~' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Text for a cell of CSV (RFC 4180). What a spreadsheet would take for a formula begins with an apostrophe, as text does there.
pub(crate) fn csv_text(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn turns(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::{csv_text, markdown, printable, shortened};

    #[test]
    fn what_a_terminal_would_obey_is_replaced() {
        assert_eq!(printable("a\u{1b}[31m\nb\u{202e}c\td"), "a\u{fffd}[31m b\u{fffd}c\td");
    }

    #[test]
    fn long_names_keep_what_tells_them_apart() {
        assert_eq!(shortened("/models/a-rather-long-name/v1", 20), "/models/a-rat…ame/v1");
        assert_eq!(shortened(&"é".repeat(10_000), 80).chars().count(), 80);
        assert_eq!(shortened(&"x".repeat(80), 80), "x".repeat(80));
        assert_eq!(shortened("ab", 1), "…");
    }

    #[test]
    fn names_are_no_markup() {
        assert_eq!(markdown("<b>|x_y`*"), "&lt;b&gt;\\|x\\_y\\`\\*");
        assert_eq!(markdown("![a](http://x)\n@all"), "\\!\\[a\\](http:\u{2060}//x) \\@\u{2060}all");
        assert_eq!(markdown("www.x #1"), "www\u{2060}.x \\#\u{2060}1");
    }

    #[test]
    fn cells_are_text_and_no_formulas() {
        assert_eq!(
            ["plain", "a,b", "say \"x\"", "-1.5"].map(csv_text),
            ["plain", "\"a,b\"", "\"say \"\"x\"\"\"", "-1.5"]
        );
        assert_eq!(["=1+1", "@SUM(A1)", "+1+1"].map(csv_text), ["'=1+1", "'@SUM(A1)", "'+1+1"]);
        assert_eq!(csv_text("=HYPERLINK(\"x\")"), "\"'=HYPERLINK(\"\"x\"\")\"");
    }
}
