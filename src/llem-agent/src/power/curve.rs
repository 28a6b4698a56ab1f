//! A sampled power curve and its integral.

mod kind;
mod sampling;

use llem_protocol::CurveKind;

use crate::clock::seconds_between;

pub(crate) use kind::{MEAN_TIME_BOUND_S, are_means};

/// A stretch without points of more than this many of the curve's usual steps is a gap.
const MAX_GAP_STEPS: f64 = 3.0;

/// Points that come faster than this are no reason to expect the next as soon, in seconds.
const SHORTEST_STEP_S: f64 = 0.02;

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

/// A stretch in which work starts or ends.
struct Split {
    start_ns: u64,
    end_ns: u64,
    /// Power of the side without work.
    idle_w: f64,
    /// Energy of the side with work.
    work_j: f64,
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
    /// A curve of points in the order of time. Readings are moved to the middle of what they tell about.
    pub(crate) fn new(kind: CurveKind, points: &[Point]) -> Self {
        let lag_ns = kind::lag_ns(kind);
        let moved = points.iter().map(|point| Point { t_ns: point.t_ns.saturating_sub(lag_ns), ..*point });
        let points: Vec<Point> = moved.collect();
        let mut energy_j = Vec::with_capacity(points.len());
        let mut total = 0.0;
        for (place, point) in points.iter().enumerate() {
            if let Some(before) = place.checked_sub(1).and_then(|before| points.get(before)) {
                total += seconds_between(before.t_ns, point.t_ns) * mean_between(kind, *before, *point);
            }
            energy_j.push(total);
        }
        let step_s = median_step_s(&points);
        Self { kind, points, energy_j, step_s }
    }

    pub(crate) fn kind(&self) -> CurveKind {
        self.kind
    }

    /// The usual time between two points in seconds.
    pub(crate) fn step_s(&self) -> f64 {
        self.step_s
    }

    /// The longest time without a point that is no gap, in seconds.
    pub(crate) fn longest_step_s(&self) -> f64 {
        MAX_GAP_STEPS * self.step_s.max(SHORTEST_STEP_S)
    }

    /// Whether a point tells of a shorter time than a second.
    pub(crate) fn is_sharp(&self) -> bool {
        self.kind != CurveKind::MovingAverage
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
                _ => interpolate_w(*before, *after, t_ns),
            }),
            (Some(only), None) | (None, Some(only)) => Some(only.power_w),
            (None, None) => None,
        }
    }

    /// Joules of work alone; `None` without any point. What the ends of the work are, see [`Self::split_at_start`].
    pub(crate) fn work_j(&self, start_ns: u64, end_ns: u64) -> Option<f64> {
        let mut whole_j = self.energy_j(start_ns, end_ns)?;
        if let Some(split) = self.split_at_start(start_ns) {
            whole_j = self.energy_j(split.end_ns, end_ns)? + split.work_j;
        }
        let Some(split) = self.split_at_end(end_ns) else { return Some(whole_j) };
        Some(whole_j - self.energy_j(split.start_ns, end_ns)? + split.work_j)
    }

    /// Joules of a phase of the work, with which power steps at both ends. A mean that holds such an end is shared out as its neighbours
    /// have it: by time, and by the power on either side.
    pub(crate) fn phase_j(&self, start_ns: u64, end_ns: u64) -> Option<f64> {
        Some(self.until_step(end_ns)? - self.until_step(start_ns)?)
    }

    fn until_step(&self, t_ns: u64) -> Option<f64> {
        let by_time_j = self.energy_until(t_ns)?;
        let Some((before, held)) = self.around(t_ns).filter(|_| self.kind == CurveKind::Mean) else {
            return Some(by_time_j);
        };
        let (Some(first), Some(mean)) = (self.points.get(before), self.points.get(held)) else {
            return Some(by_time_j);
        };
        let (before_w, after_w) = self.sides_w(t_ns);
        let first_j = before_w * seconds_between(first.t_ns, t_ns);
        let both_j = first_j + after_w * seconds_between(t_ns, mean.t_ns);
        let whole_j = mean.power_w * seconds_between(first.t_ns, mean.t_ns);
        let start_j = self.energy_j.get(before)?;
        Some(if both_j > 0.0 { start_j + whole_j * first_j / both_j } else { by_time_j })
    }

    /// Power before and after a moment at which it steps, in watts: of the neighbours of what holds the moment. 0 before the first point.
    pub(crate) fn sides_w(&self, t_ns: u64) -> (f64, f64) {
        let place = self.points.partition_point(|point| point.t_ns < t_ns);
        let power_w = |place: usize| self.points.get(place).map(|point| point.power_w);
        let before_w = place.checked_sub(1).and_then(power_w).unwrap_or_default();
        (before_w, power_w(place + 1).or_else(|| power_w(place)).unwrap_or(before_w))
    }

    /// Joules from a moment in idle to the start of the work.
    pub(crate) fn lead_j(&self, from_ns: u64, start_ns: u64) -> Option<f64> {
        let Some(split) = self.split_at_start(start_ns) else { return self.energy_j(from_ns, start_ns) };
        let idle_from_ns = from_ns.max(split.start_ns);
        let idle_j = split.idle_w * seconds_between(idle_from_ns, start_ns);
        Some(self.energy_j(from_ns, idle_from_ns)? + idle_j)
    }

    /// Joules from the end of the work to a moment in idle.
    pub(crate) fn tail_j(&self, end_ns: u64, to_ns: u64) -> Option<f64> {
        let Some(split) = self.split_at_end(end_ns) else { return self.energy_j(end_ns, to_ns) };
        let idle_to_ns = to_ns.min(split.end_ns);
        let idle_j = split.idle_w * seconds_between(end_ns, idle_to_ns);
        Some(idle_j + self.energy_j(idle_to_ns, to_ns)?)
    }

    /// What the curve has around the start of the work is some of both powers. To share it out by time would move energy from the higher
    /// side to the lower one: in a mean of length L with a jump ΔP at x, ΔP·x·(L − x)/L at each end of the work, always the same sign. On
    /// the side without work the device is idle, so that side has the power of its neighbour there, and the work has the rest.
    fn split_at_start(&self, start_ns: u64) -> Option<Split> {
        let (before, after) = self.around(start_ns)?;
        let idle_w = self.points.get(before)?.power_w;
        self.split(before, after, idle_w, |from_ns, _| seconds_between(from_ns, start_ns))
    }

    /// The same at the end of the work, after which the device is idle.
    fn split_at_end(&self, end_ns: u64) -> Option<Split> {
        let (before, after) = self.around(end_ns)?;
        let neighbour = if self.kind == CurveKind::Mean { after + 1 } else { after };
        let idle_w = self.points.get(neighbour)?.power_w;
        self.split(before, after, idle_w, |_, to_ns| seconds_between(end_ns, to_ns))
    }

    /// The points between which power that jumps at a moment has both values: those around the mean that holds it, or those that are so far
    /// away that their own times do not matter.
    fn around(&self, t_ns: u64) -> Option<(usize, usize)> {
        let unsure_ns = if self.kind == CurveKind::Mean { 0 } else { (self.time_bound_s() * 1e9) as u64 };
        let before = self.points.partition_point(|point| point.t_ns < t_ns.saturating_sub(unsure_ns));
        let after = self.points.partition_point(|point| point.t_ns < t_ns.saturating_add(unsure_ns));
        Some((before.checked_sub(1)?, after))
    }

    fn split(&self, before: usize, after: usize, idle_w: f64, idle_s: impl Fn(u64, u64) -> f64) -> Option<Split> {
        let (start_ns, end_ns) = (self.points.get(before)?.t_ns, self.points.get(after)?.t_ns);
        let longest_s = self.longest_step_s() + 2.0 * self.time_bound_s();
        let work_j = (self.energy_j(start_ns, end_ns)? - idle_w * idle_s(start_ns, end_ns)).max(0.0);
        (seconds_between(start_ns, end_ns) <= longest_s).then_some(Split { start_ns, end_ns, idle_w, work_j })
    }

    /// How much power changes around a moment, in watts: among the point that covers it, its neighbours, and all that are near. A curve
    /// that may not have seen the idle time beside work could miss all of the jump: for that, power falls to nothing.
    pub(crate) fn jump_w(&self, t_ns: u64) -> f64 {
        let reach_ns = (self.time_bound_s().max(self.step_s.max(SHORTEST_STEP_S) * 1.5) * 1e9) as u64;
        let near = self.inside(t_ns.saturating_sub(reach_ns), t_ns.saturating_add(reach_ns));
        let next = self.points.partition_point(|point| point.t_ns < t_ns);
        let neighbours = self.points.iter().skip(next.saturating_sub(1)).take(3);
        let powers = near.iter().chain(neighbours).map(|point| point.power_w);
        let (low, high) = powers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), w| (low.min(w), high.max(w)));
        let low = if self.resolves_edges() { low } else { 0.0 };
        if high > low { high - low } else { 0.0 }
    }

    /// Standard uncertainty in joules of what a jump of power at a moment is worth, when the moment is known as well as the curve's times
    /// are.
    pub(crate) fn jump_u_j(&self, t_ns: u64) -> f64 {
        self.jump_w(t_ns) * self.time_bound_s() * RECTANGULAR
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

    /// How well the times of the points are known, in seconds.
    pub(crate) fn time_bound_s(&self) -> f64 {
        kind::time_bound_s(self.kind, self.step_s)
    }

    /// Whether the curve tells apart what lies just before an edge of the work and what lies just after it.
    pub(crate) const fn resolves_edges(&self) -> bool {
        kind::resolves_edges(self.kind)
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
            _ => f64::midpoint(start.power_w, here.power_w),
        };
        Some(until_j + seconds_between(start.t_ns, t_ns) * mean_w)
    }
}

fn mean_between(kind: CurveKind, before: Point, after: Point) -> f64 {
    match kind {
        CurveKind::Mean => after.power_w,
        _ => f64::midpoint(before.power_w, after.power_w),
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
mod tests;
