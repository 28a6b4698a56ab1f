//! Why an engine is not the one that is there: the inputs in which two keys differ.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::entries::Entry;

/// One input that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Its dotted name.
    pub path: String,
    /// Its value on the one side; absent when only the other has it.
    pub left: Option<Value>,
    /// Its value on the other.
    pub right: Option<Value>,
}

/// An entry, and what separates it from the inputs that were asked about.
#[derive(Clone, Debug, PartialEq)]
pub struct Nearest<'a> {
    /// The entry.
    pub entry: &'a Entry,
    /// The inputs that differ: asked about left, the entry's right. Empty: it is the very engine.
    pub differences: Vec<Difference>,
}

/// The inputs in which two keys differ, by dotted name.
pub fn differences(left: &Value, right: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", Some(left), Some(right), &mut found);
    found
}

/// The `count` entries that differ least from these inputs ([`super::Key::inputs`]), nearest first; of other kinds there are none. Entries
/// whose manifest cannot be read are left out.
pub fn nearest<'a>(inputs: &Value, entries: &'a [Entry], count: usize) -> Vec<Nearest<'a>> {
    let kind = inputs.get("kind");
    let readable = entries.iter().filter_map(|entry| Some((entry, entry.manifest.as_ref().ok()?)));
    let mut found: Vec<Nearest<'_>> = readable
        .filter(|(_, manifest)| manifest.inputs.get("kind") == kind)
        .map(|(entry, manifest)| Nearest { entry, differences: differences(inputs, &manifest.inputs) })
        .collect();
    found.sort_by_key(|near| (near.differences.len(), std::cmp::Reverse(near.entry.last_used)));
    found.truncate(count);
    found
}

/// Whatever is not the same kind of thing on both sides, or is a value, is one difference.
fn compare(path: &str, left: Option<&Value>, right: Option<&Value>, found: &mut Vec<Difference>) {
    match (left, right) {
        (Some(Value::Object(l)), Some(Value::Object(r))) => {
            let keys: BTreeSet<&String> = l.keys().chain(r.keys()).collect();
            for key in keys {
                compare(&join(path, key), l.get(key), r.get(key), found);
            }
        }
        (Some(Value::Array(l)), Some(Value::Array(r))) if l.len() == r.len() => {
            l.iter().zip(r).enumerate().for_each(|(index, (l, r))| {
                compare(&format!("{path}[{index}]"), Some(l), Some(r), found);
            });
        }
        (left, right) if left == right => {}
        (left, right) => {
            found.push(Difference { path: path.to_owned(), left: left.cloned(), right: right.cloned() });
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_have_dotted_names_and_both_values() {
        let left = json!({"a": {"b": 1, "c": [1, 2]}, "d": null, "e": 1});
        let right = json!({"a": {"b": 2, "c": [1, 3]}, "d": {"x": 1}});
        let found: Vec<_> = differences(&left, &right).into_iter().map(|d| (d.path, d.left, d.right)).collect();
        let expected = [
            ("a.b".to_owned(), Some(json!(1)), Some(json!(2))),
            ("a.c[1]".to_owned(), Some(json!(2)), Some(json!(3))),
            ("d".to_owned(), Some(json!(null)), Some(json!({"x": 1}))),
            ("e".to_owned(), Some(json!(1)), None),
        ];
        assert_eq!(found, expected);
        assert_eq!(differences(&left, &left), []);
    }
}
