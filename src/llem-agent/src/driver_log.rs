//! What the driver and its children wrote, bounded in memory and off the disk until the window is over.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Kept from the beginning of the output, in bytes.
const HEAD_BYTES: usize = 4 * 1024 * 1024;

/// Kept from the end of the output, in bytes.
const TAIL_BYTES: usize = 4 * 1024 * 1024;

/// Lines of [`DriverLog::last_lines`].
const LAST_LINES: usize = 200;

/// The longest line of [`DriverLog::last_lines`], in characters.
const LAST_LINE_CHARS: usize = 2000;

/// The beginning and the end of the output; what lies between is counted and dropped.
#[derive(Default)]
pub(crate) struct DriverLog {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped_bytes: u64,
    stray_lines: u64,
}

/// A log that several reading threads append to.
#[derive(Clone, Default)]
pub(crate) struct SharedLog(Arc<Mutex<DriverLog>>);

impl SharedLog {
    /// The log, locked.
    pub(crate) fn lock(&self) -> MutexGuard<'_, DriverLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DriverLog {
    /// Appends output as it came.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let room = HEAD_BYTES - self.head.len();
        let (to_head, to_tail) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(to_head);
        let skipped = to_tail.len().saturating_sub(TAIL_BYTES);
        let kept = to_tail.get(skipped..).unwrap_or_default();
        let evicted = (self.tail.len() + kept.len()).saturating_sub(TAIL_BYTES);
        self.tail.drain(..evicted);
        self.tail.extend(kept);
        self.dropped_bytes += (skipped + evicted) as u64;
    }

    /// How many lines came on the protocol channel that were no messages.
    pub(crate) fn stray_lines(&self) -> u64 {
        self.stray_lines
    }

    /// Appends a line of the protocol channel that is no message, on a line of its own.
    pub(crate) fn append_stray_line(&mut self, line: &[u8]) {
        self.stray_lines += 1;
        if self.tail.back().or(self.head.last()).is_some_and(|last| *last != b'\n') {
            self.append(b"\n");
        }
        self.append(line);
        self.append(b"\n");
    }

    /// Writes what was kept, with a line that says how much was not.
    pub(crate) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.head)?;
        if self.dropped_bytes > 0 {
            write!(out, "\n[llem-agent: {} bytes of output dropped here]\n", self.dropped_bytes)?;
        }
        let (first, second) = self.tail.as_slices();
        out.write_all(first)?;
        out.write_all(second)
    }

    /// The last 200 lines, decoded lossily, each cut to a readable length.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let newest_first = self.tail.iter().rev().chain(self.head.iter().rev());
        let budget = LAST_LINES * LAST_LINE_CHARS;
        let mut bytes: Vec<u8> = newest_first.take(budget).copied().collect();
        bytes.reverse();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(LAST_LINES);
        lines.iter().skip(first).map(|line| line.chars().take(LAST_LINE_CHARS).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(log: &DriverLog) -> Vec<u8> {
        let mut out = Vec::new();
        log.write_to(&mut out).unwrap();
        out
    }

    #[test]
    fn a_short_log_is_kept_whole() {
        let mut log = DriverLog::default();
        log.append(b"no newline");
        log.append_stray_line(b"own line");
        assert_eq!(written(&log), b"no newline\nown line\n");
        assert_eq!(log.last_lines(), ["no newline", "own line"]);
    }

    #[test]
    fn a_flood_keeps_both_ends_and_says_what_is_missing() {
        let mut log = DriverLog::default();
        log.append(b"first\n");
        let chunk = vec![b'.'; 1024 * 1024];
        for _ in 0..20 {
            log.append(&chunk);
        }
        log.append_stray_line(b"last");
        let text = written(&log);
        assert!(text.starts_with(b"first\n") && text.ends_with(b"last\n"));
        let total = 6 + 20 * 1024 * 1024 + 6;
        let marker = format!("[llem-agent: {} bytes of output dropped here]", total - HEAD_BYTES - TAIL_BYTES);
        assert!(String::from_utf8_lossy(&text).contains(&marker), "{marker}");
        assert!(text.len() < HEAD_BYTES + TAIL_BYTES + 200);
    }

    #[test]
    fn one_chunk_longer_than_the_tail_is_counted() {
        let mut log = DriverLog::default();
        log.append(&vec![b'x'; HEAD_BYTES + TAIL_BYTES + 5]);
        assert_eq!((log.tail.len(), log.dropped_bytes), (TAIL_BYTES, 5));
    }

    #[test]
    fn the_tail_has_200_lines_of_bounded_length() {
        let mut log = DriverLog::default();
        for number in 0..300 {
            log.append_stray_line(format!("{number}").as_bytes());
        }
        log.append(&vec![b'y'; 3000]);
        let lines = log.last_lines();
        assert_eq!(lines.len(), 200);
        assert_eq!(lines.first().map(String::as_str), Some("101"));
        assert_eq!(lines.last().map(String::len), Some(LAST_LINE_CHARS));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        let mut log = DriverLog::default();
        log.append(b"caf\xe9\n");
        assert_eq!(log.last_lines(), ["caf\u{fffd}"]);
    }
}
