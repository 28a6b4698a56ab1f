//! Everything that the main thread waits for, in one channel.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use llem_protocol::Message;

/// Notices that wait to be taken; a driver that sends faster is held back, so memory stays bounded.
const CAPACITY: usize = 4;

/// The driver's stdout and stderr.
const DRIVER_CHANNELS: u8 = 2;

/// How the driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit status, when it left by itself.
    pub(crate) status: Option<i32>,
    /// Signal that ended it.
    pub(crate) signal: Option<i32>,
}

impl Exit {
    /// `exit status 3` or `signal SIGSEGV`.
    pub(crate) fn describe(self) -> String {
        match (self.status, self.signal) {
            (_, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
                Some(name) => format!("signal {name}"),
                None => format!("signal {signal}"),
            },
            (Some(status), None) => format!("exit status {status}"),
            (None, None) => "an unknown status".to_owned(),
        }
    }
}

/// Why the run has to stop, from outside the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// The agent got this signal.
    Signal(&'static str),
    /// Nobody reads the agent's events any more.
    ControllerGone,
}

/// Something that a thread has to say.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The driver sent a message.
    Said(Box<Message>),
    /// The driver's protocol channel was closed.
    ChannelClosed,
    /// The driver's log channel was closed.
    LogClosed,
    /// The driver broke the protocol in a way that ends the reading.
    Broke(String),
    /// The driver process ended.
    Ended(Exit),
    /// Look at the stop flag.
    Woken,
}

/// What waiting gave.
#[derive(Debug)]
pub(crate) enum Received {
    /// A notice came.
    Notice(Notice),
    /// The deadline passed.
    DeadlinePassed,
    /// The run has to stop.
    Stop(StopCause),
}

/// The receiving end, owned by the main thread.
pub(crate) struct Inbox {
    receiver: Receiver<Notice>,
    outbox: Outbox,
    channels_closed: Cell<u8>,
}

/// The sending end, one clone for each thread.
#[derive(Clone)]
pub(crate) struct Outbox {
    sender: SyncSender<Notice>,
    stop: Arc<OnceLock<StopCause>>,
}

impl Inbox {
    /// An empty inbox.
    pub(crate) fn new() -> Self {
        let (sender, receiver) = sync_channel(CAPACITY);
        Self { receiver, outbox: Outbox { sender, stop: Arc::default() }, channels_closed: Cell::new(0) }
    }

    /// A sending end.
    pub(crate) fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    /// Whether the driver, or a child that inherited its channels, may still say something.
    pub(crate) fn has_open_channels(&self) -> bool {
        self.channels_closed.get() < DRIVER_CHANNELS
    }

    /// Why the run has to stop, if it has.
    pub(crate) fn stop_cause(&self) -> Option<StopCause> {
        self.outbox.stop.get().copied()
    }

    /// Waits for the next notice, at most until the deadline. A stop comes before all notices.
    pub(crate) fn receive(&self, deadline: Option<Instant>) -> Received {
        if let Some(cause) = self.stop_cause() {
            return Received::Stop(cause);
        }
        match self.receive_any(deadline) {
            Received::Notice(Notice::Woken) => {
                self.stop_cause().map_or(Received::Notice(Notice::Woken), Received::Stop)
            }
            other => other,
        }
    }

    /// As [`Self::receive`], but a stop does not matter any more: for clearing up.
    pub(crate) fn receive_any(&self, deadline: Option<Instant>) -> Received {
        let result = match deadline {
            Some(deadline) => self.receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        if let Ok(Notice::ChannelClosed | Notice::LogClosed | Notice::Broke(_)) = &result {
            self.channels_closed.set(self.channels_closed.get().saturating_add(1));
        }
        result.map_or(Received::DeadlinePassed, Received::Notice)
    }
}

impl Outbox {
    /// Sends a notice; waits while the inbox is full. False when the inbox is gone.
    pub(crate) fn send(&self, notice: Notice) -> bool {
        self.sender.send(notice).is_ok()
    }

    /// Asks the main thread to stop. Never blocks. The first cause counts.
    pub(crate) fn stop(&self, cause: StopCause) {
        let _ = self.stop.set(cause);
        // A full inbox needs no waking: the main thread takes a notice and sees the flag.
        let _ = self.sender.try_send(Notice::Woken);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_deadline_passes() {
        let inbox = Inbox::new();
        let deadline = Some(Instant::now() + Duration::from_millis(10));
        assert!(matches!(inbox.receive(deadline), Received::DeadlinePassed));
    }

    #[test]
    fn a_stop_overtakes_a_full_inbox() {
        let inbox = Inbox::new();
        let outbox = inbox.outbox();
        for _ in 0..CAPACITY {
            assert!(outbox.send(Notice::LogClosed));
        }
        outbox.stop(StopCause::Signal("SIGTERM"));
        assert!(matches!(inbox.receive(None), Received::Stop(StopCause::Signal("SIGTERM"))));
        assert!(matches!(inbox.receive_any(None), Received::Notice(Notice::LogClosed)));
    }

    #[test]
    fn exits_name_the_signal() {
        assert_eq!(Exit { status: None, signal: Some(11) }.describe(), "signal SIGSEGV");
        assert_eq!(Exit { status: Some(3), signal: None }.describe(), "exit status 3");
    }
}
