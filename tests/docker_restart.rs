//! Container engines that are really stopped, killed and started again in the middle of a study.

use std::path::{Path, PathBuf};

use llem::result::{RunStatus, StudyStatus};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::docker_resume::{attempts, identity, results};
use crate::support::{Bench, Finished, OwnEngine};

/// Four runs of a few seconds on an engine of the test's own.
fn four(engine: &OwnEngine, retry_wait_seconds: f64) -> Bench {
    let mut bench = Bench::new("restarted");
    bench.docker_host = Some(engine.address());
    bench.study["candle"] = json!({});
    bench.study["sweep"] = json!({"candle.batch_size": [1, 4]});
    bench.study["measurement"]["min_seconds"] = json!(2);
    bench.study["execution"] = json!({"n_cycles": 2, "retry_wait_seconds": retry_wait_seconds});
    bench
}

/// What must be true of a study that is done, whatever happened to it: every run measured once, nothing changed, nothing left.
fn check(engine: &OwnEngine, done: &Finished, before: &[(String, Vec<u8>)], expected: &Value) {
    let study = done.study_dir();
    assert_eq!((done.study().status, done.study().counts()), (StudyStatus::Completed, (4, 0, 0)));
    let now = results(&study);
    for (name, text) in before {
        assert!(now.get(name) == Some(text), "the result of {name} was lost or changed");
    }
    let measured: Vec<&str> = now.iter().filter(|(_, text)| is_measured(text)).map(|(name, _)| run_of(name)).collect();
    let mut once = measured.clone();
    once.dedup();
    assert!(measured.len() == 4 && once.len() == 4, "{measured:?}");
    assert_eq!(engine.containers(), Vec::<String>::new());
    assert_eq!(identity(&study), *expected);
}

fn run_of(name: &str) -> &str {
    name.split("-r").next().unwrap()
}

fn is_measured(text: &[u8]) -> bool {
    serde_json::from_slice::<Value>(text).unwrap()["status"] == "completed"
}

/// What is measured so far.
fn measured(study: &Path) -> Vec<(String, Vec<u8>)> {
    results(study).into_iter().filter(|(_, text)| is_measured(text)).collect()
}

/// The engine ends in the window of the second run and is there again before llem gives it up.
fn goes_on_by_itself(engine: &mut OwnEngine, signal: Signal, expected: &Value) {
    let bench = four(engine, 4.0);
    let mut program = bench.start(&["--runner", "docker"]).elsewhere();
    program.until_run(2);
    let before = measured(&program.study_dir());
    engine.end(signal);
    engine.run();
    let done = program.finish();
    done.exits(0).says(&["attempt 2 of 3 in 4 s"]);
    check(engine, &done, &before, expected);
    let tries = attempts(&done.study_dir());
    let (second, again) = (&tries[1], format!("{}-r2", tries[1]));
    assert!(tries.contains(&again), "{tries:?}");
    let failed = done.results().into_iter().find(|result| result.run_id == *second).unwrap();
    assert_eq!(failed.status, RunStatus::Failed, "the failed try is kept: {failed:?}");
}

/// The engine ends, too, and stays away for longer than llem waits.
fn gives_up_and_is_resumed(engine: &mut OwnEngine, signal: Signal, expected: &Value) {
    let bench = four(engine, 0.1);
    let mut program = bench.start(&["--runner", "docker"]).elsewhere();
    program.until_run(2);
    let before = measured(&program.study_dir());
    engine.end(signal);
    let ended = program.finish();
    ended.exits(1).says(&["the container engine stopped answering during run 00", "failed: batch_size=4", "--resume"]);
    let resume = ["--runner", "docker", "--resume", &ended.study_dir().display().to_string()];
    bench.run(&resume).exits(1).says(&["no container engine answers"]);
    engine.run();
    let done = bench.run(&resume);
    done.exits(0).says(&["(1 measured before)"]);
    check(engine, &done, &before, expected);
}

/// Controller and engine die at once, as in a power cut.
fn dies_with_its_controller(engine: &mut OwnEngine, expected: &Value) {
    let bench = four(engine, 0.1);
    let mut program = bench.start(&["--runner", "docker"]).elsewhere();
    program.until_run(3);
    let study: PathBuf = program.study_dir();
    let before = measured(&study);
    program.kill();
    engine.end(Signal::KILL);
    engine.run();
    let done = bench.run(&["--runner", "docker", "--resume", &study.display().to_string()]);
    done.exits(0).says(&["(2 measured before)"]);
    check(engine, &done, &before, expected);
}

#[test]
fn nothing_is_lost_or_repeated_when_the_engine_is_restarted() {
    let Some(mut engine) = OwnEngine::start() else { return };
    let undisturbed = four(&engine, 0.1).run(&["--runner", "docker"]);
    undisturbed.exits(0);
    let expected = identity(&undisturbed.study_dir());
    check(&engine, &undisturbed, &[], &expected);
    for signal in [Signal::TERM, Signal::KILL] {
        goes_on_by_itself(&mut engine, signal, &expected);
        gives_up_and_is_resumed(&mut engine, signal, &expected);
    }
    dies_with_its_controller(&mut engine, &expected);
}
