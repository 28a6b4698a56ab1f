//! One run: engine, job, runner, files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{BoxFuture, OptionFuture};
use jiff::Timestamp;
use llem_protocol::{Event, Failure, FailureClass, Job, Phase, Reason, ReasonCode};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::debug;

use super::engine::{RunEnd, RunEngine};
use super::gpu_claim::{NotFree, until_free};
use super::job::run_spec;
use super::judge::{conclude, judge, note_load};
use super::prepare::Prepared;
use super::{Programs, StudyError, StudyEvent};
use crate::config::{ExecutionConfig, Experiment, UserConfig, WhenBusy};
use crate::engine_cache::EngineCache;
use crate::gpu_watch::{Expected, GpuProcess, GpuWait, GpuWatch, Owner, Verdict, named};
use crate::host::load::{LoadSeen, LoadWatch};
use crate::host::{GpusSnapshot, HostSnapshot};
use crate::result::{Collected, FileIdentity, RunDirectory, RunRow, StudyDirectory, collect};
use crate::runner::docker::{DockerRunner, Survivor};
use crate::runner::{RunOutcome, RunSpec, Runner, Stop};

/// Everything that one run needs.
pub(super) struct RunContext<'a> {
    pub(super) run_id: &'a str,
    pub(super) cycle: u32,
    pub(super) experiment: &'a Experiment,
    pub(super) execution: &'a ExecutionConfig,
    pub(super) prepared: &'a Prepared,
    pub(super) programs: &'a Programs,
    pub(super) agent_sha256: &'a str,
    pub(super) host: &'a HostSnapshot,
    pub(super) runner: Arc<dyn Runner>,
    /// Its name in results.
    pub(super) runner_name: &'static str,
    pub(super) directory: &'a StudyDirectory,
    pub(super) user: &'a UserConfig,
    pub(super) cache: &'a EngineCache,
    pub(super) stop: &'a Stop,
}

/// A run that has ended, with its files on disk.
pub(super) struct Ended {
    pub(super) row: RunRow,
    pub(super) directory: PathBuf,
    /// Its `result.json`.
    pub(super) file: FileIdentity,
    /// How long it took, in seconds.
    pub(super) wall_s: f64,
}

/// When a run began and how long it took.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) started: Timestamp,
    pub(super) wall_s: f64,
}

/// One start of a run's agent, with what it left.
pub(super) struct Attempt {
    pub(super) outcome: RunOutcome,
    pub(super) collected: Collected,
    pub(super) failure: Option<Failure>,
    /// The GPUs that it was given.
    pub(super) gpus: Vec<String>,
    pub(super) verdict: Verdict,
    /// Those GPUs as the machine saw them.
    pub(super) nvidia: Option<GpusSnapshot>,
    /// The wait for them.
    pub(super) wait: Option<GpuWait>,
    /// What else the machine did.
    pub(super) load: LoadSeen,
}

/// Carries out one run and writes its files. Only results that cannot be written are an error.
pub(super) async fn carry_out(context: &RunContext<'_>, notify: &impl Fn(StudyEvent)) -> Result<Ended, StudyError> {
    let directory = context.directory.run(context.run_id)?;
    let (started, clock) = (Timestamp::now(), Instant::now());
    let (attempt, engine) = attempts(context, &directory, notify).await?;
    // How long others took is nothing that the next run of the experiment is expected to take.
    let waited_s = attempt.wait.as_ref().map_or(0.0, |wait| wait.wait_s);
    let times = Times { started, wall_s: (clock.elapsed().as_secs_f64() - waited_s).max(0.0) };
    Box::pin(close(context, &directory, attempt, engine, times, notify)).await
}

/// Goes on with a run whose controller died, from the container that it left; then writes its files as [`carry_out`] does.
pub(super) async fn adopt(
    context: &RunContext<'_>,
    docker: &DockerRunner,
    survivor: &Survivor,
    job: Job,
    notify: &impl Fn(StudyEvent),
) -> Result<Ended, StudyError> {
    let directory = context.directory.files().run(context.run_id);
    let engine = RunEngine::of_dead_controller(context);
    let spec = RunSpec { job, ..run_spec(context, &directory, &engine) };
    debug!(run_id = context.run_id, container = survivor.id, "adopt");
    let (sink, events) = unbounded_channel();
    let outcome = follow(Box::pin(docker.adopt(survivor, &spec, &sink, context.stop)), events, notify).await;
    let watched = OptionFuture::from(GpuWatch::start(&spec.job.gpus).map(GpuWatch::finish)).await.unwrap_or_default();
    let (collected, failure) = take_files(&directory, &spec.job, &outcome);
    let ended = survivor.finished.unwrap_or_else(Timestamp::now);
    let started = survivor.started.unwrap_or(ended);
    // The engine tells by the wall clock, which may have been set back meanwhile.
    let times = Times { started, wall_s: ended.duration_since(started).as_secs_f64().max(0.0) };
    // Nobody watched the machine from the window's beginning.
    let (verdict, nvidia, load) = (unwatched(&spec.job), watched.gpus, LoadSeen::default());
    let attempt = Attempt { outcome, collected, failure, gpus: spec.job.gpus, verdict, nvidia, wait: None, load };
    Box::pin(close(context, &directory, attempt, engine, times, notify)).await
}

/// What is known of the GPUs of a run that nobody watched from its beginning to its end.
fn unwatched(job: &Job) -> Verdict {
    let reason =
        || Reason::new(ReasonCode::ForeignCheckUnavailable, "llem was started anew while the run was under way");
    let reasons = if job.gpus.is_empty() { Vec::new() } else { vec![reason()] };
    Verdict { reasons, ..Verdict::default() }
}

/// Judges a run that has ended, and writes its files.
pub(super) async fn close(
    context: &RunContext<'_>,
    directory: &RunDirectory,
    attempt: Attempt,
    engine: RunEngine,
    times: Times,
    notify: &impl Fn(StudyEvent),
) -> Result<Ended, StudyError> {
    let Attempt { outcome, collected, failure, gpus, verdict, nvidia, wait, load } = attempt;
    for text in &outcome.warnings {
        notify(StudyEvent::Notice { text: format!("{}: {text}", context.run_id) });
    }
    if outcome.container_left {
        context.directory.keep_lock_file();
    }
    let (measured, container_left) = (outcome.report_sha256.is_some() && failure.is_none(), outcome.container_left);
    let mut result = judge(context, outcome, &collected, failure, &gpus, verdict, times);
    note_load(&mut result, &load);
    if let Some(host) = &mut result.host {
        host.nvidia = nvidia;
    }
    result.gpu_wait = wait;
    result.engine_cache = engine.conclude(&RunEnd { result: &result, measured, container_left }, notify).await;
    conclude(&mut result, context.execution);
    directory.write_tables(&collected.requests, &collected.samples)?;
    let file = directory.finish(&result)?;
    let (row, path) = (RunRow::of(&result, &context.experiment.label), directory.path().to_owned());
    Ok(Ended { row, directory: path, file, wall_s: times.wall_s })
}

/// Gets the run's compiled engine and starts the run; a second time, when it does not load, with one that is built anew.
async fn attempts(
    context: &RunContext<'_>,
    directory: &RunDirectory,
    notify: &impl Fn(StudyEvent),
) -> Result<(Attempt, RunEngine), StudyError> {
    let mut engine = match RunEngine::acquire(context, directory, notify).await {
        Ok(engine) => engine,
        Err(failure) => return Ok((Attempt::without_container(failure), RunEngine::None)),
    };
    let first = attempt(context, directory, &engine, notify).await?;
    let Some(refusal) = first.failure.as_ref().filter(|failure| engine.is_refused(failure)) else {
        return Ok((first, engine));
    };
    engine = match engine.replace(context, directory, refusal, notify).await {
        Ok(engine) => engine,
        Err(failure) => return Ok((Attempt::without_container(failure), RunEngine::None)),
    };
    if engine.mount().is_none() || first.outcome.container_left {
        return Ok((first, engine));
    }
    directory.renew_volume()?;
    let mut second = attempt(context, directory, &engine, notify).await?;
    second.wait = match (first.wait, second.wait) {
        (Some(first), Some(second)) => Some(first.and(second)),
        (first, second) => first.or(second),
    };
    Ok((second, engine))
}

/// Starts the run once and takes what it leaves.
async fn attempt(
    context: &RunContext<'_>,
    directory: &RunDirectory,
    engine: &RunEngine,
    notify: &impl Fn(StudyEvent),
) -> Result<Attempt, StudyError> {
    let spec = run_spec(context, directory, engine);
    start(&*context.runner, &spec, directory, context.user.gpu.when_busy, context.stop, notify).await
}

/// Starts a run's agent on this machine when its GPUs are free, watches them meanwhile, and takes what it leaves.
pub(super) async fn start(
    runner: &dyn Runner,
    spec: &RunSpec,
    directory: &RunDirectory,
    when_busy: WhenBusy,
    stop: &Stop,
    notify: &impl Fn(StudyEvent),
) -> Result<Attempt, StudyError> {
    directory.write_job(&spec.job)?;
    directory.write_nonce(&spec.job.nonce)?;
    let wait = match until_free(&spec.job.gpus, &[], when_busy, &stop.soft, notify).await {
        Ok(wait) => wait,
        Err(NotFree::Busy(processes)) => return Ok(Attempt::beside(processes)),
        Err(NotFree::Stopped) => return Ok(Attempt::without_container(stopped_waiting())),
    };
    debug!(run_id = spec.job.run_id, runner = runner.kind(), image = spec.image, "run");
    let (watch, load) = (GpuWatch::start(&spec.job.gpus), LoadWatch::start());
    let (sink, events) = unbounded_channel();
    let outcome = follow(runner.run(spec, &sink, stop), events, notify).await;
    let watched = OptionFuture::from(watch.map(GpuWatch::finish)).await.unwrap_or_default();
    let load = load.finish().await;
    let (collected, failure) = take_files(directory, &spec.job, &outcome);
    let expected = collected.report.as_ref().and_then(Expected::of);
    let verdict =
        if spec.job.gpus.is_empty() { Verdict::default() } else { watched.judge(owner(&outcome).as_ref(), expected) };
    let gpus = spec.job.gpus.clone();
    Ok(Attempt { outcome, collected, failure, gpus, verdict, nvidia: watched.gpus, wait, load })
}

impl Attempt {
    /// The run ended before its agent was started.
    pub(super) fn without_container(failure: Failure) -> Self {
        let outcome = RunOutcome { failure: Some(failure.clone()), ..RunOutcome::default() };
        let (collected, verdict) = (Collected::default(), Verdict::default());
        Self {
            outcome,
            collected,
            failure: Some(failure),
            gpus: Vec::new(),
            verdict,
            nvidia: None,
            wait: None,
            load: LoadSeen::default(),
        }
    }

    /// Somebody else computed on the run's GPUs when it was to begin.
    fn beside(processes: Vec<GpuProcess>) -> Self {
        let message = format!("{} was there before the run; `gpu.when_busy` says not to wait", named(&processes));
        let failure = Failure { class: FailureClass::GpuBusy, phase: Phase::Start, message, log_tail: Vec::new() };
        let verdict = Verdict { processes, ..Verdict::default() };
        Self { verdict, ..Self::without_container(failure) }
    }
}

fn stopped_waiting() -> Failure {
    let message = "stopped while it waited for its GPUs".to_owned();
    Failure { class: FailureClass::Interrupted, phase: Phase::Start, message, log_tail: Vec::new() }
}

/// Lets a runner work while its events are handed on.
async fn follow(
    mut run: BoxFuture<'_, RunOutcome>,
    mut events: UnboundedReceiver<Event>,
    notify: &impl Fn(StudyEvent),
) -> RunOutcome {
    let outcome = loop {
        tokio::select! {
            outcome = &mut run => break outcome,
            Some(event) = events.recv() => notify(StudyEvent::Agent { event }),
        }
    };
    while let Ok(event) = events.try_recv() {
        notify(StudyEvent::Agent { event });
    }
    outcome
}

/// Takes the agent's files; a run that claims to be whole and is not has failed.
pub(super) fn take_files(directory: &RunDirectory, job: &Job, outcome: &RunOutcome) -> (Collected, Option<Failure>) {
    let announced = outcome.report_sha256.as_deref().filter(|_| outcome.failure.is_none());
    let (collected, failure) = match collect(directory.volume(), job, announced) {
        Ok(collected) => (collected, outcome.failure.clone()),
        Err(failure) => (Collected::default(), Some(failure)),
    };
    for (name, content) in [("driver.log", &collected.driver_log), ("agent.log", &outcome.agent_log)] {
        // A log that cannot be kept must not cost the run; the result file will tell if the disk is full.
        let _ = directory.write_log(name, content);
    }
    (collected, failure)
}

/// How the processes of a run are known on this machine.
fn owner(outcome: &RunOutcome) -> Option<Owner> {
    let container = || outcome.container.as_ref().map(|container| Owner::Container(container.id.clone()));
    outcome.agent_pid.map(Owner::Agent).or_else(container)
}

#[cfg(test)]
mod tests {
    use super::{Owner, owner};
    use crate::runner::{ContainerRecord, RunOutcome};

    #[test]
    fn a_run_is_known_by_its_process_or_else_by_its_container() {
        let container = Some(ContainerRecord { id: "4f1c".to_owned(), ..ContainerRecord::default() });
        let outcome = RunOutcome { container, ..RunOutcome::default() };
        assert_eq!(owner(&outcome), Some(Owner::Container("4f1c".to_owned())));
        // Apptainer's containers are processes of this machine to its kernel.
        assert_eq!(owner(&RunOutcome { agent_pid: Some(7), ..outcome }), Some(Owner::Agent(7)));
        assert_eq!(owner(&RunOutcome::default()), None);
    }
}
