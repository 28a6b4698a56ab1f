//! Energy of parts of a stretch that the counter has only as a whole: shared out as the power curve has it.

use llem_protocol::{DeviceEnergy, EnergyMethod, EnergyReport, Reason, ReasonCode};

use super::curve::{Curve, RECTANGULAR, quadrature};
use super::recording::{DomainRecording, Recording};
use super::sampler::Edge;
use crate::clock::seconds_between;

/// A part has to be as long as this many steps of the curve to be seen by it.
const MIN_STEPS: f64 = 2.0;

/// Stretches of time in order, in nanoseconds.
pub(super) type Stretches = [(u64, u64)];

/// A stretch in two parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shared {
    /// Energy of the part.
    pub(crate) part: EnergyReport,
    /// Energy of what remains.
    pub(crate) rest: EnergyReport,
    /// Why a sensor has neither.
    pub(crate) reasons: Vec<Reason>,
}

/// Shares the energy between two edges out to the stretches of `part` and to what lies between them.
pub(crate) fn share_out(recording: &Recording, start: &Edge, end: &Edge, part: &Stretches) -> Shared {
    let mut shared = Shared::default();
    let whole = recording.energy(start, end, None);
    for (record, whole) in recording.domains.iter().zip(whole.devices) {
        let curve = record.curve();
        if let Some((curve_steps, whole_j)) = unresolved(curve, part, "a stretch of compiling").zip(whole.energy_j) {
            let happened = format!("{curve_steps} of {}; both together took {whole_j:.1} J", record.domain.id);
            shared.reasons.push(recording.reason(record, ReasonCode::CompileNotResolved, &happened));
        }
        let (part, rest) = device(record, &whole, part);
        shared.part.devices.push(part);
        shared.rest.devices.push(rest);
    }
    shared
}

fn device(record: &DomainRecording, whole: &DeviceEnergy, part: &Stretches) -> (DeviceEnergy, DeviceEnergy) {
    let curve = record.curve();
    let (from_ns, to_ns) = (whole.start.t_ns, whole.end.t_ns);
    let rest = between(part, from_ns, to_ns);
    let part_j = || {
        let (energy_j, curve_j) = (whole.energy_j?, whole.curve_j.filter(|joules| *joules > 0.0)?);
        let seen = unresolved(curve, part, "").is_none();
        Some(energy_of(curve, part)? * energy_j / curve_j).filter(|_| seen)
    };
    let part_j = part_j();
    let rest_j = whole.energy_j.zip(part_j).map(|(whole_j, part_j)| whole_j - part_j);
    (one(curve, whole, part, part_j), one(curve, whole, &rest, rest_j))
}

/// One part's entry; null where `energy_j` is.
fn one(curve: &Curve, whole: &DeviceEnergy, stretches: &Stretches, energy_j: Option<f64>) -> DeviceEnergy {
    let (from_ns, to_ns) = (whole.start.t_ns, whole.end.t_ns);
    let known = |value: Option<f64>| value.filter(|_| energy_j.is_some());
    let by_counter = whole.method == Some(EnergyMethod::Counter);
    let method = if by_counter { EnergyMethod::CounterShare } else { EnergyMethod::Curve };
    let (whole_j, curve_j) = (whole.energy_j.unwrap_or_default(), whole.curve_j.unwrap_or_default());
    let scale = if curve_j > 0.0 { whole_j / curve_j } else { 0.0 };
    let share = energy_j.map_or(0.0, |joules| if whole_j > 0.0 { joules / whole_j } else { 0.0 });
    let edge_u_j = quadrature(&[
        whole.edge_u_j.unwrap_or_default() * share,
        shift_bound_j(curve, stretches) * scale * RECTANGULAR,
    ]);
    let seconds: f64 = stretches.iter().map(|(from_ns, to_ns)| seconds_between(*from_ns, *to_ns)).sum();
    let inside = || stretches.iter().flat_map(|(from_ns, to_ns)| curve.inside(*from_ns, *to_ns));
    DeviceEnergy {
        energy_j,
        method: energy_j.map(|_| method),
        edge_u_j: known(Some(edge_u_j)),
        sampling_u_j: known(Some(sampling_u_j(curve, stretches, (from_ns, to_ns), by_counter.then_some(scale)))),
        counter_j: None,
        curve_j: known(energy_of(curve, stretches)),
        curve_u_j: known(Some(curve.sampling_of_u_j(stretches))),
        curve_kind: whole.curve_kind.filter(|_| energy_j.is_some()),
        mean_w: energy_j.filter(|_| seconds > 0.0).map(|joules| joules / seconds),
        peak_w: inside().map(|point| point.power_w).reduce(f64::max),
        samples: inside().count() as u64,
        ..whole.clone()
    }
}

/// What is too short for the curve, as a fragment that ends with it; `None` when all is well.
pub(super) fn unresolved(curve: &Curve, stretches: &Stretches, what: &str) -> Option<String> {
    let total_s: f64 = stretches.iter().map(|(from_ns, to_ns)| seconds_between(*from_ns, *to_ns)).sum();
    let mean_s = total_s / stretches.len().max(1) as f64;
    let happened = format!(
        "{what} takes {:.1} ms on average, too little for the power curve ({:.1} ms from point to point)",
        mean_s * 1e3,
        curve.step_s() * 1e3
    );
    // A mean over a second shows nothing shorter, however often it is read.
    (!curve.is_sharp() || mean_s < MIN_STEPS * curve.step_s()).then_some(happened)
}

/// The curve's energy in stretches at whose ends power steps.
pub(super) fn energy_of(curve: &Curve, stretches: &Stretches) -> Option<f64> {
    stretches.iter().map(|(from_ns, to_ns)| curve.phase_j(*from_ns, *to_ns)).sum()
}

/// What lies between stretches.
fn between(stretches: &Stretches, from_ns: u64, to_ns: u64) -> Vec<(u64, u64)> {
    let starts = std::iter::once(from_ns).chain(stretches.iter().map(|(_, end_ns)| *end_ns));
    let ends = stretches.iter().map(|(start_ns, _)| *start_ns).chain([to_ns]);
    starts.zip(ends).filter(|(start_ns, end_ns)| start_ns < end_ns).collect()
}

/// What stretches gain or lose at most when the curve's times are off, by the same for all boundaries: too early by Δt, each has Δt of
/// what was before it in place of its own end; too late, Δt of what follows in place of its own beginning.
pub(super) fn shift_bound_j(curve: &Curve, stretches: &Stretches) -> f64 {
    let steps = stretches.iter().map(|(from_ns, to_ns)| (curve.sides_w(*from_ns), curve.sides_w(*to_ns)));
    let (early_w, late_w) =
        steps.fold((0.0, 0.0), |(early_w, late_w), (from, to)| (early_w + from.0 - to.0, late_w + to.1 - from.1));
    f64::max(early_w.abs(), late_w.abs()) * curve.time_bound_s()
}

/// Standard uncertainty of what stretches took, from what the curve did not see. A part that is scaled to a counter's energy is as unsure as
/// its share of the whole: what was not seen inside it and what was not seen outside count against each other.
pub(super) fn sampling_u_j(curve: &Curve, part: &Stretches, whole: (u64, u64), scale: Option<f64>) -> f64 {
    let part_u_j = curve.sampling_of_u_j(part);
    let Some(scale) = scale else { return part_u_j };
    let rest = between(part, whole.0, whole.1);
    let joules = |stretches: &Stretches| energy_of(curve, stretches).unwrap_or_default();
    let (part_j, rest_j) = (joules(part), joules(&rest));
    let share = if part_j + rest_j > 0.0 { part_j / (part_j + rest_j) } else { 0.0 };
    scale * quadrature(&[(1.0 - share) * part_u_j, share * curve.sampling_of_u_j(&rest)])
}

#[cfg(test)]
mod tests {
    use llem_protocol::{CurveKind, PowerDomain, PowerScope, PowerSourceKind};

    use super::super::align::EdgeReading;
    use super::super::curve::Point;
    use super::*;

    const MS: u64 = 1_000_000;

    /// 100 W, and 300 W from 1 s to 2 s and from 3 s to 3.5 s, of 5 s; the counter has one per cent more.
    fn shared(kind: CurveKind, step_ms: u64, counter: bool, part: &Stretches) -> Shared {
        let domain = PowerDomain { source: PowerSourceKind::Nvml, id: "GPU-1".to_owned(), scope: PowerScope::Gpu };
        let mut record = DomainRecording::new(domain, kind, 0.1);
        let power_w = |t_ms: u64| if matches!(t_ms, 1001..=2000 | 3001..=3500) { 300.0 } else { 100.0 };
        record.points =
            (0..=5000 / step_ms).map(|i| Point { t_ns: i * step_ms * MS, power_w: power_w(i * step_ms) }).collect();
        let edge = |t_ns, joules| {
            let counter_j = Ok(Some(joules).filter(|_| counter));
            Edge { t_ns, readings: vec![EdgeReading { t_ns, aligned: false, bracket_ns: 100 * MS, counter_j }] }
        };
        share_out(&Recording { domains: vec![record] }, &edge(0, 0.0), &edge(5000 * MS, 808.0), part)
    }

    const PART: [(u64, u64); 2] = [(1000 * MS, 2000 * MS), (3000 * MS, 3500 * MS)];

    #[test]
    fn both_parts_together_have_the_energy_of_the_counter() {
        let found = shared(CurveKind::Mean, 20, true, &PART);
        let (part, rest) = (&found.part.devices[0], &found.rest.devices[0]);
        let close = |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-6, "{found:?}");
        close(part.energy_j, 450.0 * 1.01);
        close(rest.energy_j, 350.0 * 1.01);
        close(part.mean_w, 303.0);
        close(part.peak_w, 300.0);
        assert_eq!((part.method, part.counter_j), (Some(EnergyMethod::CounterShare), None));
        assert!(part.edge_u_j.unwrap() > 0.0 && found.reasons.is_empty());
        let by_curve = shared(CurveKind::Mean, 20, false, &PART);
        close(by_curve.part.devices[0].energy_j, 450.0);
        assert_eq!(by_curve.part.devices[0].method, Some(EnergyMethod::Curve));
    }

    #[test]
    fn what_the_curve_does_not_see_has_no_energy_and_the_reason_has_that_of_both() {
        for (kind, step_ms, part) in
            [(CurveKind::MovingAverage, 100, &PART[..]), (CurveKind::Instant, 100, &[(1000 * MS, 1100 * MS)][..])]
        {
            let found = shared(kind, step_ms, true, part);
            assert_eq!((found.part.devices[0].energy_j, found.rest.devices[0].energy_j), (None, None));
            assert_eq!(found.reasons[0].code, ReasonCode::CompileNotResolved);
            assert!(found.reasons[0].message.contains("808.0 J"), "{}", found.reasons[0]);
        }
    }

    #[test]
    fn a_share_of_a_counter_is_as_unsure_as_what_is_blind_inside_and_outside() {
        let found = shared(CurveKind::Instant, 100, true, &PART);
        let u_j = found.part.devices[0].sampling_u_j.unwrap();
        // 9 % of 450 J and of 350 J as bounds, each weighted with the other's share, at least.
        let blind = 0.09 / 3.0_f64.sqrt() * 450.0 * 350.0 / 800.0 * 2.0_f64.sqrt();
        assert!(u_j > blind && u_j < 2.0 * blind, "{u_j} {blind}");
        assert!(shared(CurveKind::Instant, 100, false, &PART).part.devices[0].sampling_u_j.unwrap() > u_j);
    }
}
