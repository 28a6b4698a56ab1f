//! Counter and curve of one sensor against each other.

use llem_protocol::{CrossCheck, CrossCheckBasis, CurveKind, DeviceEnergy};

use super::curve::Curve;
use super::energy::Work;
use crate::clock::seconds_between;

/// Counter and curve may differ by this share of the counter.
const ONE_PERCENT: f64 = 0.01;

/// Below this length the edges decide how well counter and curve agree, in seconds.
const MIN_COMPARED_S: f64 = 1.0;

/// From this length on a steady load shows a curve all of its power, in seconds.
const STEADY_S: f64 = 10.0;

/// Points of a steady load scatter by less than this share of their mean: 100 of them then give it to half a per cent.
const STEADY_SHARE: f64 = 0.05;

/// What is near the ends of the work is not looked at for that, in nanoseconds.
const ENDS_NS: u64 = 500_000_000;

/// Compares both; `None` where one is missing, or for less than a second.
///
/// 1 % is what they may differ by. More is allowed as far as the curve itself is not sure of its integral, and not for that under a load
/// that was steady for long enough: what the curve is blind to elsewhere, it then has seen. An average over a second is never without
/// its smear at the edges.
pub(super) fn cross_check(curve: &Curve, work: Work, device: &DeviceEnergy) -> Option<CrossCheck> {
    let (counter_j, curve_j) = (device.counter_j?, device.curve_j?);
    if seconds_between(device.start.t_ns, device.end.t_ns) < MIN_COMPARED_S || counter_j <= 0.0 {
        return None;
    }
    let own = 2.0 * device.curve_u_j.unwrap_or_default() / counter_j;
    let widened = own > ONE_PERCENT && !was_steady(curve, work);
    let (allowed, basis) =
        if widened { (own, CrossCheckBasis::CurveUncertainty) } else { (ONE_PERCENT, CrossCheckBasis::OnePercent) };
    let difference = curve_j / counter_j - 1.0;
    Some(CrossCheck {
        difference_percent: 100.0 * difference,
        allowed_percent: 100.0 * allowed,
        basis,
        agrees: difference.abs() <= allowed,
    })
}

fn was_steady(curve: &Curve, work: Work) -> bool {
    if curve.kind() == CurveKind::MovingAverage || seconds_between(work.start_ns, work.end_ns) < STEADY_S {
        return false;
    }
    let points = curve.inside(work.start_ns + ENDS_NS, work.end_ns - ENDS_NS);
    let n = points.len() as f64;
    let mean_w = points.iter().map(|point| point.power_w).sum::<f64>() / n;
    let variance = points.iter().map(|point| (point.power_w - mean_w).powi(2)).sum::<f64>() / n;
    variance.sqrt() <= STEADY_SHARE * mean_w
}

#[cfg(test)]
mod tests {
    use llem_protocol::{PowerDomain, PowerScope, PowerSourceKind};

    use super::super::align::EdgeReading;
    use super::super::curve::Point;
    use super::super::recording::{DomainRecording, Recording};
    use super::super::sampler::Edge;
    use super::*;

    const MS: u64 = 1_000_000;

    /// A sensor read every 100 ms, `power_w(t)` with t in tenths of a second, between edges at 0 and `seconds`; the counter is off the
    /// truth of 500 W by `off`.
    fn of(kind: CurveKind, seconds: u64, off: f64, power_w: impl Fn(u64) -> f64) -> CrossCheck {
        let domain = PowerDomain { source: PowerSourceKind::Nvml, id: "GPU-1".to_owned(), scope: PowerScope::Gpu };
        let mut record = DomainRecording::new(domain, kind, 0.1);
        record.points = (0..=10 * seconds + 20).map(|i| Point { t_ns: i * 100 * MS, power_w: power_w(i) }).collect();
        let edge = |t_ns, counter_j| {
            let reading = EdgeReading { t_ns, aligned: true, bracket_ns: 6 * MS, counter_j: Ok(Some(counter_j)) };
            Edge { t_ns, readings: vec![reading] }
        };
        let end_ns = (seconds + 1) * 1000 * MS;
        let (start, end) = (edge(1000 * MS, 0.0), edge(end_ns, 500.0 * seconds as f64 * (1.0 + off)));
        let work = Work { start_ns: 1000 * MS, end_ns };
        let energy = Recording { domains: vec![record] }.energy(&start, &end, Some(work));
        energy.devices[0].cross_check.unwrap()
    }

    #[test]
    fn under_steady_load_of_ten_seconds_one_per_cent_is_the_limit_whatever_the_sensor() {
        for kind in [CurveKind::Mean, CurveKind::Instant] {
            let found = of(kind, 10, 0.015, |_| 500.0);
            assert_eq!((found.basis, found.agrees), (CrossCheckBasis::OnePercent, false), "{found:?}");
            assert!((found.allowed_percent - 1.0).abs() < 1e-9 && (found.difference_percent + 1.4778).abs() < 1e-3);
            assert!(of(kind, 10, 0.005, |_| 500.0).agrees);
        }
    }

    #[test]
    fn elsewhere_the_curves_own_uncertainty_decides_and_is_named() {
        let bursts = |i: u64| if i % 4 < 2 { 700.0 } else { 300.0 };
        for found in [
            of(CurveKind::Instant, 10, 0.03, bursts),
            of(CurveKind::Instant, 9, 0.03, |_| 500.0),
            of(CurveKind::MovingAverage, 10, 0.03, |_| 500.0),
        ] {
            assert_eq!((found.basis, found.agrees), (CrossCheckBasis::CurveUncertainty, true), "{found:?}");
            assert!(found.allowed_percent > 3.0, "{found:?}");
        }
        // Means under steady load are as sure after a second.
        assert_eq!(of(CurveKind::Mean, 2, 0.015, |_| 500.0).basis, CrossCheckBasis::OnePercent);
    }
}
