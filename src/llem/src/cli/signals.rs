use llem::runner::Stop;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Printer};

/// First SIGINT, SIGTERM, SIGHUP or SIGQUIT: end the running container cleanly. Second: kill.
pub(crate) fn listen(stop: Stop, printer: Printer) -> Result<(), Failure> {
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
                printer.line("killing the running container");
                stop.hard.cancel();
            } else {
                printer.line("stopping: the running container is ended, finished runs are kept; once more to kill it");
                stop.soft.cancel();
            }
        }
    });
    Ok(())
}
