//! One command of SLURM, with its time limit.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::config::TOKEN_VARIABLES;
use crate::printable::printable;

/// How long a command may take. A busy controller answers within seconds, and tells its clients to try again meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is kept of a command's complaint, in characters.
const COMPLAINT: usize = 500;

/// SLURM cannot be used, or refused something.
#[derive(Debug, Error)]
pub enum SlurmError {
    /// The command is not there.
    #[error(
        "`{command}` cannot be started: {source}; the `slurm` runner needs SLURM's commands in PATH: run llem on a login node"
    )]
    Missing {
        /// The command.
        command: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// The command failed.
    #[error("`{command}` failed: {complaint}")]
    Refused {
        /// The command.
        command: String,
        /// Its own words.
        complaint: String,
    },
    /// The command did not end within two minutes, or, when the user has stopped the study, soon.
    #[error("`{0}` did not answer in time")]
    Silent(String),
    /// No name of a job's output can be told to `sbatch`.
    #[error("{path}: `sbatch` takes no directory with a backslash in its path: choose another with --output", path = .0.display())]
    Backslash(PathBuf),
    /// The command said something else than expected.
    #[error("`{command}` said `{text}`, which is no answer")]
    Unreadable {
        /// The command.
        command: String,
        /// What it said.
        text: String,
    },
    /// The site forbids arrays.
    #[error("the site's MaxArraySize is 0: it has no job arrays, which the `slurm` runner needs")]
    NoArrays,
}

/// What `sbatch` takes from variables beside what a job asks for: where its words go, when it is signalled, whether `sbatch` waits for its
/// end. Those are llem's own affair; accounts, partitions, memory and the like may be a user's defaults.
const HANDLING: [&str; 6] =
    ["SBATCH_CLUSTERS", "SBATCH_CONTAINER", "SBATCH_ERROR", "SBATCH_INPUT", "SBATCH_SIGNAL", "SBATCH_WAIT"];

/// Whether a variable changes what llem asks for: gives `squeue`, `scancel` or `sacct` a filter, so that jobs would seem to be gone, or
/// gives `sbatch` another way to handle them.
fn is_meddling(name: &str) -> bool {
    ["SQUEUE_", "SCANCEL_", "SACCT_"].iter().any(|prefix| name.starts_with(prefix)) || HANDLING.contains(&name)
}

/// A command with everything that it has started, which a site's own wrapper may do. Dropped before its end, all of it is killed.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // What has ended meanwhile needs no end.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Runs a command to its end and gives what it printed. Access tokens stay here: jobs inherit the environment of `sbatch`. So does
/// `CUDA_VISIBLE_DEVICES`, which says what may be used on this machine and not on a node.
pub(super) async fn run(program: &str, arguments: &[&str], input: Option<String>) -> Result<String, SlurmError> {
    let failed = |source| SlurmError::Missing { command: program.to_owned(), source };
    let mut command = Command::new(program);
    for name in TOKEN_VARIABLES {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_meddling(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    let mut child = command
        .args(arguments)
        .env_remove("CUDA_VISIBLE_DEVICES")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A signal from the terminal is for llem, which then has things to ask.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut group = Group::of(&child);
    let talk = async {
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            // A command that reads nothing says why it failed.
            let _ = pipe.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, talk).await;
    let output = output.map_err(|_| SlurmError::Silent(program.to_owned()))?.map_err(failed)?;
    group.0 = None;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint: String = printable(String::from_utf8_lossy(&output.stderr).trim()).chars().take(COMPLAINT).collect();
    let complaint = if complaint.is_empty() { output.status.to_string() } else { complaint };
    Err(SlurmError::Refused { command: program.to_owned(), complaint })
}
