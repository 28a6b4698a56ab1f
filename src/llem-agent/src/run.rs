//! One run from the job file to the exit status.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use llem_protocol::{
    BaselineRecord, ClockPair, EnergySplit, EngineReport, EnvironmentReport, EventBody, Failure, FailureClass, Job,
    LogLevel, PROTOCOL_VERSION, Phase, Reason, RequestRecord, Stretch, ThermalGateRecord, WarmupRecord,
};

use crate::cgroup::MemoryCgroup;
use crate::driver::Driver;
use crate::driver_log::SharedLog;
use crate::events::{EventSink, log_line};
use crate::fault::Fault;
use crate::inbox::Inbox;
use crate::power::{Edge, Recording, Sampler, Shared};
use crate::watchdog::{MARGIN, Watchdog};
use crate::window::{Measured, Window};
use crate::{clock, cpus, job, phases, results, signals};

/// Exit status of a job file that cannot be used.
const UNUSABLE_JOB: u8 = 2;

/// Exit status of a run that failed.
const RUN_FAILED: u8 = 3;

/// The longest message of a failure in characters; exceptions of engines can hold whole tensors.
const MAX_MESSAGE_CHARS: usize = 4000;

/// A phase with the edges at which the counters were read.
pub(crate) struct PhaseSpan {
    /// Which.
    pub(crate) phase: Phase,
    /// Its beginning.
    pub(crate) start: Edge,
    /// Its end; absent while it goes on, and when the run ended in it.
    pub(crate) end: Option<Edge>,
}

/// Everything that a run knows while it goes on.
pub(crate) struct Run {
    /// What to do.
    pub(crate) job: Job,
    /// The controller's view of it.
    pub(crate) events: Arc<EventSink>,
    /// All that is waited for.
    pub(crate) inbox: Inbox,
    /// Ends a main thread that is stuck.
    pub(crate) watchdog: Watchdog,
    /// Clocks at the start.
    pub(crate) clock_start: ClockPair,
    /// The container's memory.
    pub(crate) memory: MemoryCgroup,
    /// Kills for lack of memory before the run.
    pub(crate) oom_kills_at_start: Option<u64>,
    /// [`MemoryCgroup::reread_bytes`] before the run.
    pub(crate) reread_bytes_at_start: Option<u64>,
    /// Reads the power sources once they are open.
    pub(crate) sampler: Sampler,
    /// Idle power, once sampling has ended.
    pub(crate) baseline: Option<BaselineRecord>,
    /// The stretches of the load in which the engine compiled.
    pub(crate) compile: Vec<Stretch>,
    /// Energy of those and of the rest of the load, once sampling has ended.
    pub(crate) compile_energy: Shared,
    /// What speaks against the passes of prefill alone, once sampling has ended.
    pub(crate) prefill_reasons: Vec<Reason>,
    /// Prefill and decode of the window, once sampling has ended.
    pub(crate) split: Vec<EnergySplit>,
    /// What the sampler gave, once it has ended.
    pub(crate) recording: Option<Recording>,
    /// What the driver wrote.
    pub(crate) log: SharedLog,
    /// The driver while it may live.
    pub(crate) driver: Option<Driver>,
    /// When the phase that goes on is given up.
    pub(crate) deadline: Option<Instant>,
    /// All phases that began.
    pub(crate) phases: Vec<PhaseSpan>,
    /// The machine.
    pub(crate) environment: EnvironmentReport,
    /// The engine, once it has said hello.
    pub(crate) engine: Option<EngineReport>,
    /// GPUs under a power limit that is lower than their default.
    pub(crate) limited_gpus: Vec<String>,
    /// How the run was warmed up, once it is.
    pub(crate) warmup: Option<WarmupRecord>,
    /// How the thermal gate ended.
    pub(crate) thermal_gate: Option<ThermalGateRecord>,
    /// The window, once it is closed.
    pub(crate) window: Option<Window>,
    /// The passes of prefill alone, once they are done.
    pub(crate) prefill: Option<Measured>,
    /// The window's records, once they are checked.
    pub(crate) records: Vec<RequestRecord>,
    /// What lowers the run's worth.
    pub(crate) reasons: Vec<Reason>,
    /// When the last progress event was written.
    pub(crate) last_progress: Option<Instant>,
}

/// Runs the job and returns the agent's exit status.
pub(crate) fn run(job_file: &Path) -> ExitCode {
    let events = Arc::new(EventSink::new(std::io::stdout()));
    let job = match job::read_job(job_file) {
        Ok(job) => job,
        Err(error) => {
            log_line(&error.to_string());
            emit_failed(&events, Fault::protocol(error.to_string()));
            return ExitCode::from(UNUSABLE_JOB);
        }
    };
    if let Err(text) = job::check_nonce(&job) {
        log_line(&text);
        emit_failed(&events, Fault::new(FailureClass::OutputUnwritable, text));
        return ExitCode::from(RUN_FAILED);
    }
    let mut run = Run::new(job, events);
    match run.measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            run.fail(&fault);
            ExitCode::from(RUN_FAILED)
        }
    }
}

/// For faults before the first phase, when there is neither a driver nor a volume to write to.
fn emit_failed(events: &EventSink, fault: Fault) {
    let Fault { class, message } = fault;
    events.emit(EventBody::Failed { failure: Failure { class, phase: Phase::Start, message, log_tail: Vec::new() } });
}

impl Run {
    fn new(job: Job, events: Arc<EventSink>) -> Self {
        let memory = MemoryCgroup::of_self();
        Self {
            job,
            watchdog: Watchdog::start(Arc::clone(&events)),
            events,
            inbox: Inbox::new(),
            clock_start: clock::clock_pair(),
            oom_kills_at_start: memory.oom_kills(),
            reread_bytes_at_start: memory.reread_bytes(),
            memory,
            sampler: Sampler::idle(),
            baseline: None,
            compile: Vec::new(),
            compile_energy: Shared::default(),
            prefill_reasons: Vec::new(),
            split: Vec::new(),
            recording: None,
            log: SharedLog::default(),
            driver: None,
            deadline: None,
            phases: Vec::new(),
            environment: EnvironmentReport::default(),
            engine: None,
            limited_gpus: Vec::new(),
            warmup: None,
            thermal_gate: None,
            window: None,
            prefill: None,
            records: Vec::new(),
            reasons: Vec::new(),
            last_progress: None,
        }
    }

    fn measure(&mut self) -> Result<(), Fault> {
        // Before any other thread is: threads stay where the one that starts them is kept.
        if let Some(pinning) = &self.job.cpus {
            cpus::pin_self(&pinning.agent)?;
        }
        let unable =
            |error: std::io::Error| Fault::new(FailureClass::Unknown, format!("cannot watch signals: {error}"));
        signals::watch_signals(self.inbox.outbox(), self.watchdog.clone()).map_err(unable)?;
        signals::watch_stdout(self.inbox.outbox());
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            log_line(&format!("orphans of the driver cannot be found: {error}"));
        }
        self.events.emit(EventBody::Hello {
            protocol_version: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            run_id: self.job.run_id.clone(),
            pid: std::process::id(),
            realtime_ns: clock::clock_pair().realtime_ns,
        });
        phases::run_all(self)
    }

    /// Begins a phase: event, deadline, counters. The counters come last, so that the event is not in the phase.
    pub(crate) fn begin(&mut self, phase: Phase) {
        let timeout_s = self.job.timeouts_s.get(&phase).copied();
        self.events.emit(EventBody::PhaseStarted { phase, timeout_s });
        self.deadline = clock::deadline_in(timeout_s);
        match self.deadline {
            Some(deadline) => self.watchdog.set(deadline + MARGIN, self.timeout_failure(phase)),
            None => self.watchdog.cancel(),
        }
        let start = self.sampler.edge();
        self.phases.push(PhaseSpan { phase, start, end: None });
    }

    /// Ends the phase that goes on.
    pub(crate) fn end(&mut self) {
        let edge = self.sampler.edge();
        let Some(span) = self.phases.last_mut() else { return };
        let mut seconds = clock::seconds_between(span.start.t_ns, edge.t_ns);
        span.end = Some(edge);
        if span.phase == Phase::Load && !self.compile.is_empty() {
            let lengths = self.compile.iter().map(|s| clock::seconds_between(s.start_ns, s.end_ns));
            let compile_s = lengths.sum::<f64>();
            self.events.emit(EventBody::PhaseFinished { phase: Phase::Compile, seconds: compile_s });
            seconds -= compile_s;
        }
        self.events.emit(EventBody::PhaseFinished { phase: span.phase, seconds });
    }

    /// The phase that goes on.
    pub(crate) fn phase(&self) -> Phase {
        self.phases.last().map_or(Phase::Start, |span| span.phase)
    }

    /// A reason that lowers what the run is worth, for the report and as an event.
    pub(crate) fn warn(&mut self, reason: Reason) {
        self.events.emit(EventBody::Warning { reason: reason.clone() });
        self.reasons.push(reason);
    }

    /// Ends what is running and leaves as much of a record as possible.
    fn fail(&mut self, fault: &Fault) {
        let phase = self.phase();
        log_line(&format!("failed in phase `{phase}`: {fault}"));
        phases::stop_driver(self, phases::FAILURE_GRACE);
        let log_tail = self.log.lock().last_lines();
        let message = fault.message.chars().take(MAX_MESSAGE_CHARS).collect();
        let failure = Failure { class: fault.class, phase, message, log_tail };
        self.watchdog.set(Instant::now() + MARGIN, failure.clone());
        if let Err(second) = results::write_failed(self, &failure) {
            self.events.log(LogLevel::Warn, second.to_string());
        }
        self.events.emit(EventBody::Failed { failure });
    }
}
