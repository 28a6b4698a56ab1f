//! GPUs on which somebody computes, or that are not there, when a study or one of its runs is to begin.

use std::path::Path;
use std::process::{Child, Command};

use fake_nvml::monotonic_ns;
use llem::result::{RunResult, RunStatus};
use llem_protocol::FailureClass;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{LOOKS, Second, Study, eventually, only, replace};

/// A process of somebody else.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    /// As a refusal or a wait names it: its name is not known in a PID namespace of its own.
    fn named(&self) -> String {
        format!("process {} (", self.0.id())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A study on GPU-0, not begun, with locks of its own.
fn study(when_busy: &str) -> (Second, TempDir) {
    let locks = tempfile::tempdir().unwrap();
    (Second::new(&locks.path().join("locks"), when_busy), locks)
}

fn puts_on_gpu_0(directory: &Path, pids: &str) {
    replace(&directory.join("0"), pids);
}

/// Nothing of a study was made.
fn nothing_was_started(study: &Second) {
    assert!(!study.directory.path().join("results").exists() && !study.directory.path().join("engine").exists());
}

#[test]
fn a_study_whose_gpu_somebody_uses_is_refused_where_it_shall_not_wait() {
    let (mut refused, _locks) = study("refuse");
    let stranger = Stranger::new();
    puts_on_gpu_0(refused.directory.path(), &stranger.0.id().to_string());
    assert_eq!(refused.command.status().unwrap().code(), Some(1));
    let said = refused.said();
    let parts = [&stranger.named(), "900 MiB on GPU-0", "nothing was started", "`gpu.when_busy"];
    assert!(parts.iter().all(|part| said.contains(*part)), "{said}");
    nothing_was_started(&refused);
}

#[test]
fn a_study_whose_gpu_somebody_uses_waits_for_the_end() {
    let (mut waiting, _locks) = study("wait");
    let stranger = Stranger::new();
    puts_on_gpu_0(waiting.directory.path(), &stranger.0.id().to_string());
    let mut llem = waiting.command.spawn().unwrap();
    let said = stranger.named();
    eventually(|| (waiting.said().contains(&said) && waiting.said().contains("waiting for its end")).then_some(()));
    nothing_was_started(&waiting);
    assert!(llem.try_wait().unwrap().is_none());
    puts_on_gpu_0(waiting.directory.path(), "");
    drop(Study::under_way(waiting.directory, llem));
}

#[test]
fn a_display_on_the_gpu_is_no_reason_to_wait() {
    let (mut study, _locks) = study("refuse");
    let stranger = Stranger::new();
    let directory = study.directory.path();
    puts_on_gpu_0(directory, &stranger.0.id().to_string());
    let script = directory.join("nvml/fake-nvml.json");
    let mut devices: Value = serde_json::from_slice(&fs_err::read(&script).unwrap()).unwrap();
    devices["devices"][0]["processes"][0]["kind"] = json!("graphics");
    fs_err::write(&script, devices.to_string()).unwrap();
    let llem = study.command.spawn().unwrap();
    drop(Study::under_way(study.directory, llem));
}

#[test]
fn a_gpu_that_the_machine_does_not_have_is_named_with_those_that_it_has() {
    let (mut study, _locks) = study("wait");
    let user = json!({"gpu": {"devices": ["GPU-7", "GPU-0"]}});
    fs_err::write(study.directory.path().join("user.yaml"), user.to_string()).unwrap();
    assert_eq!(study.command.status().unwrap().code(), Some(1));
    let said = study.said();
    let expected =
        "no GPU `GPU-7` on this machine (GPUs present: GPU-0, GPU-1); correct `gpu.devices` of the user config";
    // Lines are wrapped for a terminal.
    assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").contains(expected), "{said}");
    nothing_was_started(&study);
}

/// A study of two runs, the first of which has ended while a stranger came to its GPU.
fn second_run_beside(stranger: &Stranger, when_busy: &str) -> (Study, TempDir) {
    let (mut two, locks) = study(when_busy);
    let set = ["execution.n_cycles=2", "execution.retry_wait_seconds=0.2", "execution.max_retries=50"];
    two.command.args(set.into_iter().flat_map(|value| ["--set", value]));
    let llem = two.command.spawn().unwrap();
    let study = Study::under_way(two.directory, llem);
    study.put(0, &[study.engine]);
    let start_ns = monotonic_ns();
    std::thread::sleep(LOOKS);
    let end_ns = monotonic_ns();
    std::thread::sleep(LOOKS);
    study.put(0, &[stranger.0.id()]);
    fs_err::remove_file(study.path("engine")).unwrap();
    study.hand_out(start_ns, end_ns, &json!({}));
    (study, locks)
}

/// All results so far, in the order of their names.
fn results(study: &Study) -> Vec<RunResult> {
    let runs = fs_err::read_dir(only(&study.path("results")).join("runs")).unwrap();
    let mut paths: Vec<_> = runs.map(|run| run.unwrap().path()).collect();
    // `…-r10` comes after `…-r9`.
    paths.sort_by_key(|path| (path.to_string_lossy().len(), path.clone()));
    let texts = paths.iter().filter_map(|path| fs_err::read(path.join("result.json")).ok());
    texts.map(|text| RunResult::from_json(&text).unwrap()).collect()
}

#[test]
fn a_run_whose_gpu_somebody_uses_fails_and_is_tried_again_where_it_shall_not_wait() {
    let stranger = Stranger::new();
    let (mut study, _locks) = second_run_beside(&stranger, "refuse");
    let journal = || fs_err::read_to_string(only(&study.path("results")).join("journal.jsonl")).unwrap();
    eventually(|| journal().contains(r#""failure":"gpu_busy""#).then_some(()));
    assert!(!study.path("engine").exists(), "the second run began beside a stranger");
    study.put(0, &[]);
    assert!(study.llem.wait().unwrap().success(), "{}", fs_err::read_to_string(study.path("stderr")).unwrap());
    let results = results(&study);
    assert_eq!((results[0].cycle, results[0].status, &results[0].gpu_wait), (1, RunStatus::Completed, &None));
    let failure = results[1].failure.as_ref().unwrap();
    assert_eq!((results[1].cycle, results[1].status, failure.class), (2, RunStatus::Failed, FailureClass::GpuBusy));
    assert!(failure.message.starts_with(&stranger.named()), "{failure}");
    let seen: Vec<_> = results[1].gpu_processes.iter().map(|process| (process.pid, process.own)).collect();
    assert_eq!((seen, results[1].valid), (vec![(stranger.0.id(), Some(false))], false));
    let last = results.last().unwrap();
    assert_eq!((last.cycle, last.status), (2, RunStatus::Completed));
    assert!(results.len() > 2 && last.run_id.contains("-r"), "{}", last.run_id);
}

#[test]
fn a_run_whose_gpu_somebody_uses_waits_and_says_so_in_its_result() {
    let stranger = Stranger::new();
    let (mut study, _locks) = second_run_beside(&stranger, "wait");
    let said = || fs_err::read_to_string(study.path("stderr")).unwrap();
    eventually(|| (said().contains(&stranger.named()) && said().contains("waiting for its end")).then_some(()));
    assert!(!study.path("engine").exists(), "the second run began beside a stranger");
    study.put(0, &[]);
    assert!(study.llem.wait().unwrap().success(), "{}", fs_err::read_to_string(study.path("stderr")).unwrap());
    let results = results(&study);
    assert_eq!(results.iter().map(|result| result.status).collect::<Vec<_>>(), [RunStatus::Completed; 2]);
    let wait = results[1].gpu_wait.as_ref().unwrap();
    assert_eq!(wait.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [stranger.0.id()]);
    assert!(wait.wait_s > 1.0 && wait.processes[0].last_seen_ns > wait.processes[0].first_seen_ns, "{wait:?}");
    assert_eq!(results[0].gpu_wait, None);
}
