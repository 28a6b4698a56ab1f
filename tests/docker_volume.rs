//! Results volumes that fill up.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use llem_protocol::{FailureClass, Phase};
use serde_json::json;

use crate::docker_resume::identity;
use crate::support::{Bench, containers_of};

/// A file system of its own, a little larger than what a study asks for at its start.
struct SmallVolume(PathBuf);

const SIZE_KIB: u32 = 128 * 1024;

impl SmallVolume {
    /// `None`, with a line that says so, for a user who may not mount.
    fn mount(path: &Path) -> Option<Self> {
        fs_err::create_dir_all(path).unwrap();
        let size = format!("size={SIZE_KIB}k");
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

    /// Takes all of its space but this.
    fn fill(&self, free_bytes: u64) {
        let mut ballast = fs_err::File::create(self.ballast()).unwrap();
        let block = vec![0; 64 * 1024];
        let mut written = 0;
        while let Ok(taken @ 1..) = ballast.write(&block) {
            written += taken as u64;
        }
        ballast.set_len(written.saturating_sub(free_bytes)).unwrap();
    }

    fn empty(&self) {
        fs_err::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
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
    // Long enough to fill the disk meanwhile.
    bench.study["measurement"]["min_seconds"] = json!(3);
    Some(bench)
}

#[test]
fn an_agent_without_space_says_so_and_the_result_is_kept() {
    let Some(bench) = talkative("full") else { return };
    let Some(volume) = SmallVolume::mount(&bench.output) else { return };
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    volume.fill(256 * 1024);
    let finished = program.finish();
    let failure = finished.fails_with(FailureClass::OutputUnwritable, Phase::Write);
    assert!(failure.message.contains("requests.jsonl") && failure.message.contains("No space"), "{failure}");
    finished.says(&["hint: free space or fix the permissions of the study directory"]);
}

#[test]
fn a_controller_without_space_stops_the_study_which_goes_on_when_there_is_some() {
    let Some(bench) = talkative("crammed") else { return };
    let Some(volume) = SmallVolume::mount(&bench.output) else { return };
    let undisturbed = talkative("crammed").unwrap().run(&["--runner", "docker"]);
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    volume.fill(0);
    let finished = program.finish();
    finished.exits(1).says(&["error: results cannot be written", "/results/crammed_", "No space left", "free space"]);
    let study = finished.study_dir();
    assert!(containers_of(&study).is_empty());
    volume.empty();
    let mended = bench.run(&["--runner", "docker", "--resume", &study.display().to_string()]);
    mended.exits(0).leaves_no_container();
    assert_eq!(mended.study().experiments[0].runs.len(), 1);
    assert_eq!(identity(&study), identity(&undisturbed.study_dir()));
}

#[test]
fn a_study_does_not_start_where_there_is_no_room() {
    let Some(bench) = talkative("narrow") else { return };
    let Some(volume) = SmallVolume::mount(&bench.output) else { return };
    volume.fill(1024 * 1024);
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(1).says(&["error: results need 100 MB in", "make room, or name another directory"]);
}
