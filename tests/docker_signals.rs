//! Signals to the controller: the running container ends, what is finished is kept.

use std::time::{Duration, Instant};

use llem::result::{RunStatus, StudyStatus};
use llem_protocol::{Phase, ReasonCode};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Bench, eventually, fault_image};

#[test]
fn one_signal_ends_the_run_in_order() {
    for (name, signal) in [("interrupted", Signal::INT), ("terminated", Signal::TERM)] {
        let Some(mut bench) = Bench::docker(name).map(Bench::long_window) else { return };
        bench.study["execution"]["n_cycles"] = json!(2);
        let mut program = bench.start(&["--runner", "docker"]);
        program.until_window();
        let sent = Instant::now();
        program.signal(signal);
        let finished = program.finish();
        assert!(sent.elapsed() < Duration::from_secs(15), "{:?}", sent.elapsed());
        let failure = finished.is_interrupted_in(Phase::Window);
        assert!(failure.message.contains("SIGTERM"), "the agent closed the run itself: {failure}");
        finished.says(&["stopping: the running container is ended, finished runs are kept"]);
        assert_eq!(finished.results().len(), 1, "no further run is started");
        assert!(!finished.results()[0].phases.is_empty(), "the agent's report was kept");
        assert_eq!(finished.journal().last().unwrap()["status"], "interrupted");
    }
}

/// Ctrl-Z, or a machine that is suspended: when the controller goes on, every time-out has passed, and the run has ended well.
#[test]
fn a_controller_that_was_stopped_hears_what_it_missed() {
    for runner in ["docker", "process"] {
        let Some(mut bench) = Bench::docker(&format!("stood-still-{runner}")) else { return };
        bench.study["measurement"]["min_seconds"] = json!(2);
        // The controller's own limit is 30 s more.
        bench.study["execution"]["timeouts_s"] = json!({"window": 5});
        let mut program = bench.start(&["--runner", runner]);
        program.until_window();
        program.signal(Signal::STOP);
        std::thread::sleep(Duration::from_secs(45));
        program.signal(Signal::CONT);
        let finished = program.finish();
        finished.exits(0).leaves_no_container();
        let result = finished.results().remove(0);
        assert!(result.status == RunStatus::Completed && result.metrics.is_some(), "{:?}", result.failure);
        assert!(result.host_load.is_none(), "nobody watched the machine then: {:?}", result.host_load);
        assert!(result.reasons.iter().any(|reason| reason.code == ReasonCode::HostLoadUnknown), "{:?}", result.reasons);
    }
}

/// The driver of the first signal's run ignores everything, so that only the second signal can end it quickly.
#[test]
fn the_second_signal_kills() {
    let Some(bench) = Bench::docker("killed-twice") else { return };
    let mut program = bench.with_fault(fault_image(), "stubborn_in_load").start(&["--runner", "docker"]);
    program.until("  import ");
    let id = program.container();
    program.signal(Signal::INT);
    program.until("stopping: ");
    let second = Instant::now();
    program.signal(Signal::INT);
    let finished = program.finish();
    assert!(second.elapsed() < Duration::from_secs(10), "{:?}", second.elapsed());
    finished.is_interrupted_in(Phase::Load);
    finished.says(&["killing the running container"]);
    assert_eq!(finished.results()[0].container.as_ref().unwrap().id, id);
}

#[test]
fn runs_that_were_finished_before_the_signal_are_kept() {
    let Some(mut bench) = Bench::docker("kept") else { return };
    bench.study["execution"] = json!({"n_cycles": 2, "experiment_gap_seconds": 300});
    let mut program = bench.start(&["--runner", "docker"]);
    program.until("resting");
    program.signal(Signal::INT);
    let finished = program.finish();
    finished.exits(130).leaves_no_container();
    let study = finished.study();
    assert_eq!((study.status, study.counts()), (StudyStatus::Interrupted, (1, 0, 0)));
    assert_eq!(finished.results()[0].status, RunStatus::Completed);
    // A window of 0.3 s is not valid.
    assert!(finished.stdout.contains("0/1 !"), "the table shows what there is: {}", finished.stdout);
}

#[test]
fn a_signal_during_preparation_ends_at_once_and_starts_nothing() {
    let Some(mut bench) = Bench::docker("prepared") else { return };
    // Half a billion random weights take far longer than this test waits.
    let model = json!({"layers": 32, "hidden": 2048, "intermediate": 8192, "heads": 32, "kv_heads": 8, "vocab": 32000});
    bench.study["model"]["synthetic"] = model;
    bench.user = json!({"cache_dir": bench.path("cache")});
    let mut program = bench.start(&["--runner", "docker"]);
    program.until("preparing model");
    eventually("weights are being made", || bench.path("cache").exists().then_some(()));
    let sent = Instant::now();
    program.signal(Signal::INT);
    let finished = program.finish();
    assert!(sent.elapsed() < Duration::from_secs(5), "{:?}", sent.elapsed());
    finished.exits(130);
    assert!(!bench.output.exists(), "no study was begun");
}
