//! The example for CI holds what it says: its workflow is YAML, its study resolves, and `llem` knows every command line in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use llem::config::{Profile, StudyConfig};
use serde_json::Value;

use super::studies::Place;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ci").join(name)
}

/// What the workflow runs, one script for each step.
fn scripts() -> Vec<String> {
    let text = fs_err::read_to_string(example("energy-regression.yml")).unwrap();
    let workflow: Value = serde_yaml::from_str(&text).unwrap();
    let steps = workflow["jobs"]["energy"]["steps"].as_array().unwrap();
    steps.iter().filter_map(|step| step["run"].as_str().map(str::to_owned)).collect()
}

/// Puts a program on the shell's path that writes down with what it was called, and runs a script that calls it.
fn calls(script: &str) -> Vec<Vec<String>> {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    for program in ["llem", "cargo"] {
        let file = place.path(program);
        let text = format!("#!/bin/sh\nprintf '%s\\n' {program} \"$@\" END >> calls\n");
        fs_err::write(&file, text).unwrap();
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let here = place.path("");
    let path = format!("{}:{}", here.display(), std::env::var("PATH").unwrap());
    let status = Command::new("sh")
        .args(["-euc", script])
        .current_dir(&here)
        .env("PATH", path)
        .envs([("STUDY", "ci/energy.yaml"), ("BASELINE", "ci/energy-baseline.json")])
        .envs([("GITHUB_PATH", "path"), ("GITHUB_STEP_SUMMARY", "summary.md")])
        .status();
    assert!(status.unwrap().success(), "{script}");
    let text = fs_err::read_to_string(place.path("calls")).unwrap();
    let calls = text.split("END\n").filter(|call| !call.is_empty());
    calls.map(|call| call.lines().map(str::to_owned).collect()).collect()
}

#[test]
fn every_command_line_of_the_workflow_is_known() {
    let calls: Vec<Vec<String>> = scripts().iter().flat_map(|script| calls(script)).collect();
    let of_llem: Vec<_> = calls.iter().filter(|call| call[0] == "llem").collect();
    let commands: Vec<&str> = of_llem.iter().map(|call| call[1].as_str()).collect();
    assert_eq!(commands, ["config", "run", "compare", "compare"]);
    for call in of_llem {
        // In an empty directory each of them fails at the first file that it looks for, which is after its arguments.
        let arguments: Vec<&str> = call[1..].iter().map(String::as_str).collect();
        let answer = Place::new().llem(&arguments).exits(2).says(&["ci/energy"]);
        assert!(!answer.stderr.contains("Usage:"), "{}", answer.stderr);
    }
}

#[test]
fn the_study_of_the_example_resolves() {
    let study = StudyConfig::from_file(&example("energy.yaml"), &[], Profile::Standard).unwrap();
    assert_eq!((study.experiments.len(), study.execution.n_cycles), (2, 5));
}
