//! What follows from a run that was not measured: try again, leave its experiment, or end the study.

use std::time::Duration;

use llem_protocol::{FailureClass, ReasonCode};

use crate::config::ExecutionConfig;
use crate::result::{RunRow, RunStatus};

/// The longest wait before another attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Whether another attempt at the same run can help: what failed was the machine around it, not the run.
pub(super) fn is_infrastructure(row: &RunRow) -> bool {
    match &row.failure {
        Some(failure) => {
            matches!(failure.class, FailureClass::GpuBusy | FailureClass::ContainerEngineLost | FailureClass::NodeLost)
        }
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

/// Ends a study in which nothing works any more.
#[derive(Debug)]
pub(super) struct Breaker {
    limit: u32,
    failed: u32,
}

impl Breaker {
    /// A limit of 0 never ends a study.
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, failed: 0 }
    }

    /// Counts a run that has ended; gives the number of failed runs in a row when there are too many. Experiments that are too large for
    /// the machine do not count: they say nothing about those that follow.
    pub(super) fn count(&mut self, row: &RunRow) -> Option<u32> {
        match (&row.failure, row.status) {
            (_, RunStatus::Completed) => self.failed = 0,
            (Some(failure), RunStatus::Failed) if !is_out_of_memory(failure.class) => self.failed += 1,
            _ => {}
        }
        (self.limit > 0 && self.failed >= self.limit).then_some(self.failed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use llem_protocol::{Failure, FailureClass, Phase, Reason, ReasonCode};

    use super::{Breaker, is_infrastructure, wait_before};
    use crate::config::{ExecutionConfig, Profile};
    use crate::result::{RunRow, RunStatus};

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
        let mut breaker = Breaker::new(2);
        let (crash, memory) = (Some(FailureClass::DriverCrashed), Some(FailureClass::OutOfMemory));
        let counts = [crash, None, crash, memory, memory, crash].map(|class| breaker.count(&row(class)));
        assert_eq!(counts, [None, None, None, None, None, Some(2)]);
        let mut never = Breaker::new(0);
        assert!((0..100).all(|_| never.count(&row(crash)).is_none()));
    }
}
