//! One run: job, runner, files, verdict.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use llem_protocol::{
    EngineSpec, Failure, FailureClass, JOB_SCHEMA_VERSION, Job, MeasurementSpec, ModelLocation, PROTOCOL_VERSION,
    Phase, Reason, ReasonCode, Report, RequestRecord, Severity, WorkloadRef, files,
};

use tracing::debug;

use super::prepare::Prepared;
use super::{Programs, StudyError, StudyEvent};
use crate::config::{ExecutionConfig, Experiment, ExperimentConfig, GpuAccess, UserConfig};
use crate::gpu_watch::{Expected, GpuWatch, Owner, Watched};
use crate::host::{HostSnapshot, LLEM_COMMIT};
use crate::printable::printable;
use crate::result::{
    Collected, EnergyContext, FlopsReference, Metrics, ModelIdentity, RunDirectory, RunResult, RunRow, RunStatus,
    SCHEMA_VERSION, StudyDirectory, WorkloadIdentity, collect, phase_energy, run_metrics,
};
use crate::runner::{HostFiles, Limits, Places, RunOutcome, RunSpec, Runner, Stop, host_gpus};

/// Bytes in a GiB.
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

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

/// Carries out one run and writes its files. Only results that cannot be written are an error.
pub(super) async fn carry_out(
    context: &RunContext<'_>,
    notify: &impl Fn(StudyEvent),
) -> Result<(RunRow, PathBuf), StudyError> {
    let directory = context.directory.run(context.run_id)?;
    let spec = run_spec(context, &directory);
    directory.write_job(&spec.job)?;
    directory.write_nonce(&spec.job.nonce)?;
    let (started, clock) = (Timestamp::now(), Instant::now());
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
    let (collected, failure) = take_files(&directory, &spec.job, &outcome);
    let owner = owner(&outcome);
    let gpus = &spec.job.gpus;
    let mut result = judge(context, outcome, &collected, failure, gpus, started, clock.elapsed().as_secs_f64());
    if let Some(watched) = watched {
        add_watch(&mut result, watched, owner.as_ref());
    }
    conclude(&mut result, context.execution);
    directory.write_tables(&collected.requests, &collected.samples)?;
    directory.finish(&result)?;
    Ok((row(&result, &context.experiment.label), directory.path().to_owned()))
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

fn run_spec(context: &RunContext<'_>, directory: &RunDirectory) -> RunSpec {
    let prepared = context.prepared;
    let host = HostFiles {
        output_dir: directory.volume().to_owned(),
        workload: prepared.workload.path.clone(),
        model_dir: Some(prepared.model.root.clone()),
        agent: context.programs.agent.clone(),
        driver: prepared.driver.clone(),
    };
    let places = context.runner.places(&host);
    let execution = context.execution;
    let bytes = |gib: f64| (gib * GIB) as u64;
    RunSpec {
        study_id: context.directory.study_id(),
        study_lock: context.directory.lock_path().to_owned(),
        image: prepared.image.clone(),
        job: job(context, &places),
        job_file: directory.job_file(),
        limits: Limits {
            memory_bytes: execution.memory_gib.map(bytes),
            shm_bytes: bytes(execution.shm_gib),
            pids: execution.pids_limit,
        },
        env: context.user.env.clone(),
        network: false,
        files: host,
    }
}

fn job(context: &RunContext<'_>, places: &Places) -> Job {
    let config = &context.experiment.config;
    let measurement = &config.measurement;
    let workload = &context.prepared.workload;
    // The standard library seeds each of these from the system.
    let nonce = RandomState::new().build_hasher().finish();
    Job {
        schema_version: JOB_SCHEMA_VERSION,
        protocol_version: PROTOCOL_VERSION,
        run_id: context.run_id.to_owned(),
        nonce: format!("{nonce:016x}"),
        output_dir: places.output_dir.clone(),
        driver: places.driver.clone(),
        engine: EngineSpec {
            backend: config.backend.name().to_owned(),
            model: ModelLocation::Directory(
                places.model_dir.clone().unwrap_or_default().join(&context.prepared.model.subdirectory),
            ),
            dtype: config.dtype.name().to_owned(),
            options: config.engine_options(),
            extra: config.extra(),
            sampling: object(&config.sampling),
            lora: config.lora.as_ref().map(object),
            random_seed: config.random_seed.to_string(),
        },
        workload: WorkloadRef {
            path: places.workload.clone(),
            sha256: workload.sha256.clone(),
            requests: workload.requests,
            ignore_eos: config.workload.ignore_eos,
        },
        measurement: MeasurementSpec {
            baseline_s: measurement.baseline_seconds,
            warmup_passes: measurement.warmup_passes,
            thermal_floor_s: measurement.thermal_floor_seconds,
            thermal_gate_timeout_s: measurement.thermal_gate_timeout_seconds,
            window_min_s: measurement.min_seconds,
            window_min_passes: measurement.min_passes,
            prefill_min_s: measurement.prefill_min_seconds,
            sample_hz: measurement.sample_hz,
            allow_mig: measurement.allow_mig,
        },
        timeouts_s: context.execution.timeouts_s.clone(),
        gpus: gpus(config, context.user),
        powercap: places.powercap.clone(),
    }
}

/// The GPUs that an experiment's runs get: those that the machine's owner names, else all; none for one that computes on the processor.
fn gpus(config: &ExperimentConfig, user: &UserConfig) -> Vec<String> {
    match user.gpu.access {
        _ if config.on_processor() => Vec::new(),
        GpuAccess::None => Vec::new(),
        _ if user.gpu.devices.is_empty() => host_gpus().into_iter().map(|gpu| gpu.uuid).collect(),
        _ => user.gpu.devices.clone(),
    }
}

/// A reason as a terminal can show it: the container wrote it.
fn readable(reason: &Reason) -> Reason {
    Reason { message: printable(&reason.message), ..reason.clone() }
}

fn object(value: &impl serde::Serialize) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    }
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
    started: Timestamp,
    wall_s: f64,
) -> RunResult {
    let report = collected.report.as_ref();
    let energy = EnergyContext {
        gpus,
        baseline: report.and_then(|r| r.baseline.as_ref()),
        prefill: report.and_then(|r| r.prefill.as_ref()),
        calibrations: &context.user.calibration,
        carbon: context.user.carbon.as_ref(),
    };
    let announced = outcome.report_sha256.is_some();
    let (metrics, failure) = figures(report, &collected.requests, failure, &energy, announced);
    let mut reasons = report.map(|r| r.reasons.iter().map(readable).collect::<Vec<_>>()).unwrap_or_default();
    reasons.extend(metrics.as_ref().and_then(no_carbon_intensity));
    let status = match &failure {
        None => RunStatus::Completed,
        Some(failure) if failure.class == FailureClass::Interrupted => RunStatus::Interrupted,
        Some(_) => RunStatus::Failed,
    };
    let prepared = context.prepared;
    let flops = metrics.as_ref().map(|m| FlopsReference::of(&prepared.model.dir(), &prepared.model.geometry, m));
    RunResult {
        schema_version: SCHEMA_VERSION,
        run_id: context.run_id.to_owned(),
        study_id: context.directory.study_id(),
        experiment_id: context.experiment.id.clone(),
        cycle: context.cycle,
        status,
        valid: false,
        reasons,
        failure,
        started: started.to_string(),
        finished: Timestamp::now().to_string(),
        wall_s,
        metrics,
        config: context.experiment.config.clone(),
        workload: WorkloadIdentity {
            sha256: prepared.workload.sha256.clone(),
            requests: prepared.workload.requests,
            prompt_tokens: prepared.workload.prompt_tokens,
            output_tokens: prepared.workload.output_tokens,
            dataset: prepared.workload.dataset.clone(),
        },
        model: ModelIdentity {
            source: prepared.model.source.clone(),
            revision: prepared.model.revision.clone(),
            architecture: prepared.model.geometry.architecture.class_name().to_owned(),
            parameters: prepared.model.geometry.parameters(),
        },
        engine: report.and_then(|r| r.engine.clone()),
        runner: context.runner.kind().to_owned(),
        container: outcome.container,
        environment: report.map(|r| r.environment.clone()),
        phase_energy: report.map(|r| phase_energy(&r.phases, &energy)).unwrap_or_default(),
        host: Some(context.host.clone()),
        gpu_processes: Vec::new(),
        phases: report.map(|r| r.phases.clone()).unwrap_or_default(),
        baseline: report.and_then(|r| r.baseline.clone()),
        warmup: report.and_then(|r| r.warmup),
        thermal_gate: report.and_then(|r| r.thermal_gate.clone()),
        window: report.and_then(|r| r.window.clone()),
        prefill: report.and_then(|r| r.prefill.clone()),
        flops,
        clock_start: report.map(|r| r.clock_start),
        clock_end: report.map(|r| r.clock_end),
        agent_version: report.map(|r| r.agent_version.clone()),
        agent_sha256: context.agent_sha256.to_owned(),
        llem_version: env!("CARGO_PKG_VERSION").to_owned(),
        llem_commit: LLEM_COMMIT.map(str::to_owned),
    }
}

/// How the processes of a run are known on this machine.
fn owner(outcome: &RunOutcome) -> Option<Owner> {
    let container = outcome.container.as_ref().map(|container| Owner::Container(container.id.clone()));
    container.or(outcome.agent_pid.map(Owner::Agent))
}

/// Adds what was seen on the machine's GPUs while the run lasted.
fn add_watch(result: &mut RunResult, watched: Watched, owner: Option<&Owner>) {
    let parameters = result.engine.as_ref().and_then(|engine| engine.parameters);
    let expected = result.window.as_ref().map(|window| Expected::new(window, parameters));
    let verdict = watched.judge(owner, expected);
    result.reasons.extend(verdict.reasons);
    result.gpu_processes = verdict.processes;
    if let Some(host) = &mut result.host {
        host.nvidia = watched.gpus;
    }
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

/// Energy without a carbon intensity leaves CO2 null.
fn no_carbon_intensity(metrics: &Metrics) -> Option<Reason> {
    let energy = &metrics.energy;
    let is_missing = energy.energy_j.is_some() && energy.carbon.is_none();
    is_missing.then(|| Reason::new(ReasonCode::NoCarbonIntensity, "the user config has no `carbon`"))
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

fn row(result: &RunResult, label: &str) -> RunRow {
    RunRow {
        run_id: result.run_id.clone(),
        label: label.to_owned(),
        cycle: result.cycle,
        status: result.status,
        valid: result.valid,
        reasons: result.reasons.clone(),
        failure: result.failure.clone(),
        metrics: result.metrics.clone(),
    }
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
