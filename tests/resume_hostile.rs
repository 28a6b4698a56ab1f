//! Study directories that somebody has changed by hand: what is not certain is measured again, and nothing else is believed.

use std::path::{Path, PathBuf};
use std::process::Command;

use llem::result::StudyStatus;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::docker_resume::{attempts, results};
use crate::support::{Bench, Finished};

/// Two experiments in two cycles, measured by plain processes.
struct Measured {
    bench: Bench,
    study: PathBuf,
    /// Names of its four runs.
    runs: Vec<String>,
}

impl Measured {
    fn new(name: &str) -> Self {
        let mut bench = Bench::new(name);
        bench.study["candle"] = json!({});
        bench.study["sweep"] = json!({"candle.batch_size": [1, 4]});
        bench.study["execution"] = json!({"n_cycles": 2});
        let finished = bench.run(&["--runner", "process"]);
        finished.exits(0);
        let study = finished.study_dir();
        let runs = attempts(&study);
        Self { bench, study, runs }
    }

    fn result_of(&self, run: &str) -> PathBuf {
        self.study.join("runs").join(run).join("result.json")
    }

    fn resume(&self) -> Finished {
        self.resume_in(&self.study)
    }

    fn resume_in(&self, study: &Path) -> Finished {
        self.bench.run(&["--runner", "process", "--resume", &study.display().to_string()])
    }

    /// Changes a field of a run's result, and its size and hash in the journal.
    fn forge(&self, run: &str, field: &str, value: &Value) {
        let mut result: Value = serde_json::from_slice(&fs_err::read(self.result_of(run)).unwrap()).unwrap();
        result[field] = value.clone();
        let text = result.to_string();
        fs_err::write(self.result_of(run), &text).unwrap();
        let path = self.study.join("journal.jsonl");
        let journal = fs_err::read_to_string(&path).unwrap();
        let lines = journal.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            if line["event"] == "run_finished" && line["run_id"] == *run {
                line["result_bytes"] = json!(text.len());
                line["result_sha256"] = json!(hex::encode(Sha256::digest(&text)));
            }
            format!("{line}\n")
        });
        fs_err::write(&path, lines.collect::<String>()).unwrap();
    }
}

#[test]
fn a_result_that_contradicts_the_journal_is_not_used() {
    for (name, field, value) in [
        ("forged-status", "status", json!("failed")),
        ("forged-experiment", "experiment_id", json!("0123456789ab")),
        ("forged-cycle", "cycle", json!(2)),
    ] {
        let measured = Measured::new(name);
        let run = &measured.runs[0];
        measured.forge(run, field, &value);
        measured.resume().exits(1).says(&[&format!("the result of {run} is damaged or gone")]);
        let mended = measured.resume();
        mended.exits(0);
        assert_eq!((mended.study().status, mended.study().counts()), (StudyStatus::Completed, (4, 0, 0)));
        assert!(attempts(&measured.study).contains(&format!("{run}-r2")));
    }
}

/// A run directory of another study, with a number that this one has: its figures are of something else.
#[test]
fn directories_of_other_runs_are_left_alone() {
    let measured = Measured::new("strangers");
    let (first, runs) = (&measured.runs[0], measured.study.join("runs"));
    let stranger = first.replacen(&first[4..16], "0123456789ab", 1);
    fs_err::rename(runs.join(first), runs.join(&stranger)).unwrap();
    let mut result: Value = serde_json::from_slice(&fs_err::read(measured.result_of(&stranger)).unwrap()).unwrap();
    (result["run_id"], result["experiment_id"]) = (json!(stranger), json!("0123456789ab"));
    fs_err::write(measured.result_of(&stranger), result.to_string()).unwrap();
    fs_err::write(measured.study.join("journal.jsonl"), "").unwrap();
    // No attempt has such a number, and no next one can be counted from it.
    fs_err::create_dir(runs.join(format!("{first}-r4294967295"))).unwrap();
    let resumed = measured.resume();
    resumed.exits(0).says(&["(3 measured before)", &format!("no runs of this study, left as they are: {stranger}")]);
    assert_eq!(resumed.study().experiments[0].runs[0].run_id, *first);
    assert!(results(&measured.study).contains_key(first));
}

#[test]
fn what_is_no_plain_file_is_no_result() {
    let measured = Measured::new("no-files");
    let [linked, piped, folder, empty] = &measured.runs[..] else { panic!("{:?}", measured.runs) };
    let beside = measured.bench.path("beside.json");
    for run in [linked, piped, folder, empty] {
        fs_err::rename(measured.result_of(run), &beside).unwrap();
    }
    fs_err::os::unix::fs::symlink(&beside, measured.result_of(linked)).unwrap();
    assert!(Command::new("mkfifo").arg(measured.result_of(piped)).status().unwrap().success());
    fs_err::create_dir(measured.result_of(folder)).unwrap();
    fs_err::write(measured.result_of(empty), "").unwrap();
    // Without the journal, llem has to look into them.
    fs_err::remove_file(measured.study.join("journal.jsonl")).unwrap();
    let resumed = measured.resume();
    resumed.exits(0);
    assert_eq!((resumed.study().status, resumed.study().counts()), (StudyStatus::Completed, (4, 0, 0)));
    assert_eq!(attempts(&measured.study).len(), 8, "{:?}", attempts(&measured.study));
}

#[test]
fn a_run_without_its_tables_is_measured_again() {
    let measured = Measured::new("no-tables");
    let runs = measured.study.join("runs");
    fs_err::remove_file(runs.join(&measured.runs[0]).join("requests.parquet")).unwrap();
    fs_err::write(runs.join(&measured.runs[1]).join("timeseries.parquet"), "").unwrap();
    measured
        .resume()
        .exits(0)
        .says(&["(2 measured before)", &format!("the result of {} is damaged", measured.runs[0])]);
    assert_eq!(attempts(&measured.study).len(), 6, "{:?}", attempts(&measured.study));
}

#[test]
fn a_damaged_design_is_refused_with_its_file() {
    let measured = Measured::new("damaged-design");
    let path = measured.study.join("design.json");
    let text = fs_err::read_to_string(&path).unwrap();
    // As many runs as no memory holds.
    let endless = text.replace(r#""n_cycles":2"#, r#""n_cycles":4294967295"#);
    assert_ne!(endless, text);
    for damaged in ["", "[]", &text[..text.len() / 2], &endless] {
        fs_err::write(&path, damaged).unwrap();
        measured.resume().exits(1).says(&["the study cannot go on: ", "design.json: damaged: "]);
    }
    fs_err::write(&path, text).unwrap();
    measured.resume().exits(0);
}

#[test]
fn a_lock_file_that_was_removed_is_missed() {
    let measured = Measured::new("unlocked");
    let path = measured.study.join("study.lock.json");
    fs_err::remove_file(&path).unwrap();
    measured.resume().exits(0).says(&["study.lock.json is gone: "]);
    assert!(path.is_file(), "from here on it is kept again");
    fs_err::write(&path, "").unwrap();
    measured.resume().exits(1).says(&["study.lock.json: no lock file of this version of llem: "]);
}

/// A copy is a study of its own from then on, and so is a study that was moved.
#[test]
fn moved_and_copied_studies_go_on_where_they_are() {
    let measured = Measured::new("moved");
    let last = &measured.runs[3];
    fs_err::remove_dir_all(measured.study.join("runs").join(last)).unwrap();
    let (moved, copy) = (measured.bench.path("umgezogen ü 模型"), measured.bench.path("copy"));
    assert!(Command::new("cp").arg("-a").args([&measured.study, &copy]).status().unwrap().success());
    fs_err::rename(&measured.study, &moved).unwrap();
    for study in [&moved, &copy] {
        measured.resume_in(study).exits(0).says(&["(3 measured before)"]);
        assert!(results(study).contains_key(&format!("{last}-r2")), "{:?}", attempts(study));
    }
}

/// Runs on one processor and on another are not one experiment.
#[test]
fn a_study_does_not_go_on_with_other_processors() {
    let mut measured = Measured::new("other-cpus");
    let before = attempts(&measured.study);
    measured.bench.study["execution"]["n_cycles"] = json!(3);
    measured.bench.user = json!({"cpus": {"engine": "0"}});
    measured.resume().exits(1).says(&[
        "nothing was started",
        "  processors that runs are kept to (`cpus`)\n    finished runs  none\n    now            engine 0, agent 0",
    ]);
    assert_eq!(attempts(&measured.study), before);
    measured.bench.user = json!({});
    measured.resume().exits(0);
    assert_eq!(attempts(&measured.study).len(), 6);
}

/// The controller that extended the study died before it wrote the new lock file.
#[test]
fn a_lock_file_gets_what_an_extension_added() {
    let mut measured = Measured::new("late-lock");
    let path = measured.study.join("study.lock.json");
    let before = fs_err::read(&path).unwrap();
    measured.bench.study["sweep"] = json!({"candle.batch_size": [1, 2, 4]});
    measured.resume().exits(0);
    let extended = fs_err::read(&path).unwrap();
    assert_ne!(before, extended);
    fs_err::write(&path, &before).unwrap();
    measured.resume().exits(0);
    assert_eq!(fs_err::read(&path).unwrap(), extended);
}

/// Another study whose name begins in the same way is not this one.
#[test]
fn a_study_of_another_name_is_not_resumed() {
    let mut measured = Measured::new("name-longer");
    measured.bench.study["name"] = json!("name");
    let longer = measured.bench.output.join("name_longer_20260101T000000Z");
    fs_err::rename(&measured.study, &longer).unwrap();
    measured.bench.run(&["--runner", "process", "--resume"]).exits(2).says(&["no study `name` that could be resumed"]);
}
