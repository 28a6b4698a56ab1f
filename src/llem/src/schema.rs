//! JSON Schemas of the files that llem writes, made from the types that write them. Those of files that users write are in
//! [`crate::config`].

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::analysis::compare::{COMPARISON_SCHEMA_VERSION, StudyComparison};
use crate::result::{RunResult, SCHEMA_VERSION, StudyResult};

/// A file that llem writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// `result.json`.
    Result,
    /// `study.json`.
    Study,
    /// What `llem compare --format json` prints.
    Comparison,
}

/// JSON Schema (draft 2020-12) of a record. Every file of the same `schema_version` is valid under it, also one of a later llem: keys may
/// be added, so unknown ones are allowed everywhere.
pub fn record_schema(kind: RecordKind) -> Value {
    match kind {
        RecordKind::Result => schema_of::<RunResult>("llem result.json", SCHEMA_VERSION),
        RecordKind::Study => schema_of::<StudyResult>("llem study.json", SCHEMA_VERSION),
        RecordKind::Comparison => schema_of::<StudyComparison>("llem comparison", COMPARISON_SCHEMA_VERSION),
    }
}

fn schema_of<T: JsonSchema>(title: &str, version: u32) -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value();
    allow_unknown_keys(&mut schema);
    schema["title"] = json!(title);
    schema["properties"]["schema_version"]["const"] = json!(version);
    schema
}

fn allow_unknown_keys(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("additionalProperties") == Some(&Value::Bool(false)) {
                map.remove("additionalProperties");
            }
            map.values_mut().for_each(allow_unknown_keys);
        }
        Value::Array(items) => items.iter_mut().for_each(allow_unknown_keys),
        _ => {}
    }
}
