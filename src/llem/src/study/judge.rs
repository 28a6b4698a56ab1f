//! The verdict on a run that has ended: its figures, what speaks against it, its record.

use jiff::Timestamp;
use llem_protocol::{
    Failure, FailureClass, Phase, PrefillRecord, Reason, ReasonCode, Report, RequestRecord, Severity, files,
};

use super::run::{RunContext, Times};
use crate::config::{Calibration, ExecutionConfig};
use crate::gpu_watch::Verdict;
use crate::host::LLEM_COMMIT;
use crate::host::load::LoadSeen;
use crate::model::{BesideWeights, LocalModel};
use crate::printable::printable;
use crate::result::{
    Asked, Collected, EnergyContext, FlopsReference, Metrics, ModelIdentity, RunResult, RunStatus, SCHEMA_VERSION,
    WeightsIdentity, WorkloadIdentity, check_work, phase_energy, run_metrics, unmatched_calibrations,
};
use crate::runner::RunOutcome;
use crate::workload::Workload;

/// A reason that the container wrote: as severe as its code, whatever it says, and as a terminal can show it.
fn trusted(reason: &Reason) -> Reason {
    Reason { code: reason.code, severity: reason.code.severity(), message: printable(&reason.message) }
}

/// The passes of prefill alone with such reasons.
fn trusted_prefill(record: &PrefillRecord) -> PrefillRecord {
    PrefillRecord { reasons: record.reasons.iter().map(trusted).collect(), ..record.clone() }
}

/// The record of a run, without its engine's.
pub(super) fn judge(
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
    let (metrics, failure) = figures(report, &collected.requests, failure, &energy, outcome.report_sha256.is_some());
    let (metrics, failure) = only_of_this_work(context, &collected.requests, metrics, failure);
    let mut reasons = report.map(|r| r.reasons.iter().map(trusted).collect::<Vec<_>>()).unwrap_or_default();
    reasons.extend(metrics.as_ref().and_then(no_carbon_intensity));
    reasons.extend(metrics.as_ref().and_then(|m| calibration_unmatched(&context.user.calibration, m)));
    reasons.extend(verdict.reasons);
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
        status: status_of(failure.as_ref()),
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
        runner: context.runner_name.to_owned(),
        container: outcome.container,
        slurm: outcome.slurm,
        environment: report.map(|r| r.environment.clone()),
        cpus: context.user.cpus.pinning(),
        phase_energy: phase_energy(&energy),
        host: Some(context.host.clone()),
        host_load: None,
        gpu_processes: verdict.processes,
        gpu_wait: None,
        engine_cache: None,
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

/// Adds what else the machine did in the window of a run that has figures.
pub(super) fn note_load(result: &mut RunResult, seen: &LoadSeen) {
    let Some(window) = result.window.as_ref().filter(|_| result.metrics.is_some()) else { return };
    result.host_load = seen.in_window(window);
    let unwatched = || {
        let happened = "the machine's processors were not watched through the whole window";
        Some(Reason::new(ReasonCode::HostLoadUnknown, happened))
    };
    result.reasons.extend(result.host_load.map_or_else(unwatched, |load| load.reason()));
}

/// Whether idle power changed while it was measured.
fn is_baseline_unstable(report: &Report) -> bool {
    report.reasons.iter().any(|reason| reason.code == ReasonCode::BaselineUnstable)
}

fn status_of(failure: Option<&Failure>) -> RunStatus {
    match failure {
        None => RunStatus::Completed,
        Some(failure) if failure.class == FailureClass::Interrupted => RunStatus::Interrupted,
        Some(_) => RunStatus::Failed,
    }
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
pub(super) fn conclude(result: &mut RunResult, execution: &ExecutionConfig) {
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
