//! Energy between two edges: the counters' difference, and the integral of the sampled curve beside it.

use llem_protocol::{DeviceEnergy, EnergyReport, PowerDomain, PowerSample, PowerSourceKind, Reason, ReasonCode};

use super::Reading;
use super::sampler::{CounterFault, Edge};
use crate::clock;

/// A gap of more than this many sampling periods is reported.
const MAX_GAP_PERIODS: f64 = 3.0;

/// A stretch shorter than this many refreshes of a counter has no counter energy: at edges that are not aligned to the refreshes its
/// error could reach a tenth, and a phase of 50 ms at 700 W would read 0 J.
const MIN_REFRESHES: f64 = 10.0;

/// One reading with its time and domain number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) t_ns: u64,
    pub(crate) domain: u16,
    pub(crate) reading: Reading,
}

/// Everything that was sampled in a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    /// What was sampled.
    pub(crate) domains: Vec<PowerDomain>,
    /// All readings in the order of time.
    pub(crate) samples: Vec<Sample>,
    /// Seconds between two samples, as asked.
    pub(crate) period_s: f64,
    /// When a counter was found set back between two edges, and of which domain.
    pub(crate) resets: Vec<(u64, usize)>,
}

/// A point of the power curve.
type Point = (u64, f64);

impl Recording {
    /// Energy of every domain between two edges.
    pub(crate) fn energy(&self, start: &Edge, end: &Edge) -> EnergyReport {
        let numbered = self.domains.iter().enumerate();
        EnergyReport { devices: numbered.map(|(number, domain)| self.device(number, domain, start, end)).collect() }
    }

    /// What speaks against the energy between two edges.
    pub(crate) fn reasons(&self, start: &Edge, end: &Edge) -> Vec<Reason> {
        let numbered = self.domains.iter().enumerate();
        numbered
            .flat_map(|(number, domain)| {
                let (first, last) = self.counters(number, start, end);
                [counter_reason(&domain.id, first, last), self.gap_reason(number, domain, start, end)]
            })
            .flatten()
            .collect()
    }

    /// The samples as the contract has them.
    pub(crate) fn records(&self) -> impl Iterator<Item = PowerSample> {
        self.samples.iter().filter_map(|sample| {
            Some(PowerSample {
                t_ns: sample.t_ns,
                domain: self.domains.get(usize::from(sample.domain))?.clone(),
                power_w: sample.reading.power_w,
                temperature_c: sample.reading.temperature_c.map(f64::from),
                clock_mhz: sample.reading.clock_mhz.map(f64::from),
                memory_used_bytes: sample.reading.memory_used_bytes,
            })
        })
    }

    /// The counter of one domain at both edges. One that was set back in between has no difference.
    fn counters(&self, number: usize, start: &Edge, end: &Edge) -> (CounterReading, CounterReading) {
        let is_reset = |(t, domain): &(u64, usize)| *domain == number && (start.t_ns..=end.t_ns).contains(t);
        let at = |edge: &Edge| edge.counters_j.get(number).copied().unwrap_or(Ok(None));
        let last = if self.resets.iter().any(is_reset) { Err(CounterFault::Reset) } else { at(end) };
        (at(start), last)
    }

    fn device(&self, number: usize, domain: &PowerDomain, start: &Edge, end: &Edge) -> DeviceEnergy {
        let points = self.points(number);
        let inside: Vec<Point> = points.iter().copied().filter(|(t, _)| (start.t_ns..=end.t_ns).contains(t)).collect();
        let curve_j = (inside.len() >= 2).then(|| integrate_j(&points, &inside, start.t_ns, end.t_ns));
        let seconds = clock::seconds_between(start.t_ns, end.t_ns);
        let (first, last) = self.counters(number, start, end);
        DeviceEnergy {
            domain: domain.clone(),
            counter_j: counter_difference_j(first, last)
                .filter(|_| seconds >= MIN_REFRESHES * refresh_s(domain.source)),
            curve_j,
            mean_w: curve_j.filter(|_| seconds > 0.0).map(|energy_j| energy_j / seconds),
            peak_w: inside.iter().map(|(_, power_w)| *power_w).reduce(f64::max),
            samples: inside.len() as u64,
        }
    }

    /// The readings of one domain that have a power. A failed reading is no point: it is not 0 W.
    fn points(&self, number: usize) -> Vec<Point> {
        let own = self.samples.iter().filter(|sample| usize::from(sample.domain) == number);
        own.filter_map(|sample| Some((sample.t_ns, sample.reading.power_w?))).collect()
    }

    fn gap_reason(&self, number: usize, domain: &PowerDomain, start: &Edge, end: &Edge) -> Option<Reason> {
        let inside = self.points(number).into_iter().map(|(t, _)| t).filter(|t| (start.t_ns..=end.t_ns).contains(t));
        let mut times: Vec<u64> = inside.collect();
        times.insert(0, start.t_ns);
        let limit_s = MAX_GAP_PERIODS * self.period_s;
        let silent_s = clock::seconds_between(*times.last()?, end.t_ns);
        let id = &domain.id;
        if silent_s > limit_s {
            let text = format!("{id} gave no power for the last {silent_s:.2} s of the window; run it again");
            return Some(Reason::new(ReasonCode::PowerSourceLost, text));
        }
        let gaps = times.windows(2).map(|pair| clock::seconds_between(pair[0], pair[1]));
        let longest_s = gaps.fold(0.0, f64::max);
        let text = format!("{id} gave no power for {longest_s:.2} s inside the window, more than {limit_s:.2} s");
        (longest_s > limit_s).then(|| Reason::new(ReasonCode::SamplesMissing, text))
    }
}

/// Seconds between two refreshes of a counter. NVML: 0.1 s, seen on an H100 with driver 580. RAPL: about 1 ms (Intel Software Developer's
/// Manual, volume 3, RAPL interfaces).
const fn refresh_s(source: PowerSourceKind) -> f64 {
    match source {
        PowerSourceKind::Nvml => 0.1,
        PowerSourceKind::Rapl => 0.001,
    }
}

type CounterReading = Result<Option<f64>, CounterFault>;

fn counter_difference_j(start: CounterReading, end: CounterReading) -> Option<f64> {
    let difference_j = end.ok()?? - start.ok()??;
    (difference_j >= 0.0).then_some(difference_j)
}

fn counter_reason(id: &str, start: CounterReading, end: CounterReading) -> Option<Reason> {
    let backwards = matches!((start, end), (Ok(Some(start_j)), Ok(Some(end_j))) if end_j < start_j);
    if backwards || [start, end].contains(&Err(CounterFault::Reset)) {
        let text = format!("the energy counter of {id} was set back during the window; run it again");
        return Some(Reason::new(ReasonCode::CounterReset, text));
    }
    let text = format!("the energy counter of {id} could not be read at an edge of the window; run it again");
    [start, end].contains(&Err(CounterFault::Lost)).then(|| Reason::new(ReasonCode::PowerSourceLost, text))
}

/// Trapezoid rule over the points inside, with the power at both edges interpolated between the points around them;
/// where there is no point beyond an edge, the nearest one holds.
fn integrate_j(points: &[Point], inside: &[Point], start_ns: u64, end_ns: u64) -> f64 {
    let mut curve = Vec::with_capacity(inside.len() + 2);
    curve.extend(power_at(points, start_ns).map(|power_w| (start_ns, power_w)));
    curve.extend_from_slice(inside);
    curve.extend(power_at(points, end_ns).map(|power_w| (end_ns, power_w)));
    let pieces = curve.windows(2).map(|pair| {
        let ((t0, p0), (t1, p1)) = (pair[0], pair[1]);
        clock::seconds_between(t0, t1) * f64::midpoint(p0, p1)
    });
    pieces.sum()
}

fn power_at(points: &[Point], t_ns: u64) -> Option<f64> {
    let next = points.partition_point(|(t, _)| *t < t_ns);
    let before = next.checked_sub(1).and_then(|last| points.get(last));
    match (before, points.get(next)) {
        (Some((t0, p0)), Some((t1, p1))) => {
            let share = (t_ns - t0) as f64 / (t1 - t0) as f64;
            Some(p0 + (p1 - p0) * share)
        }
        (Some((_, power_w)), None) | (None, Some((_, power_w))) => Some(*power_w),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn edge(t_ns: u64, counter: CounterReading) -> Edge {
        Edge { t_ns, counters_j: vec![counter] }
    }

    fn recording(points: &[(u64, Option<f64>)]) -> Recording {
        let sample = |(t_ns, power_w): &(u64, Option<f64>)| Sample {
            t_ns: *t_ns,
            domain: 0,
            reading: Reading { power_w: *power_w, ..Reading::default() },
        };
        Recording {
            domains: vec![PowerDomain { source: PowerSourceKind::Nvml, id: "GPU-1".to_owned() }],
            samples: points.iter().map(sample).collect(),
            period_s: 1.0,
            resets: Vec::new(),
        }
    }

    fn codes(recording: &Recording, start: &Edge, end: &Edge) -> Vec<ReasonCode> {
        recording.reasons(start, end).iter().map(|reason| reason.code).collect()
    }

    #[test]
    fn a_ramp_is_integrated_exactly_with_edges_between_samples() {
        // P(t) = 10 t between 0 s and 10 s; from 2.5 s to 7.5 s that is 5 (7.5² − 2.5²) = 250 J.
        let ramp: Vec<_> = (0..=10).map(|t| (t * S, Some(10.0 * t as f64))).collect();
        let (start, end) = (edge(5 * S / 2, Ok(Some(100.0))), edge(15 * S / 2, Ok(Some(350.0))));
        let device = recording(&ramp).energy(&start, &end).devices.remove(0);
        assert!((device.curve_j.unwrap() - 250.0).abs() < 1e-9);
        assert!((device.counter_j.unwrap() - 250.0).abs() < 1e-9);
        assert!((device.mean_w.unwrap() - 50.0).abs() < 1e-9);
        assert_eq!((device.peak_w, device.samples), (Some(70.0), 5));
        assert!(codes(&recording(&ramp), &start, &end).is_empty());
    }

    #[test]
    fn a_failed_sample_is_a_hole_and_never_zero_watts() {
        let points = [(0, Some(100.0)), (S, None), (2 * S, Some(100.0)), (3 * S, Some(100.0))];
        let device = recording(&points).energy(&edge(0, Ok(None)), &edge(3 * S, Ok(None))).devices.remove(0);
        assert!((device.curve_j.unwrap() - 300.0).abs() < 1e-9);
        assert_eq!((device.samples, device.counter_j), (3, None));
    }

    #[test]
    fn a_phase_shorter_than_the_counters_refreshes_has_no_counter_energy() {
        let ms = S / 1000;
        let of = |length_ns| {
            recording(&[]).energy(&edge(0, Ok(Some(5.0))), &edge(length_ns, Ok(Some(5.0)))).devices.remove(0)
        };
        assert_eq!(of(999 * ms).counter_j, None);
        assert_eq!(of(S).counter_j, Some(0.0));
    }

    #[test]
    fn one_sample_is_no_curve() {
        let device = recording(&[(S, Some(5.0))]).energy(&edge(0, Ok(None)), &edge(2 * S, Ok(None))).devices.remove(0);
        assert_eq!((device.curve_j, device.mean_w, device.peak_w), (None, None, Some(5.0)));
    }

    #[test]
    fn gaps_are_missing_inside_and_lost_at_the_end() {
        let (start, end) = (edge(0, Ok(None)), edge(10 * S, Ok(None)));
        let steady = |range: &[u64]| -> Vec<_> { range.iter().map(|t| (t * S, Some(1.0))).collect() };
        let gap = recording(&steady(&[1, 2, 7, 8, 9]));
        assert_eq!(codes(&gap, &start, &end), [ReasonCode::SamplesMissing]);
        let lost = recording(&steady(&[1, 2, 3, 4, 5, 6]));
        assert_eq!(codes(&lost, &start, &end), [ReasonCode::PowerSourceLost]);
        assert_eq!(codes(&recording(&[]), &start, &end), [ReasonCode::PowerSourceLost]);
    }

    #[test]
    fn a_counter_that_goes_back_or_away_is_null_with_a_reason() {
        let full: Vec<_> = (0..=3).map(|t| (t * S, Some(1.0))).collect();
        let full = recording(&full);
        let start = edge(0, Ok(Some(9.0)));
        for (counter, code) in [
            (Ok(Some(8.0)), ReasonCode::CounterReset),
            (Err(CounterFault::Reset), ReasonCode::CounterReset),
            (Err(CounterFault::Lost), ReasonCode::PowerSourceLost),
        ] {
            let end = edge(3 * S, counter);
            assert_eq!(full.energy(&start, &end).devices[0].counter_j, None);
            assert_eq!(codes(&full, &start, &end), [code]);
        }
    }

    #[test]
    fn a_counter_that_was_set_back_between_the_edges_has_no_difference() {
        let full: Vec<_> = (0..=3).map(|t| (t * S, Some(1.0))).collect();
        let (start, end) = (edge(0, Ok(Some(9.0))), edge(3 * S, Ok(Some(11.0))));
        let in_window = Recording { resets: vec![(S, 0)], ..recording(&full) };
        assert_eq!(in_window.energy(&start, &end).devices[0].counter_j, None);
        assert_eq!(codes(&in_window, &start, &end), [ReasonCode::CounterReset]);
        let elsewhere = Recording { resets: vec![(S, 1), (4 * S, 0)], ..recording(&full) };
        assert_eq!(elsewhere.energy(&start, &end).devices[0].counter_j, Some(2.0));
    }
}
