//! The `slurm` runner, against a real SLURM and everything that can go wrong with it.

mod faults;
mod habits;
pub(crate) mod site;
mod two_nodes;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use llem::result::{Output, RunResult, RunStatus};
use llem_protocol::FailureClass;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Bench, Finished, Program, eventually};
use site::Site;

/// Enough for forty runs with faults, or for SLURM's shortest time limit.
const PATIENT: Duration = Duration::from_secs(420);

/// The lines of a study's journal that are whole.
fn journal(study: &Path) -> Vec<Value> {
    let text = fs_err::read_to_string(study.join("journal.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn ended(study: &Path) -> usize {
    journal(study).iter().filter(|line| line["event"] == "run_finished").count()
}

/// Waits until so many runs have a result.
fn until_ended(program: &mut Program, runs: usize) {
    let study = program.study_dir();
    eventually(&format!("{runs} results"), || {
        assert!(program.is_running() || ended(&study) >= runs, "{}", program.said());
        (ended(&study) >= runs).then_some(())
    });
}

/// How often each run of the plan was measured.
fn times_measured(finished: &Finished) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for line in journal(&finished.study_dir()).iter().filter(|line| line["event"] == "run_finished") {
        let number = line["run_id"].as_str().unwrap().split('-').next().unwrap().to_owned();
        *times.entry(number).or_insert(0) += usize::from(line["status"] == "completed");
    }
    times
}

/// Nothing is lost, nothing repeated.
#[track_caller]
fn measured_each_once(finished: &Finished, runs: usize) {
    let times = times_measured(finished);
    assert!(times.len() == runs && times.values().all(|times| *times == 1), "{times:?}\n{}", finished.stderr);
    let study = finished.study();
    let rows = study.experiments.iter().flat_map(|experiment| &experiment.runs);
    assert_eq!(rows.filter(|row| row.status == RunStatus::Completed).count(), runs);
    leaves_no_plan(finished);
}

/// Plans have the variables of the user config.
#[track_caller]
fn leaves_no_plan(finished: &Finished) {
    let left = fs_err::read_dir(finished.study_dir().join("slurm")).unwrap().map(|entry| entry.unwrap().path());
    let plans: Vec<_> = left.filter(|path| path.extension().is_none_or(|extension| extension != "log")).collect();
    assert!(plans.is_empty(), "{plans:?}");
}

/// Every directory of a run, with its result, where it has one.
fn runs(study: &Path) -> Vec<(String, Option<RunResult>)> {
    let entries = fs_err::read_dir(study.join("runs")).unwrap().map(|entry| entry.unwrap().path());
    let result = |path: &Path| serde_json::from_slice(&fs_err::read(path.join("result.json")).ok()?).ok();
    let mut runs: Vec<_> =
        entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), result(&path))).collect();
    runs.sort_by(|a, b| a.0.cmp(&b.0));
    runs
}

/// Four experiments.
fn sweep(bench: &mut Bench, cycles: u32) {
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["sweep"] = json!({"candle.batch_size": [1, 2, 3, 4]});
    bench.study["execution"] = json!({"n_cycles": cycles, "retry_wait_seconds": 0.2, "max_retries": 5});
}

#[test]
fn jobs_do_the_same_as_processes() {
    let Some(site) = Site::start() else { return };
    let mut bench = site.bench("slurm-same");
    sweep(&mut bench, 2);
    bench.user["slurm"]["tasks_per_job"] = json!(4);
    bench.user["slurm"]["prologue"] = json!(["#SBATCH --comment=llem", "test -d .", "false || true"]);
    // What users set for themselves must not hide their jobs from llem.
    bench.variables.insert("SQUEUE_USERS", "nobody".to_owned());
    bench.variables.insert("SCANCEL_STATE", "SUSPENDED".to_owned());
    for (name, value) in [("SBATCH_WAIT", "1"), ("SBATCH_INPUT", "/nowhere"), ("SBATCH_ERROR", "/nowhere/error")] {
        bench.variables.insert(name, value.to_owned());
    }
    let on_slurm = bench.run(&[]);
    on_slurm.exits(0).says(&["runner slurm", "submitted job array", "2 jobs"]);
    site.is_idle();
    measured_each_once(&on_slurm, 8);
    let slurm = runs(&on_slurm.study_dir());
    let records: Vec<_> = slurm.iter().map(|(_, run)| run.as_ref().unwrap().slurm.clone().unwrap()).collect();
    assert!(records.iter().all(|record| record.node.as_deref() == Some("localhost")), "{records:?}");
    assert!(records.iter().all(|record| record.node_runner == "process" && record.cluster.as_deref() == Some("test")));
    // One cycle of all experiments in each job.
    assert_eq!(records.iter().map(|record| record.task).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1, 1, 1]);
    let directory = on_slurm.study_dir();

    let as_processes = bench.run(&["--runner", "process"]);
    as_processes.exits(0);
    let process = runs(&as_processes.study_dir());
    assert_eq!(slurm.len(), process.len());
    for ((name, a), (other, b)) in slurm.iter().zip(&process) {
        let (a, b) = (a.as_ref().unwrap(), b.as_ref().unwrap());
        assert_eq!((name, &a.experiment_id, a.cycle), (other, &b.experiment_id, b.cycle));
        assert_eq!((&a.config, &a.workload, &a.model), (&b.config, &b.workload, &b.model));
        assert_eq!(
            (&a.engine.as_ref().unwrap().engine_version, &a.agent_sha256),
            (&b.engine.as_ref().unwrap().engine_version, &b.agent_sha256)
        );
        assert_eq!((&a.host, &a.llem_commit), (&b.host, &b.llem_commit));
        let tokens = |study: &Path| Output::read(&study.join("runs").join(name).join("requests.parquet")).unwrap();
        assert_eq!(tokens(&directory), tokens(&as_processes.study_dir()), "{name}");
        assert_eq!((a.runner.as_str(), b.runner.as_str()), ("slurm", "process"));
    }
}

#[test]
fn an_interrupt_cancels_the_jobs_and_keeps_what_is_measured() {
    let Some(site) = Site::start() else { return };
    let mut bench = site.bench("slurm-interrupt").long_window();
    sweep(&mut bench, 3);
    bench.user["slurm"]["max_parallel"] = json!(2);
    let mut program = bench.start(&[]);
    program.until("10 jobs waiting, 2 running");
    program.until("[2] ");
    program.signal(Signal::INT);
    let finished = program.finish();
    finished.exits(130).says(&["stopping: the study's jobs are cancelled", "cancelling 12 jobs"]);
    site.is_idle();
    let left = runs(&finished.study_dir());
    assert_eq!(left.len(), 2, "what has not begun leaves nothing: {left:?}");
    leaves_no_plan(&finished);
    for (name, run) in &left {
        assert_eq!(run.as_ref().unwrap().status, RunStatus::Interrupted, "{name}");
        assert_eq!(run.as_ref().unwrap().failure.as_ref().unwrap().class, FailureClass::Interrupted, "{name}");
    }
}

#[test]
fn a_run_that_meets_its_time_limit_says_so_and_the_next_one_gets_its_turn() {
    let Some(site) = Site::start() else { return };
    let mut bench = site.bench("slurm-limit").patient(PATIENT);
    bench.study.as_object_mut().unwrap().remove("measurement");
    bench.study["sweep"] = json!({"measurement.min_seconds": [300, 0.3]});
    bench.study["measurement"] = json!({"warmup_passes": 1, "baseline_seconds": 0});
    bench.user["slurm"]["tasks_per_job"] = json!(2);
    bench.user["slurm"]["time_limit_minutes"] = json!(1);
    let finished = bench.run(&[]);
    finished.exits(1).says(&["reached its time limit", "time_limit_minutes"]);
    site.is_idle();
    let runs = runs(&finished.study_dir());
    let classes: Vec<_> = runs.iter().map(|(_, run)| run.as_ref().unwrap().failure.as_ref().map(|f| f.class)).collect();
    assert_eq!(classes, [Some(FailureClass::TimeLimit), None], "{runs:?}");
}

#[test]
fn a_job_that_cannot_start_says_why() {
    let Some(site) = Site::start() else { return };
    let mut bench = site.bench("slurm-prologue");
    bench.user["slurm"]["prologue"] = json!(["echo no such module >&2", "exit 3"]);
    let finished = bench.run(&[]);
    finished.exits(1).says(&["ended and left no result", "no such module", "hint: read the job's output"]);
    // A line that fails is no less.
    bench.user["slurm"]["prologue"] = json!(["llem-no-such-module load cuda", "echo and on"]);
    let finished = bench.run(&[]);
    finished.exits(1).says(&["slurm.prologue ended the job with exit code 127: llem-no-such-module load cuda"]);
    site.is_idle();
    bench.user["slurm"] = json!({"partition": "nowhere"});
    let finished = bench.run(&[]);
    finished.exits(1).says(&["`sbatch` failed", "invalid partition"]);
    assert!(runs(&finished.study_dir()).is_empty());
}

#[test]
fn a_plan_says_what_would_be_submitted() {
    let Some(site) = Site::start() else { return };
    let mut bench = site.bench("slurm-plan");
    bench.study["sweep"] = json!({"workload.input_tokens": {"from": 1, "to": 1000, "num": 1000}});
    bench.study["execution"] = json!({"n_cycles": 5});
    let finished = bench.run(&["--dry-run"]);
    finished.exits(0).says(&["5000 jobs in 5 arrays (here at most 1001 jobs each)", "sbatch", "--array=0-1000"]);
    assert!(site.jobs("all").is_empty());
}
