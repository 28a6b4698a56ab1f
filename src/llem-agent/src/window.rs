//! Passes of the workload: warm-up and the measured window.

use std::time::Instant;

use llem_protocol::{Message, PassRecord, Phase, Request};

use crate::clock;
use crate::fault::Fault;
use crate::power::Edge;
use crate::run::Run;
use crate::usage::UsageMark;

/// A closed window.
pub(crate) struct Window {
    pub(crate) start: Edge,
    pub(crate) end: Edge,
    pub(crate) passes: Vec<PassRecord>,
    pub(crate) agent: llem_protocol::SelfUsage,
}

/// How many passes, and for how long.
#[derive(Clone, Copy)]
struct Target {
    passes: u32,
    seconds: f64,
    record: bool,
}

/// Runs whole passes until warm-up has had both its number and its time. Returns the number of passes.
pub(crate) fn warm_up(run: &mut Run) -> Result<u32, Fault> {
    let spec = &run.job.measurement;
    let target = Target { passes: spec.warmup_passes, seconds: spec.warmup_min_s, record: false };
    run.begin(Phase::Warmup);
    let passes = run_passes(run, 0, target)?;
    run.end();
    Ok(passes.len() as u32)
}

/// Runs the window, whose passes are numbered on from `first_pass`. Returns the share of the machine that others used.
pub(crate) fn run_window(run: &mut Run, first_pass: u32) -> Result<Option<f64>, Fault> {
    let spec = &run.job.measurement;
    let target = Target { passes: spec.window_min_passes.max(1), seconds: spec.window_min_s, record: true };
    let machine_start = UsageMark::of_machine();
    run.begin(Phase::Window);
    let agent_start = UsageMark::of_agent();
    let passes = run_passes(run, first_pass, target)?;
    let agent = UsageMark::of_agent().agent_since(&agent_start);
    run.end();
    let others = UsageMark::of_machine().others_share_since(&machine_start);
    if let Some((start, end)) = run.phases.last().and_then(|span| Some((span.start.clone(), span.end.clone()?))) {
        run.window = Some(Window { start, end, passes, agent });
    }
    Ok(others)
}

fn run_passes(run: &mut Run, first_pass: u32, target: Target) -> Result<Vec<PassRecord>, Fault> {
    let start = Instant::now();
    let mut earliest_ns = clock::monotonic_ns();
    let mut passes = Vec::new();
    while (passes.len() as u32) < target.passes || start.elapsed().as_secs_f64() < target.seconds {
        let number = first_pass + passes.len() as u32;
        let pass = run_pass(run, number, target.record, earliest_ns)?;
        earliest_ns = pass.end_ns;
        passes.push(pass);
        let done = passes.len() as f64;
        let expected = (target.seconds / (start.elapsed().as_secs_f64() / done)).ceil();
        run.progress(done, Some(expected.max(f64::from(target.passes))), "passes");
    }
    Ok(passes)
}

fn run_pass(run: &mut Run, number: u32, record: bool, earliest_ns: u64) -> Result<PassRecord, Fault> {
    run.send(&Request::Pass { pass: number, record })?;
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
    Ok(PassRecord { pass, start_ns, end_ns, prompt_tokens, output_tokens })
}
