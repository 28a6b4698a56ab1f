//! The last resort when the main thread itself is stuck: in a sensor library, a dead network volume, a full pipe.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use llem_protocol::{EventBody, Failure};

use crate::events::{EventSink, log_line};
use crate::process_tree;

/// What the main thread gets beyond a phase's deadline to fail in order by itself.
pub(crate) const MARGIN: Duration = Duration::from_secs(15);

/// Ends the process when an alarm is not cancelled in time.
#[derive(Clone)]
pub(crate) struct Watchdog {
    alarms: Sender<Option<Alarm>>,
}

struct Alarm {
    at: Instant,
    failure: Failure,
    is_final: bool,
}

impl Watchdog {
    /// Starts the thread, without an alarm.
    pub(crate) fn start(events: Arc<EventSink>) -> Self {
        let (alarms, received) = channel();
        std::thread::spawn(move || watch(&received, &events));
        Self { alarms }
    }

    /// Replaces the alarm.
    pub(crate) fn set(&self, at: Instant, failure: Failure) {
        let _ = self.alarms.send(Some(Alarm { at, failure, is_final: false }));
    }

    /// Sets an alarm that is neither replaced nor cancelled: the process has to end by then.
    pub(crate) fn set_final(&self, at: Instant, failure: Failure) {
        let _ = self.alarms.send(Some(Alarm { at, failure, is_final: true }));
    }

    /// Takes the alarm back.
    pub(crate) fn cancel(&self) {
        let _ = self.alarms.send(None);
    }
}

/// Kills everything below the agent and ends it, without clearing up.
#[expect(clippy::exit, reason = "the main thread does not react any more")]
pub(crate) fn exit_at_once() -> ! {
    process_tree::kill_all();
    std::process::exit(3);
}

fn watch(received: &Receiver<Option<Alarm>>, events: &EventSink) {
    let mut alarm: Option<Alarm> = None;
    loop {
        let next = match &alarm {
            None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(alarm) => received.recv_timeout(alarm.at.saturating_duration_since(Instant::now())),
        };
        match next {
            Ok(_) if alarm.as_ref().is_some_and(|alarm| alarm.is_final) => {}
            Ok(replacement) => alarm = replacement,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    if let Some(Alarm { failure, .. }) = alarm {
        log_line(&format!("the agent is stuck and ends itself: {failure}"));
        process_tree::kill_all();
        events.emit_if_free(EventBody::Failed { failure });
    }
    exit_at_once();
}
