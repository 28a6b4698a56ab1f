//! How values and near misses are put into words.

use serde_json::Value;

/// The longest part of a value that a message repeats, in characters.
const SHOWN_CHARS: usize = 60;

/// What was found, for "expected …, found …".
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => format!("`{flag}`"),
        Value::Number(number) => format!("the number `{number}`"),
        Value::String(text) if text.is_empty() => "empty text".to_owned(),
        Value::String(text) => format!("text `{}`", shortened(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// A value in one short line.
pub(crate) fn compact(value: &Value) -> String {
    match value {
        Value::String(text) => shortened(text),
        other => shortened(&other.to_string()),
    }
}

fn shortened(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    match clean.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean,
    }
}

/// A key of the file as a message repeats it.
pub(crate) fn key(text: &str) -> String {
    shortened(text)
}

/// The known name that a misspelt one was most likely meant to be.
pub(crate) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > 64 {
        return None;
    }
    let known: Vec<&str> = known.into_iter().collect();
    let wrong = plain(wrong);
    let allowed = (wrong.chars().count() / 3).clamp(1, 3);
    let slip = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong, &plain(name)), *name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance);
    slip.map(|(_, name)| name).or_else(|| alike(&wrong, &known))
}

/// The name that begins most like it: `max_num_sequences` for `max_num_seqs`.
fn alike<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(wrong, &plain(name)), *name))
        .filter(|(similarity, _)| *similarity >= 0.93)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

fn plain(name: &str) -> String {
    name.to_lowercase().replace(['-', ' ', '_'], "")
}

/// `a`, `b`, `c`.
pub(crate) fn quoted_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
