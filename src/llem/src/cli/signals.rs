use llem::runner::Stop;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Printer};

/// What a command says when it is told to stop, and to stop at once.
pub(crate) struct Words {
    first: &'static str,
    second: &'static str,
}

/// Where runs are on this machine.
pub(crate) const CONTAINER: Words = Words {
    first: "stopping: the running container is ended, finished runs are kept; once more to kill it",
    second: "killing the running container",
};

/// Where runs are in the batch system's hands.
pub(crate) const JOBS: Words = Words {
    first: "stopping: the study's jobs are cancelled, finished runs are kept; once more to leave without waiting for their end",
    second: "leaving; the jobs are cancelled and end by themselves",
};

/// Where there are no runs: files and images are made or looked into.
pub(crate) const FILES: Words =
    Words { first: "stopping: what is not finished is removed; once more to stop at once", second: "stopping at once" };

/// On a node.
pub(crate) const RUN: Words =
    Words { first: "stopping: the run under way is ended", second: "killing the run under way" };

/// First SIGINT, SIGTERM, SIGHUP or SIGQUIT: end what is under way cleanly. Second: at once.
pub(crate) fn listen(stop: Stop, printer: Printer, words: &'static Words) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("signals cannot be received: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut quit = signal(SignalKind::quit()).map_err(failed)?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                _ = quit.recv() => {}
            }
            if stop.soft.is_cancelled() {
                printer.line(words.second);
                stop.hard.cancel();
            } else {
                printer.line(words.first);
                stop.soft.cancel();
            }
        }
    });
    Ok(())
}
