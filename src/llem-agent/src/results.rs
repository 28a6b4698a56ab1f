//! From what a run knows to its files.

use llem_protocol::{
    EnergyReport, Failure, Phase, PhaseRecord, PrefillRecord, REPORT_SCHEMA_VERSION, Reason, ReasonCode, Report,
    Stretch, WindowRecord, files,
};

use crate::fault::Fault;
use crate::power::{self, Edge, Judged, Recording};
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
    if let Some((baseline, unstable)) =
        edges_of(run, Phase::Baseline).map(|(start, end)| power::baseline(&recording, start, end))
    {
        run.baseline = Some(baseline);
        reasons.extend(unstable);
    }
    if let Some(Window { measured: Measured { start, end, work, .. }, .. }) = &run.window {
        reasons.extend(recording.reasons(Judged::Window, start, end, *work, &run.limited_gpus));
        let (split, unresolved) = power::split_by_stamps(&recording, start, end, *work, &run.records);
        run.split = split;
        reasons.extend(unresolved);
    }
    if let Some(Measured { start, end, work, .. }) = &run.prefill {
        run.prefill_reasons = recording.reasons(Judged::Prefill, start, end, *work, &run.limited_gpus);
        reasons.extend(prefill_disturbed(&run.prefill_reasons));
    }
    if let Some((start, end)) = edges_of(run, Phase::Load).filter(|_| !run.compile.is_empty()) {
        let stretches: Vec<(u64, u64)> = run.compile.iter().map(|s| (s.start_ns, s.end_ns)).collect();
        run.compile_energy = power::share_out(&recording, start, end, &stretches);
        reasons.append(&mut run.compile_energy.reasons);
    }
    for reason in reasons {
        run.warn(reason);
    }
    run.recording = Some(recording);
}

/// What the run is told of reasons that speak against the passes of prefill alone.
fn prefill_disturbed(reasons: &[Reason]) -> Option<Reason> {
    let found: Vec<String> = reasons.iter().map(|reason| format!("{}: {}", reason.code, reason.happened())).collect();
    (!found.is_empty()).then(|| Reason::new(ReasonCode::PrefillDisturbed, found.join(", ")))
}

fn edges_of(run: &Run, phase: Phase) -> Option<(&Edge, &Edge)> {
    let span = run.phases.iter().find(|span| span.phase == phase)?;
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
        phases: run.phases.iter().flat_map(|span| phase_records(span, run, recording)).collect(),
        baseline: run.baseline.clone(),
        warmup: run.warmup,
        thermal_gate: run.thermal_gate.clone(),
        window: run.window.as_ref().map(|window| window_record(window, run, recording)),
        prefill: run.prefill.as_ref().map(|measured| prefill_record(measured, run, recording)),
        reasons: run.reasons.clone(),
        failure: failure.cloned(),
        request_records,
        power_samples,
    }
}

/// A phase's records: one, or, for a load in which the engine compiled, one for that and one for the rest.
fn phase_records(span: &PhaseSpan, run: &Run, recording: &Recording) -> Vec<PhaseRecord> {
    let record = phase_record(span, recording);
    let (Some(first), Some(last), Some(load_end_ns)) = (run.compile.first(), run.compile.last(), record.end_ns) else {
        return vec![record];
    };
    if span.phase != Phase::Load {
        return vec![record];
    }
    let shared = &run.compile_energy;
    let energy = |of: &EnergyReport| record.energy.as_ref().map(|_| of.clone());
    let compile = PhaseRecord {
        phase: Phase::Compile,
        start_ns: first.start_ns,
        end_ns: Some(last.end_ns),
        stretches: run.compile.clone(),
        energy: energy(&shared.part),
    };
    let stretches = rest_of(record.start_ns, load_end_ns, &run.compile);
    vec![PhaseRecord { stretches, energy: energy(&shared.rest), ..record }, compile]
}

/// What lies between two moments beside some stretches.
fn rest_of(start_ns: u64, end_ns: u64, stretches: &[Stretch]) -> Vec<Stretch> {
    let starts = std::iter::once(start_ns).chain(stretches.iter().map(|stretch| stretch.end_ns));
    let ends = stretches.iter().map(|stretch| stretch.start_ns).chain([end_ns]);
    let rest = starts.zip(ends).map(|(start_ns, end_ns)| Stretch { start_ns, end_ns });
    rest.filter(|stretch| stretch.start_ns < stretch.end_ns).collect()
}

/// A phase that began before the sensors were opened, or ended after sampling, has no energy: absent, not 0.
fn phase_record(span: &PhaseSpan, recording: &Recording) -> PhaseRecord {
    let is_sampled = |edge: &&Edge| !span.start.readings.is_empty() && !edge.readings.is_empty();
    PhaseRecord {
        phase: span.phase,
        start_ns: span.start.t_ns,
        end_ns: span.end.as_ref().map(|end| end.t_ns),
        stretches: Vec::new(),
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
        run_cpu_s: window.run_cpu_s,
    }
}

fn prefill_record(measured: &Measured, run: &Run, recording: &Recording) -> PrefillRecord {
    let Measured { start, end, work, passes } = measured;
    PrefillRecord {
        start_ns: work.start_ns,
        end_ns: work.end_ns,
        passes: passes.clone(),
        energy: recording.energy(start, end, Some(*work)),
        reasons: run.prefill_reasons.clone(),
    }
}
