//! Energy of a stretch of work: the counter's difference between the edges around it, less what lies between edges and work.

use llem_protocol::{DeviceEnergy, EdgeRecord, EnergyMethod, EnergyReport};

use super::align::EdgeReading;
use super::cross_check::cross_check;
use super::curve::{Curve, MEAN_TIME_BOUND_S, RECTANGULAR, UNIFORM, quadrature};
use super::recording::{DomainRecording, Recording};
use super::sampler::{CounterFault, Edge};
use crate::clock::seconds_between;

/// Between edges that are not aligned, a stretch shorter than this many refreshes of its counter has no counter energy: its error could
/// reach a tenth, and a phase of 50 ms at 700 W would read 0 J.
const MIN_REFRESHES: f64 = 10.0;

/// A stretch of work between two stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
}

impl Recording {
    /// Energy of every domain between two edges, of `work` alone where that is given.
    pub(crate) fn energy(&self, start: &Edge, end: &Edge, work: Option<Work>) -> EnergyReport {
        let pairs = self.domains.iter().zip(start.readings.iter().zip(&end.readings));
        EnergyReport { devices: pairs.map(|(record, (first, last))| device(record, *first, *last, work)).collect() }
    }
}

/// Everything about one sensor between its two edges.
struct Stretch<'a> {
    curve: &'a Curve,
    first: EdgeReading,
    last: EdgeReading,
    work: Work,
    /// Whether there is idle time around `work`.
    is_alone: bool,
}

fn device(record: &DomainRecording, first: EdgeReading, last: EdgeReading, work: Option<Work>) -> DeviceEnergy {
    let curve = record.curve();
    let (from_ns, to_ns) = (first.t_ns, last.t_ns);
    let whole = Work { start_ns: from_ns, end_ns: to_ns };
    let stretch = Stretch { curve, first, last, work: work.unwrap_or(whole), is_alone: work.is_some() };
    let inside = curve.inside(from_ns, to_ns);
    // A curve that ends in the work tells nothing of the rest of it.
    let reaches = work.is_none_or(|w| record.silent_s(w.start_ns, w.end_ns) <= curve.longest_step_s());
    let sampled = inside.len() >= 2 && reaches;
    let counter_j = counter_difference_j(record, first, last);
    let around = |joules: Option<f64>| joules.filter(|_| sampled && work.is_some() && curve.resolves_edges());
    let mut energy = DeviceEnergy {
        domain: record.domain.clone(),
        start: edge_record(first),
        end: edge_record(last),
        energy_j: None,
        method: None,
        edge_u_j: None,
        sampling_u_j: None,
        counter_j,
        curve_j: curve.energy_j(from_ns, to_ns).filter(|_| sampled),
        curve_u_j: sampled.then(|| curve.between_u_j(from_ns, to_ns)),
        curve_kind: sampled.then(|| curve.kind()),
        cross_check: None,
        lead_j: around(curve.lead_j(from_ns, stretch.work.start_ns)),
        tail_j: around(curve.tail_j(stretch.work.end_ns, to_ns)),
        mean_w: None,
        peak_w: curve.inside(stretch.work.start_ns, stretch.work.end_ns).iter().map(|p| p.power_w).reduce(f64::max),
        samples: inside.len() as u64,
    };
    // A counter that exists and failed leaves no energy: the curve must not stand in for it unseen.
    match (first.counter_j, last.counter_j) {
        (Ok(None), Ok(None)) => by_curve(&stretch, &mut energy),
        _ => by_counter(&stretch, &mut energy),
    }
    energy.cross_check = work.and_then(|work| cross_check(curve, work, &energy));
    let work_s = seconds_between(stretch.work.start_ns, stretch.work.end_ns);
    energy.mean_w = energy.energy_j.filter(|_| work_s > 0.0).map(|energy_j| energy_j / work_s);
    energy
}

fn edge_record(reading: EdgeReading) -> EdgeRecord {
    EdgeRecord {
        t_ns: reading.t_ns,
        aligned: reading.aligned,
        bracket_ms: reading.bracket_ns as f64 / 1e6,
        counter_j: reading.counter_j.ok().flatten(),
    }
}

fn counter_difference_j(record: &DomainRecording, first: EdgeReading, last: EdgeReading) -> Option<f64> {
    if record.resets.iter().any(|t_ns| (first.t_ns..=last.t_ns).contains(t_ns)) {
        return None;
    }
    let difference_j = last.counter_j.ok()?? - first.counter_j.ok()??;
    let refreshes = seconds_between(first.t_ns, last.t_ns) / record.counter_period_s.max(1e-9);
    let aligned = first.aligned && last.aligned;
    // A counter that did not move stands still: that is no energy, not 0.
    (difference_j > 0.0 && (aligned || refreshes >= MIN_REFRESHES)).then_some(difference_j)
}

fn by_counter(stretch: &Stretch<'_>, energy: &mut DeviceEnergy) {
    let Some(counter_j) = energy.counter_j else { return };
    // Work does not give energy back: what the curve says of the time beside it is wrong, or the counter.
    if beside_j(energy).is_some_and(|beside_j| beside_j > counter_j) {
        return;
    }
    energy.method = Some(EnergyMethod::Counter);
    energy.sampling_u_j = Some(0.0);
    if let Some(beside_j) = beside_j(energy) {
        energy.energy_j = Some(counter_j - beside_j);
        energy.edge_u_j = Some(stretch.edge_u_j());
    } else {
        // Without a curve that tells, nobody knows the power before and after the work: anything from none to the mean.
        let outside_j = stretch.outside_s() * stretch.mean_w(counter_j);
        energy.energy_j = Some(counter_j - outside_j / 2.0);
        energy.edge_u_j = Some(quadrature(&[outside_j * UNIFORM, stretch.blind_edge_u_j(counter_j)]));
    }
}

/// Energy between the edges that is not the work's, in joules, where the curve tells.
pub(super) fn beside_j(energy: &DeviceEnergy) -> Option<f64> {
    Some(energy.lead_j? + energy.tail_j?)
}

fn by_curve(stretch: &Stretch<'_>, energy: &mut DeviceEnergy) {
    let Work { start_ns, end_ns } = stretch.work;
    if energy.curve_j.is_none() {
        return;
    }
    energy.method = Some(EnergyMethod::Curve);
    // Around a phase there is no idle time.
    energy.energy_j = if stretch.is_alone { stretch.curve.work_j(start_ns, end_ns) } else { energy.curve_j };
    energy.sampling_u_j = Some(stretch.curve.sampling_u_j(start_ns, end_ns));
    energy.edge_u_j = Some(quadrature(&[stretch.curve.jump_u_j(start_ns), stretch.curve.jump_u_j(end_ns)]));
}

impl Stretch<'_> {
    /// The edges' share of the uncertainty: when the ticks were, how far the counter lags, and which of the energy around the work's
    /// beginning and end belongs to it.
    fn edge_u_j(&self) -> f64 {
        let (start_w, end_w) = (self.power_w(self.first.t_ns), self.power_w(self.last.t_ns));
        let lag_j = (end_w - start_w).abs() * MEAN_TIME_BOUND_S * RECTANGULAR;
        quadrature(&[
            bracket_u_j(self.first, start_w),
            bracket_u_j(self.last, end_w),
            lag_j,
            self.curve.jump_u_j(self.work.start_ns),
            self.curve.jump_u_j(self.work.end_ns),
        ])
    }

    /// The edges' share where there is no curve that tells.
    fn blind_edge_u_j(&self, counter_j: f64) -> f64 {
        let mean_w = self.mean_w(counter_j);
        quadrature(&[bracket_u_j(self.first, mean_w), bracket_u_j(self.last, mean_w)])
    }

    fn power_w(&self, t_ns: u64) -> f64 {
        self.curve.power_w(t_ns).unwrap_or_default()
    }

    /// Seconds between edges and work.
    fn outside_s(&self) -> f64 {
        let lead_s = seconds_between(self.first.t_ns, self.work.start_ns);
        lead_s + seconds_between(self.work.end_ns, self.last.t_ns)
    }

    fn mean_w(&self, counter_j: f64) -> f64 {
        let seconds = seconds_between(self.first.t_ns, self.last.t_ns);
        if seconds > 0.0 { counter_j / seconds } else { 0.0 }
    }
}

/// A tick lies anywhere in its bracket. A value that was not read at a tick is old by anything up to the period: both edges are old by
/// the same on average, which cancels at steady power only, so the whole period counts as a bound.
fn bracket_u_j(reading: EdgeReading, power_w: f64) -> f64 {
    let bracket_s = reading.bracket_ns as f64 / 1e9;
    power_w * bracket_s * if reading.aligned { UNIFORM } else { RECTANGULAR }
}

/// Whether a counter was set back, stood still, or could not be read, between two edges.
pub(super) fn counter_fault(record: &DomainRecording, first: EdgeReading, last: EdgeReading) -> Option<CounterFault> {
    let backwards = matches!((first.counter_j, last.counter_j), (Ok(Some(start)), Ok(Some(end))) if end < start);
    let seen = record.resets.iter().any(|t_ns| (first.t_ns..=last.t_ns).contains(t_ns));
    let at_edges = [first.counter_j, last.counter_j];
    if backwards || seen || at_edges.contains(&Err(CounterFault::Reset)) {
        return Some(CounterFault::Reset);
    }
    // There at one edge and not at the other.
    let went = matches!((first.counter_j, last.counter_j), (Ok(Some(_)), Ok(None)) | (Ok(None), Ok(Some(_))));
    let stands = matches!((first.counter_j, last.counter_j), (Ok(Some(start)), Ok(Some(end))) if end <= start);
    (stands || went || at_edges.contains(&Err(CounterFault::Lost))).then_some(CounterFault::Lost)
}

#[cfg(test)]
mod tests {
    use llem_protocol::{CurveKind, PowerDomain, PowerScope, PowerSourceKind, ReasonCode};

    use super::super::curve::Point;
    use super::super::judge::Judged;
    use super::*;

    const S: u64 = 1_000_000_000;
    const MS: u64 = 1_000_000;

    /// 100 W, and 700 W from 1 s to 3 s, as means over 20 ms.
    fn burst() -> DomainRecording {
        let domain = PowerDomain { source: PowerSourceKind::Nvml, id: "GPU-1".to_owned(), scope: PowerScope::Gpu };
        let mut record = DomainRecording::new(domain, CurveKind::Mean, 0.1);
        record.points = (1..=200_u64)
            .map(|i| Point { t_ns: i * 20 * MS, power_w: if (51..=150).contains(&i) { 700.0 } else { 100.0 } })
            .collect();
        record
    }

    fn reading(t_ns: u64, counter: Result<Option<f64>, CounterFault>, aligned: bool) -> EdgeReading {
        let bracket_ns = if aligned { 6 * MS } else { 100 * MS };
        EdgeReading { t_ns, aligned, bracket_ns, counter_j: counter }
    }

    fn edge(t_ns: u64, counter: Result<Option<f64>, CounterFault>) -> Edge {
        Edge { t_ns, readings: vec![reading(t_ns, counter, true)] }
    }

    fn close(found: Option<f64>, expected: f64) {
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-6), "{found:?} is not {expected}");
    }

    #[test]
    fn what_lies_between_edges_and_work_is_taken_off() {
        let recording = Recording { domains: vec![burst()] };
        // 0.04 s before the work at 100 W, 2 s at 700 W, 0.06 s after it.
        let (start, end) = (edge(960 * MS, Ok(Some(50.0))), edge(3060 * MS, Ok(Some(1460.0))));
        let work = Work { start_ns: S, end_ns: 3 * S };
        let device = recording.energy(&start, &end, Some(work)).devices.remove(0);
        close(device.lead_j, 4.0);
        close(device.tail_j, 6.0);
        close(device.counter_j, 1410.0);
        close(device.curve_j, 1410.0);
        close(device.energy_j, 1400.0);
        close(device.mean_w, 700.0);
        close(device.peak_w, 700.0);
        assert_eq!((device.method, device.sampling_u_j), (Some(EnergyMethod::Counter), Some(0.0)));
        // Two brackets of 6 ms at 100 W and two jumps of 600 W known to 10 ms.
        let expected = (2.0 * (0.6_f64 / 12.0_f64.sqrt()).powi(2) + 2.0 * (6.0_f64 / 3.0_f64.sqrt()).powi(2)).sqrt();
        close(device.edge_u_j, expected);
    }

    #[test]
    fn without_a_counter_the_curve_is_the_energy_and_says_so() {
        let recording = Recording { domains: vec![burst()] };
        let work = Work { start_ns: S, end_ns: 3 * S };
        let device = recording.energy(&edge(S, Ok(None)), &edge(3 * S, Ok(None)), Some(work)).devices.remove(0);
        close(device.energy_j, 1400.0);
        assert_eq!((device.method, device.counter_j), (Some(EnergyMethod::Curve), None));
    }

    #[test]
    fn more_energy_beside_the_work_than_in_all_leaves_none_and_never_less_than_none() {
        let recording = Recording { domains: vec![burst()] };
        let work = Work { start_ns: S, end_ns: S + 20 * MS };
        let (start, end) = (edge(500 * MS, Ok(Some(0.0))), edge(1200 * MS, Ok(Some(40.0))));
        let device = recording.energy(&start, &end, Some(work)).devices.remove(0);
        assert!(beside_j(&device).is_some_and(|beside_j| beside_j > 40.0), "{device:?}");
        assert_eq!((device.energy_j, device.edge_u_j, device.mean_w, device.method), (None, None, None, None));
        close(device.counter_j, 40.0);
        let reasons = recording.reasons(Judged::Window, &start, &end, work, &[]);
        let told = reasons.iter().find(|reason| reason.code == ReasonCode::SourcesDisagree).unwrap();
        assert!(told.message.contains("40.0 J"), "{told}");
    }

    #[test]
    fn without_a_curve_the_energy_around_the_work_is_half_guessed_and_as_unsure() {
        let bare = DomainRecording { points: Vec::new(), ..burst() };
        let recording = Recording { domains: vec![bare] };
        let work = Work { start_ns: S, end_ns: 3 * S };
        let (start, end) = (edge(950 * MS, Ok(Some(0.0))), edge(3050 * MS, Ok(Some(2100.0))));
        let device = recording.energy(&start, &end, Some(work)).devices.remove(0);
        close(device.energy_j, 2050.0);
        let outside = 100.0 / 12.0_f64.sqrt();
        let edges = 2.0_f64.sqrt() * 6.0 / 12.0_f64.sqrt();
        close(device.edge_u_j, outside.hypot(edges));
    }

    #[test]
    fn a_counter_that_failed_leaves_no_energy() {
        let work = Work { start_ns: S, end_ns: 3 * S };
        let of = |record: DomainRecording, end| {
            let recording = Recording { domains: vec![record] };
            recording.energy(&edge(S, Ok(Some(9.0))), &edge(3 * S, end), Some(work)).devices.remove(0)
        };
        for counter in [Ok(Some(8.0)), Ok(None), Err(CounterFault::Reset), Err(CounterFault::Lost)] {
            let device = of(burst(), counter);
            assert_eq!((device.energy_j, device.counter_j), (None, None), "{counter:?}");
            close(device.curve_j, 1400.0);
            assert!(counter_fault(&burst(), reading(0, Ok(Some(9.0)), true), reading(S, counter, true)).is_some());
        }
        let reset = DomainRecording { resets: vec![2 * S], ..burst() };
        assert_eq!(of(reset, Ok(Some(11.0))).energy_j, None);
        let elsewhere = DomainRecording { resets: vec![4 * S], ..burst() };
        close(of(elsewhere, Ok(Some(11.0))).counter_j, 2.0);
    }

    #[test]
    fn a_phase_shorter_than_the_counters_refreshes_has_no_counter_energy() {
        let recording = Recording { domains: vec![burst()] };
        let of = |length_ns, aligned, joules: f64| {
            let at = |t_ns, joules| Edge { t_ns, readings: vec![reading(t_ns, Ok(Some(joules)), aligned)] };
            recording.energy(&at(0, 5.0), &at(length_ns, 5.0 + joules), None).devices.remove(0).energy_j
        };
        assert_eq!(of(999 * MS, false, 3.0), None);
        close(of(S, false, 3.0), 3.0);
        close(of(200 * MS, true, 3.0), 3.0);
        // One that stands still has none either.
        assert_eq!((of(S, false, 0.0), of(S, true, 0.0)), (None, None));
        let still = reading(0, Ok(Some(5.0)), true);
        assert_eq!(counter_fault(&burst(), still, still), Some(CounterFault::Lost));
    }
}
