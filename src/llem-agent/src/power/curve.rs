//! A sampled power curve and its integral.

use llem_protocol::CurveKind;

use crate::clock::seconds_between;

/// A stretch without points of more than this many of the curve's usual steps is a gap.
pub(crate) const MAX_GAP_STEPS: f64 = 3.0;

/// How far a sensor that looks only part of the time was seen off the truth, as a share of the reading: up to 8.6 % on an H100 under a
/// square wave of 200 ms, read at 1 to 50 Hz.
const INSTANT_BOUND: f64 = 0.09;

/// The same for the moving average over one second: up to 2.4 %.
const MOVING_AVERAGE_BOUND: f64 = 0.03;

/// A bound of ±1 without further knowledge, as a standard uncertainty (JCGM 100:2008, 4.3.7).
pub(crate) const RECTANGULAR: f64 = 0.577_350_269_189_625_8;

/// Standard deviation of a value that lies anywhere in a stretch of length 1.
pub(crate) const UNIFORM: f64 = 0.288_675_134_594_812_9;

/// Independent uncertainties together: the root of the sum of their squares (JCGM 100:2008, 5.1.2). Not `hypot`, which would need a newer C
/// library than the oldest that the agent runs on.
pub(crate) fn quadrature(parts: &[f64]) -> f64 {
    parts.iter().map(|part| part * part).sum::<f64>().sqrt()
}

/// Power at, or up to, a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) t_ns: u64,
    pub(crate) power_w: f64,
}

/// Points in the order of time, with the running integral.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    kind: CurveKind,
    points: Vec<Point>,
    /// Joules from the first point up to each point.
    energy_j: Vec<f64>,
    /// The usual time between two points in seconds.
    step_s: f64,
}

impl Curve {
    /// A curve of points in the order of time.
    pub(crate) fn new(kind: CurveKind, points: &[Point]) -> Self {
        let mut energy_j = Vec::with_capacity(points.len());
        let mut total = 0.0;
        for (place, point) in points.iter().enumerate() {
            if let Some(before) = place.checked_sub(1).and_then(|before| points.get(before)) {
                total += seconds_between(before.t_ns, point.t_ns) * mean_between(kind, *before, *point);
            }
            energy_j.push(total);
        }
        Self { kind, points: points.to_vec(), energy_j, step_s: median_step_s(points) }
    }

    pub(crate) fn kind(&self) -> CurveKind {
        self.kind
    }

    /// The usual time between two points in seconds.
    pub(crate) fn step_s(&self) -> f64 {
        self.step_s
    }

    /// Points between two moments.
    pub(crate) fn inside(&self, from_ns: u64, to_ns: u64) -> &[Point] {
        let first = self.points.partition_point(|point| point.t_ns < from_ns);
        let last = self.points.partition_point(|point| point.t_ns <= to_ns);
        self.points.get(first..last).unwrap_or_default()
    }

    /// Joules between two moments; `None` without any point. Beyond the first and the last point their power holds.
    pub(crate) fn energy_j(&self, from_ns: u64, to_ns: u64) -> Option<f64> {
        Some(self.energy_until(to_ns)? - self.energy_until(from_ns)?)
    }

    /// Power at a moment in watts, as the curve's kind has it.
    pub(crate) fn power_w(&self, t_ns: u64) -> Option<f64> {
        let next = self.points.partition_point(|point| point.t_ns < t_ns);
        match (next.checked_sub(1).and_then(|before| self.points.get(before)), self.points.get(next)) {
            (Some(before), Some(after)) => Some(match self.kind {
                CurveKind::Mean => after.power_w,
                CurveKind::Instant | CurveKind::MovingAverage => interpolate_w(*before, *after, t_ns),
            }),
            (Some(only), None) | (None, Some(only)) => Some(only.power_w),
            (None, None) => None,
        }
    }

    /// How much power changes around a moment, in watts: between the points before and after, at least half a step away.
    pub(crate) fn jump_w(&self, t_ns: u64) -> f64 {
        let reach_ns = (self.step_s.max(0.02) * 1.5e9) as u64;
        let around = self.inside(t_ns.saturating_sub(reach_ns), t_ns.saturating_add(reach_ns));
        let powers = around.iter().map(|point| point.power_w);
        let (low, high) = powers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), w| (low.min(w), high.max(w)));
        if high > low { high - low } else { 0.0 }
    }

    /// The longest time without a point between two moments, in seconds; the edges count as points.
    pub(crate) fn longest_gap_s(&self, from_ns: u64, to_ns: u64) -> f64 {
        let times = self.inside(from_ns, to_ns).iter().map(|point| point.t_ns);
        let mut last = from_ns;
        let mut longest_s: f64 = 0.0;
        for t_ns in times.chain([to_ns]) {
            longest_s = longest_s.max(seconds_between(last, t_ns));
            last = t_ns;
        }
        longest_s
    }

    /// Standard uncertainty of the integral between two moments in joules, from what lies between the points.
    ///
    /// Where power changed by ΔP within Δt, the change came at an unknown moment of Δt: ΔP·Δt/√12, independent from step to step. A
    /// curve of means misses nothing but its gaps; one of readings at moments may miss as much as was seen in measurements, whatever the
    /// points say, for between them it is blind.
    pub(crate) fn sampling_u_j(&self, from_ns: u64, to_ns: u64) -> f64 {
        let points = self.inside(from_ns, to_ns);
        let limit_s = MAX_GAP_STEPS * self.step_s;
        let powers = points.iter().map(|point| point.power_w);
        let (low, high) = powers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), w| (low.min(w), high.max(w)));
        let steps = points.windows(2).map(|pair| match pair {
            [a, b] => {
                let step_s = seconds_between(a.t_ns, b.t_ns);
                let change_w = if step_s > limit_s { high - low } else { (b.power_w - a.power_w).abs() };
                let counts = self.kind != CurveKind::Mean || step_s > limit_s;
                if counts { (change_w * step_s * UNIFORM).powi(2) } else { 0.0 }
            }
            _ => 0.0,
        });
        let blind_j = self.blind_share() * self.energy_j(from_ns, to_ns).unwrap_or_default().abs() * RECTANGULAR;
        quadrature(&[steps.sum::<f64>().sqrt(), blind_j, self.lag_u_j(from_ns, to_ns)])
    }

    const fn blind_share(&self) -> f64 {
        match self.kind {
            CurveKind::Mean => 0.0,
            CurveKind::Instant => INSTANT_BOUND,
            CurveKind::MovingAverage => MOVING_AVERAGE_BOUND,
        }
    }

    /// A moving average shows at an edge what was up to a second before it.
    fn lag_u_j(&self, from_ns: u64, to_ns: u64) -> f64 {
        match (self.kind, self.power_w(from_ns), self.power_w(to_ns)) {
            (CurveKind::MovingAverage, Some(start_w), Some(end_w)) => (end_w - start_w).abs() * RECTANGULAR,
            _ => 0.0,
        }
    }

    fn energy_until(&self, t_ns: u64) -> Option<f64> {
        let next = self.points.partition_point(|point| point.t_ns < t_ns);
        let Some(before) = next.checked_sub(1) else {
            let first = self.points.first()?;
            return Some(-seconds_between(t_ns, first.t_ns) * first.power_w);
        };
        let (start, until_j) = (self.points.get(before)?, self.energy_j.get(before)?);
        let Some(after) = self.points.get(next) else {
            return Some(until_j + seconds_between(start.t_ns, t_ns) * start.power_w);
        };
        let here = Point { t_ns, power_w: self.power_w(t_ns)? };
        let mean_w = match self.kind {
            CurveKind::Mean => after.power_w,
            CurveKind::Instant | CurveKind::MovingAverage => f64::midpoint(start.power_w, here.power_w),
        };
        Some(until_j + seconds_between(start.t_ns, t_ns) * mean_w)
    }
}

fn mean_between(kind: CurveKind, before: Point, after: Point) -> f64 {
    match kind {
        CurveKind::Mean => after.power_w,
        CurveKind::Instant | CurveKind::MovingAverage => f64::midpoint(before.power_w, after.power_w),
    }
}

fn interpolate_w(before: Point, after: Point, t_ns: u64) -> f64 {
    let length_s = seconds_between(before.t_ns, after.t_ns);
    let share = if length_s > 0.0 { seconds_between(before.t_ns, t_ns) / length_s } else { 1.0 };
    before.power_w + (after.power_w - before.power_w) * share
}

fn median_step_s(points: &[Point]) -> f64 {
    let mut steps: Vec<u64> = points.windows(2).map(|pair| pair[1].t_ns.saturating_sub(pair[0].t_ns)).collect();
    let middle = steps.len() / 2;
    if steps.is_empty() {
        return 0.0;
    }
    *steps.select_nth_unstable(middle).1 as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn curve(kind: CurveKind, points: &[(f64, f64)]) -> Curve {
        let points: Vec<Point> =
            points.iter().map(|(t, power_w)| Point { t_ns: (t * 1e9) as u64, power_w: *power_w }).collect();
        Curve::new(kind, &points)
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
    }

    #[test]
    fn a_ramp_of_moments_is_integrated_exactly_between_points() {
        // P(t) = 10 t; from 2.5 s to 7.5 s that is 5 (7.5² − 2.5²) = 250 J.
        let ramp =
            curve(CurveKind::Instant, &(0..=10).map(|t| (f64::from(t), 10.0 * f64::from(t))).collect::<Vec<_>>());
        close(ramp.energy_j(5 * S / 2, 15 * S / 2).unwrap(), 250.0);
        close(ramp.power_w(5 * S / 2).unwrap(), 25.0);
        assert_eq!(ramp.inside(5 * S / 2, 15 * S / 2).len(), 5);
    }

    #[test]
    fn a_mean_covers_the_stretch_before_its_point() {
        let means = curve(CurveKind::Mean, &[(0.0, 100.0), (1.0, 200.0), (3.0, 50.0)]);
        close(means.energy_j(0, 3 * S).unwrap(), 300.0);
        close(means.energy_j(S / 2, 2 * S).unwrap(), 100.0 + 50.0);
        close(means.power_w(S / 2).unwrap(), 200.0);
        // Beyond the last point its power holds, before the first one that of the first.
        close(means.energy_j(3 * S, 4 * S).unwrap(), 50.0);
        close(curve(CurveKind::Mean, &[(2.0, 7.0)]).energy_j(S, 3 * S).unwrap(), 14.0);
        assert_eq!(curve(CurveKind::Mean, &[]).energy_j(0, S), None);
    }

    #[test]
    fn gaps_are_found_and_weigh() {
        let points = [(0.0, 100.0), (0.1, 300.0), (0.2, 100.0), (1.2, 100.0), (1.3, 100.0)];
        let means = curve(CurveKind::Mean, &points);
        close(means.longest_gap_s(0, 13 * S / 10), 1.0);
        close(means.sampling_u_j(0, 13 * S / 10), 200.0 / 12.0_f64.sqrt());
        close(curve(CurveKind::Mean, &points[..3]).sampling_u_j(0, S / 5), 0.0);
    }

    #[test]
    fn readings_at_moments_are_less_sure_than_means() {
        let flat: Vec<(f64, f64)> = (0..=100).map(|t| (f64::from(t) / 10.0, 100.0)).collect();
        close(curve(CurveKind::Mean, &flat).sampling_u_j(0, 10 * S), 0.0);
        close(curve(CurveKind::Instant, &flat).sampling_u_j(0, 10 * S), 90.0 / 3.0_f64.sqrt());
        let rising = [(0.0, 100.0), (1.0, 200.0)];
        let seen = (100.0_f64 / 12.0_f64.sqrt()).powi(2) + (0.09_f64 * 150.0 / 3.0_f64.sqrt()).powi(2);
        close(curve(CurveKind::Instant, &rising).sampling_u_j(0, S), seen.sqrt());
    }

    #[test]
    fn a_jump_is_seen_around_its_moment_only() {
        let step: Vec<(f64, f64)> =
            (0..100).map(|i| (f64::from(i) * 0.02, if i < 50 { 100.0 } else { 700.0 })).collect();
        let step = curve(CurveKind::Mean, &step);
        close(step.jump_w(S), 600.0);
        close(step.jump_w(S / 2), 0.0);
    }
}
