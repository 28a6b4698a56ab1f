//! Text of strangers, made fit for a terminal.

/// Replaces control characters, which could move the cursor, change colours or set a title, by the replacement character. Line breaks
/// become spaces, tabs stay.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => c,
            '\n' | '\r' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}
