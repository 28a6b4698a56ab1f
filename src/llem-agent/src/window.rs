//! Passes of the workload: warm-up, thermal gate, the measured window, and the passes of prefill alone.

use std::time::Instant;

use llem_protocol::{
    FailureClass, GateOutcome, Message, PassRecord, Phase, Reason, ReasonCode, Request, SelfUsage, ThermalGateRecord,
    WarmupRecord,
};

use crate::fault::Fault;
use crate::power::{Edge, SETTLE_SPAN_S, Work, unsettled};
use crate::run::Run;
use crate::usage::UsageMark;
use crate::{clock, process_tree};

/// Passes whose energy is measured, with the edges around them.
pub(crate) struct Measured {
    pub(crate) start: Edge,
    pub(crate) end: Edge,
    pub(crate) work: Work,
    pub(crate) passes: Vec<PassRecord>,
}

/// A closed window.
pub(crate) struct Window {
    pub(crate) measured: Measured,
    pub(crate) agent: SelfUsage,
    /// Processor seconds of the agent and everything below it.
    pub(crate) run_cpu_s: Option<f64>,
}

/// How many passes, for how long, and of what kind.
#[derive(Clone, Copy)]
struct Target {
    passes: u32,
    seconds: f64,
    record: bool,
    prefill_only: bool,
}

/// Runs whole passes until warm-up has had both its number and its time. Returns the number of the next pass.
pub(crate) fn warm_up(run: &mut Run) -> Result<u32, Fault> {
    let spec = &run.job.measurement;
    let (floor_s, floor_applied) = (spec.thermal_floor_s, run.sampler.has_sources());
    let seconds = if floor_applied { floor_s } else { 0.0 };
    let target = Target { passes: spec.warmup_passes, seconds, record: false, prefill_only: false };
    run.begin(Phase::Warmup);
    let start = Instant::now();
    let passes = run_passes(run, 0, target)?.len() as u32;
    run.warmup = Some(WarmupRecord { passes, seconds: start.elapsed().as_secs_f64(), floor_s, floor_applied });
    run.end();
    Ok(passes)
}

/// Goes on with passes until clocks and temperatures have settled. Returns the number of the next pass.
pub(crate) fn thermal_gate(run: &mut Run, first_pass: u32) -> Result<u32, Fault> {
    let limit_s = run.job.measurement.thermal_gate_timeout_s;
    let ended = |outcome| ThermalGateRecord { outcome, passes: 0, seconds: 0.0, unsettled: Vec::new() };
    if limit_s <= 0.0 || look(run).is_none() {
        if limit_s <= 0.0 && run.sampler.has_sources() {
            run.warn(Reason::new(ReasonCode::ThermalGateOff, "the thermal gate was switched off"));
        }
        run.thermal_gate = Some(ended(if limit_s <= 0.0 { GateOutcome::Off } else { GateOutcome::NoSensor }));
        return Ok(first_pass);
    }
    run.begin(Phase::ThermalGate);
    let (start, mut passes) = (Instant::now(), 0);
    let one = Target { passes: 1, seconds: 0.0, record: false, prefill_only: false };
    let (outcome, unsettled) = loop {
        match look(run) {
            Some(lines) if lines.is_empty() => break (GateOutcome::Settled, lines),
            Some(lines) if start.elapsed().as_secs_f64() >= limit_s => break (GateOutcome::TimedOut, lines),
            None => break (GateOutcome::NoSensor, Vec::new()),
            Some(_) => {}
        }
        run_passes(run, first_pass + passes, one)?;
        passes += 1;
    };
    let record = ThermalGateRecord { outcome, passes, seconds: start.elapsed().as_secs_f64(), unsettled };
    run.end();
    if outcome == GateOutcome::TimedOut {
        let happened = format!("after {:.0} s of waiting: {}", record.seconds, record.unsettled.join(", "));
        run.warn(Reason::new(ReasonCode::ThermalGateTimedOut, happened));
    }
    run.thermal_gate = Some(record);
    Ok(first_pass + passes)
}

/// What has not settled; `None` when nothing can tell.
fn look(run: &Run) -> Option<Vec<String>> {
    let now_ns = clock::monotonic_ns();
    let span_ns = (SETTLE_SPAN_S * 1e9) as u64;
    unsettled(&run.sampler.states_since(now_ns.saturating_sub(span_ns)), now_ns)
}

/// Runs the window, whose passes are numbered on from `first_pass`.
pub(crate) fn run_window(run: &mut Run, first_pass: u32) -> Result<(), Fault> {
    let spec = &run.job.measurement;
    let (passes, seconds) = (spec.window_min_passes.max(1), spec.window_min_s);
    // A walk through `/proc`: not at the edge itself.
    let used_before = process_tree::own_cpu_s();
    run.begin(Phase::Window);
    let (measured, agent) = measure(run, first_pass, Target { passes, seconds, record: true, prefill_only: false })?;
    run.end();
    let run_cpu_s = used_before.zip(process_tree::own_cpu_s()).map(|(before, after)| (after - before).max(0.0));
    run.window = Some(Window { measured, agent, run_cpu_s });
    Ok(())
}

/// Runs passes of one token per request, where that is asked and energy is measured.
pub(crate) fn run_prefill(run: &mut Run) -> Result<(), Fault> {
    let seconds = run.job.measurement.prefill_min_s;
    let last = run.window.as_ref().and_then(|window| window.measured.passes.last());
    let Some(first_pass) = last.map(|pass| pass.pass + 1).filter(|_| seconds > 0.0 && run.sampler.has_sources()) else {
        return Ok(());
    };
    run.begin(Phase::Prefill);
    // The first one meets caches and kernels of another length.
    let one = Target { passes: 1, seconds: 0.0, record: false, prefill_only: true };
    run_passes(run, first_pass, one)?;
    let first_pass = first_pass + 1;
    let (measured, _) = measure(run, first_pass, Target { passes: 1, seconds, record: false, prefill_only: true })?;
    run.end();
    run.prefill = Some(measured);
    Ok(())
}

/// Runs passes between two edges at ticks of the counters. With what the agent used from the one to the other: looking for ticks is not in
/// the work.
fn measure(run: &mut Run, first_pass: u32, target: Target) -> Result<(Measured, SelfUsage), Fault> {
    let start = run.sampler.opening();
    let agent_start = UsageMark::now();
    let passes = run_passes(run, first_pass, target)?;
    let agent = UsageMark::now().agent_since(&agent_start);
    let (Some(first), Some(last)) = (passes.first(), passes.last()) else {
        return Err(Fault::new(FailureClass::Unknown, "a window without passes"));
    };
    let work = Work { start_ns: first.start_ns, end_ns: last.end_ns };
    let end = run.sampler.closing(work.end_ns);
    Ok((Measured { start, end, work, passes }, agent))
}

fn run_passes(run: &mut Run, first_pass: u32, target: Target) -> Result<Vec<PassRecord>, Fault> {
    let mut earliest_ns = clock::monotonic_ns();
    let mut passes: Vec<PassRecord> = Vec::new();
    // Of the work: the way of the first request to the driver is not in it, and may be what is missing in the end.
    let mut seconds = 0.0;
    while (passes.len() as u32) < target.passes || seconds < target.seconds {
        let number = first_pass + passes.len() as u32;
        let pass = run_pass(run, number, target, earliest_ns)?;
        earliest_ns = pass.end_ns;
        passes.push(pass);
        seconds = passes.first().map_or(0.0, |first| clock::seconds_between(first.start_ns, earliest_ns));
        let done = passes.len() as f64;
        let expected = (target.seconds / (seconds / done).max(1e-9)).ceil();
        run.progress(done, Some(expected.max(f64::from(target.passes))), "passes");
    }
    Ok(passes)
}

fn run_pass(run: &mut Run, number: u32, target: Target, earliest_ns: u64) -> Result<PassRecord, Fault> {
    let Target { record, prefill_only, .. } = target;
    run.send(&Request::Pass { pass: number, record, prefill_only })?;
    let message = run.next_message()?;
    let Message::PassDone { pass, start_ns, end_ns, prompt_tokens, output_tokens } = message else {
        return Err(Fault::protocol(format!("expected `pass_done` of pass {number}")));
    };
    if pass != number {
        return Err(Fault::protocol(format!("expected `pass_done` of pass {number}, the driver sent {pass}")));
    }
    let now_ns = clock::monotonic_ns();
    if start_ns < earliest_ns || end_ns < start_ns || end_ns > now_ns {
        let text = format!(
            "pass {pass} cannot be from {start_ns} to {end_ns} ns: asked after {earliest_ns}, done by {now_ns}"
        );
        return Err(Fault::protocol(text));
    }
    let requests = run.job.workload.requests;
    if prefill_only && output_tokens != requests {
        let text = format!("pass {pass} of prefill alone generated {output_tokens} tokens for {requests} requests");
        return Err(Fault::new(FailureClass::WrongWork, text));
    }
    Ok(PassRecord { pass, start_ns, end_ns, prompt_tokens, output_tokens })
}
