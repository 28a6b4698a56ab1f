//! The `process` runner: the agent as a plain process, for machines without a container engine.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use llem_protocol::{DriverCommand, Failure, FailureClass, Job, Phase};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::sleep_until;

use super::follow::Follower;
use super::offline::OFFLINE;
use super::{
    DriverFiles, EventSink, HostFiles, Places, RunOutcome, RunSpec, Runner, STOP_GRACE, Stop, driver_command, left,
    runner_failure, unasked,
};
use crate::config::TOKEN_VARIABLES;

/// Where the kernel shows its RAPL zones. Without them the agent says so in its result.
const POWERCAP: &str = "/sys/class/powercap";

/// Runs agents as processes of this machine, each in its own process group.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessRunner;

impl Runner for ProcessRunner {
    fn kind(&self) -> &'static str {
        "process"
    }

    fn has_images(&self) -> bool {
        false
    }

    fn places(&self, files: &HostFiles) -> Places {
        Places {
            output_dir: files.output_dir.clone(),
            workload: files.workload.clone(),
            model_dir: files.model_dir.clone(),
            adapter_dir: files.adapter_dir.clone(),
            draft_dir: files.draft_dir.clone(),
            engine_dir: files.engine.as_ref().map(|engine| engine.dir.clone()),
            driver: driver(&files.driver),
            powercap: Some(POWERCAP.into()),
        }
    }

    fn run<'a>(&'a self, spec: &'a RunSpec, events: &'a EventSink, stop: &'a Stop) -> BoxFuture<'a, RunOutcome> {
        Box::pin(run(spec, events, stop))
    }
}

fn driver(files: &DriverFiles) -> DriverCommand {
    match files {
        DriverFiles::Program(path) => driver_command(vec![path.display().to_string()], Vec::new()),
        DriverFiles::Scripts { directory, names, interpreters } => {
            let script = names.first().map(|name| directory.join(name).display().to_string());
            driver_command(interpreters.clone(), script.into_iter().collect())
        }
    }
}

/// What keeps the engine to the run's GPUs. A machine that gives GPUs out itself has set the variable already.
pub(super) fn visible_gpus(job: &Job) -> (&'static str, String) {
    const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";
    (VARIABLE, std::env::var(VARIABLE).unwrap_or_else(|_| job.gpus.join(",")))
}

async fn run(spec: &RunSpec, events: &EventSink, stop: &Stop) -> RunOutcome {
    let mut command = Command::new(&spec.files.agent);
    for name in TOKEN_VARIABLES {
        command.env_remove(name);
    }
    command.arg(&spec.job_file).envs(OFFLINE).envs([visible_gpus(&spec.job)]).envs(&spec.env);
    let mut outcome = supervise(command, None, spec, events, stop).await.outcome;
    outcome.warnings.extend(unlimited(spec, "process"));
    outcome
}

/// What a runner says that cannot limit memory.
pub(super) fn unlimited(spec: &RunSpec, runner: &str) -> Option<String> {
    let text = || format!("the {runner} runner does not limit memory: `execution.memory_gib` has no effect");
    spec.limits.memory_bytes.map(|_| text())
}

/// How a process that was to become an agent ended.
pub(super) struct Supervised {
    /// As every run ends.
    pub(super) outcome: RunOutcome,
    /// Whether there was an agent: it said something.
    pub(super) heard: bool,
    /// How the process itself ended, where it was started.
    pub(super) status: Option<ExitStatus>,
}

/// Starts a command as the head of a process group of its own, without input and with its output to be read; it ends with its handle.
pub(in crate::runner) fn spawn_group(command: &mut Command) -> std::io::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Starts a command that is or becomes the run's agent, in a process group of its own, and follows it to its end. `scratch` is a directory
/// that goes with it: the next controller removes it when this one is killed.
pub(super) async fn supervise(
    mut command: Command,
    scratch: Option<&Path>,
    spec: &RunSpec,
    events: &EventSink,
    stop: &Stop,
) -> Supervised {
    let mut outcome = RunOutcome::default();
    let mut child = match spawn_group(&mut command) {
        Ok(child) => child,
        Err(error) => {
            let message = format!("{}: {error}", command.as_std().get_program().display());
            outcome.failure = Some(runner_failure(FailureClass::AgentMissing, Phase::Start, message));
            return Supervised { outcome, heard: false, status: None };
        }
    };
    outcome.agent_pid = child.id();
    let run_dir = spec.job_file.parent().unwrap_or(Path::new("."));
    // Without the note, only a controller that is killed leaves what ends by itself a moment later.
    let _ = left::note(run_dir, child.id().unwrap_or_default(), scratch);
    let mut follower = Follower::new(events, &spec.job);
    let verdict = follow(&mut child, &mut follower, stop).await;
    left::forget(run_dir);
    let (phase, heard, status) = (follower.phase(), follower.heard(), verdict.as_ref().ok().copied());
    let (report, failure, log) = follower.finish();
    outcome.report_sha256 = report;
    outcome.agent_log = log;
    outcome.failure = match (verdict, failure) {
        (_, Some(failure)) => Some(unasked(failure, stop)),
        (Err(failure), None) => Some(failure),
        // Whoever is stopped before the agent has begun cannot say so.
        (Ok(status), None) if !status.success() && stop.soft.is_cancelled() => {
            let message = format!("stopped; it ended with {status}");
            Some(runner_failure(FailureClass::Interrupted, phase, message))
        }
        (Ok(status), None) if !status.success() => {
            let message = format!("the agent ended with {status}");
            Some(runner_failure(FailureClass::ContainerKilled, phase, message))
        }
        (Ok(_), None) => None,
    };
    Supervised { outcome, heard, status }
}

/// Reads until both streams end and the process is reaped; stops it when told to or when it hangs.
async fn follow(child: &mut Child, follower: &mut Follower<'_>, stop: &Stop) -> Result<ExitStatus, Failure> {
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut kill_at: Option<Instant> = None;
    let mut asked = false;
    let mut verdict = None;
    loop {
        if stdout.is_none() && stderr.is_none() {
            break;
        }
        let deadline = kill_at.unwrap_or_else(|| follower.deadline());
        tokio::select! {
            n = read(&mut stdout, &mut out) => match n { 0 => stdout = None, n => follower.stdout(&out[..n]) },
            n = read(&mut stderr, &mut err) => match n { 0 => stderr = None, n => follower.stderr(&err[..n]) },
            () = stop.soft.cancelled(), if !asked => {
                asked = true;
                signal(child, Signal::TERM);
                kill_at = Some(Instant::now() + STOP_GRACE);
            }
            () = stop.hard.cancelled() => {
                verdict = Some(runner_failure(FailureClass::Interrupted, follower.phase(), "killed at the second signal"));
                break;
            }
            () = sleep_until(deadline.into()) => {
                if asked {
                    let message = "the agent did not stop in time and was killed";
                    verdict = Some(runner_failure(FailureClass::Interrupted, follower.phase(), message));
                    break;
                }
                if follower.is_hung() {
                    verdict = Some(follower.hung());
                    break;
                }
            }
        }
    }
    if verdict.is_some() {
        let grace = if stop.hard.is_cancelled() { Duration::ZERO } else { STOP_GRACE };
        kill_tree(child, grace).await;
    }
    let status = child.wait().await;
    match (verdict, status) {
        (Some(failure), _) => Err(failure),
        (None, Ok(status)) => Ok(status),
        (None, Err(error)) => Err(runner_failure(FailureClass::Unknown, follower.phase(), error.to_string())),
    }
}

/// Reads some bytes; 0 at the end of the stream. A stream that has ended is never ready.
async fn read<R: AsyncRead + Unpin>(stream: &mut Option<R>, buffer: &mut [u8]) -> usize {
    match stream {
        Some(stream) => stream.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

/// `None` once it has ended and was waited for.
pub(in crate::runner) fn pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
}

fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = pid(child) {
        let _ = kill_process(pid, signal);
    }
}

/// Gives the agent a moment to kill its driver, then kills its whole group; the driver dies with its parent.
async fn kill_tree(child: &mut Child, grace: Duration) {
    signal(child, Signal::TERM);
    let _ = tokio::time::timeout(grace, child.wait()).await;
    if let Some(pid) = pid(child) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}
