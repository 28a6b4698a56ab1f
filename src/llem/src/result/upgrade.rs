//! Reads `result.json` and `study.json` of this version and of older ones. What an older version did not know is null; what it did not
//! do is off.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{RunResult, SCHEMA_VERSION, StudyResult};

/// How often RAPL counters change, by Intel's manual (volume 3B, *RAPL Interfaces*).
const RAPL_REFRESH_MS: f64 = 1.0;

/// How often NVML's energy counter changes.
const NVML_REFRESH_MS: f64 = 100.0;

/// A file that is not a record of llem's, or of a version that is not known yet.
#[derive(Debug, Error)]
pub enum RecordError {
    /// Not JSON, or not the record that it should be.
    #[error("not a result of llem: {0}; was the file edited, cut off, or written by a newer llem?")]
    Json(#[from] serde_json::Error),
    /// Another version.
    #[error("its schema version is {found}, this llem knows 1 to {SCHEMA_VERSION}; read it with a newer llem")]
    Version {
        /// The version of the file, or `missing`.
        found: String,
    },
}

impl RunResult {
    /// Reads `result.json` of any version up to this one.
    pub fn from_json(text: &[u8]) -> Result<Self, RecordError> {
        read(text)
    }
}

impl StudyResult {
    /// Reads `study.json` of any version up to this one.
    pub fn from_json(text: &[u8]) -> Result<Self, RecordError> {
        read(text)
    }
}

/// What a file says of its version; anything else in it is skipped.
#[derive(Deserialize)]
struct Version {
    schema_version: Option<Value>,
}

fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, RecordError> {
    let Version { schema_version } = serde_json::from_slice(text)?;
    let found = schema_version.as_ref().and_then(Value::as_u64);
    match found {
        // Straight from the text: errors have lines and columns.
        Some(version) if version == u64::from(SCHEMA_VERSION) => Ok(serde_json::from_slice(text)?),
        Some(1) => {
            let mut value: Value = serde_json::from_slice(text)?;
            from_version_1(&mut value);
            Ok(serde_json::from_value(value)?)
        }
        _ => {
            let found = schema_version.map_or_else(|| "missing".to_owned(), |version| version.to_string());
            Err(RecordError::Version { found: found.chars().take(40).collect() })
        }
    }
}

/// Version 1 knew neither thermal gate, nor prefill passes, nor edges of sensors, and ran on the processor only.
fn from_version_1(value: &mut Value) {
    if let Some(execution) = value.get_mut("execution").and_then(Value::as_object_mut) {
        execution.entry("strict").or_insert(json!(false));
    }
    value["upgraded_from"] = json!(1);
    value["schema_version"] = json!(SCHEMA_VERSION);
    run_or_experiment(value);
    for experiment in list(value, "experiments") {
        run_or_experiment(experiment);
        list(experiment, "runs").for_each(domains);
    }
}

fn run_or_experiment(value: &mut Value) {
    if let Some(measurement) = value.pointer_mut("/config/measurement").and_then(Value::as_object_mut) {
        measurement_settings(measurement);
    }
    domains(value);
    value.get_mut("window").filter(|window| window.is_object()).into_iter().for_each(edges);
    list(value, "phases").for_each(edges);
}

fn measurement_settings(settings: &mut Map<String, Value>) {
    if let Some(seconds) = settings.remove("warmup_min_seconds") {
        settings.insert("thermal_floor_seconds".to_owned(), seconds);
    }
    for (setting, off) in
        [("thermal_gate_timeout_seconds", json!(0.0)), ("prefill_min_seconds", json!(0.0)), ("allow_mig", json!(false))]
    {
        settings.entry(setting).or_insert(off);
    }
}

/// Processor packages and memory were summed.
fn domains(run: &mut Value) {
    let Some(energy) = run.pointer_mut("/metrics/energy") else { return };
    for domain in list(energy, "domains") {
        scope(domain);
        domain["counted"] = json!(is_rapl(domain));
    }
}

/// Counters were read at the stamps of a stretch, wherever their ticks were.
fn edges(stretch: &mut Value) {
    let (start, end) = (stretch["start_ns"].clone(), stretch["end_ns"].clone());
    if end.is_null() {
        stretch["energy"] = Value::Null;
    }
    let Some(energy) = stretch.get_mut("energy") else { return };
    for device in list(energy, "devices") {
        scope(device);
        let bracket_ms = if is_rapl(device) { RAPL_REFRESH_MS } else { NVML_REFRESH_MS };
        let edge = |t_ns: &Value| json!({"t_ns": t_ns, "aligned": false, "bracket_ms": bracket_ms});
        device["start"] = edge(&start);
        device["end"] = edge(&end);
    }
}

/// A processor's domains had names only.
fn scope(device: &mut Value) {
    if is_rapl(device) {
        let is_memory = device["domain"]["id"].as_str().is_some_and(|id| id.starts_with("dram"));
        device["domain"]["scope"] = json!(if is_memory { "memory" } else { "package" });
    }
}

fn is_rapl(device: &Value) -> bool {
    device.pointer("/domain/source").is_some_and(|source| source == "rapl")
}

/// The mappings in a list, none where there is no list.
fn list<'v>(value: &'v mut Value, key: &str) -> impl Iterator<Item = &'v mut Value> {
    let entries = value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten();
    entries.filter(|entry| entry.is_object())
}

#[cfg(test)]
mod tests {
    use llem_protocol::PowerScope;
    use serde_json::{Value, json};

    use super::{RecordError, RunResult, StudyResult};

    /// Written by llem at commit f923f3b, on a machine without sensors; the RAPL domains were added by hand in the form of that
    /// version.
    const OLD_RESULT: &[u8] = include_bytes!("../../../../tests/old-results/schema-1/result.json");
    const OLD_STUDY: &[u8] = include_bytes!("../../../../tests/old-results/schema-1/study.json");

    #[test]
    fn results_of_version_1_load_and_what_they_lack_is_null() {
        let result = RunResult::from_json(OLD_RESULT).unwrap();
        assert_eq!((result.schema_version, result.upgraded_from), (super::SCHEMA_VERSION, Some(1)));
        assert_eq!(result.run_id, "001-cfd2325ffe45-c1");
        // Written again, it is what it says, and remembers where it came from.
        let again = RunResult::from_json(&serde_json::to_vec(&result).unwrap()).unwrap();
        assert_eq!(again, result);
        let energy = &result.metrics.as_ref().unwrap().energy;
        assert_eq!((energy.energy_j, energy.energy_raw_j, energy.energy_net_j), (Some(1.5), None, None));
        assert_eq!((energy.uncertainty, energy.co2_g), (None, None));
        let package = &energy.domains[0];
        assert_eq!((package.counted, package.counter_j, package.start), (true, Some(1.2), None));
        let window = result.window.as_ref().unwrap();
        let memory = &window.energy.devices[1];
        assert_eq!((memory.start.t_ns, memory.end.t_ns), (window.start_ns, window.end_ns));
        assert!(!memory.start.aligned && memory.domain.scope == PowerScope::Memory && memory.energy_j.is_none());
        let measurement = &result.config.measurement;
        assert!(measurement.thermal_floor_seconds.abs() < f64::EPSILON && !measurement.allow_mig);
        assert_eq!((result.baseline, result.thermal_gate, result.flops), (None, None, None));
        assert_eq!(result.engine_cache, None);
    }

    #[test]
    fn studies_of_version_1_load() {
        let study = StudyResult::from_json(OLD_STUDY).unwrap();
        assert!(!study.execution.strict);
        assert_eq!((study.schema_version, study.upgraded_from), (super::SCHEMA_VERSION, Some(1)));
        let experiment = &study.experiments[0];
        assert_eq!(experiment.summary.energy_j.unwrap().n, 1);
        assert_eq!(experiment.summary.energy_j_uncertainty, None);
        assert_eq!(experiment.runs[0].metrics.as_ref().unwrap().energy.domains.len(), 2);
    }

    #[test]
    fn a_run_of_version_1_that_ended_early_loads() {
        let mut old: Value = serde_json::from_slice(OLD_RESULT).unwrap();
        for absent in ["metrics", "window", "engine"] {
            old[absent] = Value::Null;
        }
        old["status"] = json!("failed");
        let last = old["phases"].as_array().unwrap().len() - 1;
        old["phases"][last]["end_ns"] = Value::Null;
        let result = RunResult::from_json(old.to_string().as_bytes()).unwrap();
        assert_eq!((result.metrics, result.window), (None, None));
        assert_eq!(result.phases[last].end_ns, None);
    }

    #[test]
    fn a_result_of_this_version_is_read_as_it_was_written() {
        let old = RunResult::from_json(OLD_RESULT).unwrap();
        let now = RunResult { upgraded_from: None, ..old };
        let text = serde_json::to_string(&now).unwrap();
        assert!(!text.contains("upgraded_from"));
        assert_eq!(RunResult::from_json(&serde_json::to_vec(&now).unwrap()).unwrap(), now);
    }

    #[test]
    fn other_files_are_refused_with_their_version() {
        let refused = |text: &str| RunResult::from_json(text.as_bytes()).unwrap_err();
        assert!(refused("{\"schema_version\": 99}").to_string().contains("is 99, this llem knows 1 to 2"));
        assert!(refused("{}").to_string().contains("is missing"));
        for broken in [
            "{",
            "[]",
            "{\"schema_version\": 1, \"window\": 3, \"phases\": [{\"end_ns\": 1, \"energy\": {\"devices\": [4]}}], \"experiments\": [5]}",
        ] {
            let error = refused(broken);
            assert!(matches!(error, RecordError::Json(_) | RecordError::Version { .. }), "{error}");
        }
    }
}
