//! The two clocks: NVML stamps with the wall clock, scripts and tests with the monotonic one.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of a script's epoch and of a load file.
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// What to add to a monotonic stamp to get `CLOCK_REALTIME`, in nanoseconds: the clock of the stamps that NVML gives. The
/// clocks are read in turn; of several tries the one counts that the scheduler disturbed least.
pub fn realtime_offset_ns() -> i128 {
    let tries = (0..8).map(|_| {
        let before_ns = monotonic_ns();
        let realtime_ns = nanoseconds(clock_gettime(ClockId::Realtime));
        let between_ns = monotonic_ns().saturating_sub(before_ns);
        (between_ns, i128::from(realtime_ns) - i128::from(before_ns) - i128::from(between_ns / 2))
    });
    tries.min().map_or(0, |(_, offset_ns)| offset_ns)
}

fn nanoseconds(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
