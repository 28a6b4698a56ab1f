//! Studies that go on: after signals, dead controllers, damaged files, and with more to do than before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use llem::result::{RunStatus, StudyResult, StudyStatus};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::docker_results::output_ids;
use crate::support::{Bench, Finished, alone, containers_of, docker_text, eventually, fault_image};

/// Two experiments in two cycles.
fn grid(name: &str) -> Bench {
    let mut bench = Bench::new(name);
    bench.study["candle"] = json!({});
    bench.study["sweep"] = json!({"candle.batch_size": [1, 4]});
    bench.study["execution"] = json!({"n_cycles": 2});
    bench
}

/// Names of the directories of all attempts, in order.
pub(crate) fn attempts(study: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(study.join("runs")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Everything by which a study can be told from another one: what was run in which order, on which work, and what came out.
pub(crate) fn identity(study_dir: &Path) -> Value {
    let study = StudyResult::from_json(&fs_err::read(study_dir.join("study.json")).unwrap()).unwrap();
    let run = |run: &llem::result::RunRow| {
        let directory = study_dir.join("runs").join(&run.run_id);
        let result: Value = serde_json::from_slice(&fs_err::read(directory.join("result.json")).unwrap()).unwrap();
        let name = run.run_id.split("-r").next().unwrap();
        json!([name, run.cycle, run.status, result["workload"], result["model"], output_ids(&directory)])
    };
    let experiment = |e: &llem::result::ExperimentResult| {
        json!([e.experiment_id, e.label, e.varied, e.runs.iter().map(run).collect::<Vec<_>>()])
    };
    json!([study.design_hash, study.experiments.iter().map(experiment).collect::<Vec<_>>()])
}

/// Every result that is there, by the name of its directory.
pub(crate) fn results(study: &Path) -> BTreeMap<String, Vec<u8>> {
    let read =
        |name: String| Some((name.clone(), fs_err::read(study.join("runs").join(&name).join("result.json")).ok()?));
    attempts(study).into_iter().filter_map(read).collect()
}

fn journal_has(finished: &Finished, event: &str) -> bool {
    finished.journal().iter().any(|line| line["event"] == event)
}

#[test]
fn what_was_measured_before_a_signal_is_not_measured_again() {
    let mut bench = grid("resumed");
    bench.study["execution"]["experiment_gap_seconds"] = json!(300);
    let mut program = bench.start(&["--runner", "process"]);
    program.until("resting");
    program.signal(Signal::INT);
    let stopped = program.finish();
    stopped.exits(130);
    let before = results(&stopped.study_dir());
    assert_eq!(before.len(), 1);
    // The rests belong to the execution, which may change.
    bench.study["execution"]["experiment_gap_seconds"] = json!(0);
    let resumed = bench.run(&["--runner", "process", "--resume"]);
    resumed.exits(0).says(&["4 runs (1 measured before)"]);
    assert_eq!(resumed.study_dir(), stopped.study_dir());
    let after = results(&resumed.study_dir());
    assert!(after.len() == 4 && before.iter().all(|(name, text)| after[name] == *text), "{:?}", after.keys());
    assert_eq!((resumed.study().status, resumed.study().counts()), (StudyStatus::Completed, (4, 0, 0)));

    // Once more, there is nothing to do.
    let again = bench.run(&["--runner", "process", "--resume"]);
    again.exits(0).says(&["4 runs (4 measured before)"]);
    assert_eq!(results(&again.study_dir()), after);
    let undisturbed = grid("resumed").run(&["--runner", "process"]);
    assert_eq!(identity(&undisturbed.study_dir()), identity(&again.study_dir()));
}

#[test]
fn a_study_goes_on_without_its_file() {
    let bench = grid("fileless");
    let finished = bench.run(&["--runner", "process"]);
    let study = finished.study_dir();
    let lost = attempts(&study)[2].clone();
    fs_err::remove_file(study.join("runs").join(&lost).join("result.json")).unwrap();
    fs_err::remove_file(bench.path("study.yaml")).unwrap();
    let directory = study.display().to_string();
    let output = bench.command(&["run", "--runner", "process", "--resume", &directory]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(&format!("the result of {lost} is damaged or gone")), "{said}");
    assert!(results(&study).contains_key(&format!("{lost}-r2")), "{:?}", attempts(&study));
}

#[test]
fn results_and_journals_that_are_damaged_cost_their_own_runs_only() {
    let bench = grid("damaged");
    let study = bench.run(&["--runner", "process"]).study_dir();
    let before = results(&study);
    let names: Vec<&String> = before.keys().collect();
    let result_of = |name: &str| study.join("runs").join(name).join("result.json");
    // One result cut off, and the journal in the middle of its line about the last run, whose result is there.
    fs_err::write(result_of(names[0]), &before[names[0]][..100]).unwrap();
    let journal = fs_err::read_to_string(study.join("journal.jsonl")).unwrap();
    let last = journal.rfind(r#""event":"run_finished""#).unwrap();
    fs_err::write(study.join("journal.jsonl"), &journal[..last + 30]).unwrap();
    let resumed = bench.run(&["--runner", "process", "--resume"]);
    resumed.exits(0).says(&["1 line is unreadable in journal.jsonl", "(3 measured before)"]);
    let after = results(&study);
    let repeated = format!("{}-r2", names[0]);
    assert!(after.len() == 5 && after.contains_key(&repeated), "{:?}", after.keys());
    assert!(names[1..].iter().all(|name| after[*name] == before[*name]));

    // The same size with another content: seen when the study is summed up.
    let mut text = after[names[1]].clone();
    let digit = text.iter().rposition(u8::is_ascii_digit).unwrap();
    text[digit] = b'7' + u8::from(text[digit] == b'7');
    fs_err::write(result_of(names[1]), text).unwrap();
    bench.run(&["--runner", "process", "--resume"]).exits(1).says(&[names[1], "is damaged or gone"]);
    bench.run(&["--runner", "process", "--resume"]).exits(0);
    assert_eq!(results(&study).len(), 6);
}

/// Every `LLEM_TORN_STEP`th byte (default 60) of the last three lines; 1 for every one takes minutes.
#[test]
fn a_journal_that_is_torn_anywhere_in_its_last_lines_loses_and_repeats_nothing() {
    let step = std::env::var("LLEM_TORN_STEP").map_or(60, |text| text.parse().unwrap());
    let bench = grid("torn");
    let whole = bench.run(&["--runner", "process"]);
    whole.exits(0);
    let study = whole.study_dir();
    let (expected, before) = (identity(&study), results(&study));
    let path = study.join("journal.jsonl");
    let text = fs_err::read(&path).unwrap();
    let ends: Vec<usize> = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    let third_last = ends[ends.len() - 4] + 1;
    for cut in (third_last..text.len()).step_by(step) {
        fs_err::write(&path, &text[..cut]).unwrap();
        let resumed = bench.run(&["--runner", "process", "--resume"]);
        resumed.exits(0).says(&["4 runs (4 measured before)"]);
        assert!(results(&study) == before && attempts(&study).len() == 4, "cut at {cut}: {:?}", attempts(&study));
        assert_eq!(identity(&study), expected, "cut at {cut}");
    }
}

#[test]
fn another_config_is_refused_with_what_changed() {
    let mut bench = grid("changed");
    let study = bench.run(&["--runner", "process"]).study_dir();
    let before = (attempts(&study), fs_err::read(study.join("journal.jsonl")).unwrap());
    bench.study["measurement"]["min_seconds"] = json!(0.5);
    bench.study["sweep"] = json!({"candle.batch_size": [4]});
    let refused = bench.run(&["--runner", "process", "--resume"]);
    refused.exits(2).says(&[
        "the config is not that of the study in",
        "  measurement.min_seconds: 0.3 → 0.5 (in 1 experiment)",
        "  no longer there: batch_size=",
        "run it as a new study",
    ]);
    assert_eq!(before, (attempts(&study), fs_err::read(study.join("journal.jsonl")).unwrap()));
    let nowhere = bench.run(&["--runner", "process", "--resume", "/nonexistent"]);
    nowhere.exits(1).says(&["/nonexistent"]);
    bench.study["name"] = json!("unheard-of");
    bench.run(&["--runner", "process", "--resume"]).exits(2).says(&["no study `unheard-of` that could be resumed"]);
}

#[test]
fn more_cycles_and_more_points_extend_the_same_study() {
    let mut bench = grid("extended");
    let study = bench.run(&["--runner", "process"]).study_dir();
    let before = results(&study);
    bench.study["execution"]["n_cycles"] = json!(3);
    bench.study["sweep"] = json!({"candle.batch_size": [1, 2, 4]});
    let extended = bench.run(&["--runner", "process", "--resume"]);
    extended.exits(0).says(&["9 runs (4 measured before)"]);
    assert!(journal_has(&extended, "study_extended"));
    let after = results(&study);
    assert!(before.iter().all(|(name, text)| after[name] == *text), "{:?}", after.keys());
    let result = extended.study();
    let numbers = |batch_size: usize| -> Vec<String> {
        let of_size = result.experiments.iter().find(|e| e.label == format!("batch_size={batch_size}")).unwrap();
        of_size.runs.iter().map(|run| run.run_id[..3].to_owned()).collect()
    };
    // Old runs have their old numbers; new ones are numbered on, in the order of the plan.
    assert_eq!(
        [numbers(1), numbers(4), numbers(2)],
        [["001", "003", "007"], ["002", "004", "009"], ["005", "006", "008"]]
    );
    assert_eq!((result.status, result.counts()), (StudyStatus::Completed, (9, 0, 0)));
    assert!(study.join("design-2.json").is_file() && study.join("study-2.yaml").is_file());
}

#[test]
fn a_study_has_one_controller() {
    let bench = Bench::new("held").long_window();
    let mut program = bench.start(&["--runner", "process"]);
    program.until("  warm-up ");
    let second = bench.run(&["--runner", "process", "--resume"]);
    second
        .exits(1)
        .says(&[&format!("another llem (process {})", program.pid().as_raw_nonzero()), "wait until it has ended"]);
    assert!(program.is_running());
    program.signal(Signal::INT);
    program.finish().exits(130);
}

#[test]
fn failed_runs_are_tried_again_and_keep_their_logs() {
    let Some(bench) = Bench::docker("mended") else { return };
    let mut bench = bench.with_fault(fault_image(), "exit_at_import");
    let failed = bench.run(&["--runner", "docker"]);
    failed.exits(1);
    let study = failed.study_dir();
    bench.user = json!({});
    let mended = bench.run(&["--runner", "docker", "--resume"]);
    mended.exits(0).leaves_no_container();
    let names = attempts(&study);
    assert_eq!(names.len(), 2);
    assert_eq!(names[1], format!("{}-r2", names[0]));
    let log = fs_err::read_to_string(study.join("runs").join(&names[0]).join("driver.log")).unwrap();
    assert!(log.contains("ImportError"), "{log}");
    let rows: Vec<_> = mended.study().experiments[0].runs.iter().map(|run| (run.run_id.clone(), run.status)).collect();
    assert_eq!(rows, [(names[1].clone(), RunStatus::Completed)], "the newest attempt counts");
}

/// A controller that was killed in the window of its only run, and the container that it left.
fn killed(bench: &Bench) -> (PathBuf, String) {
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    let (study, id) = (program.study_dir(), program.container());
    program.kill();
    (study, id)
}

#[test]
fn a_container_that_outlived_its_controller_is_adopted() {
    // Under way, and ended meanwhile.
    for (name, waits) in [("adopted", false), ("collected", true)] {
        let Some(mut bench) = Bench::docker(name) else { return };
        bench.study["measurement"]["min_seconds"] = json!(4);
        let alone_until_resumed = alone_for(&bench);
        let (study, id) = alone_until_resumed.killed;
        if waits {
            eventually("the end of the container", || {
                (docker_text(&["inspect", "-f", "{{.State.Running}}", &id]).trim() == "false").then_some(())
            });
        }
        let resumed = bench.run_alone(alone_until_resumed.alone, &["--runner", "docker", "--resume"]);
        resumed.exits(0).says(&["going on with container", &id[..12]]).leaves_no_container();
        let result = resumed.results().pop().unwrap();
        assert_eq!((result.container.unwrap().id, result.status), (id, RunStatus::Completed));
        assert_eq!(attempts(&study), [result.run_id], "no second attempt");
        assert!(result.wall_s > 4.0 && result.metrics.is_some(), "{}", result.wall_s);
        assert!(journal_has(&resumed, "run_adopted"));
    }
}

/// Under way, and ended meanwhile: the reaper of other studies' containers must not be quicker.
#[test]
fn a_container_is_adopted_by_its_study_when_that_was_moved() {
    for (name, waits) in [("moved-adopted", false), ("moved-collected", true)] {
        let Some(mut bench) = Bench::docker(name) else { return };
        bench.study["measurement"]["min_seconds"] = json!(4);
        let Left { killed: (study, id), alone } = alone_for(&bench);
        let moved = study.with_file_name("moved");
        fs_err::rename(&study, &moved).unwrap();
        if waits {
            eventually("the end of the container", || {
                (docker_text(&["inspect", "-f", "{{.State.Running}}", &id]).trim() == "false").then_some(())
            });
        }
        let resumed = bench.run_alone(alone, &["--runner", "docker", "--resume", &moved.display().to_string()]);
        resumed.exits(0).says(&["going on with container", &id[..12]]);
        let result = resumed.results().pop().unwrap();
        assert_eq!((result.container.unwrap().id, result.status), (id.clone(), RunStatus::Completed));
        assert_eq!(attempts(&moved), [result.run_id], "no second attempt");
        assert!(!crate::support::docker(&["inspect", &id]).status.success(), "it is gone");
    }
}

/// A killed study, and the right to be the only `llem` that starts.
struct Left {
    killed: (PathBuf, String),
    alone: fs_err::File,
}

/// As [`killed`]; no other test's `llem` may remove the container before it is adopted.
fn alone_for(bench: &Bench) -> Left {
    let alone = alone();
    let mut program = bench.start_alone(&alone, &["--runner", "docker"]);
    program.until_window();
    let killed = (program.study_dir(), program.container());
    program.kill();
    Left { killed, alone }
}

#[test]
fn a_run_whose_container_is_gone_is_repeated() {
    let Some(mut bench) = Bench::docker("vanished").map(Bench::long_window) else { return };
    let (study, id) = killed(&bench);
    let _ = crate::support::docker(&["rm", "-f", &id]);
    let name = attempts(&study).pop().unwrap();
    bench.study["measurement"]["min_seconds"] = json!(300);
    let mut program = bench.start(&["--runner", "docker", "--resume"]);
    program.until_window();
    let second = format!("{name}-r2");
    assert_eq!(attempts(&study), [name.clone(), second]);
    let first = study.join("runs").join(&name);
    assert!(first.join("job.json").is_file() && !first.join(".volume").exists(), "its files stay, its volume does not");
    program.signal(Signal::INT);
    program.finish().exits(130).leaves_no_container();
}

#[test]
fn a_second_signal_ends_an_adopted_run_too() {
    let Some(bench) = Bench::docker("adopted-stopped").map(Bench::long_window) else { return };
    let Left { killed: (study, id), alone } = alone_for(&bench);
    let mut program = bench.start_alone(&alone, &["--runner", "docker", "--resume"]);
    program.until("going on with container");
    program.until("  warm-up ");
    program.signal(Signal::INT);
    let finished = program.finish();
    drop(alone);
    finished.exits(130).leaves_no_container();
    assert_eq!((attempts(&study).len(), finished.study().status), (1, StudyStatus::Interrupted));
    assert_eq!(finished.results()[0].container.as_ref().unwrap().id, id);
}

#[test]
fn another_runner_does_not_go_on_with_a_study() {
    let Some(bench) = Bench::docker("other-runner") else { return };
    let study = bench.run(&["--runner", "docker"]).study_dir();
    fs_err::remove_file(study.join("runs").join(&attempts(&study)[0]).join("result.json")).unwrap();
    let refused = bench.run(&["--runner", "process", "--resume"]);
    refused.exits(1).says(&["ran with runner docker, here it would be process"]);
    assert!(containers_of(&study).is_empty() && attempts(&study).len() == 1);
}

#[test]
fn agents_of_a_dead_controller_end_and_their_run_is_repeated() {
    let mut bench = Bench::new("process-resumed").long_window();
    let mut program = bench.start(&["--runner", "process"]);
    program.until("  warm-up ");
    let study = program.study_dir();
    let processes = crate::process_runner::descendants(program.pid());
    program.kill();
    eventually("the agent's end", || processes.iter().all(|pid| !crate::support::is_alive(*pid)).then_some(()));
    bench.study["execution"]["experiment_gap_seconds"] = json!(0.1);
    let mut program = bench.start(&["--runner", "process", "--resume"]);
    program.until("  warm-up ");
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(attempts(&study).len(), 2);
    program.signal(Signal::INT);
    program.finish().exits(130);
}
