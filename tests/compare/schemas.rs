//! The published schemas are those of this program, and its files are valid under them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::studies::{Place, Study};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Value {
    serde_json::from_slice(&fs_err::read(root().join(path)).unwrap()).unwrap()
}

fn printed(record: &str) -> Value {
    Place::new().llem(&["schema", record]).exits(0).json()
}

#[track_caller]
fn valid(schema: &Value, file: &Value) {
    let validator = jsonschema::validator_for(schema).unwrap();
    let problems: Vec<String> = validator.iter_errors(file).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn committed_schemas_are_current() {
    for record in ["result", "study", "comparison"] {
        let file = format!("docs/schema/{record}.schema.json");
        assert!(printed(record) == read(&file), "{file} is not current: `llem schema {record} > {file}`");
    }
}

#[test]
fn every_field_has_a_description() {
    for record in ["result", "study", "comparison"] {
        let schema = printed(record);
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            for (field, described) in definition["properties"].as_object().into_iter().flatten() {
                let has_own = described["description"].is_string() || described["$ref"].is_string();
                assert!(has_own, "{record}: {name}.{field}");
            }
        }
    }
}

#[test]
fn files_of_this_version_are_valid() {
    valid(&printed("result"), &read("tests/old-results/schema-2/result.json"));
    valid(&printed("study"), &read("tests/old-results/schema-2/study.json"));
    let place = Place::new();
    let (a, b) = (Study::new("a", 2, 5), Study::new("b", 1, 1));
    valid(&printed("study"), &a.0);
    let comparison = place.compare(&a, &b, &["--format", "json"]).exits(3).json();
    valid(&printed("comparison"), &comparison);
}

#[test]
fn a_schema_sees_what_is_wrong_and_lets_new_keys_pass() {
    let schema = printed("study");
    let mut study = Study::new("a", 1, 1).0;
    study["experiments"][0]["runs"][0]["a_key_of_tomorrow"] = json!(1);
    study["experiments"][0]["config"]["measurement"]["another"] = json!(1);
    valid(&schema, &study);
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (pointer, wrong) in [
        ("/schema_version", json!(1)),
        ("/experiments/0/runs/0/status", json!("done")),
        ("/experiments/0/runs/0/metrics/window_s", json!("long")),
        ("/experiments/0/runs/0/cycle", json!(-1)),
    ] {
        let mut broken = study.clone();
        *broken.pointer_mut(pointer).unwrap() = wrong;
        assert!(!validator.is_valid(&broken), "{pointer}");
    }
}

/// Files of every schema version that there was are read for ever, and compared.
#[test]
fn files_of_all_versions_load() {
    let place = Place::new();
    for version in 1..=llem::result::SCHEMA_VERSION {
        let directory = root().join(format!("tests/old-results/schema-{version}"));
        for file in ["study.json", "result.json"] {
            let path = directory.join(file).display().to_string();
            let answer = place.llem(&["compare", &path, &path, "--fail-on", "none", "--format", "json"]).exits(0);
            assert!(!answer.json()["experiments"].as_array().unwrap().is_empty(), "{path}");
        }
    }
}
