//! What reaches the agent from outside: signals, and the controller that goes away.

use std::thread;
use std::time::{Duration, Instant};

use llem_protocol::{Failure, FailureClass, Phase};
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::inbox::{Outbox, StopCause};
use crate::watchdog::{self, Watchdog};

/// How long an interrupted agent may take to write its report.
const STOP_LIMIT: Duration = Duration::from_millis(4700);

/// The first signal stops the run in order, the second ends the agent at once.
pub(crate) fn watch_signals(outbox: Outbox, watchdog: Watchdog) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::spawn(move || {
        let mut seen = false;
        for signal in &mut signals {
            if seen {
                watchdog::exit_at_once();
            }
            seen = true;
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("signal");
            watchdog.set_final(Instant::now() + STOP_LIMIT, stuck(name));
            outbox.stop(StopCause::Signal(name));
        }
    });
    Ok(())
}

/// Notices a closed stdout also while no event is written, e.g. in a long load.
pub(crate) fn watch_stdout(outbox: Outbox) {
    thread::spawn(move || {
        let stdout = std::io::stdout();
        loop {
            // No event is asked for: only the end of the reader (POLLERR, POLLHUP) wakes this thread.
            let mut descriptors = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut descriptors, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
                Ok(_) => break,
            }
        }
        outbox.stop(StopCause::ControllerGone);
    });
}

fn stuck(signal: &str) -> Failure {
    Failure {
        class: FailureClass::Interrupted,
        phase: Phase::Write,
        message: format!("the agent got {signal} and could not write its report in time"),
        log_tail: Vec::new(),
    }
}
