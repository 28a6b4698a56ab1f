//! Watches one container from its start to its end.

use std::pin::Pin;
use std::time::{Duration, Instant};

use bollard::container::LogOutput;
use bollard::models::ContainerState;
use futures_util::{Stream, StreamExt};
use llem_protocol::{Failure, FailureClass};
use tokio::time::{sleep, sleep_until};
use tracing::debug;

use super::super::follow::Follower;
use super::client::{Engine, EngineError};
use super::{ContainerRecord, engine_failure};
use crate::runner::{EventSink, RunOutcome, RunSpec, STOP_GRACE, Stop, runner_failure, unasked};

/// How often a silent engine is asked again before it counts as lost, one second apart.
const ENGINE_TRIES: u32 = 5;

/// How often it is asked whether a container is gone whose agent has said its last word. podman 4 sometimes misses a container's end and
/// keeps its log open.
const END_LOOK: Duration = Duration::from_secs(1);

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, EngineError>> + Send>>;

/// Why watching ended.
enum Ending {
    /// The container ended by itself or on request.
    Exited(Box<ContainerState>),
    /// llem ended it, or lost it.
    Cut(Failure),
}

/// Starts a created container and follows it to its end. Does not remove it.
pub(super) async fn supervise(
    engine: &Engine,
    record: ContainerRecord,
    spec: &RunSpec,
    events: &EventSink,
    stop: &Stop,
) -> RunOutcome {
    if let Err(error) = engine.start(&record.id).await {
        let failure = Some(engine_failure(&error));
        return RunOutcome { failure, container: Some(record), ..RunOutcome::default() };
    }
    follow_to_end(engine, record, spec, events, stop).await
}

/// Follows a started container to its end, from the first thing that it said. Does not remove it.
pub(super) async fn follow_to_end(
    engine: &Engine,
    mut record: ContainerRecord,
    spec: &RunSpec,
    events: &EventSink,
    stop: &Stop,
) -> RunOutcome {
    let mut outcome = RunOutcome::default();
    let mut follower = Follower::new(events, &spec.job);
    let ending = watch(engine, &record.id, &mut follower, stop).await;
    if let Ending::Exited(state) = &ending {
        record.exit_code = state.exit_code;
        record.oom_killed = state.oom_killed.unwrap_or(false);
    }
    outcome.container = Some(record);
    let own_verdict = verdict(&ending, &follower, stop);
    let (report_sha256, told, agent_log) = follower.finish();
    outcome.agent_log = agent_log;
    outcome.failure = told.map(|told| unasked(told, stop)).or(own_verdict);
    outcome.report_sha256 = report_sha256;
    outcome
}

/// Follows the output until the container is gone, across broken connections.
async fn watch(engine: &Engine, id: &str, follower: &mut Follower<'_>, stop: &Stop) -> Ending {
    let mut kill_at: Option<Instant> = None;
    let mut is_last_look = false;
    loop {
        follower.rewind();
        let output: Output = Box::pin(engine.output(id));
        if let Some(failure) = follow(engine, id, output, follower, stop, &mut kill_at).await {
            let _ = engine.kill(id, "SIGKILL").await;
            return Ending::Cut(failure);
        }
        match state(engine, id).await {
            Ok(state) if state.running == Some(true) => {
                debug!(id, "output ended while the container runs: reading it again");
                sleep(Duration::from_millis(200)).await;
            }
            // The container may have ended while the connection was broken: its last words are in the engine's log.
            Ok(_) if !follower.has_ended() && !is_last_look => is_last_look = true,
            Ok(state) => return Ending::Exited(Box::new(state)),
            Err(error) if error.is_missing() => {
                let message = "the container was removed from outside".to_owned();
                return Ending::Cut(runner_failure(FailureClass::ContainerKilled, follower.phase(), message));
            }
            Err(error) => {
                let failure = Failure { phase: follower.phase(), ..engine_failure(&error) };
                return Ending::Cut(failure);
            }
        }
    }
}

/// Reads one stream of output to its end. A failure means that the container must be killed.
async fn follow(
    engine: &Engine,
    id: &str,
    mut output: Output,
    follower: &mut Follower<'_>,
    stop: &Stop,
    kill_at: &mut Option<Instant>,
) -> Option<Failure> {
    loop {
        let deadline = kill_at.unwrap_or_else(|| follower.deadline());
        tokio::select! {
            item = output.next() => match item {
                Some(Ok(LogOutput::StdErr { message })) => follower.stderr(&message),
                Some(Ok(piece)) => follower.stdout(&piece.into_bytes()),
                Some(Err(_)) | None => return None,
            },
            () = sleep(END_LOOK), if follower.has_ended() => {
                if engine.inspect(id).await.is_ok_and(|container| container.state.is_some_and(|s| s.running == Some(false))) {
                    return None;
                }
            }
            () = stop.soft.cancelled(), if kill_at.is_none() => {
                *kill_at = Some(Instant::now() + STOP_GRACE);
                // The agent closes the run itself; if the signal cannot be sent, the deadline ends it.
                let _ = engine.kill(id, "SIGTERM").await;
            }
            () = stop.hard.cancelled() => {
                return Some(runner_failure(FailureClass::Interrupted, follower.phase(), "killed at the second signal"));
            }
            () = sleep_until(deadline.into()) => match kill_at {
                Some(_) => {
                    let message = "the agent did not stop in time and was killed";
                    return Some(runner_failure(FailureClass::Interrupted, follower.phase(), message));
                }
                None if follower.is_hung() => return Some(follower.hung()),
                None => {}
            }
        }
    }
}

/// The container's state, asked again while the engine does not answer.
async fn state(engine: &Engine, id: &str) -> Result<ContainerState, EngineError> {
    let mut tries = 0;
    loop {
        match engine.inspect(id).await {
            Ok(container) => return Ok(container.state.unwrap_or_default()),
            Err(error) if error.is_lost() && tries < ENGINE_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// What the ending means when the agent itself did not say what went wrong.
fn verdict(ending: &Ending, follower: &Follower<'_>, stop: &Stop) -> Option<Failure> {
    let state = match ending {
        Ending::Cut(failure) => return Some(failure.clone()),
        Ending::Exited(state) => state,
    };
    let code = state.exit_code.unwrap_or(-1);
    let (class, message) = if code == 0 && follower.heard() {
        return None;
    } else if state.oom_killed == Some(true) {
        (FailureClass::HostOutOfMemory, format!("exit status {code}; the container reached its memory limit"))
    } else if stop.soft.is_cancelled() {
        (FailureClass::Interrupted, format!("exit status {code} after the stop signal"))
    } else if !follower.heard() && matches!(code, 126 | 127) {
        (FailureClass::AgentMissing, format!("exit status {code}: the image cannot start the agent"))
    } else if code == 137 {
        (FailureClass::ContainerKilled, "exit status 137: killed by SIGKILL from outside".to_owned())
    } else {
        (FailureClass::ContainerKilled, format!("exit status {code}"))
    };
    Some(runner_failure(class, follower.phase(), message))
}
