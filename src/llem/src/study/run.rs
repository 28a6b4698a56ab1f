//! One run: engine, job, runner, files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use llem_protocol::{Failure, Job, RequestRecord};

use tracing::debug;

use super::engine::{RunEnd, RunEngine};
use super::job::run_spec;
use super::judge::{conclude, judge};
use super::prepare::Prepared;
use super::{Programs, StudyError, StudyEvent};
use crate::config::{ExecutionConfig, Experiment, UserConfig};
use crate::engine_cache::EngineCache;
use crate::gpu_watch::{Expected, GpuWatch, Owner, Verdict};
use crate::host::{GpusSnapshot, HostSnapshot};
use crate::result::{
    Collected, Output, RunDirectory, RunResult, RunRow, RunStatus, RunWork, StudyDirectory, Variant, collect,
};
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
    pub(super) directory: &'a StudyDirectory,
    pub(super) user: &'a UserConfig,
    pub(super) cache: &'a EngineCache,
    pub(super) stop: &'a Stop,
}

/// A run that has ended, with its files on disk.
pub(super) struct Ended {
    pub(super) row: RunRow,
    pub(super) directory: PathBuf,
    /// What it did, when it was measured.
    pub(super) work: Option<RunWork>,
}

/// When a run began and how long it took.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) started: Timestamp,
    pub(super) wall_s: f64,
}

/// One start of a run's container, with what it left.
struct Attempt {
    outcome: RunOutcome,
    collected: Collected,
    failure: Option<Failure>,
    /// The GPUs that it was given.
    gpus: Vec<String>,
    verdict: Verdict,
    /// Those GPUs as the machine saw them.
    nvidia: Option<GpusSnapshot>,
}

/// Carries out one run and writes its files. Only results that cannot be written are an error.
pub(super) async fn carry_out(context: &RunContext<'_>, notify: &impl Fn(StudyEvent)) -> Result<Ended, StudyError> {
    let directory = context.directory.run(context.run_id)?;
    let (started, clock) = (Timestamp::now(), Instant::now());
    let (attempt, engine) = attempts(context, &directory, notify).await?;
    let Attempt { outcome, collected, failure, gpus, verdict, nvidia } = attempt;
    let (measured, container_left) = (outcome.report_sha256.is_some() && failure.is_none(), outcome.container_left);
    let times = Times { started, wall_s: clock.elapsed().as_secs_f64() };
    let mut result = judge(context, outcome, &collected, failure, &gpus, verdict, times);
    if let (Some(nvidia), Some(host)) = (nvidia, &mut result.host) {
        host.nvidia = Some(nvidia);
    }
    result.engine_cache = engine.conclude(&RunEnd { result: &result, measured, container_left }, notify).await;
    conclude(&mut result, context.execution);
    directory.write_tables(&collected.requests, &collected.samples)?;
    directory.finish(&result)?;
    let work = (result.status == RunStatus::Completed).then(|| run_work(&result, &collected.requests, context));
    Ok(Ended { row: RunRow::of(&result, &context.experiment.label), directory: directory.path().to_owned(), work })
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
    Ok((attempt(context, directory, &engine, notify).await?, engine))
}

/// Starts the run once and takes what it leaves.
async fn attempt(
    context: &RunContext<'_>,
    directory: &RunDirectory,
    engine: &RunEngine,
    notify: &impl Fn(StudyEvent),
) -> Result<Attempt, StudyError> {
    let spec = run_spec(context, directory, engine);
    directory.write_job(&spec.job)?;
    directory.write_nonce(&spec.job.nonce)?;
    debug!(run_id = context.run_id, runner = context.runner.kind(), image = spec.image, "run");
    let watch = GpuWatch::start(&spec.job.gpus);
    let outcome = drive(context, &spec, notify).await;
    let watched = futures_util::future::OptionFuture::from(watch.map(GpuWatch::finish)).await;
    for text in &outcome.warnings {
        notify(StudyEvent::Notice { text: format!("{}: {text}", context.run_id) });
    }
    if outcome.container_left {
        context.directory.keep_lock_file();
    }
    let (collected, failure) = take_files(directory, &spec.job, &outcome);
    let expected = collected.report.as_ref().and_then(Expected::of);
    let verdict = watched.as_ref().map(|watched| watched.judge(owner(&outcome).as_ref(), expected));
    let (verdict, nvidia) = (verdict.unwrap_or_default(), watched.and_then(|watched| watched.gpus));
    Ok(Attempt { outcome, collected, failure, gpus: spec.job.gpus, verdict, nvidia })
}

impl Attempt {
    /// The user stopped the study before there was a container.
    fn without_container(failure: Failure) -> Self {
        let outcome = RunOutcome { failure: Some(failure.clone()), ..RunOutcome::default() };
        let (collected, verdict) = (Collected::default(), Verdict::default());
        Self { outcome, collected, failure: Some(failure), gpus: Vec::new(), verdict, nvidia: None }
    }
}

/// What a measured run did, for the comparison with others.
fn run_work(result: &RunResult, requests: &[RequestRecord], context: &RunContext<'_>) -> RunWork {
    let config = &result.config;
    let dtype = result.engine.as_ref().and_then(|engine| engine.dtype.clone());
    let checkpoint = context.prepared.weights.model.config.quantization.clone();
    let name = |source: &str, revision: Option<&str>| format!("{source}@{}", revision.unwrap_or("-"));
    let model = name(&result.model.source, result.model.revision.as_deref());
    let adapter = result.adapter.as_ref().map(|adapter| name(&adapter.source, adapter.revision.as_deref()));
    RunWork {
        run_id: result.run_id.clone(),
        workload_sha256: result.workload.sha256.clone(),
        weights: adapter.map_or_else(|| model.clone(), |adapter| format!("{model} + {adapter}")),
        variant: Variant {
            backend: config.backend.name().to_owned(),
            dtype: dtype.unwrap_or_else(|| config.dtype.name().to_owned()),
            quantization: config.quantization().or(checkpoint),
        },
        greedy: config.is_greedy(),
        exact: config.workload.ignore_eos,
        output: Output::of(requests),
    }
}

/// Lets the runner work while its events are handed on.
async fn drive(context: &RunContext<'_>, spec: &RunSpec, notify: &impl Fn(StudyEvent)) -> RunOutcome {
    let (sink, mut events) = tokio::sync::mpsc::unbounded_channel();
    let mut run = context.runner.run(spec, &sink, context.stop);
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
fn take_files(directory: &RunDirectory, job: &Job, outcome: &RunOutcome) -> (Collected, Option<Failure>) {
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
    let container = outcome.container.as_ref().map(|container| Owner::Container(container.id.clone()));
    container.or(outcome.agent_pid.map(Owner::Agent))
}

#[cfg(test)]
mod tests {
    use super::{Owner, owner};
    use crate::runner::{ContainerRecord, RunOutcome};

    #[test]
    fn a_run_is_known_by_its_container_or_else_by_its_agent() {
        let container = Some(ContainerRecord { id: "4f1c".to_owned(), ..ContainerRecord::default() });
        let outcome = RunOutcome { container, ..RunOutcome::default() };
        assert_eq!(owner(&outcome), Some(Owner::Container("4f1c".to_owned())));
        assert_eq!(owner(&RunOutcome { agent_pid: Some(7), ..RunOutcome::default() }), Some(Owner::Agent(7)));
        assert_eq!(owner(&RunOutcome::default()), None);
    }
}
