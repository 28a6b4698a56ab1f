//! One run from the job file to the exit status.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llem_protocol::{
    EngineReport, EnvironmentReport, EventBody, Failure, FailureClass, Job, LogLevel, Message, PROTOCOL_VERSION, Phase,
    Reason, Request, RequestRecord,
};

use crate::cgroup::MemoryCgroup;
use crate::driver::Driver;
use crate::driver_log::SharedLog;
use crate::events::{EventSink, log_line};
use crate::fault::Fault;
use crate::inbox::{Exit, Inbox, Notice, Received, StopCause};
use crate::power::{Edge, Sampler};
use crate::watchdog::{MARGIN, Watchdog};
use crate::window::Window;
use crate::{classify, clock, job, phases, signals};

/// Exit status of a job file that cannot be used.
const UNUSABLE_JOB: u8 = 2;

/// Exit status of a run that failed.
const RUN_FAILED: u8 = 3;

/// How long the words of a driver that has ended are waited for, when a grandchild keeps its channels open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A phase with the edges at which the counters were read.
pub(crate) struct PhaseSpan {
    pub(crate) phase: Phase,
    pub(crate) start: Edge,
    pub(crate) end: Option<Edge>,
}

/// Everything that a run knows while it goes on.
pub(crate) struct Run {
    pub(crate) job: Job,
    pub(crate) events: Arc<EventSink>,
    pub(crate) inbox: Inbox,
    pub(crate) watchdog: Watchdog,
    pub(crate) clock_start: llem_protocol::ClockPair,
    pub(crate) memory: MemoryCgroup,
    pub(crate) oom_kills_at_start: Option<u64>,
    pub(crate) sampler: Sampler,
    pub(crate) log: SharedLog,
    pub(crate) driver: Option<Driver>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) phases: Vec<PhaseSpan>,
    pub(crate) environment: EnvironmentReport,
    pub(crate) engine: Option<EngineReport>,
    pub(crate) window: Option<Window>,
    pub(crate) records: Vec<RequestRecord>,
    pub(crate) reasons: Vec<Reason>,
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
            memory,
            sampler: Sampler::idle(),
            log: SharedLog::default(),
            driver: None,
            deadline: None,
            phases: Vec::new(),
            environment: EnvironmentReport::default(),
            engine: None,
            window: None,
            records: Vec::new(),
            reasons: Vec::new(),
            last_progress: None,
        }
    }

    fn measure(&mut self) -> Result<(), Fault> {
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
        let seconds = clock::seconds_between(span.start.t_ns, edge.t_ns);
        span.end = Some(edge);
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

    /// Sends a request to the driver.
    pub(crate) fn send(&self, request: &Request) -> Result<(), Fault> {
        match &self.driver {
            Some(driver) => driver.send(request),
            None => Err(Fault::protocol("there is no driver")),
        }
    }

    /// Waits for the driver's next message that is not a progress, at most until the phase's deadline.
    pub(crate) fn next_message(&mut self) -> Result<Message, Fault> {
        loop {
            match self.inbox.receive(self.deadline) {
                Received::Notice(Notice::Said(message)) => match *message {
                    Message::Progress { done, total, unit } => self.pass_on_progress(done, total, unit),
                    Message::Error { class, kind, text, causes } => {
                        self.await_last_words();
                        return Err(self.error_fault(class, &kind, &text, &causes));
                    }
                    message => return Ok(message),
                },
                Received::Notice(Notice::Broke(text)) => return Err(Fault::protocol(text)),
                Received::Notice(Notice::Ended(exit)) => return Err(self.ended_fault(exit)),
                Received::Notice(Notice::ChannelClosed) => return Err(self.closed_fault()),
                Received::Notice(Notice::LogClosed | Notice::Woken) => {}
                Received::DeadlinePassed => return Err(self.timeout_fault()),
                Received::Stop(cause) => return Err(stop_fault(cause)),
            }
        }
    }

    /// The fault of a phase that took too long.
    pub(crate) fn timeout_fault(&self) -> Fault {
        let Failure { class, message, .. } = self.timeout_failure(self.phase());
        Fault { class, message }
    }

    fn timeout_failure(&self, phase: Phase) -> Failure {
        let limit_s = self.job.timeouts_s.get(&phase).copied().unwrap_or_default();
        let message = format!("phase `{phase}` took longer than its limit of {limit_s} s");
        Failure { class: FailureClass::Timeout, phase, message, log_tail: Vec::new() }
    }

    /// Progress of an import or load; in the passes nothing is written while the engine works.
    fn pass_on_progress(&mut self, done: f64, total: Option<f64>, unit: String) {
        if matches!(self.phase(), Phase::Import | Phase::Load) {
            self.progress(done, total, &unit);
        }
    }

    /// A progress event, unless the last was less than 0.2 s ago.
    pub(crate) fn progress(&mut self, done: f64, total: Option<f64>, unit: &str) {
        let now = Instant::now();
        if self.last_progress.is_some_and(|last| now.duration_since(last) < Duration::from_millis(200)) {
            return;
        }
        self.last_progress = Some(now);
        self.events.emit(EventBody::Progress { phase: self.phase(), done, total, unit: unit.to_owned() });
    }

    fn error_fault(&self, class: Option<FailureClass>, kind: &str, text: &str, causes: &[String]) -> Fault {
        let signature = || classify::classify_error(kind, text, causes, &self.log.lock().last_lines());
        let class = class.or_else(signature).or_else(|| self.oom_class()).unwrap_or(FailureClass::Unknown);
        let causes: String = causes.iter().map(|cause| format!("; caused by: {cause}")).collect();
        Fault::new(class, format!("{kind}: {text}{causes}"))
    }

    /// The driver ended. What it said last arrives after the news of its end.
    fn ended_fault(&self, exit: Exit) -> Fault {
        if let Some(Message::Error { class, kind, text, causes }) = self.await_last_words() {
            return self.error_fault(class, &kind, &text, &causes);
        }
        self.death_fault(exit)
    }

    fn closed_fault(&self) -> Fault {
        let deadline = Some(Instant::now() + LAST_WORDS);
        loop {
            match self.inbox.receive_any(deadline) {
                Received::Notice(Notice::Ended(exit)) => return self.ended_fault(exit),
                Received::Notice(_) | Received::Stop(_) => {}
                Received::DeadlinePassed => return Fault::protocol("the driver closed its channel and lives on"),
            }
        }
    }

    fn death_fault(&self, exit: Exit) -> Fault {
        let how = exit.describe();
        let killed_like_oom = exit.status == Some(137);
        if let Some(class) = self.oom_class().or(killed_like_oom.then_some(FailureClass::HostOutOfMemory)) {
            return Fault::new(class, format!("the driver ended with {how}"));
        }
        if self.engine.is_none() {
            return Fault::new(FailureClass::DiedAtImport, format!("the driver ended with {how} before it was ready"));
        }
        let class = classify::classify_log(&self.log.lock().last_lines()).unwrap_or(FailureClass::DriverCrashed);
        Fault::new(class, format!("the driver ended with {how}"))
    }

    /// Whether the kernel killed somebody in this container since the agent started.
    fn oom_class(&self) -> Option<FailureClass> {
        let killed = self.memory.oom_kills()? > self.oom_kills_at_start?;
        killed.then_some(FailureClass::HostOutOfMemory)
    }

    /// Takes what is still under way from a driver that ends. Returns its error message, if there is one.
    fn await_last_words(&self) -> Option<Message> {
        let deadline = Some(Instant::now() + LAST_WORDS);
        let mut error = None;
        let mut open_channels = 2;
        while open_channels > 0 {
            match self.inbox.receive_any(deadline) {
                Received::Notice(Notice::Said(message)) if matches!(*message, Message::Error { .. }) => {
                    error = Some(*message);
                }
                Received::Notice(Notice::ChannelClosed | Notice::LogClosed | Notice::Broke(_)) => open_channels -= 1,
                Received::Notice(_) | Received::Stop(_) => {}
                Received::DeadlinePassed => break,
            }
        }
        error
    }

    /// Ends what is running and leaves as much of a record as possible.
    fn fail(&mut self, fault: &Fault) {
        let phase = self.phase();
        log_line(&format!("failed in phase `{phase}`: {fault}"));
        phases::stop_driver(self, phases::FAILURE_GRACE);
        let log_tail = self.log.lock().last_lines();
        let failure = Failure { class: fault.class, phase, message: fault.message.clone(), log_tail };
        let stuck = Instant::now() + MARGIN;
        if !matches!(fault.class, FailureClass::Interrupted) {
            self.watchdog.set(stuck, failure.clone());
        }
        if let Err(second) = phases::write_files(self, Some(&failure)) {
            self.events.log(LogLevel::Warn, second.to_string());
        }
        self.events.emit(EventBody::Failed { failure });
        self.watchdog.cancel();
    }
}

/// The fault of a run that somebody stopped.
pub(crate) fn stop_fault(cause: StopCause) -> Fault {
    let text = match cause {
        StopCause::Signal(name) => format!("the agent got {name}"),
        StopCause::ControllerGone => "the controller closed the agent's output".to_owned(),
    };
    Fault::new(FailureClass::Interrupted, text)
}
