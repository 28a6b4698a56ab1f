//! What a curve did not see.

use llem_protocol::CurveKind;

use super::{Curve, MEAN_TIME_BOUND_S, RECTANGULAR, UNIFORM, kind, quadrature};
use crate::clock::seconds_between;

impl Curve {
    /// Standard uncertainty of the integral between two moments in joules, from what lies between the points.
    ///
    /// Where power changed by ΔP within Δt, the change came at an unknown moment of Δt: ΔP·Δt/√12. From step to step that need not be
    /// independent, for a load with a period keeps its place against the sensor's refreshes: the parts are added (JCGM 100:2008, 5.2.2,
    /// note 1). A load that repeats exactly with the refreshes shows the same power at all of them, and nothing in the curve tells. Readings
    /// at moments may miss as much as was seen in measurements, whatever the points say, for between them they are blind. A curve of
    /// means misses its gaps, and the stamp of each mean is known to [`MEAN_TIME_BOUND_S`] only: ΔP times that at every change,
    /// independent. Under load in bursts of 0.1 s an H100's means were 0.9 % below its counter, under steady load 0.1 %.
    pub(crate) fn sampling_u_j(&self, from_ns: u64, to_ns: u64) -> f64 {
        self.sampling_of_u_j(&[(from_ns, to_ns)])
    }

    /// The same over several stretches. What is added within one is added over all of them, for a load that repeats from stretch to stretch
    /// keeps its place.
    pub(crate) fn sampling_of_u_j(&self, stretches: &[(u64, u64)]) -> f64 {
        let sum =
            |part: &dyn Fn(u64, u64) -> f64| stretches.iter().map(|(from_ns, to_ns)| part(*from_ns, *to_ns)).sum();
        let steps_j = sum(&|from_ns, to_ns| self.steps_u_j(from_ns, to_ns));
        let whole_j: f64 = sum(&|from_ns, to_ns| self.energy_j(from_ns, to_ns).unwrap_or_default().abs());
        let stamps: f64 = sum(&|from_ns, to_ns| self.stamps_u_j(from_ns, to_ns).powi(2));
        quadrature(&[steps_j, kind::blind_share(self.kind) * whole_j * RECTANGULAR, stamps.sqrt()])
    }

    /// The same between two edges whose place against the curve is known as well as its times are.
    pub(crate) fn between_u_j(&self, from_ns: u64, to_ns: u64) -> f64 {
        quadrature(&[self.sampling_u_j(from_ns, to_ns), self.jump_u_j(from_ns), self.jump_u_j(to_ns)])
    }

    fn steps_u_j(&self, from_ns: u64, to_ns: u64) -> f64 {
        // With the points around them: a gap may begin before the stretch, or end after it.
        let first = self.points.partition_point(|point| point.t_ns < from_ns).saturating_sub(1);
        let last = self.points.partition_point(|point| point.t_ns <= to_ns).saturating_add(1).min(self.points.len());
        let points = self.points.get(first..last).unwrap_or_default();
        let limit_s = self.longest_step_s();
        let high = points.iter().map(|point| point.power_w).fold(0.0, f64::max);
        let steps = points.windows(2).map(|pair| match pair {
            [a, b] => {
                let step_s = seconds_between(a.t_ns, b.t_ns);
                let is_inside = a.t_ns >= from_ns && b.t_ns <= to_ns;
                match step_s > limit_s {
                    // Nobody looked: power may have been anything up to the highest that was seen.
                    true => high * step_s * UNIFORM,
                    // The ends of the stretch are another matter than what lies between its points.
                    false if self.kind != CurveKind::Mean && is_inside => {
                        (b.power_w - a.power_w).abs() * step_s * UNIFORM
                    }
                    false => 0.0,
                }
            }
            _ => 0.0,
        });
        steps.sum()
    }

    /// What the stamps of means leave open.
    fn stamps_u_j(&self, from_ns: u64, to_ns: u64) -> f64 {
        if self.kind != CurveKind::Mean {
            return 0.0;
        }
        let changes = self.inside(from_ns, to_ns).windows(2).map(|pair| match pair {
            [a, b] => ((b.power_w - a.power_w) * MEAN_TIME_BOUND_S * RECTANGULAR).powi(2),
            _ => 0.0,
        });
        changes.sum::<f64>().sqrt()
    }
}
