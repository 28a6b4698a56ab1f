//! The talk with the driver: requests, messages, and what its silence or end means.

use std::fmt::Write;
use std::time::{Duration, Instant};

use llem_protocol::{EventBody, Failure, FailureClass, Message, Phase, Request};

use crate::classify;
use crate::fault::Fault;
use crate::inbox::{Exit, Notice, Received, StopCause};
use crate::run::Run;

/// Least time between two progress events.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// How long the words of a driver that has ended are waited for, when a grandchild keeps its channels open.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Run {
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
            if self.events.is_gone() {
                return Err(stop_fault(StopCause::ControllerGone));
            }
            match self.inbox.receive(self.deadline) {
                Received::Notice(Notice::Said(message)) => match *message {
                    Message::Progress { done, total, unit } => self.pass_on_progress(done, total, &unit),
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
        match self.short_of_memory() {
            Some(why) => Fault::new(FailureClass::HostOutOfMemory, format!("{message}; {why}")),
            None => Fault { class, message },
        }
    }

    /// A kernel that can throw out pages of programs and libraries kills nobody for lack of memory: everybody waits for the disk instead,
    /// for minutes or for ever.
    fn short_of_memory(&self) -> Option<String> {
        let limit_bytes = self.memory.limit_bytes()?;
        let reread_bytes = self.memory.reread_bytes()?.saturating_sub(self.reread_bytes_at_start?);
        let mib = |bytes: u64| bytes >> 20;
        (reread_bytes > limit_bytes / 2).then(|| {
            format!(
                "nobody was killed yet, but under the memory limit of {} MiB, {} MiB of files had to make room and were read again",
                mib(limit_bytes),
                mib(reread_bytes)
            )
        })
    }

    /// As [`Self::timeout_fault`], for a phase that has only begun.
    pub(crate) fn timeout_failure(&self, phase: Phase) -> Failure {
        let limit_s = self.job.timeouts_s.get(&phase).copied().unwrap_or_default();
        let mut message = format!("phase `{phase}` took longer than its limit of {limit_s} s");
        let stray = self.log.lock().stray_lines();
        if stray > 0 {
            let _ = write!(message, "; {stray} lines on the driver's channel were no messages, see driver.log");
        }
        Failure { class: FailureClass::Timeout, phase, message, log_tail: Vec::new() }
    }

    /// Progress of an import or load; in the passes nothing is written while the engine works.
    fn pass_on_progress(&mut self, done: f64, total: Option<f64>, unit: &str) {
        if matches!(self.phase(), Phase::Import | Phase::Load) {
            self.progress(done, total, unit);
        }
    }

    /// A progress event, unless the last was less than 0.2 s ago.
    pub(crate) fn progress(&mut self, done: f64, total: Option<f64>, unit: &str) {
        let now = Instant::now();
        if self.last_progress.is_some_and(|last| now.duration_since(last) < PROGRESS_INTERVAL) {
            return;
        }
        self.last_progress = Some(now);
        self.events.emit(EventBody::Progress { phase: self.phase(), done, total, unit: unit.to_owned() });
    }

    fn error_fault(&self, class: Option<FailureClass>, kind: &str, text: &str, causes: &[String]) -> Fault {
        let signature = || classify::classify_error(kind, text, causes, &self.log.lock().last_lines());
        let class = class.or_else(signature).or_else(|| self.oom_class()).unwrap_or(FailureClass::Unknown);
        let mut words = vec![format!("{kind}: {text}")];
        words.extend_from_slice(causes);
        Fault::new(class, words.join("; caused by: "))
    }

    /// The driver ended. What it said last arrives after the news of its end.
    fn ended_fault(&self, exit: Exit) -> Fault {
        if let Some(Message::Error { class, kind, text, causes }) = self.await_last_words() {
            return self.error_fault(class, &kind, &text, &causes);
        }
        self.death_fault(exit)
    }

    /// The driver's channel was closed: as a rule because it ends.
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
    pub(crate) fn await_last_words(&self) -> Option<Message> {
        let deadline = Some(Instant::now() + LAST_WORDS);
        let mut error = None;
        while self.inbox.has_open_channels() {
            match self.inbox.receive_any(deadline) {
                Received::Notice(Notice::Said(message)) if matches!(*message, Message::Error { .. }) => {
                    error = Some(*message);
                }
                Received::Notice(_) | Received::Stop(_) => {}
                Received::DeadlinePassed => break,
            }
        }
        error
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
