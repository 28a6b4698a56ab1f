//! From what a run knows to its files.

use llem_protocol::{Failure, Phase, PhaseRecord, PrefillRecord, REPORT_SCHEMA_VERSION, Report, WindowRecord, files};

use crate::fault::Fault;
use crate::power::{self, Edge, Recording};
use crate::run::{PhaseSpan, Run};
use crate::window::{Measured, Window};
use crate::{clock, output};

/// Writes all files of a good run, the report last. Returns the SHA-256 of the report.
pub(crate) fn write_results(run: &mut Run) -> Result<String, Fault> {
    end_sampling(run);
    write_log(run)?;
    let requests = write_requests(run)?;
    let samples = write_samples(run)?;
    // The phase ends with the report, which has to say when: at its writing, without energy, for sampling is over.
    if let Some(span) = run.phases.last_mut() {
        span.end = Some(Edge { t_ns: clock::monotonic_ns(), readings: Vec::new() });
    }
    output::write_report(&run.job.output_dir, &report(run, None, requests, samples))
}

/// Writes as much of a failed run as the volume takes.
pub(crate) fn write_failed(run: &mut Run, failure: &Failure) -> Result<(), Fault> {
    end_sampling(run);
    let log = write_log(run);
    let requests = write_requests(run).unwrap_or(0);
    let samples = write_samples(run).unwrap_or(0);
    output::write_report(&run.job.output_dir, &report(run, Some(failure), requests, samples))?;
    log
}

/// Ends the sampling and judges what it gave. A second call changes nothing.
fn end_sampling(run: &mut Run) {
    if run.recording.is_some() {
        return;
    }
    let recording = run.sampler.finish();
    let mut reasons = Vec::new();
    if let Some((baseline, unstable)) = baseline_edges(run).map(|(start, end)| power::baseline(&recording, start, end))
    {
        run.baseline = Some(baseline);
        reasons.extend(unstable);
    }
    if let Some(Window { measured: Measured { start, end, work, .. }, .. }) = &run.window {
        reasons.extend(recording.reasons(start, end, *work, &run.limited_gpus));
        let (split, unresolved) = power::split_by_stamps(&recording, start, end, *work, &run.records);
        run.split = split;
        reasons.extend(unresolved);
    }
    for reason in reasons {
        run.warn(reason);
    }
    run.recording = Some(recording);
}

fn baseline_edges(run: &Run) -> Option<(&Edge, &Edge)> {
    let span = run.phases.iter().find(|span| span.phase == Phase::Baseline)?;
    Some((&span.start, span.end.as_ref()?))
}

fn write_log(run: &Run) -> Result<(), Fault> {
    output::write_file(&run.job.output_dir, files::DRIVER_LOG, |out| run.log.lock().write_to(out))
}

fn write_requests(run: &Run) -> Result<u64, Fault> {
    output::write_lines(&run.job.output_dir, files::REQUESTS, run.records.iter())
}

fn write_samples(run: &Run) -> Result<u64, Fault> {
    let samples = run.recording.as_ref().map(Recording::samples).unwrap_or_default();
    output::write_lines(&run.job.output_dir, files::SAMPLES, samples.into_iter())
}

fn report(run: &Run, failure: Option<&Failure>, request_records: u64, power_samples: u64) -> Report {
    let none = Recording::default();
    let recording = run.recording.as_ref().unwrap_or(&none);
    Report {
        schema_version: REPORT_SCHEMA_VERSION,
        run_id: run.job.run_id.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        clock_start: run.clock_start,
        clock_end: clock::clock_pair(),
        environment: run.environment.clone(),
        engine: run.engine.clone(),
        phases: run.phases.iter().map(|span| phase_record(span, recording)).collect(),
        baseline: run.baseline.clone(),
        warmup: run.warmup,
        thermal_gate: run.thermal_gate.clone(),
        window: run.window.as_ref().map(|window| window_record(window, run, recording)),
        prefill: run.prefill.as_ref().map(|measured| prefill_record(measured, recording)),
        reasons: run.reasons.clone(),
        failure: failure.cloned(),
        request_records,
        power_samples,
    }
}

/// A phase that began before the sensors were opened, or ended after sampling, has no energy: absent, not 0.
fn phase_record(span: &PhaseSpan, recording: &Recording) -> PhaseRecord {
    let is_sampled = |edge: &&Edge| !span.start.readings.is_empty() && !edge.readings.is_empty();
    PhaseRecord {
        phase: span.phase,
        start_ns: span.start.t_ns,
        end_ns: span.end.as_ref().map(|end| end.t_ns),
        energy: span.end.as_ref().filter(is_sampled).map(|end| recording.energy(&span.start, end, None)),
    }
}

fn window_record(window: &Window, run: &Run, recording: &Recording) -> WindowRecord {
    let Measured { start, end, work, passes } = &window.measured;
    WindowRecord {
        start_ns: work.start_ns,
        end_ns: work.end_ns,
        passes: passes.clone(),
        energy: recording.energy(start, end, Some(*work)),
        split: run.split.clone(),
        agent: window.agent,
    }
}

fn prefill_record(measured: &Measured, recording: &Recording) -> PrefillRecord {
    let Measured { start, end, work, passes } = measured;
    PrefillRecord {
        start_ns: work.start_ns,
        end_ns: work.end_ns,
        passes: passes.clone(),
        energy: recording.energy(start, end, Some(*work)),
    }
}
