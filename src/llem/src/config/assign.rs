//! Dotted keys: taking them apart, and setting what they name.

use serde_json::{Map, Value, json};

use super::document::pointer_segment;

/// Why a dotted key cannot be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotAMapping {
    /// The part of the key that holds something else.
    pub(crate) key: String,
}

/// The JSON pointer of a dotted key.
pub(crate) fn pointer_of(key: &str) -> String {
    key.split('.').fold(String::new(), |pointer, segment| pointer + "/" + &pointer_segment(segment))
}

/// Sets a dotted key; mappings on the way are made. `model: synthetic` gives way to `model.synthetic.*`.
pub(crate) fn set(target: &mut Value, key: &str, value: Value) -> Result<(), NotAMapping> {
    let mut here = target;
    let mut passed = 0;
    for segment in key.split('.') {
        let is_shorthand = segment == "synthetic" && here.as_str() == Some("synthetic");
        if here.is_null() || is_shorthand {
            *here = json!({});
        }
        let Value::Object(map) = here else {
            return Err(NotAMapping { key: key[..passed].trim_end_matches('.').to_owned() });
        };
        passed += segment.len() + 1;
        here = map.entry(segment).or_insert(Value::Null);
    }
    *here = value;
    Ok(())
}

/// What a dotted key holds.
pub(crate) fn get<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    key.split('.').try_fold(value, |here, segment| here.as_object()?.get(segment))
}

/// Takes the entry at a JSON pointer out. In a list of the study (`backend`, `experiments`, …) it becomes null, so that
/// the other entries keep their places; other lists go as a whole.
pub(crate) fn remove(value: &mut Value, pointer: &str) {
    let Some((parent, last)) = pointer.rsplit_once('/') else { return };
    let last = last.replace("~1", "/").replace("~0", "~");
    match value.pointer_mut(parent) {
        Some(Value::Object(map)) => drop(map.remove(&last)),
        Some(Value::Array(items)) => {
            let is_design =
                ["/backend", "/sweep", "/experiments", "/exclude"].iter().any(|key| parent.starts_with(key));
            match last.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                Some(item) if is_design => *item = Value::Null,
                Some(_) => remove(value, parent),
                None => {}
            }
        }
        _ => {}
    }
}

/// Lays `over` over `base`: mappings are merged, everything else is replaced.
pub(crate) fn overlay(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// Writes `8.0` as `8`, so that an integer field may be given as a whole number of any notation. What is passed to an
/// engine verbatim (`extra`) stays as it is.
pub(crate) fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| number.is_f64())
                && float.fract() == 0.0
                && float.abs() < 9_007_199_254_740_992.0
            {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => whole_fields(map),
        _ => {}
    }
}

fn whole_fields(map: &mut Map<String, Value>) {
    for (key, value) in map.iter_mut().filter(|(key, _)| *key != "extra") {
        if !key.contains(".extra") {
            whole_numbers(value);
        }
    }
}
