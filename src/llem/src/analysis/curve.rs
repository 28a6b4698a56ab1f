//! Power curves, thinned so that no peak is lost.

use serde::Serialize;

use super::tables::PowerPoint;

/// The curve of one sensor in equal stretches of time, with the lowest and highest point of each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PowerCurve {
    /// The sensor, `source:id`.
    pub domain: String,
    /// Lowest and highest power of each stretch in watts, as read; null where a stretch has no point.
    pub stretches: Vec<Option<(f64, f64)>>,
}

impl PowerCurve {
    /// Thins points to at most `buckets` stretches between `start_ns` and `end_ns`. A stretch shorter than the distance of the points would be
    /// empty: there are no more stretches than points.
    pub(super) fn thinned(domain: String, points: &[PowerPoint], span: (u64, u64), buckets: usize) -> Self {
        let (start_ns, end_ns) = span;
        let buckets = buckets.min(points.len()).max(1);
        let length = end_ns.saturating_sub(start_ns).max(1) as f64;
        let mut stretches: Vec<Option<(f64, f64)>> = vec![None; buckets];
        for point in points.iter().filter(|point| (start_ns..=end_ns).contains(&point.t_ns)) {
            let share = (point.t_ns - start_ns) as f64 / length;
            let place = ((share * buckets as f64) as usize).min(buckets - 1);
            if let Some(stretch) = stretches.get_mut(place) {
                let (low, high) = stretch.unwrap_or((point.power_w, point.power_w));
                *stretch = Some((low.min(point.power_w), high.max(point.power_w)));
            }
        }
        Self { domain, stretches }
    }
}

#[cfg(test)]
mod tests {
    use super::{PowerCurve, PowerPoint};

    #[test]
    fn peaks_of_a_single_point_stay_wherever_they_are() {
        for peak in 0..1000 {
            let point = |i: u64| PowerPoint { t_ns: 5_000 + i * 10, power_w: if i == peak { 900.0 } else { 100.0 } };
            let points: Vec<PowerPoint> = (0..1000).map(point).collect();
            let curve = PowerCurve::thinned("d".to_owned(), &points, (5_000, 15_000), 24);
            assert_eq!(curve.stretches.len(), 24);
            let highs: Vec<f64> = curve.stretches.iter().flatten().map(|(_, high)| *high).collect();
            assert_eq!(highs.iter().filter(|high| **high > 800.0).count(), 1, "{peak}");
            assert!(curve.stretches.iter().flatten().all(|(low, _)| (*low - 100.0).abs() < 1e-9));
        }
    }

    #[test]
    fn holes_are_holes_and_few_points_are_few_stretches() {
        let point = |t_ns| PowerPoint { t_ns, power_w: 1.0 };
        let curve = PowerCurve::thinned("d".to_owned(), &[point(0), point(10), point(100)], (0, 100), 50);
        assert_eq!(curve.stretches, [Some((1.0, 1.0)), None, Some((1.0, 1.0))]);
        assert_eq!(PowerCurve::thinned("d".to_owned(), &[], (5, 5), 50).stretches, [None]);
        assert_eq!(PowerCurve::thinned("d".to_owned(), &[point(1)], (7, 3), 50).stretches, [None]);
    }
}
