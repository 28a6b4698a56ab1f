//! Edges at the ticks of an energy counter that is refreshed only now and then.
//!
//! NVML's counter is refreshed every 100 ms (seen on an H100 with driver 580) and one read takes 3 ms, sometimes 100. So it is read
//! until it changes: the change happened between the beginning of the last read with the old value and the end of the first one with
//! the new value.

use std::time::Duration;

use super::sampler::CounterFault;
use super::{Counter, PowerError};
use crate::clock::monotonic_ns;

/// A tick that is known this exactly is good enough to stop looking, in nanoseconds.
const GOOD_BRACKET_NS: u64 = 25_000_000;

/// A tick that is known no better than this is no tick, in nanoseconds.
const WORST_BRACKET_NS: u64 = 60_000_000;

/// Ticks that are looked at before the best of them is taken.
const MAX_TICKS: u32 = 4;

/// A counter that does not change for this many of its periods does not tick, in periods.
const MAX_SILENT_PERIODS: u64 = 5;

/// Reading begins this long before the tick is expected, in nanoseconds.
const EARLY_NS: u64 = 12_000_000;

/// The counter of one domain at an edge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct EdgeReading {
    /// When the value was taken: the middle of the bracket of a tick, else when it was read.
    pub(crate) t_ns: u64,
    /// Whether it was seen to change there.
    pub(crate) aligned: bool,
    /// How long the value may be older than, or off, `t_ns`.
    pub(crate) bracket_ns: u64,
    /// Joules since an arbitrary start; `None` without a counter.
    pub(crate) counter_j: Result<Option<f64>, CounterFault>,
}

impl EdgeReading {
    /// A value that was read now, without looking for a tick.
    pub(crate) fn unaligned(counter: Result<Option<Counter>, PowerError>, period: Duration) -> Self {
        let t_ns = counter.as_ref().ok().and_then(|found| found.as_ref().map(|c| c.t_ns)).unwrap_or_else(monotonic_ns);
        let counter_j = counter.map(|found| found.map(|c| c.energy_j)).map_err(|error| fault(&error));
        Self { t_ns, aligned: false, bracket_ns: period.as_nanos() as u64, counter_j }
    }
}

/// What an error of a counter means at an edge.
fn fault(error: &PowerError) -> CounterFault {
    if matches!(error, PowerError::Reset { .. }) { CounterFault::Reset } else { CounterFault::Lost }
}

/// Reads until the counter ticks. `last_tick_ns` is where it was seen to tick before: until shortly before the next tick it is left
/// alone. Gives up, with what was read last, when it does not tick or reading fails.
pub(crate) fn find_tick(
    period: Duration,
    last_tick_ns: Option<u64>,
    mut read: impl FnMut() -> Result<Option<Counter>, PowerError>,
) -> EdgeReading {
    let period_ns = period.as_nanos() as u64;
    let mut best: Option<EdgeReading> = None;
    let mut next_ns = last_tick_ns.map(|last| next_tick(last, period_ns, monotonic_ns()));
    for _ in 0..MAX_TICKS {
        let found = match one_tick(period_ns, next_ns, &mut read) {
            Ok(found) => found,
            // A counter that is lost or set back is that, whatever was seen before.
            Err(failed) if failed.counter_j.is_err() => return failed,
            Err(failed) if best.is_none() => return failed,
            Err(_) => break,
        };
        if best.is_none_or(|best| found.bracket_ns < best.bracket_ns) {
            best = Some(found);
        }
        if found.bracket_ns <= GOOD_BRACKET_NS {
            break;
        }
        // Where the tick was is not known well enough to foretell the next.
        next_ns = None;
    }
    let mut tick = best.unwrap_or_else(|| EdgeReading::unaligned(Ok(None), period));
    tick.aligned = tick.bracket_ns <= WORST_BRACKET_NS;
    tick
}

/// The next change of the counter, or, as an error, what was read when there was none.
fn one_tick(
    period_ns: u64,
    expected_ns: Option<u64>,
    read: &mut impl FnMut() -> Result<Option<Counter>, PowerError>,
) -> Result<EdgeReading, EdgeReading> {
    let unaligned = |counter| EdgeReading::unaligned(counter, Duration::from_nanos(period_ns));
    let mut old_ns = monotonic_ns();
    let first = read().map_err(|error| unaligned(Err(error)))?;
    let Some(mut old) = first else { return Err(unaligned(Ok(None))) };
    if let Some(wait_ns) = expected_ns.and_then(|t| t.saturating_sub(EARLY_NS).checked_sub(monotonic_ns())) {
        std::thread::sleep(Duration::from_nanos(wait_ns));
    }
    let give_up_ns = monotonic_ns() + MAX_SILENT_PERIODS * period_ns;
    loop {
        let begun_ns = monotonic_ns();
        let counter = read().map_err(|error| unaligned(Err(error)))?;
        let Some(new) = counter else { return Err(unaligned(Ok(None))) };
        if new.energy_j.to_bits() != old.energy_j.to_bits() {
            let bracket_ns = new.t_ns.saturating_sub(old_ns);
            let t_ns = old_ns + bracket_ns / 2;
            return Ok(EdgeReading { t_ns, aligned: true, bracket_ns, counter_j: Ok(Some(new.energy_j)) });
        }
        if begun_ns > give_up_ns {
            return Err(unaligned(Ok(Some(new))));
        }
        (old, old_ns) = (new, begun_ns);
    }
}

/// The first tick that is far enough ahead to be waited for.
fn next_tick(last_ns: u64, period_ns: u64, now_ns: u64) -> u64 {
    let ahead_ns = (now_ns + EARLY_NS).saturating_sub(last_ns);
    last_ns + (ahead_ns / period_ns.max(1) + 1) * period_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A counter of 100 W that ticks every 20 ms from `start`.
    fn ticking(start_ns: u64) -> impl Fn(u64) -> Counter {
        move |now_ns| {
            let ticks = (now_ns - start_ns) / (20 * MS);
            Counter { t_ns: now_ns, energy_j: ticks as f64 * 2.0 }
        }
    }

    #[test]
    fn the_tick_is_inside_the_bracket() {
        let start_ns = monotonic_ns() - 7 * MS;
        let device = ticking(start_ns);
        let mut last = None;
        for _ in 0..5 {
            let edge = find_tick(Duration::from_millis(20), last, || {
                let now_ns = monotonic_ns();
                std::thread::sleep(Duration::from_millis(1));
                Ok(Some(Counter { t_ns: monotonic_ns(), ..device(now_ns) }))
            });
            let value_j = edge.counter_j.unwrap().unwrap();
            let tick_ns = start_ns + (value_j / 2.0) as u64 * 20 * MS;
            assert!(edge.aligned && edge.t_ns.abs_diff(tick_ns) <= edge.bracket_ns / 2, "{edge:?}, tick at {tick_ns}");
            last = Some(edge.t_ns);
        }
    }

    #[test]
    fn a_slow_read_is_not_taken_for_an_edge_when_the_next_one_is_better() {
        let start_ns = monotonic_ns();
        let device = ticking(start_ns);
        let mut reads = 0;
        let edge = find_tick(Duration::from_millis(20), None, || {
            reads += 1;
            let now_ns = monotonic_ns();
            std::thread::sleep(Duration::from_millis(if reads == 2 { 70 } else { 1 }));
            Ok(Some(Counter { t_ns: monotonic_ns(), ..device(now_ns) }))
        });
        assert!(edge.aligned && edge.bracket_ns < 25 * MS, "{edge:?}");
    }

    #[test]
    fn a_counter_that_stands_still_is_not_aligned() {
        let still = || Ok(Some(Counter { t_ns: monotonic_ns(), energy_j: 5.0 }));
        let edge = find_tick(Duration::from_millis(5), None, still);
        assert_eq!((edge.aligned, edge.counter_j), (false, Ok(Some(5.0))));
    }

    #[test]
    fn faults_and_missing_counters_are_told_apart() {
        let period = Duration::from_millis(5);
        assert_eq!(find_tick(period, None, || Ok(None)).counter_j, Ok(None));
        let reset = || Err(PowerError::Reset { sensor: "x".to_owned() });
        assert_eq!(find_tick(period, None, reset).counter_j, Err(CounterFault::Reset));
        assert_eq!(find_tick(period, None, || Err(PowerError::NoReading)).counter_j, Err(CounterFault::Lost));
    }

    #[test]
    fn the_next_tick_is_ahead() {
        assert_eq!(next_tick(1000 * MS, 100 * MS, 1050 * MS), 1100 * MS);
        assert_eq!(next_tick(1000 * MS, 100 * MS, 1095 * MS), 1200 * MS);
        assert_eq!(next_tick(1000 * MS, 100 * MS, 5000 * MS), 5100 * MS);
    }
}
