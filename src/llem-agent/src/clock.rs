//! Clocks and deadlines. Every stamp is `CLOCK_MONOTONIC`, which host and containers share.

use std::time::{Duration, Instant};

use llem_protocol::ClockPair;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Processor seconds, user and system, that this process has used in all its threads.
pub(crate) fn process_cpu_s() -> f64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime)) as f64 / 1e9
}

/// Both clocks, read one right after the other.
pub(crate) fn clock_pair() -> ClockPair {
    ClockPair { monotonic_ns: monotonic_ns(), realtime_ns: nanoseconds(clock_gettime(ClockId::Realtime)) }
}

/// The moment `seconds` from now; `None` when there is no limit or it lies beyond what the clock can hold.
pub(crate) fn deadline_in(seconds: Option<f64>) -> Option<Instant> {
    let limit = Duration::try_from_secs_f64(seconds?).ok()?;
    Instant::now().checked_add(limit)
}

/// Seconds between two stamps; 0 when they are the wrong way round.
pub(crate) fn seconds_between(start_ns: u64, end_ns: u64) -> f64 {
    end_ns.saturating_sub(start_ns) as f64 / 1e9
}

fn nanoseconds(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_nanoseconds_add_up() {
        assert_eq!(nanoseconds(Timespec { tv_sec: 3, tv_nsec: 7 }), 3_000_000_007);
        assert!((seconds_between(1_000_000_000, 3_500_000_000) - 2.5).abs() < 1e-12);
        assert!(seconds_between(5, 4).abs() < f64::EPSILON);
    }

    #[test]
    fn a_limit_beyond_the_clock_is_no_limit() {
        assert!(deadline_in(Some(f64::MAX)).is_none());
        assert!(deadline_in(Some(1.0)).is_some());
    }
}
