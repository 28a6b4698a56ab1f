//! Names that somebody else chose, fit for terminals, XML and Markdown.

use crate::printable::{printable, shortened};

/// Characters of a name that are shown.
const SHOWN_CHARS: usize = 80;

/// A name of a file's making, fit for a terminal: without control characters and marks that turn the direction of writing, at most 80
/// characters.
pub fn shown(name: &str) -> String {
    shortened(name, SHOWN_CHARS)
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

#[cfg(test)]
mod tests {
    use super::{code, xml};

    #[test]
    fn markup_is_text() {
        assert_eq!(xml("<a b=\"c\">&'\u{0}\u{ffff}"), "&lt;a b=&quot;c&quot;&gt;&amp;&apos;\u{fffd}\u{fffd}");
        assert_eq!(code("x|`<img> @all"), "`x\\|'<img> @all`");
        assert_eq!(code(" "), "–");
    }
}
