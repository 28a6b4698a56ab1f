//! What is known of the sensors behind each kind of curve.

use llem_protocol::CurveKind;

use super::Point;

/// How far a sensor that looks only part of the time was seen off the truth, as a share of the reading: up to 8.6 % on an H100 under a
/// square wave of 200 ms, read at 1 to 50 Hz.
const INSTANT_BOUND: f64 = 0.09;

/// The same for the moving average over one second: up to 2.4 %.
const MOVING_AVERAGE_BOUND: f64 = 0.03;

/// Instant power is a mean over 25 ms, refreshed every 100 ms: a reading tells what was 12.5 ms to 112.5 ms before it, in nanoseconds.
const INSTANT_LAG_NS: u64 = 62_500_000;

/// The moving average tells of the second before its last refresh, in nanoseconds.
const MOVING_AVERAGE_LAG_NS: u64 = 550_000_000;

/// How well the time of a mean of the driver's buffer, and with it what the curve says of an edge of the work, is known: ±10 ms. Samples of
/// an H100 are means over 20 ms; their stamps fitted the load's own to a few milliseconds, the counter's lag likewise.
pub(crate) const MEAN_TIME_BOUND_S: f64 = 0.010;

/// The same for readings, whose age since the last refresh is unknown, with half of what they are means of.
const INSTANT_TIME_BOUND_S: f64 = 0.0625;
const MOVING_AVERAGE_TIME_BOUND_S: f64 = 0.55;

/// Distances of the samples of a buffer that was seen to hold means without gaps: on an H100 with driver 580, 8 to 47 ms, 20 ms on average. Their
/// median lies between these, in nanoseconds.
const MEDIAN_STEP_NS: std::ops::RangeInclusive<u64> = 10_000_000..=25_000_000;

/// Nine of ten of those distances are no longer than this, in nanoseconds.
const LONG_STEP_NS: u64 = 50_000_000;

/// Fewer distances tell nothing.
const MIN_STEPS: usize = 20;

/// Whether samples of a driver's buffer have the distances of those that were seen to be means without gaps. Nobody has looked at the
/// others.
pub(crate) fn are_means(points: &[Point]) -> bool {
    let mut steps: Vec<u64> = points.windows(2).map(|pair| pair[1].t_ns.saturating_sub(pair[0].t_ns)).collect();
    if steps.len() < MIN_STEPS {
        return false;
    }
    steps.sort_unstable();
    let at = |tenths: usize| steps.get(steps.len() * tenths / 10).copied().unwrap_or(u64::MAX);
    MEDIAN_STEP_NS.contains(&at(5)) && at(9) <= LONG_STEP_NS
}

/// How long before its stamp lies what a point tells about.
pub(super) const fn lag_ns(kind: CurveKind) -> u64 {
    match kind {
        CurveKind::Mean | CurveKind::Samples => 0,
        CurveKind::Instant => INSTANT_LAG_NS,
        CurveKind::MovingAverage => MOVING_AVERAGE_LAG_NS,
    }
}

/// How well the times of the points are known, in seconds. A sample of which nobody knows what it is tells of any moment since the one
/// before.
pub(super) fn time_bound_s(kind: CurveKind, step_s: f64) -> f64 {
    match kind {
        CurveKind::Mean => MEAN_TIME_BOUND_S,
        CurveKind::Instant => INSTANT_TIME_BOUND_S,
        CurveKind::MovingAverage => MOVING_AVERAGE_TIME_BOUND_S,
        CurveKind::Samples => step_s.max(MEAN_TIME_BOUND_S),
    }
}

/// How far a sensor was seen off the truth for what it is blind to, as a share of the reading.
pub(super) const fn blind_share(kind: CurveKind) -> f64 {
    match kind {
        CurveKind::Mean => 0.0,
        CurveKind::Instant | CurveKind::Samples => INSTANT_BOUND,
        CurveKind::MovingAverage => MOVING_AVERAGE_BOUND,
    }
}

/// Whether the 0.1 s of idle time beside work show in a curve. A moving average never sees them, and of a buffer that nobody has looked
/// at it is not known.
pub(super) const fn resolves_edges(kind: CurveKind) -> bool {
    matches!(kind, CurveKind::Mean | CurveKind::Instant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(steps_ms: &[u64]) -> bool {
        let mut t_ns = 0;
        let points = steps_ms.iter().cycle().take(50).map(|step_ms| {
            t_ns += step_ms * 1_000_000;
            Point { t_ns, power_w: 100.0 }
        });
        are_means(&points.collect::<Vec<_>>())
    }

    #[test]
    fn samples_are_means_where_their_distances_are_those_of_means() {
        assert!(every(&[8, 9, 11, 13, 15, 17, 20, 25, 35, 47]) && every(&[20]));
        // A hole is no other distance.
        assert!(every(&[20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 500]));
        assert!(!every(&[100]) && !every(&[5]) && !every(&[17, 17, 17, 70, 70]));
        assert!(!are_means(&[Point { t_ns: 0, power_w: 1.0 }, Point { t_ns: 20_000_000, power_w: 1.0 }]));
    }
}
