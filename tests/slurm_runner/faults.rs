//! One study of forty runs and everything that may happen to it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use llem::result::RunStatus;
use llem_protocol::FailureClass;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::site::Site;
use super::{PATIENT, ended, journal, measured_each_once, runs, sweep, until_ended};
use crate::support::{Bench, Program, eventually, eventually_within};

/// A minute of time limit, half a minute until SLURM looks, half a minute until it kills, on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(240);

/// A small file system that goes with the test.
struct Disk(PathBuf);

impl Disk {
    /// For the results of `bench`. `None`, with a line that says so, for who may not mount.
    fn small(bench: &mut Bench) -> Option<Self> {
        bench.output = bench.path("small");
        fs_err::create_dir(&bench.output).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=140m", "tmpfs"];
        if !Command::new("mount").args(mount).arg(&bench.output).status().unwrap().success() {
            assert!(std::env::var_os("CI").is_none(), "no file system can be mounted");
            let _ = writeln!(std::io::stderr(), "skipped: mounting a small file system needs root");
            return None;
        }
        Some(Self(bench.output.clone()))
    }

    /// Leaves no room. The file that takes it.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let full = fs_err::write(&filler, vec![1; 200_000_000]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// An engine's driver that works at this moment on a node other than `spared`.
fn driver(site: &Site, spared: Option<&str>) -> Pid {
    let is_driver = |pid: &Pid| {
        let name = fs_err::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
        name.trim() == "llem-candle" && spared.is_none_or(|spared| site.node_of(*pid) != spared)
    };
    eventually("a driver at work", || site.processes().into_iter().find(is_driver))
}

/// No attempt began or ended twice, by the journal and by the directories.
#[track_caller]
fn every_attempt_is_one(study: &Path) {
    for event in ["run_started", "run_finished"] {
        let journal = journal(study);
        let told: Vec<_> = journal.iter().filter(|line| line["event"] == event).map(|line| &line["run_id"]).collect();
        let different: BTreeSet<String> = told.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), different.len(), "{event}: {told:?}");
        assert_eq!(told.len(), runs(study).len(), "{event}: as many as directories");
    }
    for (name, run) in runs(study) {
        let begun = study.join("runs").join(&name).join(".begun");
        assert!(run.is_some() && !begun.exists(), "{name} has its result, and nothing else is going on in it");
    }
}

#[test]
fn forty_runs_survive_everything_together() {
    let Some(mut site) = Site::start_two("KillWait=5") else { return };
    let mut bench = site.bench("slurm-forty").patient(PATIENT);
    sweep(&mut bench, 10);
    bench.study["measurement"]["min_seconds"] = json!(3);
    bench.user["slurm"] = json!({"poll_seconds": 1, "time_limit_minutes": 1});
    let Some(disk) = Disk::small(&mut bench) else { return };

    // The first run hangs, and its job will meet its time limit. The other node goes on.
    let mut program = bench.start(&[]);
    let hung = driver(&site, None);
    let (slow, other) = if site.node_of(hung) == "n1" { ("n1", "n2") } else { ("n2", "n1") };
    kill_process(hung, Signal::STOP).unwrap();
    until_ended(&mut program, 2);
    let study = program.study_dir();
    program.kill();

    // Nobody looks, and somebody cancels jobs: one that runs on the other node, and some that wait.
    let waiting = site.jobs("PENDING");
    let running = site.command("squeue", &["--noheader", "--array", "--format=%F_%K", &format!("--nodelist={other}")]);
    let running = String::from_utf8(running.stdout).unwrap();
    let victims: Vec<&str> =
        running.split_whitespace().take(1).chain(waiting.iter().rev().step_by(7).take(3).map(String::as_str)).collect();
    assert!(victims.len() >= 3, "{victims:?}");
    assert!(site.command("scancel", &victims).status.success());

    let resume = ["--resume", study.to_str().unwrap()];
    let mut program = bench.start(&resume);
    program.until("that an earlier controller submitted");
    until_ended(&mut program, 6);
    driver(&site, Some(slow));
    site.kill_node(other);
    program.until("its node failed");
    site.start_node(other);
    until_ended(&mut program, 8);
    site.kill_controller();
    program.until("looking again every 1 s");
    site.start_controller();

    eventually_within(TIME_LIMIT, "the time limit of the run that hangs", || {
        assert!(program.is_running(), "{}", program.said());
        site.take_nodes_back();
        program.said().contains("reached its time limit").then_some(())
    });
    let so_far = ended(&study);
    until_ended_after_repair(&mut program, &site, so_far + 3);
    assert!(ended(&study) < 40, "something is left for the full disk");
    let filler = disk.fill();
    let finished = program.finish();
    finished.exits(1).says(&["results cannot be written", "--resume"]);
    site.is_idle();
    fs_err::remove_file(&filler).unwrap();

    let mut program = bench.start(&resume);
    while program.is_running() {
        site.take_nodes_back();
        std::thread::sleep(Duration::from_millis(500));
    }
    let finished = program.finish();
    finished.exits(0);
    measured_each_once(&finished, 40);
    every_attempt_is_one(&study);
    site.is_idle();
    let failed = |class| {
        runs(&study).into_iter().filter(move |(_, run)| {
            run.as_ref()
                .is_some_and(|run| run.status != RunStatus::Completed && run.failure.as_ref().unwrap().class == class)
        })
    };
    assert_eq!(failed(FailureClass::TimeLimit).count(), 1);
    assert!(failed(FailureClass::NodeLost).count() >= 4, "what was cancelled or lost its node says so");
}

/// As [`until_ended`] on a site whose controller was killed.
fn until_ended_after_repair(program: &mut Program, site: &Site, runs: usize) {
    let study = program.study_dir();
    eventually(&format!("{runs} results"), || {
        assert!(program.is_running(), "{}", program.said());
        site.take_nodes_back();
        (ended(&study) >= runs).then_some(())
    });
}
