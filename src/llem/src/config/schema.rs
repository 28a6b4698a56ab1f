//! JSON Schemas made from the types. They check every file, and editors can use them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::backend::{Backend, CandleConfig, PytorchConfig, TensorrtConfig, VllmConfig};
use super::execution::ExecutionConfig;
use super::experiment::{MeasurementConfig, SamplingConfig};
use super::model::{Dtype, LoraConfig, ModelSpec};
use super::user::UserConfig;
use super::workload::WorkloadConfig;

// The shape of a study file. Never constructed: the file is resolved as JSON, then read into `ExperimentConfig`s and an
// `ExecutionConfig`.
/// What to measure: experiments, how to vary them, and how to carry them out.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "llem study", transform = all_optional)]
#[expect(dead_code, reason = "gives its shape to the JSON Schema; never constructed")]
struct StudyFile {
    /// Name of the study and of its result directory; absent: the file's name.
    #[schemars(length(min = 1, max = 100))]
    name: String,
    /// The weights to run.
    model: ModelSpec,
    /// The engine, or a list of engines to compare.
    backend: Backends,
    /// Data type that the engine computes in.
    dtype: Dtype,
    /// Seed of everything random: synthetic prompts, order of requests, sampling.
    random_seed: u64,
    /// What the engine is given to do.
    workload: WorkloadConfig,
    /// How tokens are chosen; greedy when absent.
    sampling: SamplingConfig,
    /// A LoRA adapter on top of the model.
    lora: Option<LoraConfig>,
    /// How it is measured.
    measurement: MeasurementConfig,
    /// How the study is carried out.
    execution: ExecutionConfig,
    /// Settings of the embedded backend.
    candle: CandleConfig,
    /// Settings of PyTorch with transformers.
    pytorch: PytorchConfig,
    /// Settings of vLLM.
    vllm: VllmConfig,
    /// Settings of TensorRT-LLM.
    tensorrt: TensorrtConfig,
    /// Axes that are varied: dotted or nested keys with a list or a range, and `zip` and `groups`.
    sweep: BTreeMap<String, Value>,
    /// Experiments in addition to the sweep: what differs from the settings above, in dotted or nested keys.
    experiments: Vec<BTreeMap<String, Value>>,
    /// Points of the sweep that are left out: each rule names keys and values that must all match.
    exclude: Vec<BTreeMap<String, Value>>,
}

/// One backend or several.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "gives its shape to the JSON Schema; never constructed")]
enum Backends {
    /// The engine.
    One(Backend),
    /// Engines to compare.
    Several(#[schemars(length(min = 1))] Vec<Backend>),
}

/// JSON Schema (draft 2020-12) of a study file.
pub fn study_schema() -> Value {
    STUDY.schema.clone()
}

/// JSON Schema (draft 2020-12) of the user configuration.
pub fn user_schema() -> Value {
    USER.schema.clone()
}

/// A schema with its compiled form.
pub(crate) struct CheckedSchema {
    pub(crate) schema: Value,
    pub(crate) validator: Result<Validator, String>,
}

/// Of study files, and of whatever is assigned to their keys.
pub(crate) static STUDY: LazyLock<CheckedSchema> = LazyLock::new(compile::<StudyFile>);
/// Of the user configuration.
pub(crate) static USER: LazyLock<CheckedSchema> = LazyLock::new(compile::<UserConfig>);

fn compile<T: JsonSchema>() -> CheckedSchema {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value();
    bound_integers(&mut schema);
    let validator = jsonschema::validator_for(&schema).map_err(|error| error.to_string());
    CheckedSchema { schema, validator }
}

/// No field is required in a file: profile and defaults fill what is absent.
pub(crate) fn all_optional(schema: &mut Schema) {
    schema.remove("required");
}

/// States the limits of the integer types, which the schema generator leaves to `format`.
fn bound_integers(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some((least, most)) = map.get("format").and_then(Value::as_str).and_then(integer_limits) {
                map.entry("minimum").or_insert(json!(least));
                map.entry("maximum").or_insert(json!(most));
            }
            map.values_mut().for_each(bound_integers);
        }
        Value::Array(items) => items.iter_mut().for_each(bound_integers),
        _ => {}
    }
}

fn integer_limits(format: &str) -> Option<(i64, u64)> {
    match format {
        "uint32" => Some((0, u32::MAX.into())),
        "uint64" => Some((0, u64::MAX)),
        "int32" => Some((i32::MIN.into(), i32::MAX as u64)),
        _ => None,
    }
}

impl CheckedSchema {
    /// Whether a key holds a mapping of known fields and nothing else: its fields can be given one by one.
    pub(crate) fn is_section(&self, keys: &[&str]) -> bool {
        self.at(keys).is_some_and(|schema| schema.contains_key("properties"))
    }

    fn at(&self, keys: &[&str]) -> Option<&Map<String, Value>> {
        let mut here = self.schema.as_object()?;
        for key in keys {
            here = self.property(here, key)?;
        }
        let here = self.resolved(here);
        let mut possible = alternatives(here).filter(|other| other.get("type") != Some(&json!("null")));
        match (possible.next(), possible.next()) {
            (Some(only), None) => Some(self.resolved(only)),
            _ => Some(here),
        }
    }

    /// Dotted paths of all fields of a name.
    pub(crate) fn paths_of(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(root) = self.schema.as_object() {
            self.collect_paths(root, "", name, &mut found);
        }
        found
    }

    fn collect_paths(&self, schema: &Map<String, Value>, prefix: &str, name: &str, found: &mut Vec<String>) {
        let schema = self.resolved(schema);
        for (key, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            if let Some(field) = field.as_object() {
                self.collect_paths(field, &path, name, found);
            }
            if key == name {
                found.push(path);
            }
        }
        for alternative in alternatives(schema) {
            self.collect_paths(alternative, prefix, name, found);
        }
    }

    fn property<'s>(&'s self, schema: &'s Map<String, Value>, key: &str) -> Option<&'s Map<String, Value>> {
        let schema = self.resolved(schema);
        if let Some(found) = schema.get("properties").and_then(|known| known.get(key)) {
            return found.as_object();
        }
        alternatives(schema).find_map(|alternative| self.property(alternative, key))
    }

    fn resolved<'s>(&'s self, schema: &'s Map<String, Value>) -> &'s Map<String, Value> {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
        target.and_then(|pointer| self.schema.pointer(pointer)).and_then(Value::as_object).unwrap_or(schema)
    }

    /// Names of the fields that the mapping described by a subschema can have.
    pub(crate) fn field_names<'s>(&'s self, schema: &'s Map<String, Value>) -> Vec<&'s str> {
        let schema = self.resolved(schema);
        let own =
            schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).map(String::as_str);
        let others = alternatives(schema).flat_map(|alternative| self.field_names(alternative));
        own.chain(others).collect()
    }
}

fn alternatives(schema: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    ["anyOf", "oneOf"].into_iter().filter_map(|of| schema.get(of)?.as_array()).flatten().filter_map(Value::as_object)
}
