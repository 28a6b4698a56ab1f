//! The phases of a run in their order.

use std::time::{Duration, Instant};

use llem_protocol::{
    EngineReport, EventBody, FailureClass, LogLevel, Message, PROTOCOL_VERSION, Phase, Request, Stretch,
};

use crate::conversation::stop_fault;
use crate::driver::Driver;
use crate::fault::Fault;
use crate::inbox::{Notice, Received};
use crate::power::{self, Sampler};
use crate::records::Ledger;
use crate::run::Run;
use crate::workload::{self, Asked};
use crate::{checks, clock, cpus, environment, results, window};

/// How long processes have between TERM and KILL when the run has failed.
pub(crate) const FAILURE_GRACE: Duration = Duration::from_secs(2);

/// How long a driver has to leave by itself, and again between TERM and KILL.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Runs everything from the environment to the last event.
pub(crate) fn run_all(run: &mut Run) -> Result<(), Fault> {
    read_environment(run)?;
    baseline(run)?;
    let asked = import(run)?;
    load(run)?;
    let next_pass = window::warm_up(run)?;
    let next_pass = window::thermal_gate(run, next_pass)?;
    window::run_window(run, next_pass)?;
    window::run_prefill(run)?;
    collect(run, &asked)?;
    judge(run);
    shut_down(run)?;
    write(run)
}

fn read_environment(run: &mut Run) -> Result<(), Fault> {
    run.begin(Phase::Environment);
    let sources = power::open_sources(&run.job.gpus, run.job.powercap.as_deref(), run.job.measurement.allow_mig)?;
    run.limited_gpus.clone_from(&sources.gpus.limited);
    run.environment = environment::read_environment(&run.memory, sources.gpus);
    run.sampler = Sampler::start(sources.opened, run.job.measurement.sample_hz);
    for reason in sources.reasons {
        run.warn(reason);
    }
    run.end();
    Ok(())
}

fn baseline(run: &mut Run) -> Result<(), Fault> {
    let seconds = run.job.measurement.baseline_s;
    // Without a sensor there is no idle power to wait for.
    if seconds <= 0.0 || !run.sampler.has_sources() {
        return Ok(());
    }
    run.begin(Phase::Baseline);
    let over = clock::deadline_in(Some(seconds));
    loop {
        let next = [run.deadline, over].into_iter().flatten().min();
        match run.inbox.receive(next) {
            Received::Stop(cause) => return Err(stop_fault(cause)),
            Received::Notice(_) => {}
            Received::DeadlinePassed if over.is_some_and(|over| Instant::now() >= over) => break,
            Received::DeadlinePassed => return Err(run.timeout_fault()),
        }
    }
    run.end();
    Ok(())
}

fn import(run: &mut Run) -> Result<Vec<Asked>, Fault> {
    run.begin(Phase::Import);
    let asked = workload::read_workload(&run.job.workload)?;
    let cpus = run.job.cpus.as_ref().map(|cpus| &cpus.engine);
    let driver = run.driver.insert(Driver::start(&run.job.driver, cpus, &run.inbox.outbox(), &run.log)?);
    run.environment.engine_cpus = driver.cpus();
    if let Some(cpus) = cpus {
        cpus::in_effect("the engine", cpus, run.environment.engine_cpus.as_deref())?;
    }
    let Message::Hello { protocol_version, engine, engine_version, libraries, packages } = run.next_message()? else {
        return Err(Fault::protocol("the driver's first message is not `hello`"));
    };
    if protocol_version != PROTOCOL_VERSION {
        let text = format!("the driver speaks protocol version {protocol_version}, this agent {PROTOCOL_VERSION}");
        return Err(Fault::protocol(text));
    }
    run.events.emit(EventBody::EngineReady { engine: engine.clone(), engine_version: engine_version.clone() });
    run.engine = Some(EngineReport {
        engine,
        engine_version,
        libraries,
        packages,
        parameters: None,
        dtype: None,
        devices: Vec::new(),
        settings: serde_json::Map::new(),
        peak_memory_bytes: None,
    });
    run.end();
    Ok(asked)
}

fn load(run: &mut Run) -> Result<(), Fault> {
    run.begin(Phase::Load);
    let request = Request::Load {
        engine: Box::new(run.job.engine.clone()),
        workload: run.job.workload.path.clone(),
        ignore_eos: run.job.workload.ignore_eos,
    };
    run.send(&request)?;
    let Message::Loaded { parameters, dtype, devices, settings, requests, compile } = run.next_message()? else {
        return Err(Fault::protocol("expected `loaded`"));
    };
    let expected = run.job.workload.requests;
    if requests != expected {
        let text = format!("the driver read {requests} requests, the workload has {expected}");
        return Err(Fault::new(FailureClass::WrongWork, text));
    }
    run.compile = compile.unwrap_or_default();
    check_compile(&run.compile, run.phases.last().map_or(0, |span| span.start.t_ns))?;
    run.events.emit(EventBody::ModelLoaded { parameters, devices: devices.clone() });
    if let Some(reason) = checks::devices(&run.job.gpus, &devices) {
        run.warn(reason);
    }
    if let Some(engine) = &mut run.engine {
        *engine = EngineReport { parameters, dtype: Some(dtype), devices, settings, ..engine.clone() };
    }
    run.end();
    Ok(())
}

/// The stretches in which an engine says that it compiled: within the load that has just ended, in order, not overlapping.
fn check_compile(stretches: &[Stretch], load_start_ns: u64) -> Result<(), Fault> {
    let now_ns = clock::monotonic_ns();
    let mut earliest_ns = load_start_ns;
    for Stretch { start_ns, end_ns } in stretches {
        if *start_ns < earliest_ns || end_ns < start_ns || *end_ns > now_ns {
            let text = format!(
                "`loaded` has a stretch of compiling from {start_ns} to {end_ns} ns; it has to lie between {earliest_ns} and {now_ns} ns: \
                 inside the load, after the stretch before it"
            );
            return Err(Fault::protocol(text));
        }
        earliest_ns = *end_ns;
    }
    Ok(())
}

fn collect(run: &mut Run, asked: &[Asked]) -> Result<(), Fault> {
    run.begin(Phase::Collect);
    run.send(&Request::Records)?;
    let passes = run.window.as_ref().map(|window| window.measured.passes.clone()).unwrap_or_default();
    let mut ledger = Ledger::new(asked, run.job.workload.ignore_eos, &passes);
    loop {
        match run.next_message()? {
            Message::Record { record } => ledger.add(record)?,
            Message::RecordsDone { records, peak_memory_bytes } => {
                run.records = ledger.close(records)?;
                if let Some(engine) = &mut run.engine {
                    engine.peak_memory_bytes = peak_memory_bytes;
                }
                break;
            }
            _ => return Err(Fault::protocol("expected `record` or `records_done`")),
        }
    }
    run.end();
    Ok(())
}

/// The reasons that need no sensor. Those of the sensors follow when sampling has ended.
fn judge(run: &mut Run) {
    let Some(window) = &run.window else { return };
    let reasons = [
        checks::window_length(window.measured.work),
        run.warmup.as_ref().and_then(checks::warmup_length),
        run.warmup.as_ref().and_then(checks::thermal_floor),
        checks::agent_share(&window.agent),
        checks::token_totals(&window.measured.passes, &run.records),
    ];
    for reason in reasons.into_iter().flatten() {
        run.warn(reason);
    }
}

/// Asks the driver to leave and sees to it that nothing of it stays. Slow leaving is known of engines and no failure.
fn shut_down(run: &mut Run) -> Result<(), Fault> {
    run.begin(Phase::Shutdown);
    let _ = run.send(&Request::Shutdown);
    let own_limit = Instant::now() + SHUTDOWN_GRACE;
    let deadline = run.deadline.map_or(own_limit, |deadline| deadline.min(own_limit));
    loop {
        match run.inbox.receive(Some(deadline)) {
            Received::Stop(cause) => return Err(stop_fault(cause)),
            Received::Notice(Notice::Ended(exit)) if exit.status == Some(0) => break,
            Received::Notice(Notice::Ended(exit)) => {
                let text = format!("the driver left with {} after it had sent its records", exit.describe());
                run.events.log(LogLevel::Info, text);
                break;
            }
            Received::Notice(_) => {}
            Received::DeadlinePassed => {
                run.events.log(LogLevel::Info, "the driver did not leave by itself and is made to");
                break;
            }
        }
    }
    stop_driver(run, SHUTDOWN_GRACE);
    if let Some(cause) = run.inbox.stop_cause() {
        return Err(stop_fault(cause));
    }
    run.end();
    Ok(())
}

/// Ends the driver's group and all descendants, if it was started. A signal cuts short the grace that a good run gives.
pub(crate) fn stop_driver(run: &mut Run, grace: Duration) {
    let Some(driver) = run.driver.take() else { return };
    let was_stopped = run.inbox.stop_cause().is_some();
    let survivors = driver.terminate(grace, || !was_stopped && run.inbox.stop_cause().is_some());
    // What was in the pipes when the last process ended still belongs into the log.
    run.await_last_words();
    if !survivors.is_empty() {
        run.events.log(LogLevel::Warn, format!("processes {survivors:?} could not be killed"));
    }
}

fn write(run: &mut Run) -> Result<(), Fault> {
    run.begin(Phase::Write);
    let report_sha256 = results::write_results(run)?;
    run.end();
    run.events.emit(EventBody::Done { report_sha256 });
    Ok(())
}
