//! One command of SLURM, with its time limit.

use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

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
    /// The command did not end.
    #[error("`{0}` did not answer within {limit} s", limit = PATIENCE.as_secs())]
    Silent(String),
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

/// Whether a variable gives `squeue`, `scancel` or `sacct` options: with a filter of the user's, jobs would seem to be gone.
fn is_filter(name: &str) -> bool {
    ["SQUEUE_", "SCANCEL_", "SACCT_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Runs a command to its end and gives what it printed. Access tokens stay here: jobs inherit the environment of `sbatch`. So does
/// `CUDA_VISIBLE_DEVICES`, which says what may be used on this machine and not on a node.
pub(super) async fn run(program: &str, arguments: &[&str], input: Option<String>) -> Result<String, SlurmError> {
    let failed = |source| SlurmError::Missing { command: program.to_owned(), source };
    let mut command = Command::new(program);
    for name in TOKEN_VARIABLES {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_filter(&name.to_string_lossy())) {
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
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // A command that reads nothing says why it failed.
        let _ = pipe.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.map_err(|_| SlurmError::Silent(program.to_owned()))?.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint: String = printable(String::from_utf8_lossy(&output.stderr).trim()).chars().take(COMPLAINT).collect();
    let complaint = if complaint.is_empty() { output.status.to_string() } else { complaint };
    Err(SlurmError::Refused { command: program.to_owned(), complaint })
}
