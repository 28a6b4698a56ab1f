//! Results volumes that are too small.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use llem_protocol::{FailureClass, Phase};
use serde_json::json;

use crate::support::{Bench, containers_of};

/// A file system of its own, as small as wanted.
struct SmallVolume(PathBuf);

impl SmallVolume {
    /// `None`, with a line that says so, for a user who may not mount.
    fn mount(path: &Path, kib: u32) -> Option<Self> {
        fs_err::create_dir_all(path).unwrap();
        let size = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "llem-test"]).arg(path).output().unwrap();
        if !mounted.status.success() {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: only root may mount a small file system: {}",
                String::from_utf8_lossy(&mounted.stderr)
            );
            return None;
        }
        Some(Self(path.to_owned()))
    }
}

impl Drop for SmallVolume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A study whose records take much more space than everything else that is written.
fn talkative(name: &str) -> Option<Bench> {
    let mut bench = Bench::docker(name)?;
    bench.study["workload"] = json!({"dataset": "synthetic", "n": 400, "input_tokens": 8, "output_tokens": 32});
    bench.study["candle"] = json!({"batch_size": 100});
    Some(bench)
}

#[test]
fn an_agent_without_space_says_so_and_the_result_is_kept() {
    let Some(bench) = talkative("full") else { return };
    let Some(_volume) = SmallVolume::mount(&bench.output, 256) else { return };
    let finished = bench.run(&["--runner", "docker"]);
    let failure = finished.fails_with(FailureClass::OutputUnwritable, Phase::Write);
    assert!(failure.message.contains("requests.jsonl") && failure.message.contains("No space"), "{failure}");
    finished.says(&["hint: free space or fix the permissions of the study directory"]);
}

#[test]
fn a_controller_without_space_stops_the_study_and_names_the_file() {
    let Some(bench) = talkative("crammed") else { return };
    // Enough for the study file and the journal, not for a run's files.
    let Some(_volume) = SmallVolume::mount(&bench.output, 16) else { return };
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(1).says(&["error: results cannot be written", "/results/crammed_", "No space left", "free space"]);
    assert!(containers_of(&finished.study_dir()).is_empty());
}
