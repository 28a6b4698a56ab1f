//! The phases of a run in their order.

use std::time::{Duration, Instant};

use llem_protocol::{
    EngineReport, EventBody, Failure, FailureClass, LogLevel, Message, PROTOCOL_VERSION, Phase, PhaseRecord,
    REPORT_SCHEMA_VERSION, Report, Request, WindowRecord, files,
};

use crate::driver::Driver;
use crate::fault::Fault;
use crate::inbox::{Notice, Received};
use crate::power::{self, Recording, Sampler};
use crate::records::Ledger;
use crate::run::{Run, stop_fault};
use crate::workload::{self, Asked};
use crate::{checks, clock, environment, output, window};

/// How long processes have between TERM and KILL when the run has failed.
pub(crate) const FAILURE_GRACE: Duration = Duration::from_secs(2);

/// How long a driver has to leave by itself, and again between TERM and KILL.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Runs everything from the environment to the last event.
pub(crate) fn run_all(run: &mut Run) -> Result<(), Fault> {
    read_environment(run);
    baseline(run)?;
    let asked = import(run)?;
    load(run)?;
    let warmup_passes = window::warm_up(run)?;
    let others_share = window::run_window(run, warmup_passes)?;
    collect(run, &asked)?;
    judge(run, warmup_passes, others_share);
    shut_down(run);
    write(run)
}

fn read_environment(run: &mut Run) {
    run.begin(Phase::Environment);
    let opened = power::open_sources(&run.job.gpus);
    run.environment = environment::read_environment(&run.memory, opened.gpus);
    run.sampler = Sampler::start(opened.sources, run.job.measurement.sample_hz);
    for reason in opened.reasons {
        run.warn(reason);
    }
    run.end();
}

fn baseline(run: &mut Run) -> Result<(), Fault> {
    let seconds = run.job.measurement.baseline_s;
    if seconds <= 0.0 {
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
    run.driver = Some(Driver::start(&run.job.driver, &run.inbox.outbox(), &run.log)?);
    let Message::Hello { protocol_version, engine, engine_version, libraries } = run.next_message()? else {
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
    let Message::Loaded { parameters, dtype, devices, settings, requests } = run.next_message()? else {
        return Err(Fault::protocol("expected `loaded`"));
    };
    let expected = run.job.workload.requests;
    if requests != expected {
        let text = format!("the driver read {requests} requests, the workload has {expected}");
        return Err(Fault::new(FailureClass::WrongWork, text));
    }
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

fn collect(run: &mut Run, asked: &[Asked]) -> Result<(), Fault> {
    run.begin(Phase::Collect);
    run.send(&Request::Records)?;
    let passes = run.window.as_ref().map(|window| window.passes.clone()).unwrap_or_default();
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
fn judge(run: &mut Run, warmup_passes: u32, others_share: Option<f64>) {
    let Some(window) = &run.window else { return };
    let reasons = [
        checks::window_length(window.start.t_ns, window.end.t_ns),
        checks::warmup_length(warmup_passes),
        checks::agent_share(&window.agent),
        checks::others_share(others_share),
        checks::token_totals(&window.passes, &run.records),
    ];
    for reason in reasons.into_iter().flatten() {
        run.warn(reason);
    }
}

/// Asks the driver to leave and sees to it that nothing of it stays. Slow leaving is known of engines and no failure.
fn shut_down(run: &mut Run) {
    run.begin(Phase::Shutdown);
    let _ = run.send(&Request::Shutdown);
    let own_limit = Instant::now() + SHUTDOWN_GRACE;
    let deadline = run.deadline.map_or(own_limit, |deadline| deadline.min(own_limit));
    loop {
        match run.inbox.receive_any(Some(deadline)) {
            Received::Notice(Notice::Ended(exit)) if exit.status == Some(0) => break,
            Received::Notice(Notice::Ended(exit)) => {
                let text = format!("the driver left with {} after it had sent its records", exit.describe());
                run.events.log(LogLevel::Info, text);
                break;
            }
            Received::Notice(_) | Received::Stop(_) => {}
            Received::DeadlinePassed => {
                run.events.log(LogLevel::Info, "the driver did not leave by itself and is made to");
                break;
            }
        }
    }
    stop_driver(run, SHUTDOWN_GRACE);
    run.end();
}

/// Ends the driver's group and all descendants, if it was started.
pub(crate) fn stop_driver(run: &mut Run, grace: Duration) {
    let Some(driver) = run.driver.take() else { return };
    let survivors = driver.terminate(grace);
    if !survivors.is_empty() {
        run.events.log(LogLevel::Warn, format!("processes {survivors:?} could not be killed"));
    }
}

fn write(run: &mut Run) -> Result<(), Fault> {
    run.begin(Phase::Write);
    let report_sha256 = write_files(run, None)?;
    run.end();
    run.watchdog.cancel();
    run.events.emit(EventBody::Done { report_sha256 });
    Ok(())
}

/// Ends sampling and writes all files, the report last. Returns the SHA-256 of the report. Of a failed run as much is
/// written as the volume takes.
pub(crate) fn write_files(run: &mut Run, failure: Option<&Failure>) -> Result<String, Fault> {
    let recording = run.sampler.finish();
    if let Some(window) = &run.window {
        for reason in recording.reasons(&window.start, &window.end) {
            run.warn(reason);
        }
    }
    let directory = &run.job.output_dir;
    let lines = [
        output::write_file(directory, files::DRIVER_LOG, |out| run.log.lock().write_to(out)).map(|()| 0),
        output::write_lines(directory, files::REQUESTS, run.records.iter()),
        output::write_lines(directory, files::SAMPLES, recording.records()),
    ];
    let [log, requests, samples] = lines;
    if failure.is_none() {
        log?;
        return output::write_report(directory, &report(run, &recording, None, (requests?, samples?)));
    }
    let counts = (requests.unwrap_or(0), samples.unwrap_or(0));
    output::write_report(directory, &report(run, &recording, failure.cloned(), counts))
}

fn report(run: &Run, recording: &Recording, failure: Option<Failure>, (requests, samples): (u64, u64)) -> Report {
    Report {
        schema_version: REPORT_SCHEMA_VERSION,
        run_id: run.job.run_id.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        clock_start: run.clock_start,
        clock_end: clock::clock_pair(),
        environment: run.environment.clone(),
        engine: run.engine.clone(),
        phases: run.phases.iter().map(|span| phase_record(span, recording)).collect(),
        window: run.window.as_ref().map(|window| window_record(window, recording)),
        reasons: run.reasons.clone(),
        failure,
        request_records: requests,
        power_samples: samples,
    }
}

fn phase_record(span: &crate::run::PhaseSpan, recording: &Recording) -> PhaseRecord {
    // Phases before the sensors were opened have no counters, and nothing is known of their energy.
    let sampled = !span.start.counters_j.is_empty();
    PhaseRecord {
        phase: span.phase,
        start_ns: span.start.t_ns,
        end_ns: span.end.as_ref().map(|end| end.t_ns),
        energy: span.end.as_ref().filter(|_| sampled).map(|end| recording.energy(&span.start, end)),
    }
}

fn window_record(window: &window::Window, recording: &Recording) -> WindowRecord {
    WindowRecord {
        start_ns: window.start.t_ns,
        end_ns: window.end.t_ns,
        passes: window.passes.clone(),
        energy: recording.energy(&window.start, &window.end),
        agent: window.agent,
    }
}
