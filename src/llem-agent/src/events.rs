//! The agent's stdout: one flushed JSON line for each event. Its own log goes to stderr.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use llem_protocol::{Event, EventBody, LogLevel, VisibleGpus};

use crate::clock;

/// Writes events in order. A reader that is gone is remembered, and nothing more is written to it.
pub(crate) struct EventSink {
    stream: Mutex<Stream>,
    gone: AtomicBool,
}

struct Stream {
    next_seq: u64,
    out: Box<dyn Write + Send>,
}

impl EventSink {
    /// A sink that begins with `seq` 0.
    pub(crate) fn new(out: impl Write + Send + 'static) -> Self {
        Self { stream: Mutex::new(Stream { next_seq: 0, out: Box::new(out) }), gone: AtomicBool::new(false) }
    }

    /// Writes one event. A write that fails means that nobody reads: see [`Self::is_gone`].
    pub(crate) fn emit(&self, body: EventBody) {
        self.write(self.stream.lock().unwrap_or_else(PoisonError::into_inner), body);
    }

    /// As [`Self::emit`], but gives up when another thread is stuck in a write.
    pub(crate) fn emit_if_free(&self, body: EventBody) {
        match self.stream.try_lock() {
            Ok(stream) => self.write(stream, body),
            Err(TryLockError::Poisoned(poisoned)) => self.write(poisoned.into_inner(), body),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// A line for the log, for the controller and on stderr.
    pub(crate) fn log(&self, level: LogLevel, text: impl Into<String>) {
        let text = text.into();
        log_line(&text);
        self.emit(EventBody::Log { level, text });
    }

    /// Whether the reader has closed its end.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn write(&self, mut stream: MutexGuard<'_, Stream>, body: EventBody) {
        if self.is_gone() {
            return;
        }
        let event = Event { seq: stream.next_seq, t_ns: clock::monotonic_ns(), body };
        let written = line_of(&event).and_then(|line| {
            stream.out.write_all(&line)?;
            stream.out.flush()
        });
        stream.next_seq += 1;
        if let Err(error) = written {
            self.gone.store(true, Ordering::Relaxed);
            log_line(&format!("cannot write events, the controller is gone: {error}"));
        }
    }
}

/// One line on the agent's own log. Nothing can be done when stderr is gone too.
pub(crate) fn log_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "llem-agent: {text}");
}

/// Answers `--version`.
pub(crate) fn print_version() -> ExitCode {
    match writeln!(std::io::stdout(), "llem-agent {}", env!("CARGO_PKG_VERSION")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    }
}

/// Writes the GPUs that are visible here as one line of JSON.
pub(crate) fn print_gpus(gpus: &VisibleGpus) -> ExitCode {
    let written = serde_json::to_string(gpus).map_err(std::io::Error::from);
    match written.and_then(|line| writeln!(std::io::stdout(), "{line}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    }
}

/// Says how the agent is called.
pub(crate) fn print_usage() -> ExitCode {
    log_line("expected one argument: `llem-agent JOB_FILE`, `llem-agent --gpus` or `llem-agent --version`");
    ExitCode::from(2)
}

fn line_of(event: &Event) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_reader_is_remembered() {
        let sink = EventSink::new(Closed);
        assert!(!sink.is_gone());
        sink.log(LogLevel::Info, "hello");
        assert!(sink.is_gone());
    }

    #[test]
    fn events_count_from_zero_one_a_line() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = EventSink::new(writer);
        sink.log(LogLevel::Info, "one\ntwo");
        sink.log(LogLevel::Warn, "three");
        drop(sink);
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        let seqs: Vec<u64> =
            text.lines().map(|line| llem_protocol::decode_event(line.as_bytes()).unwrap().seq).collect();
        assert_eq!(seqs, [0, 1]);
    }
}
