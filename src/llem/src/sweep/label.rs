//! Short names for what is particular about an experiment.

use serde_json::Value;

use crate::config::compact;

/// Each key's last part, or as much of its end as tells it from the others.
pub(super) fn short_keys(keys: &[String]) -> Vec<String> {
    keys.iter().map(|key| shortest_unique_end(key, keys)).collect()
}

fn shortest_unique_end(key: &str, keys: &[String]) -> String {
    let starts = key.rmatch_indices('.').map(|(at, _)| at + 1);
    for start in starts {
        let end = &key[start..];
        let clashes =
            |other: &&String| other.as_str() != key && (other.as_str() == end || other.ends_with(&format!(".{end}")));
        if !keys.iter().any(|other| clashes(&other)) {
            return end.to_owned();
        }
    }
    key.to_owned()
}

/// `batch_size=4 input_tokens=16..64`.
pub(super) fn label<'a>(values: impl Iterator<Item = (&'a str, &'a Value)>) -> String {
    values.map(|(key, value)| format!("{key}={}", short_value(value))).collect::<Vec<_>>().join(" ")
}

/// A value in as few characters as tell it: `16..64` for a range of lengths.
pub(crate) fn short_value(value: &Value) -> String {
    if let (Some(least), Some(most)) = (value.get("min"), value.get("max")) {
        return format!("{least}..{most}");
    }
    if value.get("synthetic").is_some() {
        return format!("synthetic({})", compact(value.get("synthetic").unwrap_or(&Value::Null)));
    }
    compact(value)
}
