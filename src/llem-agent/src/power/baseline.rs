//! Idle power before the engine exists.

use llem_protocol::{BaselinePower, BaselineRecord, Reason, ReasonCode};

use super::curve::RECTANGULAR;
use super::recording::{DomainRecording, Recording};
use super::sampler::Edge;
use crate::clock::seconds_between;

/// Length of the stretches whose means show how steady idle power is, in nanoseconds.
const BLOCK_NS: u64 = 1_000_000_000;

/// Idle power that changes by more than this share between the first and the second half is not idle.
const MAX_DRIFT: f64 = 0.05;

/// Changes smaller than this are not worth a word, in watts.
const MIN_DRIFT_W: f64 = 2.0;

/// Idle power between two edges, and what speaks against it.
pub(crate) fn baseline(recording: &Recording, start: &Edge, end: &Edge) -> (BaselineRecord, Vec<Reason>) {
    let (start_ns, end_ns) = (start.t_ns, end.t_ns);
    let (mut devices, mut reasons) = (Vec::new(), Vec::new());
    for (place, record) in recording.domains.iter().enumerate() {
        let hole = hole(record, start_ns, end_ns);
        let whole_curve = by_curve(record, start_ns, end_ns).filter(|_| hole.is_none());
        let happened = whole_curve.as_ref().and_then(|power| unstable(record, power, start_ns, end_ns));
        reasons.extend(happened.map(|happened| recording.reason(record, ReasonCode::BaselineUnstable, &happened)));
        reasons.extend(hole.map(|happened| recording.reason(record, ReasonCode::SamplesMissing, &happened)));
        devices.extend(whole_curve.or_else(|| by_counter(record, place, start, end)));
    }
    (BaselineRecord { start_ns, end_ns, devices }, reasons)
}

/// A stretch in which nobody looked: what the curve has there is made up of its neighbours, and no idle power.
fn hole(record: &DomainRecording, start_ns: u64, end_ns: u64) -> Option<String> {
    let curve = record.curve();
    let longest_s = curve.longest_gap_s(start_ns, end_ns);
    let happened = format!("{} gave no power for {longest_s:.2} s while idle power was measured", record.domain.id);
    (!record.points.is_empty() && longest_s > curve.longest_step_s()).then_some(happened)
}

fn by_curve(record: &DomainRecording, start_ns: u64, end_ns: u64) -> Option<BaselinePower> {
    let curve = record.curve();
    let seconds = seconds_between(start_ns, end_ns);
    if curve.inside(start_ns, end_ns).len() < 2 || seconds <= 0.0 {
        return None;
    }
    let mean_w = curve.energy_j(start_ns, end_ns)? / seconds;
    let blocks = end_ns.saturating_sub(start_ns) / BLOCK_NS;
    let means = (0..blocks).filter_map(|block| {
        let from_ns = start_ns + block * BLOCK_NS;
        curve.energy_j(from_ns, from_ns + BLOCK_NS)
    });
    let spread_w = standard_deviation(&means.collect::<Vec<f64>>());
    let mean_u_w = spread_w.map(|spread_w| spread_w / (blocks as f64).sqrt());
    Some(BaselinePower { domain: record.domain.clone(), mean_w, spread_w, mean_u_w })
}

/// Without a whole curve: the counter's difference, whose edges may each be off by one refresh.
fn by_counter(record: &DomainRecording, place: usize, start: &Edge, end: &Edge) -> Option<BaselinePower> {
    let (first, last) = (start.readings.get(place)?, end.readings.get(place)?);
    let difference_j = last.counter_j.ok()?? - first.counter_j.ok()??;
    let seconds = seconds_between(first.t_ns, last.t_ns);
    if difference_j < 0.0 || seconds < 10.0 * record.counter_period_s {
        return None;
    }
    let mean_w = difference_j / seconds;
    let edges_j = 2.0_f64.sqrt() * mean_w * record.counter_period_s * RECTANGULAR;
    Some(BaselinePower { domain: record.domain.clone(), mean_w, spread_w: None, mean_u_w: Some(edges_j / seconds) })
}

fn unstable(record: &DomainRecording, power: &BaselinePower, start_ns: u64, end_ns: u64) -> Option<String> {
    let curve = record.curve();
    let middle_ns = u64::midpoint(start_ns, end_ns);
    let half_s = seconds_between(start_ns, middle_ns);
    let of = |from_ns, to_ns| Some(curve.energy_j(from_ns, to_ns)? / half_s).filter(|mean_w| mean_w.is_finite());
    let (first_w, second_w) = (of(start_ns, middle_ns)?, of(middle_ns, end_ns)?);
    let limit_w = (power.mean_w * MAX_DRIFT).max(MIN_DRIFT_W);
    let spread_w = power.spread_w.unwrap_or_default();
    let happened = format!(
        "idle power of {} was {first_w:.1} W in the first half of the baseline and {second_w:.1} W in the second, spread {spread_w:.1} W",
        record.domain.id
    );
    let moved = (second_w - first_w).abs() > limit_w || spread_w > limit_w;
    moved.then_some(happened)
}

fn standard_deviation(values: &[f64]) -> Option<f64> {
    let n = values.len();
    if n < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    Some((values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use llem_protocol::{CurveKind, PowerDomain, PowerScope, PowerSourceKind};

    use super::super::align::EdgeReading;
    use super::super::curve::Point;
    use super::*;

    const S: u64 = 1_000_000_000;

    fn record(power_w: impl Fn(f64) -> f64) -> DomainRecording {
        let domain = PowerDomain { source: PowerSourceKind::Nvml, id: "GPU-1".to_owned(), scope: PowerScope::Gpu };
        let mut record = DomainRecording::new(domain, CurveKind::Mean, 0.1);
        record.points = (0..=500_u64).map(|i| Point { t_ns: i * S / 50, power_w: power_w(i as f64 / 50.0) }).collect();
        record
    }

    fn edge(t_ns: u64, counter_j: f64) -> Edge {
        let counter_j = Ok(Some(counter_j));
        Edge { t_ns, readings: vec![EdgeReading { t_ns, aligned: false, bracket_ns: S / 10, counter_j }] }
    }

    fn of(record: DomainRecording) -> (BaselinePower, Vec<ReasonCode>) {
        let recording = Recording { domains: vec![record] };
        let (found, reasons) = baseline(&recording, &edge(0, 0.0), &edge(10 * S, 700.0));
        (found.devices[0].clone(), reasons.iter().map(|reason| reason.code).collect())
    }

    #[test]
    fn steady_power_is_stable() {
        let (power, codes) = of(record(|_| 70.0));
        assert!((power.mean_w - 70.0).abs() < 1e-9 && power.spread_w.unwrap() < 1e-9);
        assert!(codes.is_empty());
    }

    #[test]
    fn power_that_falls_or_jumps_is_unstable() {
        assert_eq!(of(record(|t| 120.0 - 4.0 * t)).1, [ReasonCode::BaselineUnstable]);
        assert_eq!(of(record(|t| if t % 4.0 < 1.0 { 150.0 } else { 70.0 })).1, [ReasonCode::BaselineUnstable]);
        let (power, codes) = of(record(|t| if t % 2.0 < 1.0 { 70.0 } else { 71.0 }));
        assert!(codes.is_empty());
        // Ten means of 70 and 71 W: s² = 10·0.25/9.
        let spread_w = (2.5_f64 / 9.0).sqrt();
        assert!((power.spread_w.unwrap() - spread_w).abs() < 0.03 && power.mean_u_w.unwrap() < 0.2);
    }

    #[test]
    fn a_curve_with_a_hole_is_no_idle_power_and_the_counter_is() {
        let without = |seen: fn(u64) -> bool| {
            let whole = record(|_| 65.0);
            let points = whole.points.iter().copied().filter(|point| seen(point.t_ns)).collect();
            of(DomainRecording { points, ..record(|_| 65.0) })
        };
        // A hole in the middle, and a sensor that was lost after a second.
        for (power, codes) in [without(|t_ns| !(2 * S..9 * S).contains(&t_ns)), without(|t_ns| t_ns < S)] {
            assert_eq!(codes, [ReasonCode::SamplesMissing]);
            assert!((power.mean_w - 70.0).abs() < 1e-9 && power.spread_w.is_none(), "{power:?}");
        }
        // Without a counter nobody knows.
        let mut points = record(|_| 65.0).points;
        points.truncate(50);
        let recording = Recording { domains: vec![DomainRecording { points, ..record(|_| 65.0) }] };
        let none =
            |t_ns| Edge { t_ns, readings: vec![EdgeReading { counter_j: Ok(None), ..edge(t_ns, 0.0).readings[0] }] };
        let (found, reasons) = baseline(&recording, &none(0), &none(10 * S));
        assert!(found.devices.is_empty() && reasons.len() == 1, "{found:?} {reasons:?}");
    }

    #[test]
    fn without_a_curve_the_counter_gives_the_mean() {
        let (power, codes) = of(DomainRecording { points: Vec::new(), ..record(|_| 0.0) });
        assert!((power.mean_w - 70.0).abs() < 1e-9);
        assert_eq!((power.spread_w, codes), (None, Vec::new()));
        assert!((power.mean_u_w.unwrap() - 2.0_f64.sqrt() * 0.7 / 3.0_f64.sqrt()).abs() < 1e-9);
    }
}
