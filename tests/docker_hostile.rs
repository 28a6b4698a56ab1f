//! Containers that mean harm: links, pipes, floods and forged events. Nothing outside the run's directory is touched.

use std::path::Path;

use llem_protocol::{ClockPair, EnvironmentReport, FailureClass, Phase, REPORT_SCHEMA_VERSION, Report};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::{Bench, Finished, fault_image};

fn hostile(name: &str, fault: &str) -> Option<Bench> {
    let mut bench = Bench::docker(name)?.with_fault(fault_image(), fault);
    bench.study["execution"]["max_retries"] = json!(0);
    Some(bench)
}

/// The run's directory after its end: the volume is gone, and nothing in it is a link.
fn plain_run_dir(finished: &Finished) -> std::path::PathBuf {
    let run = finished.study_dir().join("runs").join(&finished.results()[0].run_id);
    assert!(!run.join(".volume").exists());
    for entry in fs_err::read_dir(&run).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.file_type().unwrap().is_file(), "{}", entry.path().display());
    }
    run
}

fn sizes(directory: &Path) -> u64 {
    fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// The link points to a file of this machine by its path there. The agent writes its own files in the links' places.
#[test]
fn links_on_the_volume_are_not_followed() {
    let Some(mut bench) = hostile("links", "links") else { return };
    let victim = bench.path("victim");
    fs_err::write(&victim, "precious").unwrap();
    bench.user["env"]["TARGET"] = json!(victim);
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0).leaves_no_container();
    assert_eq!(fs_err::read_to_string(&victim).unwrap(), "precious");
    let run = plain_run_dir(&finished);
    assert!(!fs_err::read_to_string(run.join("driver.log")).unwrap().contains("precious"));
    assert!(Path::new("/etc/passwd").exists(), "the link to `/` was removed, not what it points to");
}

/// The agent is killed before it can write, so that the controller meets the links themselves.
#[test]
fn links_that_an_agent_could_not_replace_are_not_read() {
    let Some(mut bench) = hostile("links-only", "links_only") else { return };
    let victim = bench.path("victim");
    fs_err::write(&victim, "precious").unwrap();
    bench.user["env"]["TARGET"] = json!(victim);
    let finished = bench.run(&["--runner", "docker"]);
    finished.fails_with(FailureClass::ContainerKilled, Phase::Import);
    let run = plain_run_dir(&finished);
    assert_eq!(fs_err::read(run.join("driver.log")).unwrap(), b"");
    assert_eq!(fs_err::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn a_forged_end_without_a_report_fails_the_run() {
    let Some(bench) = hostile("forged-done", "forged_done") else { return };
    let finished = bench.run(&["--runner", "docker"]);
    let failure = finished.fails_with(FailureClass::ContainerKilled, Phase::Import);
    assert!(failure.message.contains("exit status 3"), "the agent's exit status cannot be forged: {failure}");
}

#[test]
fn the_report_of_another_run_is_refused_even_with_a_matching_digest() {
    let Some(mut bench) = hostile("forged-report", "forged_report") else { return };
    let text = serde_json::to_string(&report_of("001-of-another-study-c1")).unwrap();
    bench.user["env"]["SHA256"] = json!(hex::encode(Sha256::digest(&text)));
    bench.user["env"]["REPORT"] = json!(text);
    let finished = bench.run(&["--runner", "docker"]);
    finished.fails_with(FailureClass::ContainerKilled, Phase::Import);
    assert_eq!(finished.results()[0].agent_version, None, "nothing of the other run's report is taken");
}

fn report_of(run_id: &str) -> Report {
    let clock = ClockPair { monotonic_ns: 1, realtime_ns: 1 };
    Report {
        schema_version: REPORT_SCHEMA_VERSION,
        run_id: run_id.to_owned(),
        agent_version: "0.0.0".to_owned(),
        clock_start: clock,
        clock_end: clock,
        environment: EnvironmentReport::default(),
        engine: None,
        phases: Vec::new(),
        baseline: None,
        warmup: None,
        thermal_gate: None,
        window: None,
        prefill: None,
        reasons: Vec::new(),
        failure: None,
        request_records: 0,
        power_samples: 0,
    }
}

/// The engine's own log of the container is bounded too and may lose events in such a flood: then the run has failed.
#[test]
fn floods_fill_neither_the_disk_nor_the_result() {
    let Some(bench) = hostile("flood", "flood") else { return };
    let finished = bench.run(&["--runner", "docker"]);
    finished.leaves_no_container();
    let run = plain_run_dir(&finished);
    assert!(sizes(&run) < 16 << 20, "{} bytes kept", sizes(&run));
}
