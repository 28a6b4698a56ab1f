//! The built `llem`, away from the user's own settings and caches.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use jiff::Timestamp;
use llem::result::{RunResult, StudyResult, StudyStatus};
use serde_json::Value;
use tempfile::TempDir;

use crate::Outcome;

/// The release binary with a directory of its own for settings, caches and results.
pub(crate) struct LlemProgram {
    home: TempDir,
}

/// A finished study.
pub(crate) struct Study {
    directory: PathBuf,
    /// Wall-clock seconds of the whole process.
    pub(crate) total_s: f64,
    /// Seconds of each run, its files included.
    pub(crate) runs_s: Vec<f64>,
}

impl LlemProgram {
    /// Fails when the agent or the driver is not beside `llem`. The directory lies below `target/`, on a real disk: writing results
    /// waits for it.
    pub(crate) fn new() -> Outcome<Self> {
        let program = Path::new(env!("CARGO_BIN_EXE_llem"));
        for name in ["llem-agent", "llem-candle"] {
            let beside = program.with_file_name(name);
            if !beside.is_file() {
                return Err(
                    format!("{}: not found; `cargo build --release --workspace` first", beside.display()).into()
                );
            }
        }
        fs_err::create_dir_all(env!("CARGO_TARGET_TMPDIR"))?;
        Ok(Self { home: tempfile::Builder::new().prefix("cost-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))? })
    }

    /// A directory that is gone with this value.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.home.path().join("plain")
    }

    /// `llem` without arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llem"));
        command.env_remove("LLEM_CONFIG").env_remove("RUST_LOG");
        command.env("XDG_CONFIG_HOME", self.home.path().join("config"));
        command.env("XDG_CACHE_HOME", self.home.path().join("cache"));
        command
    }

    /// Writes a study file.
    pub(crate) fn write_study(&self, name: &str, text: &str) -> Outcome<PathBuf> {
        let path = self.home.path().join(name);
        fs_err::write(&path, text)?;
        Ok(path)
    }

    /// Runs a study with settings changed by `--set`; fails unless every run was measured.
    pub(crate) fn study(&self, text: &str, set: &[String]) -> Outcome<Study> {
        let file = self.write_study("study.yaml", text)?;
        let mut command = self.command();
        command.args(["--quiet", "run", "--format", "json", "--output"]).arg(self.home.path().join("results"));
        command.arg(file).args(set.iter().map(|pair| format!("--set={pair}")));
        let start = Instant::now();
        let output = command.output()?;
        let total_s = start.elapsed().as_secs_f64();
        let result: StudyResult = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("llem: {error}: {}", String::from_utf8_lossy(&output.stderr)))?;
        if result.status != StudyStatus::Completed {
            return Err(format!("the study failed: {}", String::from_utf8_lossy(&output.stdout)).into());
        }
        let directory = PathBuf::from(result.directory);
        let runs_s = run_seconds(&fs_err::read_to_string(directory.join("journal.jsonl"))?)?;
        Ok(Study { directory, total_s, runs_s })
    }
}

impl Study {
    /// The record of the last run.
    pub(crate) fn last_result(&self) -> Outcome<RunResult> {
        let runs = fs_err::read_dir(self.directory.join("runs"))?.collect::<Result<Vec<_>, _>>()?;
        let last = runs.iter().map(fs_err::DirEntry::path).max().ok_or("the study has no run")?;
        Ok(serde_json::from_slice(&fs_err::read(last.join("result.json"))?)?)
    }
}

/// From the line that begins a run to the line that ends it, which is written when all files of the run are on disk.
fn run_seconds(journal: &str) -> Outcome<Vec<f64>> {
    let mut started: Option<Timestamp> = None;
    let mut seconds = Vec::new();
    for line in journal.lines() {
        let line: Value = serde_json::from_str(line)?;
        let time: Timestamp = line["time"].as_str().ok_or("a journal line without time")?.parse()?;
        match line["event"].as_str() {
            Some("run_started") => started = Some(time),
            Some("run_finished") => {
                let start = started.take().ok_or("a run in the journal that ended and never began")?;
                seconds.push(time.duration_since(start).as_secs_f64());
            }
            _ => {}
        }
    }
    Ok(seconds)
}
