//! What follows from a run that was not measured: try again, leave its experiment, or end the study.

use std::time::Duration;

use llem_protocol::{FailureClass, ReasonCode};

use crate::config::ExecutionConfig;
use crate::result::{JournalEvent, RunId, RunRow, RunStatus};

/// The longest wait before another attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Whether another attempt at the same run can help: what failed was the machine around it, not the run.
pub(super) fn is_infrastructure(row: &RunRow) -> bool {
    match &row.failure {
        // Whoever ends a container from outside, an administrator or an engine that is restarted, is not part of the run either.
        Some(failure) => matches!(
            failure.class,
            FailureClass::GpuBusy
                | FailureClass::ContainerEngineLost
                | FailureClass::ContainerKilled
                | FailureClass::NodeLost
        ),
        // A driver that was reloaded takes the sensors with it; the next container has them again.
        None => row.reasons.iter().any(|reason| reason.code == ReasonCode::PowerSourceLost),
    }
}

/// Whether an experiment is too large for the machine: its other cycles would fail in the same way.
pub(super) fn is_out_of_memory(class: FailureClass) -> bool {
    matches!(class, FailureClass::OutOfMemory | FailureClass::HostOutOfMemory)
}

/// The wait before a retry, counted from 1: twice as long every time.
pub(super) fn wait_before(retry: u32, execution: &ExecutionConfig) -> Duration {
    // Far beyond the longest wait already.
    let factor = 2_f64.powi(retry.saturating_sub(1).min(16).cast_signed());
    let seconds = execution.retry_wait_seconds * factor;
    Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
}

/// Runs that failed one after the other. Experiments that are too large for the machine do not count: they say nothing about those that
/// follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Streak {
    failed: u32,
    /// Number of the last run that failed: its retries are the same failure.
    last: usize,
}

impl Streak {
    /// Counts an attempt at a run that has ended.
    pub(super) fn count(&mut self, number: usize, status: RunStatus, failure: Option<FailureClass>) {
        match (status, failure) {
            (RunStatus::Completed, _) => *self = Self::default(),
            (RunStatus::Failed, Some(class)) if !is_out_of_memory(class) && number != self.last => {
                *self = Self { failed: self.failed.saturating_add(1), last: number };
            }
            _ => {}
        }
    }

    /// Counts what a journal says. A study that ended in order was seen by somebody, who goes on with it on purpose: then it begins anew.
    pub(super) fn take(&mut self, event: &JournalEvent) {
        match event {
            JournalEvent::RunFinished { run_id, status, failure, .. } => {
                if let Ok(run) = run_id.parse::<RunId>() {
                    self.count(run.number, *status, *failure);
                }
            }
            // The same run may be the next that fails.
            JournalEvent::StudyResumed { .. } => self.last = 0,
            JournalEvent::StudyStopped { .. } | JournalEvent::StudyFinished { .. } => *self = Self::default(),
            _ => {}
        }
    }
}

/// Ends a study in which nothing works any more.
#[derive(Debug)]
pub(super) struct Breaker {
    limit: u32,
    streak: Streak,
}

impl Breaker {
    /// A limit of 0 never ends a study. `streak` is what an earlier controller of the study had counted when it died.
    pub(super) fn new(limit: u32, streak: Streak) -> Self {
        Self { limit, streak: Streak { last: 0, ..streak } }
    }

    /// Counts a run that has ended; gives the number of failed runs in a row when there are too many.
    pub(super) fn count(&mut self, number: usize, row: &RunRow) -> Option<u32> {
        self.streak.count(number, row.status, row.failure.as_ref().map(|failure| failure.class));
        (self.limit > 0 && self.streak.failed >= self.limit).then_some(self.streak.failed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use llem_protocol::{Failure, FailureClass, Phase, Reason, ReasonCode};

    use super::{Breaker, Streak, is_infrastructure, wait_before};
    use crate::config::{ExecutionConfig, Profile};
    use crate::result::{JournalEvent, RunRow, RunStatus, StudyStatus};

    fn row(failure: Option<FailureClass>) -> RunRow {
        let failure =
            failure.map(|class| Failure { class, phase: Phase::Load, message: String::new(), log_tail: Vec::new() });
        let status = if failure.is_some() { RunStatus::Failed } else { RunStatus::Completed };
        RunRow {
            run_id: String::new(),
            label: String::new(),
            cycle: 1,
            status,
            valid: false,
            reasons: Vec::new(),
            failure,
            metrics: None,
            identity: None,
            engine_cache: None,
        }
    }

    #[test]
    fn only_faults_of_the_machine_are_tried_again() {
        for (class, again) in [
            (FailureClass::GpuBusy, true),
            (FailureClass::ContainerEngineLost, true),
            (FailureClass::ContainerKilled, true),
            (FailureClass::NodeLost, true),
            (FailureClass::TimeLimit, false),
            (FailureClass::JobDied, false),
            (FailureClass::InvalidConfig, false),
            (FailureClass::OutOfMemory, false),
            (FailureClass::DriverCrashed, false),
            (FailureClass::Interrupted, false),
        ] {
            assert_eq!(is_infrastructure(&row(Some(class))), again, "{class}");
        }
        assert!(!is_infrastructure(&row(None)));
        let lost = Reason::new(ReasonCode::PowerSourceLost, "GPU-0");
        assert!(is_infrastructure(&RunRow { reasons: vec![lost], ..row(None) }));
    }

    #[test]
    fn waits_double_and_end() {
        let execution = ExecutionConfig { retry_wait_seconds: 10.0, ..Profile::Standard.execution() };
        let seconds = [1, 2, 3, 50].map(|retry| wait_before(retry, &execution).as_secs());
        assert_eq!(seconds, [10, 20, 40, 600]);
        let execution = ExecutionConfig { retry_wait_seconds: 0.0, ..execution };
        assert_eq!(wait_before(2_000, &execution), Duration::ZERO);
    }

    #[test]
    fn a_study_ends_when_too_many_runs_fail_in_a_row() {
        let mut breaker = Breaker::new(2, Streak::default());
        let (crash, memory) = (Some(FailureClass::DriverCrashed), Some(FailureClass::OutOfMemory));
        let classes = [crash, None, crash, memory, memory, crash];
        let counts: Vec<_> = (1..).zip(classes).map(|(number, class)| breaker.count(number, &row(class))).collect();
        assert_eq!(counts, [None, None, None, None, None, Some(2)]);
        let mut never = Breaker::new(0, Streak::default());
        assert!((1..100).all(|number| never.count(number, &row(crash)).is_none()));
    }

    #[test]
    fn a_controller_that_died_leaves_its_count_in_the_journal() {
        let ended = |run_id: &str, status, failure| JournalEvent::RunFinished {
            run_id: run_id.to_owned(),
            status,
            valid: false,
            failure,
            result_bytes: None,
            result_sha256: None,
        };
        let failed = |run_id| ended(run_id, RunStatus::Failed, Some(FailureClass::GpuBusy));
        let streak = |events: &[JournalEvent]| {
            let mut streak = Streak::default();
            for event in events {
                streak.take(event);
            }
            streak
        };
        // Retries of one run are one failure.
        let died = [
            ended("001-a-c1", RunStatus::Completed, None),
            failed("002-b-c1"),
            failed("002-b-c1-r2"),
            failed("003-c-c1"),
        ];
        assert_eq!(streak(&died).failed, 2);
        let mut breaker = Breaker::new(3, streak(&died));
        assert_eq!(breaker.count(3, &row(Some(FailureClass::GpuBusy))), Some(3));
        let stopped = JournalEvent::StudyFinished { status: StudyStatus::Failed };
        assert_eq!(streak(&[&died[..], &[stopped]].concat()), Streak::default());
    }
}
