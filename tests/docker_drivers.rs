//! Images and drivers that do not do what they should.

use std::time::{Duration, Instant};

use llem_protocol::{FailureClass, Phase};
use serde_json::json;

use crate::support::{Bench, bare_image, fault_image};

/// A study whose driver fails as `fault` says.
fn faulty(name: &str, fault: &str) -> Option<Bench> {
    Bench::docker(name).map(|bench| bench.with_fault(fault_image(), fault))
}

#[test]
fn an_image_that_cannot_start_the_agent_fails_in_seconds() {
    let Some(bench) = Bench::docker("agent-missing") else { return };
    let bench = bench.with_fault(&bare_image(), "none");
    let start = Instant::now();
    let finished = bench.run(&["--runner", "docker"]);
    finished.fails_with(FailureClass::AgentMissing, Phase::Start);
    finished.says(&["the agent could not be started", "hint: the image must be x86-64 Linux with glibc"]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn images_that_do_not_exist_are_named_together_before_anything_starts() {
    let Some(mut bench) = Bench::docker("image-missing") else { return };
    bench.study["backend"] = json!(["candle", "vllm"]);
    bench.study["vllm"] = json!({});
    bench.study["sweep"] = json!({"vllm.image": ["llem-test/no-such-image:1", "llem-test/no-such-image:2"]});
    bench.study["candle"]["image"] = json!("llem-test/no-such-image:3");
    for arguments in [&["--runner", "docker"][..], &["--runner", "docker", "--dry-run"]] {
        let finished = bench.run(arguments);
        finished.exits(1).says(&[
            "llem-test/no-such-image:1 (backend vllm): `llem image pull llem-test/no-such-image:1`",
            "llem-test/no-such-image:2 (backend vllm)",
            "llem-test/no-such-image:3 (backend candle)",
        ]);
        assert!(!bench.output.exists(), "nothing was started");
    }
}

#[test]
fn a_stand_in_without_a_fault_measures() {
    let Some(bench) = faulty("no-fault", "none") else { return };
    bench.run(&["--runner", "docker"]).exits(0).leaves_no_container();
}

#[test]
fn a_driver_that_exits_at_import_shows_its_last_words() {
    let Some(mut bench) = faulty("exit-at-import", "exit_at_import") else { return };
    bench.study["execution"]["n_cycles"] = json!(2);
    let finished = bench.run(&["--runner", "docker"]);
    let failure = finished.fails_with(FailureClass::DiedAtImport, Phase::Import);
    assert!(failure.message.contains("exit status 3"), "{failure}");
    assert_eq!(failure.log_tail, ["ImportError: something is missing"]);
    finished.says(&["| ImportError: something is missing", "hint: read the last lines of driver.log", "[2/2]"]);
    assert_eq!(finished.results().len(), 2, "a failed run does not end the study");
}

#[test]
fn a_hanging_driver_is_ended_by_its_phases_limit() {
    for (fault, phase) in [("hang_in_load", Phase::Load), ("hang_in_window", Phase::Window)] {
        let Some(mut bench) = faulty(fault, fault) else { return };
        bench.study["execution"]["timeouts_s"] = json!({phase.name(): 2.0});
        let finished = bench.run(&["--runner", "docker"]);
        let failure = finished.fails_with(FailureClass::Timeout, phase);
        assert!(failure.message.contains("limit of 2 s"), "{failure}");
        finished.says(&["hint: raise the phase's limit under `execution.timeouts_s`"]);
    }
}

#[test]
fn a_driver_that_is_killed_in_the_window_is_a_crash_with_its_signal() {
    let Some(bench) = faulty("die-in-window", "die_in_window") else { return };
    let finished = bench.run(&["--runner", "docker"]);
    let failure = finished.fails_with(FailureClass::DriverCrashed, Phase::Window);
    assert!(failure.message.contains("SIGKILL"), "{failure}");
    assert_eq!(failure.log_tail, ["about to die"]);
}

#[test]
fn fewer_tokens_than_asked_are_wrong_work() {
    let Some(bench) = faulty("short-records", "short_records") else { return };
    let finished = bench.run(&["--runner", "docker"]);
    let failure = finished.fails_with(FailureClass::WrongWork, Phase::Collect);
    assert!(failure.message.contains("5 generated tokens, asked exactly 6"), "{failure}");
}
