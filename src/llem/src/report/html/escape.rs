//! What came from files is text, never markup.

use serde::Serialize;

/// Text for an element or a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            control if control.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A cell of a table that is as wide as its text, up to a limit.
pub(super) fn name_cell(text: &str) -> String {
    format!("<td class=\"name\"><div>{}</div></td>", escape(text))
}

/// The markup of all items, one after the other.
pub(super) fn each<T>(items: impl IntoIterator<Item = T>, markup: impl Fn(T) -> String) -> String {
    items.into_iter().map(markup).collect()
}

/// JSON that no content can make the end of the script element it stands in.
pub(super) fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned());
    text.replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::{escape, json};

    #[test]
    fn markup_of_files_is_text() {
        assert_eq!(escape("<i a='b'>\"&\u{1b}"), "&lt;i a=&#39;b&#39;&gt;&quot;&amp;\u{fffd}");
        let hostile = "</script><!--<script>\u{2028}";
        let text = json(&hostile);
        assert!(!text.contains(['<', '>', '&', '\u{2028}']), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), hostile);
    }
}
