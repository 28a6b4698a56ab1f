//! A study of many runs with a stand-in for the runner: what a change of state costs, and what going on costs.
//!
//! Figures with the optimised build: `cargo test --release --workspace --lib -- --ignored --nocapture thirty_thousand`.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use llem_protocol::{REPORT_SCHEMA_VERSION, files};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::fleet::Fleet;
use super::prepare::prepare;
use super::resume::Resumed;
use super::session::Session;
use super::{Programs, RunOptions};
use crate::config::{Profile, StudyConfig, UserConfig};
use crate::result::{Journal, JournalEvent, StudyStatus};
use crate::runner::{EventSink, HostFiles, Places, ProcessRunner, RunOutcome, RunSpec, Runner, Stop};

/// Writes the files of an agent whose window went well, and stops the study after a number of runs.
struct StandIn {
    runs: AtomicUsize,
    last: usize,
}

impl Runner for StandIn {
    fn kind(&self) -> &'static str {
        "process"
    }

    fn has_images(&self) -> bool {
        false
    }

    fn places(&self, files: &HostFiles) -> Places {
        ProcessRunner.places(files)
    }

    fn run<'a>(&'a self, spec: &'a RunSpec, _: &'a EventSink, stop: &'a Stop) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move {
            if self.runs.fetch_add(1, Ordering::Relaxed) + 1 == self.last {
                stop.soft.cancel();
            }
            let report_sha256 = Some(measured(&spec.files.output_dir, &spec.job.run_id));
            RunOutcome { report_sha256, ..RunOutcome::default() }
        })
    }
}

/// One request of one pass in a window of a second.
fn measured(volume: &Path, run_id: &str) -> String {
    let clock = json!({"monotonic_ns": 1, "realtime_ns": 2});
    let end_ns = 1_000_000_000_u64;
    let report = json!({
        "schema_version": REPORT_SCHEMA_VERSION, "run_id": run_id, "agent_version": "0", "clock_start": clock,
        "clock_end": clock, "environment": {"gpus": []}, "phases": [], "reasons": [], "request_records": 1,
        "power_samples": 0,
        "window": {"start_ns": 0, "end_ns": end_ns, "energy": {"devices": []}, "split": [],
            "passes": [{"pass": 1, "start_ns": 0, "end_ns": end_ns, "prompt_tokens": 8, "output_tokens": 2}],
            "agent": {"cpu_s": 0.1, "cpu_share": 0.005, "resident_bytes": 1}},
    });
    let request = json!({"pass": 1, "index": 0, "batch": 0, "prompt_tokens": 8, "submit_ns": 0,
        "token_ns": [1, end_ns], "output_ids": [1, 2]});
    let text = report.to_string();
    fs_err::write(volume.join(files::REPORT), &text).unwrap();
    fs_err::write(volume.join(files::REQUESTS), format!("{request}\n")).unwrap();
    fs_err::write(volume.join(files::SAMPLES), "").unwrap();
    hex::encode(Sha256::digest(text))
}

/// `experiments` experiments in three cycles.
fn study(experiments: usize) -> StudyConfig {
    let text = json!({
        "name": "scale", "backend": "candle",
        "model": {"synthetic": {"layers": 1, "hidden": 8, "intermediate": 8, "heads": 1, "kv_heads": 1, "vocab": 512}},
        "workload": {"dataset": "synthetic", "n": 1, "input_tokens": 8, "output_tokens": 2},
        "sweep": {"candle.batch_size": (1..=experiments).collect::<Vec<_>>()},
        "execution": {"n_cycles": 3},
    });
    StudyConfig::from_text(Path::new("scale.yaml"), &text.to_string(), &[], Profile::Quick).unwrap()
}

/// Most memory that this process has used so far, in bytes.
fn peak_bytes() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// What one controller did.
#[derive(Debug)]
struct Told {
    status: StudyStatus,
    /// From the call to the readiness of everything but the weights.
    taken_up: Duration,
    /// Seconds from the end of one run to that of the next.
    between_s: Vec<f64>,
}

/// Carries out a study, or goes on with it, until its end or for `last` runs.
async fn controller(root: &Path, experiments: usize, resume: Option<&Path>, last: usize) -> (Told, std::path::PathBuf) {
    let study = study(experiments);
    let own = std::env::current_exe().unwrap();
    let programs = Programs { agent: own.clone(), candle: own, candle_root: None };
    let user = UserConfig { cache_dir: Some(root.join("cache")), ..UserConfig::default() };
    let options =
        RunOptions { output: root.join("results"), resume: resume.map(Path::to_owned), user, ..RunOptions::default() };
    let runner: Arc<dyn Runner> = Arc::new(StandIn { runs: AtomicUsize::new(0), last });
    let fleet = Fleet::only(&runner);
    let prepared = prepare(&study, &options, &programs, &fleet, &Mutex::new(()), &|_| {}).await.unwrap();
    let clock = Instant::now();
    let resumed = Resumed::open(&study, &options).unwrap();
    let mut session = Session::open(study, options, programs, fleet, prepared, resumed).unwrap();
    let taken_up = clock.elapsed();
    let ends = std::cell::RefCell::new(vec![Instant::now()]);
    let result = session
        .run(&|event| {
            if matches!(event, super::StudyEvent::RunFinished { .. }) {
                ends.borrow_mut().push(Instant::now());
            }
        })
        .await
        .unwrap();
    let between_s = ends.borrow().windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    (Told { status: result.status, taken_up, between_s }, session.directory.path().to_owned())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Half of a study by one controller, the rest by another; gives what both told.
fn in_two_halves(root: &Path, experiments: usize) -> [Told; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let runs = 3 * experiments;
        let (first, directory) = Box::pin(controller(root, experiments, None, runs / 2)).await;
        assert_eq!((first.status, first.between_s.len()), (StudyStatus::Interrupted, runs / 2));
        let (second, again) = Box::pin(controller(root, experiments, Some(&directory), usize::MAX)).await;
        assert_eq!((second.status, second.between_s.len()), (StudyStatus::Completed, runs - runs / 2));
        assert_eq!(directory, again);
        [first, second]
    })
}

#[test]
fn a_study_of_many_runs_goes_on_where_it_was() {
    let root = tempfile::tempdir().unwrap();
    let [_, second] = in_two_halves(root.path(), 60);
    assert!(second.taken_up < Duration::from_secs(10), "{:?}", second.taken_up);
}

#[test]
#[ignore = "takes minutes; its figures are those of the optimised build"]
fn thirty_thousand_runs() {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    let [first, second] = in_two_halves(root.path(), 10_000);
    let head = median(&first.between_s[..1000]);
    let tail = median(&second.between_s[second.between_s.len() - 1000..]);
    let journal_s = journal_lines(30_000);
    let peak_mb = peak_bytes() as f64 / 1e6;
    let _ = writeln!(
        std::io::stderr(),
        "a run: {:.3} ms at first, {:.3} ms at last; taken up in {:.3} s; peak {peak_mb:.0} MB; journal line {:.4} ms, \
         synced {:.4} ms (medians of 30,000)",
        head * 1e3,
        tail * 1e3,
        second.taken_up.as_secs_f64(),
        journal_s[0] * 1e3,
        journal_s[1] * 1e3,
    );
    assert!(tail < 1.5 * head, "{head} {tail}");
    assert!(second.taken_up < Duration::from_secs(2), "{:?}", second.taken_up);
    assert!(peak_mb < 200.0, "{peak_mb}");
    assert!(journal_s.iter().all(|s| *s < 1e-3), "{journal_s:?}");
}

/// Medians of the seconds that a line takes, one that is not waited for and one that is, on the disk of the build.
fn journal_lines(lines: usize) -> [f64; 2] {
    let root = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let started = JournalEvent::RunStarted {
        run_id: "00001-0123456789ab-c1".to_owned(),
        experiment_id: "0123456789ab".to_owned(),
        cycle: 1,
    };
    [started, JournalEvent::ResultLost { run_id: "00001-0123456789ab-c1".to_owned() }].map(|event| {
        let path = root.path().join("journal");
        let _ = fs_err::remove_file(&path);
        let mut journal = Journal::create(&path).unwrap();
        let seconds: Vec<f64> = (0..lines)
            .map(|_| {
                let clock = Instant::now();
                journal.append(&event).unwrap();
                clock.elapsed().as_secs_f64()
            })
            .collect();
        median(&seconds)
    })
}
