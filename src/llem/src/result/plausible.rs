//! Records of a container that cannot be true. Nothing is computed from them.

use std::collections::BTreeSet;

use llem_protocol::{
    BaselinePower, DeviceEnergy, EdgeRecord, EnergyReport, EnergySplit, PhaseRecord, PowerDomain, SelfUsage,
    WindowRecord,
};

use super::energy::EnergyContext;
use super::metrics::{RunMetricsError, domain_name};

/// More than any run takes, in joules: 10 MW for a day.
const MOST_J: f64 = 1e12;

/// More than any device draws, in watts.
const MOST_W: f64 = 1e7;

/// More than any run lasts, in seconds: a year.
const MOST_S: f64 = 3.2e7;

/// What a number is: what is a difference may be a little below zero, what is none may not. NaN is never in a range.
#[derive(Clone, Copy)]
enum Number {
    /// An energy from which something was subtracted.
    DifferenceJ(Option<f64>),
    /// An energy, or an uncertainty of one.
    Joules(Option<f64>),
    /// A mean power of such a difference.
    DifferenceW(Option<f64>),
    /// A power, or an uncertainty of one.
    Watts(Option<f64>),
    /// A length.
    Seconds(f64),
    /// A share of something, in percent.
    Percent(Option<f64>),
}

impl Number {
    fn is_possible(self) -> bool {
        match self {
            Self::DifferenceJ(value) => value.is_none_or(|j| (-MOST_J..=MOST_J).contains(&j)),
            Self::Joules(value) => value.is_none_or(|j| (0.0..=MOST_J).contains(&j)),
            Self::DifferenceW(value) => value.is_none_or(|w| (-MOST_W..=MOST_W).contains(&w)),
            Self::Watts(value) => value.is_none_or(|w| (0.0..=MOST_W).contains(&w)),
            Self::Seconds(seconds) => (0.0..=MOST_S).contains(&seconds),
            Self::Percent(value) => value.is_none_or(f64::is_finite),
        }
    }
}

/// The first thing in the records that cannot be true.
pub(super) fn impossible(window: &WindowRecord, context: &EnergyContext<'_>) -> Option<RunMetricsError> {
    let prefill = context.prefill.iter().flat_map(|record| &record.energy.devices);
    let of_phases = context.phases.iter().flat_map(|record| &record.energy);
    let reports = std::iter::once(&window.energy).chain(context.prefill.map(|record| &record.energy)).chain(of_phases);
    let idle = context.baseline.iter().flat_map(|record| &record.devices);
    let sensor = window
        .energy
        .devices
        .iter()
        .chain(prefill)
        .find(|device| !is_possible(device) || !is_work_possible(device))
        .map(|device| &device.domain)
        .or_else(|| reports.into_iter().find_map(twice))
        .or_else(|| idle.into_iter().find(|power| !is_idle_possible(power)).map(|power| &power.domain))
        .or_else(|| window.split.iter().find(|split| !is_split_possible(split)).map(|split| &split.domain));
    let sensor = sensor.map(of_sensor);
    let backwards = context.prefill.filter(|record| record.end_ns < record.start_ns).map(|_| RunMetricsError::Prefill);
    let agent = (!is_usage_possible(window.agent)).then_some(RunMetricsError::Agent);
    sensor.or(backwards).or(agent).or_else(|| context.phases.iter().find_map(impossible_phase))
}

/// What cannot be true of a phase.
pub(super) fn impossible_phase(record: &PhaseRecord) -> Option<RunMetricsError> {
    let end_ns = record.end_ns.unwrap_or(u64::MAX);
    let mut earliest_ns = record.start_ns;
    let mut in_order = earliest_ns <= end_ns;
    for stretch in &record.stretches {
        in_order &= earliest_ns <= stretch.start_ns && stretch.start_ns <= stretch.end_ns && stretch.end_ns <= end_ns;
        earliest_ns = stretch.end_ns;
    }
    if !in_order {
        return Some(RunMetricsError::Phase { phase: record.phase });
    }
    let mut devices = record.energy.iter().flat_map(|report| &report.devices);
    devices.find(|device| !is_possible(device)).map(|device| of_sensor(&device.domain))
}

fn of_sensor(domain: &PowerDomain) -> RunMetricsError {
    RunMetricsError::Energy { domain: domain_name(domain) }
}

fn is_possible(device: &DeviceEnergy) -> bool {
    let check = device.cross_check.map(|check| [check.difference_percent, check.allowed_percent]);
    let numbers = [
        Number::DifferenceJ(device.energy_j),
        Number::Joules(device.edge_u_j),
        Number::Joules(device.sampling_u_j),
        Number::Joules(device.counter_j),
        Number::Joules(device.curve_j),
        Number::Joules(device.curve_u_j),
        Number::DifferenceJ(device.lead_j),
        Number::DifferenceJ(device.tail_j),
        Number::DifferenceW(device.mean_w),
        Number::Watts(device.peak_w),
        Number::Percent(check.map(|[difference, _]| difference)),
        Number::Percent(check.map(|[_, allowed]| allowed)),
    ];
    let is_edge_possible = |edge: &EdgeRecord| {
        // A counter may have run for years.
        edge.counter_j.is_none_or(f64::is_finite) && Number::Seconds(edge.bracket_ms / 1e3).is_possible()
    };
    let edges = [device.start, device.end];
    numbers.into_iter().all(Number::is_possible)
        && edges.iter().all(is_edge_possible)
        && device.start.t_ns <= device.end.t_ns
}

/// Work takes energy. That of a phase may be what is left of another.
fn is_work_possible(device: &DeviceEnergy) -> bool {
    Number::Joules(device.energy_j).is_possible() && Number::Watts(device.mean_w).is_possible()
}

/// A sensor that is in a report more than once: sums would hold its energy as often.
fn twice(report: &EnergyReport) -> Option<&PowerDomain> {
    let mut seen = BTreeSet::new();
    report.devices.iter().map(|device| &device.domain).find(|domain| !seen.insert(*domain))
}

fn is_idle_possible(power: &BaselinePower) -> bool {
    let numbers = [Some(power.mean_w), power.spread_w, power.mean_u_w];
    numbers.into_iter().map(Number::Watts).all(Number::is_possible)
}

fn is_split_possible(split: &EnergySplit) -> bool {
    let differences = [split.prefill_j, split.decode_j, split.other_j].map(|j| Number::DifferenceJ(Some(j)));
    let uncertainties = [split.boundary_u_j, split.prefill_sampling_u_j, split.decode_sampling_u_j];
    let seconds = [split.prefill_s, split.decode_s].map(Number::Seconds);
    let uncertainties = uncertainties.map(|j| Number::Joules(Some(j)));
    differences.into_iter().chain(uncertainties).chain(seconds).all(Number::is_possible)
}

fn is_usage_possible(usage: SelfUsage) -> bool {
    Number::Seconds(usage.cpu_s).is_possible() && (0.0..=1e6).contains(&usage.cpu_share)
}
