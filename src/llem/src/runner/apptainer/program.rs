//! The program, and which of its flags work on this machine: tried out once by every controller.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Signal, getuid, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::command::{Bind, Exec, Mode, SCRATCH_TMP};
use super::error::ApptainerError;
use crate::config::TOKEN_VARIABLES;
use crate::printable::printable;
use crate::runner::inside;
use crate::runner::left::Scratch;
use crate::runner::process::{pid, spawn_group};

/// How long a command without work of its own may take on a slow, shared file system.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What Apptainer says where root lacks one of the capabilities that it wants to keep, as in many containers and virtual machines.
const LACKS_CAPABILITIES: &str = "Requesting capability set";

/// What Apptainer says where the site does not allow namespaces for processes.
const LACKS_PID_NAMESPACE: &str = "Not virtualizing pid namespace";

/// Output of a command that is read, in bytes.
const OUTPUT_BYTES: u64 = 1 << 20;

/// Apptainer as it works on this machine.
#[derive(Clone, Debug)]
pub(super) struct Apptainer {
    program: PathBuf,
    /// What it calls itself, e.g. `apptainer version 1.4.5`.
    pub(super) version: String,
    pub(super) mode: Mode,
    /// Whether containers have processes of their own only, all of which end with the first.
    pub(super) has_pid_namespace: bool,
    /// Modes that were refused before this one, with what was said.
    refused: Vec<(Mode, String)>,
}

/// What a command wrote.
#[derive(Clone, Debug, Default)]
pub(super) struct Output {
    pub(super) succeeded: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Apptainer {
    /// Finds the program, and the best flags with which it starts the agent in the directory `root`.
    pub(super) async fn find(root: &Path, agent: &Path, stop: &CancellationToken) -> Result<Self, ApptainerError> {
        let mut found = Self {
            program: "apptainer".into(),
            version: version(stop).await?,
            mode: Mode { is_root: getuid().is_root(), userns: false, offline: true },
            has_pid_namespace: true,
            refused: Vec::new(),
        };
        for mode in Mode::all(getuid().is_root()) {
            found.mode = mode;
            let output = found.agent_version(root, agent, stop).await?;
            if output.succeeded && output.stdout.starts_with("llem-agent") {
                found.has_pid_namespace = !output.stderr.contains(LACKS_PID_NAMESPACE);
                debug!(version = found.version, flags = mode.shown(), "apptainer works");
                return Ok(found);
            }
            found.refused.push((mode, complaint(&output.stderr)));
        }
        Err(ApptainerError::Refused { tried: by_complaint(&found.refused), version: found.version })
    }

    /// The flags with the reason for them.
    pub(super) fn reason(&self) -> String {
        let refused = match self.refused.as_slice() {
            [] => "the first that were tried".to_owned(),
            refused => format!("refused was {}", by_complaint(refused).join("; ")),
        };
        format!("{}: containers are made with {} ({refused})", self.version, self.mode.shown())
    }

    /// Starts the agent in an image, to see whether that works.
    pub(super) async fn agent_version(
        &self,
        root: &Path,
        agent: &Path,
        stop: &CancellationToken,
    ) -> Result<Output, ApptainerError> {
        let scratch = scratch()?;
        let exec = Exec {
            root,
            scratch: scratch.path(),
            binds: vec![Bind::read_only(agent, inside::AGENT)],
            env: [].into(),
            gpus: false,
            directory: "/",
            command: vec![inside::AGENT.to_owned(), "--version".to_owned()],
        };
        self.output(&exec, stop).await
    }

    /// The command that starts a container.
    pub(super) fn command(&self, exec: &Exec<'_>) -> Command {
        let mut command = Command::new(&self.program);
        let environment = exec.environment(|name| std::env::var_os(name));
        // Where llem was started may not be there for whoever looks from inside of a namespace.
        command.args(exec.arguments(self.mode)).env_clear().envs(environment).current_dir("/");
        command
    }

    /// What a short command in a container writes.
    pub(super) async fn output(&self, exec: &Exec<'_>, stop: &CancellationToken) -> Result<Output, ApptainerError> {
        run(self.command(exec), TIMEOUT, stop).await
    }

    /// Runs one of its other commands, such as `build`, in `place`. `temporary` is a directory for its own files.
    pub(super) async fn tool(
        arguments: &[&std::ffi::OsStr],
        place: &Path,
        temporary: &Path,
        limit: Duration,
        stop: &CancellationToken,
    ) -> Result<Output, ApptainerError> {
        let output = run(Self::tool_command(&["apptainer"], arguments, place, temporary), limit, stop).await?;
        if output.succeeded || !output.stderr.contains(LACKS_CAPABILITIES) {
            return Ok(output);
        }
        // A root that is not allowed everything is one in a user namespace, where Apptainer does not ask for more.
        let own_root = ["unshare", "--user", "--map-root-user", "--mount", "apptainer"];
        run(Self::tool_command(&own_root, arguments, place, temporary), limit, stop).await
    }

    fn tool_command(program: &[&str], arguments: &[&std::ffi::OsStr], place: &Path, temporary: &Path) -> Command {
        let (first, rest) = program.split_first().map_or(("apptainer", &[][..]), |(first, rest)| (*first, rest));
        let mut command = Command::new(first);
        command.args(rest).arg("--nocolor").args(arguments).current_dir(place).env("APPTAINER_TMPDIR", temporary);
        for name in TOKEN_VARIABLES {
            command.env_remove(name);
        }
        command
    }
}

/// What was said to which flags; the same is said once.
fn by_complaint(refused: &[(Mode, String)]) -> Vec<String> {
    let mut told: Vec<(&String, Vec<String>)> = Vec::new();
    for (mode, complaint) in refused {
        match told.iter_mut().find(|(same, _)| *same == complaint) {
            Some((_, modes)) => modes.push(mode.shown()),
            None => told.push((complaint, vec![mode.shown()])),
        }
    }
    told.into_iter().map(|(complaint, modes)| format!("with {}: {complaint}", modes.join(", with "))).collect()
}

/// What Apptainer calls itself.
pub(super) async fn version(stop: &CancellationToken) -> Result<String, ApptainerError> {
    let mut command = Command::new("apptainer");
    command.arg("--version");
    let output = run(command, TIMEOUT, stop).await?;
    let text = printable(output.stdout.trim());
    if output.succeeded && !text.is_empty() { Ok(text) } else { Err(ApptainerError::Broken(complaint(&output.stderr))) }
}

/// A directory of this machine for one container.
pub(super) fn scratch() -> Result<Scratch, ApptainerError> {
    let make = || {
        let scratch = Scratch::new()?;
        let tmp = scratch.path().join(SCRATCH_TMP);
        fs_err::create_dir(&tmp)?;
        fs_err::set_permissions(&tmp, std::fs::Permissions::from_mode(0o1777))?;
        Ok(scratch)
    };
    make().map_err(ApptainerError::files("a temporary directory (see TMPDIR)"))
}

/// Runs a command to its end, or ends it and all that it started.
async fn run(mut command: Command, limit: Duration, stop: &CancellationToken) -> Result<Output, ApptainerError> {
    let mut child = match spawn_group(&mut command) {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(ApptainerError::Absent),
        Err(error) => return Err(ApptainerError::files("apptainer")(error)),
    };
    let group = pid(&child);
    let ended = tokio::select! {
        ended = tokio::time::timeout(limit, read_to_end(&mut child)) => ended.ok(),
        () = stop.cancelled() => None,
    };
    if let Some((status, stdout, stderr)) = ended {
        let succeeded = status.is_some_and(|status| status.success());
        return Ok(Output { succeeded, stdout, stderr });
    }
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait().await;
    if stop.is_cancelled() {
        return Err(ApptainerError::Stopped);
    }
    let stderr = format!("FATAL: it did not end within {} s", limit.as_secs());
    Ok(Output { succeeded: false, stdout: String::new(), stderr })
}

async fn read_to_end(child: &mut Child) -> (Option<ExitStatus>, String, String) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::join!(text(stdout), text(stderr));
    (child.wait().await.ok(), stdout, stderr)
}

/// The beginning of a stream; the rest is read and dropped, so that nobody waits for a reader.
async fn text(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut bytes = Vec::new();
    let _ = (&mut stream).take(OUTPUT_BYTES).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What Apptainer says is wrong: its `FATAL` and `ERROR` lines, else its last line.
pub(super) fn complaint(stderr: &str) -> String {
    let stderr = without_colours(stderr);
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let serious = |line: &&str| line.starts_with("FATAL") || line.starts_with("ERROR");
    let message = |line: &str| line.split_once(':').map_or(line, |(_, rest)| rest.trim()).to_owned();
    let told: Vec<String> = lines().filter(serious).map(message).collect();
    let text =
        if told.is_empty() { lines().next_back().unwrap_or("it said nothing").to_owned() } else { told.join("; ") };
    printable(&text)
}

/// Its part in C colours what it says whatever it is told.
fn without_colours(text: &str) -> String {
    let mut pieces = text.split("\u{1b}[");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| text + piece.split_once('m').map_or(piece, |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::{Mode, by_complaint, complaint};

    #[test]
    fn the_same_complaint_is_told_once() {
        let [first, second, third, _] = Mode::all(false);
        let refused = [(first, "no".to_owned()), (second, "never".to_owned()), (third, "no".to_owned())];
        assert_eq!(
            by_complaint(&refused),
            ["with `--net --network none`, with no further flags: no", "with `--userns --net --network none`: never"]
        );
    }

    #[test]
    fn what_is_serious_is_told_and_the_rest_is_not() {
        let text = "WARNING: passwd file doesn't exist\nERROR  : Requesting capability set 0x1: refused\nINFO: x\nFATAL:   no user 1234\n";
        assert_eq!(complaint(text), "Requesting capability set 0x1: refused; no user 1234");
        assert_eq!(complaint("INFO: a\nPermission denied\n\n"), "Permission denied");
        assert_eq!(complaint(""), "it said nothing");
        assert_eq!(complaint("\u{1b}[91mERROR  : no more\n\u{1b}[0mFATAL:   end\n"), "no more; end");
    }
}
