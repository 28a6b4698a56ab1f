//! What speaks against the energy of a window.

use llem_protocol::{DeviceEnergy, Reason, ReasonCode};

use super::align::EdgeReading;
use super::curve::quadrature;
use super::energy::{Work, counter_fault};
use super::recording::{DomainRecording, Recording, StateSample};
use super::sampler::{CounterFault, Edge};
use crate::clock::seconds_between;

/// Counter and curve may differ by this share of the counter, or by twice the curve's own uncertainty where that is more.
const MAX_DISAGREEMENT: f64 = 0.01;

/// Below this length the edges decide how well counter and curve agree, in seconds.
const MIN_COMPARED_S: f64 = 1.0;

/// Clocks-event reasons of nvml.h that mean heat or hardware protection: HW slowdown, SW thermal slowdown, HW thermal slowdown, HW power
/// brake.
pub(super) const THROTTLED: u64 = 0x08 | 0x20 | 0x40 | 0x80;

/// `nvmlClocksEventReasonSwPowerCap`: clocks are held down to stay within the power limit.
const POWER_CAP: u64 = 0x04;

/// Warming by more than this between the first and the last fifth of the window is drift, in kelvin.
const MAX_DRIFT_K: f64 = 5.0;

/// Memory in use grows by less than this when an engine leaves a GPU alone, in bytes.
const MIN_ENGINE_BYTES: u64 = 64 << 20;

impl Recording {
    /// What speaks against the energy of the work between two edges. `limited` are GPUs under a lowered power limit.
    pub(crate) fn reasons(&self, start: &Edge, end: &Edge, work: Work, limited: &[String]) -> Vec<Reason> {
        let energy = self.energy(start, end, Some(work));
        let edges = start.readings.iter().zip(&end.readings);
        let domains = self.domains.iter().zip(edges).zip(&energy.devices);
        domains
            .flat_map(|((record, (first, last)), device)| {
                let states = record.states_between(work.start_ns, work.end_ns);
                let is_limited = limited.contains(&record.domain.id);
                let counts = self.counts(record);
                let found = [
                    counter_reason(record, *first, *last),
                    alignment(record, *first, *last),
                    no_counter(record, *first, *last),
                    gaps(record, work),
                    disagreement(device),
                    throttled(record, states),
                    power_capped(record, states, is_limited),
                    drift(record, states),
                    unused(record, work),
                ];
                found.into_iter().flatten().map(move |reason| if counts { reason } else { reason.as_note() })
            })
            .collect()
    }
}

fn counter_reason(record: &DomainRecording, first: EdgeReading, last: EdgeReading) -> Option<Reason> {
    let id = &record.domain.id;
    Some(match counter_fault(record, first, last)? {
        CounterFault::Reset => {
            Reason::new(ReasonCode::CounterReset, format!("the energy counter of {id} was set back during the window"))
        }
        CounterFault::Lost => {
            let happened =
                format!("the energy counter of {id} could not be read at an edge of the window, or stood still");
            Reason::new(ReasonCode::PowerSourceLost, happened)
        }
    })
}

fn alignment(record: &DomainRecording, first: EdgeReading, last: EdgeReading) -> Option<Reason> {
    let wrong = [first, last].into_iter().find(|edge| matches!(edge.counter_j, Ok(Some(_))) && !edge.aligned)?;
    let happened = format!(
        "no tick of the energy counter of {} was seen at an edge of the window; the edge is known to {:.0} ms",
        record.domain.id,
        wrong.bracket_ns as f64 / 1e6
    );
    Some(Reason::new(ReasonCode::EdgeNotAligned, happened))
}

fn no_counter(record: &DomainRecording, first: EdgeReading, last: EdgeReading) -> Option<Reason> {
    let is_gpu = record.domain.scope == llem_protocol::PowerScope::Gpu;
    let absent = (first.counter_j, last.counter_j) == (Ok(None), Ok(None));
    let happened = format!("{} has no energy counter: its energy is the integral of its power curve", record.domain.id);
    (is_gpu && absent).then(|| Reason::new(ReasonCode::NoEnergyCounter, happened))
}

/// A curve that ends before the work, or has a hole in it. Without sampling there is neither.
fn gaps(record: &DomainRecording, work: Work) -> Option<Reason> {
    let (id, curve) = (&record.domain.id, record.curve());
    if record.points.is_empty() {
        let happened = format!("{id} gave no power at all");
        return (!record.failures.is_empty()).then(|| Reason::new(ReasonCode::PowerSourceLost, happened));
    }
    let limit_s = curve.longest_step_s();
    let silent_s = record.silent_s(work.start_ns, work.end_ns);
    if silent_s > limit_s {
        let happened = format!("{id} gave no power for the last {silent_s:.2} s of the window");
        return Some(Reason::new(ReasonCode::PowerSourceLost, happened));
    }
    let longest_s = curve.longest_gap_s(work.start_ns, work.end_ns);
    let happened = format!("{id} gave no power for {longest_s:.2} s inside the window, more than {limit_s:.2} s");
    (longest_s > limit_s).then(|| Reason::new(ReasonCode::SamplesMissing, happened))
}

fn disagreement(device: &DeviceEnergy) -> Option<Reason> {
    let (counter_j, curve_j) = (device.counter_j?, device.curve_j?);
    let seconds = seconds_between(device.start.t_ns, device.end.t_ns);
    if seconds < MIN_COMPARED_S || counter_j <= 0.0 {
        return None;
    }
    let own_u_j = quadrature(&[device.curve_u_j.unwrap_or_default(), device.edge_u_j.unwrap_or_default()]);
    let limit_j = (MAX_DISAGREEMENT * counter_j).max(2.0 * own_u_j);
    let difference_j = curve_j - counter_j;
    let happened = format!(
        "over {seconds:.1} s the counter of {} gives {counter_j:.1} J and its power curve {curve_j:.1} J, {:+.1} %; {:.1} % are allowed",
        device.domain.id,
        difference_j / counter_j * 100.0,
        limit_j / counter_j * 100.0
    );
    (difference_j.abs() > limit_j).then(|| Reason::new(ReasonCode::SourcesDisagree, happened))
}

/// Share of the states in which one of the bits of `mask` is set, with all such bits; `None` when no state has them.
fn share_of(states: &[StateSample], mask: u64) -> Option<(f64, u64)> {
    let masks: Vec<u64> = states.iter().filter_map(|sample| sample.state.throttle_reasons).collect();
    let hits = masks.iter().filter(|found| *found & mask != 0).count();
    let bits = masks.iter().fold(0, |all, found| all | (found & mask));
    (hits > 0).then(|| (hits as f64 / masks.len() as f64, bits))
}

fn throttled(record: &DomainRecording, states: &[StateSample]) -> Option<Reason> {
    let (share, bits) = share_of(states, THROTTLED)?;
    let happened = format!(
        "{} was slowed down by heat or hardware protection for {:.0} % of the window (clocks-event reasons {bits:#x})",
        record.domain.id,
        share * 100.0
    );
    Some(Reason::new(ReasonCode::Throttled, happened))
}

/// A board that runs into its own default limit does what it is built to do; one whose limit was lowered is another machine.
fn power_capped(record: &DomainRecording, states: &[StateSample], is_limited: bool) -> Option<Reason> {
    let (share, _) = share_of(states, POWER_CAP)?;
    let limit = if is_limited { "a power limit below its default" } else { "its default power limit" };
    let happened = format!("{} was at {limit} for {:.0} % of the window", record.domain.id, share * 100.0);
    let reason = Reason::new(ReasonCode::PowerCapped, happened);
    Some(if is_limited { reason } else { reason.as_note() })
}

/// Of each device against itself: that two devices differ is no drift.
fn drift(record: &DomainRecording, states: &[StateSample]) -> Option<Reason> {
    let fifth = states.len().div_ceil(5);
    let mean = |part: &[StateSample]| {
        let degrees: Vec<f64> = part.iter().filter_map(|s| s.state.temperature_c.map(f64::from)).collect();
        (!degrees.is_empty()).then(|| degrees.iter().sum::<f64>() / degrees.len() as f64)
    };
    let first_c = mean(states.get(..fifth)?)?;
    let last_c = mean(states.get(states.len() - fifth..)?)?;
    let id = &record.domain.id;
    let happened =
        format!("{id} went from {first_c:.1} °C to {last_c:.1} °C in the window, by more than {MAX_DRIFT_K} K");
    ((last_c - first_c).abs() > MAX_DRIFT_K).then(|| Reason::new(ReasonCode::TemperatureDrift, happened))
}

/// A GPU on which memory in use never grew holds nothing of an engine.
fn unused(record: &DomainRecording, work: Work) -> Option<Reason> {
    let before = record.states.iter().find_map(|sample| sample.state.memory_used_bytes)?;
    let states = record.states_between(work.start_ns, work.end_ns);
    let used = states.iter().filter_map(|sample| sample.state.memory_used_bytes).max()?;
    let grown_mib = used.saturating_sub(before) >> 20;
    let happened =
        format!("memory in use on {} was {grown_mib} MiB more in the window than before the engine", record.domain.id);
    (used.saturating_sub(before) < MIN_ENGINE_BYTES).then(|| Reason::new(ReasonCode::GpuNotUsed, happened))
}

#[cfg(test)]
mod tests;
