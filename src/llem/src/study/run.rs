//! One run: job, runner, files, verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{BoxFuture, OptionFuture};
use jiff::Timestamp;
use llem_protocol::{
    Event, Failure, FailureClass, Job, Phase, PrefillRecord, Reason, ReasonCode, Report, RequestRecord, Severity, files,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::debug;

use super::job::run_spec;
use super::prepare::Prepared;
use super::{Programs, StudyError, StudyEvent};
use crate::config::{Calibration, ExecutionConfig, Experiment, UserConfig};
use crate::gpu_watch::{Expected, GpuWatch, Owner, Verdict};
use crate::host::{GpusSnapshot, HostSnapshot, LLEM_COMMIT};
use crate::model::{BesideWeights, LocalModel};
use crate::printable::printable;
use crate::result::{
    Asked, Collected, EnergyContext, FileIdentity, FlopsReference, Metrics, ModelIdentity, RunDirectory, RunResult,
    RunRow, RunStatus, SCHEMA_VERSION, StudyDirectory, WeightsIdentity, WorkloadIdentity, check_work, collect,
    phase_energy, run_metrics, unmatched_calibrations,
};
use crate::runner::docker::{DockerRunner, Survivor};
use crate::runner::{RunOutcome, RunSpec, Runner, Stop};
use crate::workload::Workload;

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
    pub(super) stop: &'a Stop,
}

/// A run that has ended, with its files on disk.
pub(super) struct Ended {
    pub(super) row: RunRow,
    pub(super) directory: PathBuf,
    /// Its `result.json`.
    pub(super) file: FileIdentity,
}

/// When a run began and how long it took.
#[derive(Clone, Copy)]
struct Times {
    started: Timestamp,
    wall_s: f64,
}

/// Carries out one run and writes its files. Only results that cannot be written are an error.
pub(super) async fn carry_out(context: &RunContext<'_>, notify: &impl Fn(StudyEvent)) -> Result<Ended, StudyError> {
    let directory = context.directory.run(context.run_id)?;
    let spec = run_spec(context, &directory);
    directory.write_job(&spec.job)?;
    directory.write_nonce(&spec.job.nonce)?;
    let (started, clock) = (Timestamp::now(), Instant::now());
    debug!(run_id = context.run_id, runner = context.runner.kind(), image = spec.image, "run");
    let watch = GpuWatch::start(&spec.job.gpus);
    let (sink, events) = unbounded_channel();
    let outcome = follow(context.runner.run(&spec, &sink, context.stop), events, notify).await;
    let watched = OptionFuture::from(watch.map(GpuWatch::finish)).await.unwrap_or_default();
    let taken = take_files(&directory, &spec.job, &outcome);
    let expected = taken.0.report.as_ref().and_then(Expected::of);
    let verdict =
        if spec.job.gpus.is_empty() { Verdict::default() } else { watched.judge(owner(&outcome).as_ref(), expected) };
    let seen = Seen { times: Times { started, wall_s: clock.elapsed().as_secs_f64() }, verdict, gpus: watched.gpus };
    close(context, &directory, &spec.job, outcome, taken, seen, notify)
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
    let spec = RunSpec { job, ..run_spec(context, &directory) };
    debug!(run_id = context.run_id, container = survivor.id, "adopt");
    let (sink, events) = unbounded_channel();
    let outcome = follow(Box::pin(docker.adopt(survivor, &spec, &sink, context.stop)), events, notify).await;
    let watched = OptionFuture::from(GpuWatch::start(&spec.job.gpus).map(GpuWatch::finish)).await.unwrap_or_default();
    let taken = take_files(&directory, &spec.job, &outcome);
    let ended = survivor.finished.unwrap_or_else(Timestamp::now);
    let started = survivor.started.unwrap_or(ended);
    let times = Times { started, wall_s: ended.duration_since(started).as_secs_f64() };
    let seen = Seen { times, verdict: unwatched(&spec.job), gpus: watched.gpus };
    close(context, &directory, &spec.job, outcome, taken, seen, notify)
}

/// What is known of the GPUs of a run that nobody watched from its beginning to its end.
fn unwatched(job: &Job) -> Verdict {
    let reason =
        || Reason::new(ReasonCode::ForeignCheckUnavailable, "llem was started anew while the run was under way");
    let reasons = if job.gpus.is_empty() { Vec::new() } else { vec![reason()] };
    Verdict { reasons, ..Verdict::default() }
}

/// What the controller saw of a run from outside.
struct Seen {
    times: Times,
    verdict: Verdict,
    /// Driver and GPUs.
    gpus: Option<GpusSnapshot>,
}

/// Judges a run that has ended, and writes its files.
fn close(
    context: &RunContext<'_>,
    directory: &RunDirectory,
    job: &Job,
    outcome: RunOutcome,
    (collected, failure): (Collected, Option<Failure>),
    seen: Seen,
    notify: &impl Fn(StudyEvent),
) -> Result<Ended, StudyError> {
    for text in &outcome.warnings {
        notify(StudyEvent::Notice { text: format!("{}: {text}", context.run_id) });
    }
    if outcome.container_left {
        context.directory.keep_lock_file();
    }
    let mut result = judge(context, outcome, &collected, failure, &job.gpus, seen.verdict, seen.times);
    if let Some(host) = &mut result.host {
        host.nvidia = seen.gpus;
    }
    conclude(&mut result, context.execution);
    directory.write_tables(&collected.requests, &collected.samples)?;
    let file = directory.finish(&result)?;
    Ok(Ended { row: RunRow::of(&result, &context.experiment.label), directory: directory.path().to_owned(), file })
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

/// A reason that the container wrote: as severe as its code, whatever it says, and as a terminal can show it.
fn trusted(reason: &Reason) -> Reason {
    Reason { code: reason.code, severity: reason.code.severity(), message: printable(&reason.message) }
}

/// The passes of prefill alone with such reasons.
fn trusted_prefill(record: &PrefillRecord) -> PrefillRecord {
    PrefillRecord { reasons: record.reasons.iter().map(trusted).collect(), ..record.clone() }
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

fn judge(
    context: &RunContext<'_>,
    outcome: RunOutcome,
    collected: &Collected,
    failure: Option<Failure>,
    gpus: &[String],
    verdict: Verdict,
    times: Times,
) -> RunResult {
    let report = collected.report.as_ref();
    let energy = EnergyContext {
        gpus,
        baseline: report.and_then(|r| r.baseline.as_ref()),
        baseline_disturbed: verdict.baseline_disturbed || report.is_some_and(is_baseline_unstable),
        prefill: report.and_then(|r| r.prefill.as_ref()),
        prefill_disturbed: verdict.prefill_disturbed,
        phases: report.map(|r| r.phases.as_slice()).unwrap_or_default(),
        calibrations: &context.user.calibration,
        carbon: context.user.carbon.as_ref(),
    };
    let announced = outcome.report_sha256.is_some();
    let (metrics, failure) = figures(report, &collected.requests, failure, &energy, announced);
    let (metrics, failure) = only_of_this_work(context, &collected.requests, metrics, failure);
    let mut reasons = report.map(|r| r.reasons.iter().map(trusted).collect::<Vec<_>>()).unwrap_or_default();
    reasons.extend(metrics.as_ref().and_then(no_carbon_intensity));
    reasons.extend(metrics.as_ref().and_then(|m| calibration_unmatched(&context.user.calibration, m)));
    reasons.extend(verdict.reasons);
    let status = match &failure {
        None => RunStatus::Completed,
        Some(failure) if failure.class == FailureClass::Interrupted => RunStatus::Interrupted,
        Some(_) => RunStatus::Failed,
    };
    let prepared = context.prepared;
    let flops = metrics.as_ref().map(|metrics| FlopsReference::of(&prepared.weights.model, metrics));
    reasons.extend(flops.as_ref().and_then(|flops| flops.as_ref().err()).cloned());
    RunResult {
        schema_version: SCHEMA_VERSION,
        upgraded_from: None,
        run_id: context.run_id.to_owned(),
        study_id: context.directory.study_id(),
        experiment_id: context.experiment.id.clone(),
        cycle: context.cycle,
        status,
        valid: false,
        reasons,
        failure,
        started: times.started.to_string(),
        finished: Timestamp::now().to_string(),
        wall_s: times.wall_s,
        metrics,
        config: context.experiment.config.clone(),
        workload: workload_identity(&prepared.workload),
        model: model_identity(&prepared.weights.model),
        adapter: prepared.weights.adapter.as_deref().map(identity),
        draft_model: prepared.weights.draft.as_deref().map(identity),
        engine: report.and_then(|r| r.engine.clone()),
        runner: context.runner.kind().to_owned(),
        container: outcome.container,
        environment: report.map(|r| r.environment.clone()),
        phase_energy: phase_energy(&energy),
        host: Some(context.host.clone()),
        gpu_processes: verdict.processes,
        phases: report.map(|r| r.phases.clone()).unwrap_or_default(),
        baseline: report.and_then(|r| r.baseline.clone()),
        warmup: report.and_then(|r| r.warmup),
        thermal_gate: report.and_then(|r| r.thermal_gate.clone()),
        window: report.and_then(|r| r.window.clone()),
        prefill: report.and_then(|r| r.prefill.as_ref()).map(trusted_prefill),
        flops: flops.and_then(Result::ok),
        clock_start: report.map(|r| r.clock_start),
        clock_end: report.map(|r| r.clock_end),
        agent_version: report.map(|r| r.agent_version.clone()),
        agent_sha256: context.agent_sha256.to_owned(),
        llem_version: env!("CARGO_PKG_VERSION").to_owned(),
        llem_commit: LLEM_COMMIT.map(str::to_owned),
    }
}

/// Whether idle power changed while it was measured.
fn is_baseline_unstable(report: &Report) -> bool {
    report.reasons.iter().any(|reason| reason.code == ReasonCode::BaselineUnstable)
}

fn workload_identity(workload: &Workload) -> WorkloadIdentity {
    WorkloadIdentity {
        sha256: workload.sha256.clone(),
        requests: workload.requests,
        prompt_tokens: workload.prompt_tokens,
        output_tokens: workload.output_tokens,
        dataset: workload.dataset.clone(),
    }
}

fn model_identity(model: &LocalModel) -> ModelIdentity {
    ModelIdentity {
        source: model.source.clone(),
        revision: model.revision.clone(),
        architecture: model.config.architecture.clone().or_else(|| model.config.model_type.clone()),
        parameters: model.parameters.map(|parameters| parameters.count),
    }
}

fn identity(weights: &BesideWeights) -> WeightsIdentity {
    WeightsIdentity { source: weights.source.clone(), revision: weights.revision.clone() }
}

/// How the processes of a run are known on this machine.
fn owner(outcome: &RunOutcome) -> Option<Owner> {
    let container = outcome.container.as_ref().map(|container| Owner::Container(container.id.clone()));
    container.or(outcome.agent_pid.map(Owner::Agent))
}

/// The figures of a whole run; a run without them has failed even when nobody said so.
fn figures(
    report: Option<&Report>,
    requests: &[RequestRecord],
    failure: Option<Failure>,
    energy: &EnergyContext<'_>,
    announced: bool,
) -> (Option<Metrics>, Option<Failure>) {
    let protocol = |message: String| {
        Some(Failure { class: FailureClass::Protocol, phase: Phase::Write, message, log_tail: Vec::new() })
    };
    if let Some(failure) = failure {
        return (None, Some(failure));
    }
    let Some((report, window)) = report.filter(|_| announced).and_then(|r| r.window.as_ref().map(|w| (r, w))) else {
        return (None, protocol(format!("the agent ended without a whole `{}`", files::REPORT)));
    };
    if let Some(failure) = &report.failure {
        return (None, Some(failure.clone()));
    }
    let peak = report.engine.as_ref().and_then(|e| e.peak_memory_bytes);
    match run_metrics(window, requests, energy, peak) {
        Ok(metrics) => (Some(metrics), None),
        Err(error) => (None, protocol(error.to_string())),
    }
}

/// The figures unless they are of other work than asked.
fn only_of_this_work(
    context: &RunContext<'_>,
    requests: &[RequestRecord],
    metrics: Option<Metrics>,
    failure: Option<Failure>,
) -> (Option<Metrics>, Option<Failure>) {
    match metrics.as_ref().and_then(|metrics| other_work(context, metrics, requests)) {
        Some(failure) => (None, Some(failure)),
        None => (metrics, failure),
    }
}

/// The failure of a run whose records are not those of its workload. The agent checks them, too, but from inside the container.
fn other_work(context: &RunContext<'_>, metrics: &Metrics, requests: &[RequestRecord]) -> Option<Failure> {
    let failed = |class, message| Some(Failure { class, phase: Phase::Collect, message, log_tail: Vec::new() });
    let lengths = match context.prepared.workload.lengths() {
        Ok(lengths) => lengths,
        Err(error) => return failed(FailureClass::WorkloadCorrupt, error.to_string()),
    };
    let asked: Vec<_> =
        lengths.into_iter().map(|(prompt_tokens, output_tokens)| Asked { prompt_tokens, output_tokens }).collect();
    let exact = context.experiment.config.workload.ignore_eos;
    let mismatch = check_work(&asked, metrics.passes as usize, requests, exact).err()?;
    failed(FailureClass::WrongWork, mismatch.to_string())
}

/// Energy without a carbon intensity leaves CO2 null.
fn no_carbon_intensity(metrics: &Metrics) -> Option<Reason> {
    let energy = &metrics.energy;
    let is_missing = energy.energy_j.is_some() && energy.carbon.is_none();
    is_missing.then(|| Reason::new(ReasonCode::NoCarbonIntensity, "the user config has no `carbon`"))
}

/// A calibration for a sensor that the run did not have may be one with a wrong name.
fn calibration_unmatched(calibrations: &[Calibration], metrics: &Metrics) -> Option<Reason> {
    let sensors = &metrics.energy.domains;
    let unmatched: Vec<&str> =
        unmatched_calibrations(calibrations, sensors).into_iter().map(|c| c.device.as_str()).collect();
    let sensors: Vec<&str> = sensors.iter().map(|sensor| sensor.domain.id.as_str()).collect();
    let had = if sensors.is_empty() { "none".to_owned() } else { printable(&sensors.join(", ")) };
    let happened = format!(
        "the user config's calibration of {} is for no sensor of this run, which had {had}",
        unmatched.join(", ")
    );
    (!unmatched.is_empty()).then(|| Reason::new(ReasonCode::CalibrationUnmatched, happened))
}

/// The last word, when all reasons are known: whether the run is valid, and whether a run that is not has failed.
fn conclude(result: &mut RunResult, execution: &ExecutionConfig) {
    let against: Vec<&str> =
        result.reasons.iter().filter(|r| r.severity == Severity::Invalid).map(|r| r.code.code()).collect();
    if execution.strict && result.status == RunStatus::Completed && !against.is_empty() {
        let message = format!("`execution.strict` is set and the run has reasons against it: {}", against.join(", "));
        let (class, phase) = (FailureClass::NotValid, Phase::Window);
        result.failure = Some(Failure { class, phase, message, log_tail: Vec::new() });
        result.status = RunStatus::Failed;
    }
    result.valid = RunResult::judge(result.status, &result.reasons);
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
