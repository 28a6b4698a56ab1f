//! Follows one agent: turns its output into events, and knows when it has been silent for too long.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use llem_protocol::{EventBody, Failure, FailureClass, Job, MAX_LINE_BYTES, PROTOCOL_VERSION, Phase, decode_event};

use super::{AGENT_GRACE, EventSink, runner_failure};
use crate::printable::printable;

/// What is kept of the agent's own log, in bytes.
const LOG_BYTES: usize = 1024 * 1024;

/// How late a look at the clock may be because the machine is busy. What is later stood still itself: somebody stopped the controller
/// (Ctrl-Z), or suspended the machine.
const LATE: Duration = Duration::from_secs(5);

/// State of the conversation with one agent.
pub(super) struct Follower<'a> {
    sink: &'a EventSink,
    run_id: String,
    line: Vec<u8>,
    next_seq: u64,
    log: Vec<u8>,
    phase: Phase,
    deadline: Instant,
    timeouts_s: BTreeMap<Phase, f64>,
    report_sha256: Option<String>,
    failure: Option<Failure>,
}

impl<'a> Follower<'a> {
    /// Follows the agent of a job. Its time-outs are the job's, whatever the container says of them.
    pub(super) fn new(sink: &'a EventSink, job: &Job) -> Self {
        Self {
            sink,
            run_id: job.run_id.clone(),
            line: Vec::new(),
            next_seq: 0,
            log: Vec::new(),
            phase: Phase::Start,
            deadline: deadline(job.timeouts_s.get(&Phase::Start).copied()),
            timeouts_s: job.timeouts_s.clone(),
            report_sha256: None,
            failure: None,
        }
    }

    /// The output is about to be read from its beginning again: events already seen are skipped by their number.
    pub(super) fn rewind(&mut self) {
        self.line.clear();
        self.log.clear();
    }

    /// When the agent counts as hung.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the agent is hung, for a caller whose deadline has passed. A controller that stood still has yet to hear what the agent said
    /// meanwhile, and gives it time once more.
    pub(super) fn is_hung(&mut self) -> bool {
        let now = Instant::now();
        let is_hung = now.saturating_duration_since(self.deadline) < LATE;
        if !is_hung {
            self.deadline = now + AGENT_GRACE;
        }
        is_hung
    }

    /// The phase that the agent is in.
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the agent has said anything.
    pub(super) fn heard(&self) -> bool {
        self.next_seq > 0
    }

    /// Whether the agent has told how its run ended.
    pub(super) fn has_ended(&self) -> bool {
        self.report_sha256.is_some() || self.failure.is_some()
    }

    /// The failure for an agent that was silent past its deadline.
    pub(super) fn hung(&self) -> Failure {
        let message = if self.heard() {
            "the agent itself stopped answering and was killed".to_owned()
        } else {
            "the agent said nothing after its start and was killed".to_owned()
        };
        runner_failure(FailureClass::Timeout, self.phase, message)
    }

    /// Takes what the agent wrote to stdout, in pieces of any size.
    pub(super) fn stdout(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (head, rest) = bytes.split_at(end);
            self.extend_line(head);
            self.take_line();
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend_line(bytes);
    }

    /// Takes what the agent wrote to stderr.
    pub(super) fn stderr(&mut self, bytes: &[u8]) {
        let room = LOG_BYTES.saturating_sub(self.log.len());
        self.log.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    /// Ends the conversation: digest of the report, failure, log.
    pub(super) fn finish(self) -> (Option<String>, Option<Failure>, Vec<u8>) {
        (self.report_sha256, self.failure, self.log)
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        // A longer line is not an event: its head is enough to be logged as what it is.
        let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
        self.line.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    fn take_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let Some(mut event) = decode_event(&line) else {
            self.stderr(&line);
            self.stderr(b"\n");
            return;
        };
        if event.seq < self.next_seq {
            return;
        }
        self.next_seq = event.seq.saturating_add(1);
        match &mut event.body {
            EventBody::Hello { protocol_version, run_id, .. } => self.check_hello(*protocol_version, run_id),
            EventBody::PhaseStarted { phase, .. } => {
                self.phase = *phase;
                self.deadline = deadline(self.timeouts_s.get(phase).copied()) + AGENT_GRACE;
            }
            EventBody::PhaseFinished { .. } => self.deadline = Instant::now() + AGENT_GRACE,
            EventBody::Failed { failure } => {
                *failure = bounded(failure);
                self.failure = Some(failure.clone());
            }
            EventBody::Warning { reason } => reason.message = printable(&reason.message),
            EventBody::Log { text, .. } => *text = printable(text),
            EventBody::Done { report_sha256 } => self.report_sha256 = Some(report_sha256.clone()),
            _ => {}
        }
        // The reader of events may be gone; the run is finished all the same.
        let _ = self.sink.send(event);
    }

    fn check_hello(&mut self, protocol_version: u32, run_id: &str) {
        self.deadline = Instant::now() + AGENT_GRACE;
        if protocol_version != PROTOCOL_VERSION || run_id != self.run_id {
            let message = format!(
                "the agent speaks protocol {protocol_version} for run `{run_id}`; expected {PROTOCOL_VERSION} for `{}`",
                self.run_id
            );
            self.failure = Some(runner_failure(FailureClass::Protocol, Phase::Start, message));
            self.deadline = Instant::now();
        }
    }
}

/// The end of a phase's time-out. A phase without one has a month.
fn deadline(timeout_s: Option<f64>) -> Instant {
    const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
    let own = timeout_s.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or(LONGEST);
    Instant::now() + own.min(LONGEST)
}

/// What a container says is kept within bounds before it reaches journal, result and terminal.
fn bounded(failure: &Failure) -> Failure {
    const LINES: usize = 200;
    const CHARS: usize = 2000;
    let cut = |text: &String| printable(&text.chars().take(CHARS).collect::<String>());
    let tail = failure.log_tail.len().saturating_sub(LINES);
    Failure {
        message: cut(&failure.message),
        log_tail: failure.log_tail.iter().skip(tail).map(cut).collect(),
        ..failure.clone()
    }
}

#[cfg(test)]
mod tests {
    use llem_protocol::{Event, EventBody, FailureClass, Phase};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::{Follower, LOG_BYTES};
    use crate::testing::job;

    fn line(seq: u64, body: EventBody) -> Vec<u8> {
        let mut text = serde_json::to_vec(&Event { seq, t_ns: seq, body }).unwrap();
        text.push(b'\n');
        text
    }

    fn phase(seq: u64, phase: Phase) -> Vec<u8> {
        line(seq, EventBody::PhaseStarted { phase, timeout_s: Some(5.0) })
    }

    fn drain(events: &mut UnboundedReceiver<Event>) -> Vec<u64> {
        std::iter::from_fn(|| events.try_recv().ok()).map(|e| e.seq).collect()
    }

    #[test]
    fn events_survive_any_split_and_strangers_between_them() {
        let (sink, mut events) = unbounded_channel();
        let mut follower = Follower::new(&sink, &job());
        let mut bytes = phase(0, Phase::Load);
        bytes.extend(b"NVIDIA banner {not json}\n{\"half\": \n");
        bytes.extend(phase(1, Phase::Window));
        for byte in bytes {
            follower.stdout(&[byte]);
        }
        assert_eq!(drain(&mut events), [0, 1]);
        assert_eq!(follower.phase(), Phase::Window);
        let (_, _, log) = follower.finish();
        assert_eq!(String::from_utf8(log).unwrap(), "NVIDIA banner {not json}\n{\"half\": \n");
    }

    #[test]
    fn a_second_reading_repeats_nothing() {
        let (sink, mut events) = unbounded_channel();
        let mut follower = Follower::new(&sink, &job());
        follower.stdout(&phase(0, Phase::Load));
        follower.rewind();
        follower.stdout(&phase(0, Phase::Load));
        follower.stdout(&phase(1, Phase::Window));
        assert_eq!(drain(&mut events), [0, 1]);
    }

    #[test]
    fn an_agent_of_another_protocol_or_run_is_refused_at_once() {
        let (sink, _events) = unbounded_channel();
        for (version, run) in [(999, "001-a-c1"), (llem_protocol::PROTOCOL_VERSION, "other")] {
            let mut follower = Follower::new(&sink, &job());
            let hello = EventBody::Hello {
                protocol_version: version,
                agent_version: "x".into(),
                run_id: run.into(),
                pid: 1,
                realtime_ns: 0,
            };
            follower.stdout(&line(0, hello));
            assert!(follower.deadline() <= std::time::Instant::now());
            assert_eq!(follower.finish().1.unwrap().class, FailureClass::Protocol);
        }
    }

    #[test]
    fn a_flood_is_kept_within_bounds() {
        let (sink, _events) = unbounded_channel();
        let mut follower = Follower::new(&sink, &job());
        for _ in 0..200 {
            follower.stdout(&vec![b'x'; 1 << 18]);
            follower.stderr(&vec![b'y'; 1 << 18]);
        }
        assert!(follower.line.len() <= llem_protocol::MAX_LINE_BYTES);
        assert!(follower.log.len() <= LOG_BYTES);
    }

    #[test]
    fn a_container_cannot_lengthen_its_own_time_outs() {
        let (sink, _events) = unbounded_channel();
        let mut job = job();
        job.timeouts_s.insert(Phase::Load, 2.0);
        let mut follower = Follower::new(&sink, &job);
        follower.stdout(&line(0, EventBody::PhaseStarted { phase: Phase::Load, timeout_s: None }));
        let left = follower.deadline() - std::time::Instant::now();
        assert!(left <= super::AGENT_GRACE + std::time::Duration::from_secs(2), "{left:?}");
    }

    #[test]
    fn a_controller_that_stood_still_listens_once_more() {
        let (sink, _events) = unbounded_channel();
        let mut follower = Follower::new(&sink, &job());
        let now = std::time::Instant::now();
        follower.deadline = now.checked_sub(std::time::Duration::from_millis(100)).unwrap();
        assert!(follower.is_hung());
        follower.deadline = now.checked_sub(2 * super::LATE).unwrap();
        assert!(!follower.is_hung());
        assert!(follower.deadline() >= now + super::AGENT_GRACE);
    }

    #[test]
    fn what_a_container_says_cannot_move_the_cursor() {
        let (sink, mut events) = unbounded_channel();
        let mut follower = Follower::new(&sink, &job());
        let evil = "\u{1b}]0;title\u{7}\u{1b}[2Jgone";
        let text = evil.to_owned();
        follower.stdout(&line(0, EventBody::Log { level: llem_protocol::LogLevel::Info, text }));
        let failure = llem_protocol::Failure {
            class: FailureClass::Unknown,
            phase: Phase::Load,
            message: evil.to_owned(),
            log_tail: vec![evil.to_owned()],
        };
        follower.stdout(&line(1, EventBody::Failed { failure }));
        let shown = format!("{:?}{:?}", events.try_recv().unwrap().body, events.try_recv().unwrap().body);
        assert!(!shown.contains("\\u{1b}") && !shown.contains("\\u{7}") && shown.contains("[2Jgone"), "{shown}");
        let told = follower.finish().1.unwrap();
        assert!(!told.message.contains('\u{1b}') && !told.log_tail[0].contains('\u{1b}'));
    }
}
