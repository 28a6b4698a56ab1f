//! What follows from runs that fail: the study stops, an experiment is left out, or the run is tried again.

use std::path::Path;

use llem::result::{RunStatus, StudyStatus};
use llem_protocol::FailureClass;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::docker_resume::attempts;
use crate::support::{Bench, Finished, Proxy, docker_text, fault_image};

/// Four experiments that all fail, where three failures in a row are too many.
fn hopeless(name: &str) -> Option<Bench> {
    let mut bench = Bench::docker(name)?.with_fault(fault_image(), "exit_at_import");
    bench.study["candle"] = json!({"image": fault_image()});
    bench.study["sweep"] = json!({"candle.batch_size": [1, 2, 3, 4]});
    bench.study["execution"]["max_consecutive_failures"] = json!(3);
    Some(bench)
}

/// The first attempts at runs 1 to `n`.
fn numbers(names: &[String]) -> Vec<&str> {
    names.iter().map(|name| &name[..3]).collect()
}

/// The journal's lines that say how a study ended.
fn endings(finished: &Finished) -> Vec<Value> {
    let ends = |line: &Value| line["event"] == "study_stopped" || line["event"] == "study_finished";
    finished.journal().into_iter().filter(ends).collect()
}

#[test]
fn a_study_in_which_nothing_works_stops_and_goes_on_when_it_is_mended() {
    let Some(mut bench) = hopeless("hopeless") else { return };
    let stopped = bench.run(&["--runner", "docker"]);
    stopped.exits(1).leaves_no_container();
    let study = stopped.study_dir();
    let names = attempts(&study);
    assert_eq!(numbers(&names), ["001", "002", "003"]);
    for (name, size) in names.iter().zip(1..) {
        stopped.says(&[&format!("failed: batch_size={size} · cycle 1: the driver died while importing"), name]);
    }
    stopped.says(&[
        "error: the last 3 runs failed one after the other",
        "`execution.max_consecutive_failures`",
        &format!("the logs are in {}", study.join("runs").display()),
        &format!("llem run --resume {}", study.display()),
    ]);
    assert!(stopped.stdout.contains("batch_size"), "what there is is shown: {}", stopped.stdout);
    let ends = endings(&stopped);
    assert_eq!((&ends[0]["cause"], &ends[1]["status"]), (&json!("consecutive_failures"), &json!("failed")));
    assert_eq!((stopped.study().status, stopped.study().counts()), (StudyStatus::Failed, (0, 3, 0)));

    // Who goes on with a study that stopped has seen why: the count begins anew.
    let still = bench.run(&["--runner", "docker", "--resume"]);
    still.exits(1).says(&["the last 3 runs failed one after the other"]);
    assert_eq!(numbers(&attempts(&study)), ["001", "001", "002", "002", "003", "003"]);

    bench.user = json!({});
    let mended = bench.run(&["--runner", "docker", "--resume"]);
    mended.exits(0).leaves_no_container();
    assert_eq!((mended.study().status, mended.study().counts()), (StudyStatus::Completed, (4, 0, 0)));
    let names = attempts(&study);
    assert!(names[2].ends_with("-r3") && names[9].starts_with("004"), "{names:?}");
}

/// Failures are counted over the death of a controller: what restarts llem whenever it dies does not fail for ever.
#[test]
fn failures_before_the_controllers_death_count() {
    let Some(bench) = hopeless("hopeless-killed") else { return };
    let study = bench.run(&["--runner", "docker"]).study_dir();
    // As if it had been killed after two of them.
    let journal = fs_err::read_to_string(study.join("journal.jsonl")).unwrap();
    let second = journal.match_indices(r#""event":"run_finished""#).nth(1).unwrap().0;
    let end = second + journal[second..].find('\n').unwrap() + 1;
    fs_err::write(study.join("journal.jsonl"), &journal[..end]).unwrap();
    fs_err::remove_dir_all(study.join("runs").join(&attempts(&study)[2])).unwrap();
    let stopped = bench.run(&["--runner", "docker", "--resume"]);
    stopped.exits(1).says(&["the last 3 runs failed one after the other"]);
    assert_eq!(numbers(&attempts(&study)), ["001", "001", "002"]);
}

/// Two models, of which one does not fit into the containers' memory.
#[test]
fn an_experiment_without_enough_main_memory_is_left_out_and_the_others_go_on() {
    let Some(mut bench) = Bench::docker("too-large") else { return };
    let small = bench.study["model"].clone();
    let large = json!({"synthetic": {"layers": 4, "hidden": 512, "intermediate": 2048, "vocab": 8192}});
    bench.study["sweep"] = json!({"model": [large, small]});
    bench.study["execution"] = json!({"n_cycles": 3, "memory_gib": 0.06, "max_consecutive_failures": 1});
    let finished = bench.run(&["--runner", "docker"]);
    leaves_out(&finished, FailureClass::HostOutOfMemory, "main memory ran out");
    finished.says(&["hint: raise `execution.memory_gib`"]);

    // The limit is not part of what is measured: with more memory, the same study is completed.
    bench.study["execution"]["memory_gib"] = json!(2);
    let mended = bench.run(&["--runner", "docker", "--resume"]);
    mended.exits(0).says(&["(3 measured before)"]).leaves_no_container();
    assert_eq!((mended.study().status, mended.study().counts()), (StudyStatus::Completed, (6, 0, 0)));
    assert_eq!(mended.study().experiments[0].skipped, None);
}

/// The stand-in says what engines say when a GPU is too small.
#[test]
fn an_experiment_without_enough_gpu_memory_is_left_out_and_the_others_go_on() {
    let Some(bench) = Bench::docker("gpu-too-small") else { return };
    let mut bench = bench.with_fault(fault_image(), "gpu_out_of_memory");
    bench.study["candle"] = json!({"image": fault_image()});
    bench.study["sweep"] = json!({"candle.batch_size": [4, 1]});
    bench.study["execution"] = json!({"n_cycles": 3, "max_consecutive_failures": 1});
    let finished = bench.run(&["--runner", "docker"]);
    leaves_out(&finished, FailureClass::OutOfMemory, "the engine ran out of device memory");
}

/// The first of two experiments failed in its first cycle; the second was measured three times.
fn leaves_out(finished: &Finished, class: FailureClass, words: &str) {
    finished.exits(1).leaves_no_container();
    let study = finished.study();
    assert_eq!((study.status, study.counts()), (StudyStatus::Failed, (3, 1, 0)), "{}", finished.stderr);
    let [large, small] = &study.experiments[..] else { panic!("{} experiments", study.experiments.len()) };
    let skipped = large.skipped.as_ref().unwrap();
    assert_eq!((skipped.failure, &skipped.cycles[..]), (class, &[2, 3][..]));
    assert!(small.skipped.is_none() && small.runs.iter().all(|run| run.status == RunStatus::Completed));
    let run = &large.runs[0];
    let logs = Path::new(&study.directory).join("runs").join(&run.run_id);
    assert!(logs.join("driver.log").is_file());
    finished.says(&[
        &format!("{words}; its other cycles are left out (2, 3)"),
        &format!("cycle 1: {words}; logs: "),
        &run.run_id,
        "left out: 2 further cycles of ",
    ]);
    let journal = finished.journal();
    let line = journal.iter().find(|line| line["event"] == "experiment_skipped").unwrap();
    assert_eq!((&line["experiment_id"], &line["cycles"]), (&json!(large.experiment_id), &json!([2, 3])));
    assert_eq!(line["failure"], class.code());
}

/// One run, which the machine fails once.
fn retried(name: &str) -> Option<Bench> {
    let mut bench = Bench::docker(name)?;
    bench.study["measurement"]["min_seconds"] = json!(3);
    bench.study["execution"]["retry_wait_seconds"] = json!(1);
    Some(bench)
}

/// The study was measured at the second try; the first one is kept.
fn measured_at_the_second_try(finished: &Finished, class: FailureClass) {
    finished.exits(0).says(&["attempt 2 of 3 in 1 s"]).leaves_no_container();
    let [first, second] = &finished.results()[..] else { panic!("{:?}", attempts(&finished.study_dir())) };
    assert_eq!((first.status, first.failure.as_ref().map(|failure| failure.class)), (RunStatus::Failed, Some(class)));
    assert_eq!((second.status, &second.run_id), (RunStatus::Completed, &format!("{}-r2", first.run_id)));
    let study = finished.study();
    assert_eq!((study.status, study.counts()), (StudyStatus::Completed, (1, 0, 0)));
    assert_eq!(study.experiments[0].runs[0].run_id, second.run_id, "the newest attempt counts");
    assert!(finished.study_dir().join("runs").join(&first.run_id).join("agent.log").is_file());
    let ended: Vec<Value> = finished.journal().into_iter().filter(|line| line["event"] == "run_finished").collect();
    assert_eq!((&ended[0]["failure"], &ended[1]["status"]), (&json!(class.code()), &json!("completed")));
}

#[test]
fn a_container_that_is_ended_from_outside_is_tried_again() {
    for (name, command) in [("killed-once", &["kill"][..]), ("stopped-once", &["stop"])] {
        let Some(bench) = retried(name) else { return };
        let mut program = bench.start(&["--runner", "docker"]);
        program.until_window();
        docker_text(&[command, &[&program.container()]].concat());
        measured_at_the_second_try(&program.finish(), FailureClass::ContainerKilled);
    }
}

#[test]
fn a_run_on_an_engine_that_is_busy_or_gone_for_a_moment_is_tried_again() {
    let Some(mut bench) = retried("engine-hiccup") else { return };
    let proxy = Proxy::start(&bench.path("engine.sock"));
    bench.docker_host = Some(proxy.address());
    // The first study makes image and probes.
    bench.run(&["--runner", "docker"]).exits(0);
    proxy.be_busy_once();
    let finished = bench.run(&["--runner", "docker"]);
    measured_at_the_second_try(&finished, FailureClass::ContainerEngineLost);

    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    proxy.cut();
    program.until("attempt 2 of 3");
    proxy.mend();
    measured_at_the_second_try(&program.finish(), FailureClass::ContainerEngineLost);
}

/// A stop is no fault of the machine: it ends the wait for another try, too.
#[test]
fn a_signal_ends_the_wait_for_another_try() {
    let Some(mut bench) = retried("impatient") else { return };
    bench.study["execution"]["retry_wait_seconds"] = json!(300);
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    docker_text(&["kill", &program.container()]);
    program.until("attempt 2 of 3 in 300 s");
    program.signal(Signal::TERM);
    let stopped = program.finish();
    stopped.exits(130).leaves_no_container();
    assert_eq!(attempts(&stopped.study_dir()).len(), 1);
    bench.run(&["--runner", "docker", "--resume"]).exits(0);
    assert_eq!(attempts(&stopped.study_dir()).len(), 2);
}
