//! Names that somebody else chose, fit for terminals, XML and Markdown.

use crate::printable::printable;

/// Characters of a name that are shown.
const SHOWN_CHARS: usize = 80;

/// A name of a file's making, fit for a terminal: without control characters and marks that turn the direction of writing, its first 80
/// characters.
pub fn shown(name: &str) -> String {
    let mut characters = name.chars();
    let short: String =
        characters.by_ref().take(SHOWN_CHARS).map(|c| if turns(c) { char::REPLACEMENT_CHARACTER } else { c }).collect();
    let more = if characters.next().is_some() { "…" } else { "" };
    format!("{}{more}", printable(&short))
}

/// Text for XML, in elements and attributes.
pub(super) fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            // No XML can hold them.
            '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A code span of Markdown that can stand in a table: nothing in it is markup, a link or the mention of a user.
pub(super) fn code(text: &str) -> String {
    let inner = shown(text).replace('`', "'").replace('|', "\\|");
    if inner.trim().is_empty() { "–".to_owned() } else { format!("`{inner}`") }
}

fn turns(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::{code, shown, xml};

    #[test]
    fn what_a_terminal_would_obey_is_replaced_and_long_names_are_cut() {
        assert_eq!(shown("a\u{1b}[31m\nb\u{202e}c"), "a\u{fffd}[31m b\u{fffd}c");
        let long = shown(&"é".repeat(10_000));
        assert_eq!((long.chars().count(), long.ends_with('…')), (81, true));
    }

    #[test]
    fn markup_is_text() {
        assert_eq!(xml("<a b=\"c\">&'\u{0}\u{ffff}"), "&lt;a b=&quot;c&quot;&gt;&amp;&apos;\u{fffd}\u{fffd}");
        assert_eq!(code("x|`<img> @all"), "`x\\|'<img> @all`");
        assert_eq!(code(" "), "–");
    }
}
