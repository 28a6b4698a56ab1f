//! Names of experiments and studies that follow from what they are.

use llem_model::SyntheticSpec;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::backend::Backend;
use super::experiment::ExperimentConfig;

/// Hexadecimal digits of an experiment's id.
const ID_DIGITS: usize = 12;

impl ExperimentConfig {
    /// The first 12 hexadecimal digits of the SHA-256 of the canonical JSON (RFC 8785): equal for equal experiments.
    pub fn id(&self) -> String {
        let mut digest = sha256(&identity_value(self));
        digest.truncate(ID_DIGITS);
        digest
    }
}

/// SHA-256 over the sorted ids of a study's experiments: the same however they are ordered, cycled or named.
pub(crate) fn design_hash<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    let mut sorted: Vec<&str> = ids.collect();
    sorted.sort_unstable();
    sha256(&json!(sorted))
}

/// The experiment as JSON with one spelling for everything that means the same.
fn identity_value(config: &ExperimentConfig) -> Value {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    if value.get("model").and_then(Value::as_str) == Some("synthetic") {
        value["model"] = json!({ "synthetic": SyntheticSpec::default() });
    }
    if let Value::Object(fields) = &mut value {
        let empty_section = json!({});
        fields.retain(|key, field| Backend::from_name(key).is_none() || *field != empty_section);
    }
    large_integers_as_text(&mut value);
    value
}

/// RFC 8785 knows numbers as doubles only: seeds beyond 2^53 would collide.
fn large_integers_as_text(value: &mut Value) {
    const EXACT: u64 = 1 << 53;
    match value {
        Value::Number(number) => {
            let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            if magnitude.is_some_and(|magnitude| magnitude > EXACT) {
                *value = Value::String(number.to_string());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(large_integers_as_text),
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| match key.as_str() {
            "random_seed" | "seed" if value.is_u64() => *value = Value::String(value.to_string()),
            _ => large_integers_as_text(value),
        }),
        _ => {}
    }
}

/// The SHA-256 of canonical JSON (RFC 8785), hexadecimal; integers that it cannot tell apart count as text.
pub(crate) fn canonical_sha256(mut value: Value) -> serde_json::Result<String> {
    large_integers_as_text(&mut value);
    Ok(hex::encode(Sha256::digest(serde_json_canonicalizer::to_vec(&value)?)))
}

/// SHA-256 of the canonical JSON, hexadecimal.
fn sha256(value: &impl Serialize) -> String {
    let canonical = serde_json_canonicalizer::to_vec(value).unwrap_or_default();
    hex::encode(Sha256::digest(canonical))
}
