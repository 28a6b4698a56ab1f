//! What speaks against the energy of a window, or of the passes of prefill alone.

use std::fmt;

use llem_protocol::{CrossCheckBasis, DeviceEnergy, Reason, ReasonCode};

use super::align::EdgeReading;
use super::energy::{Work, beside_j, counter_fault};
use super::recording::{DomainRecording, Recording, StateSample};
use super::sampler::{CounterFault, Edge};
use crate::clock::seconds_between;

/// Clocks-event reasons of nvml.h that mean heat or hardware protection: HW slowdown, SW thermal slowdown, HW thermal slowdown, HW power
/// brake.
pub(super) const THROTTLED: u64 = 0x08 | 0x20 | 0x40 | 0x80;

/// `nvmlClocksEventReasonSwPowerCap`: clocks are held down to stay within the power limit.
const POWER_CAP: u64 = 0x04;

/// Warming by more than this between the first and the last fifth of the window is drift, in kelvin.
const MAX_DRIFT_K: f64 = 5.0;

/// Memory in use grows by less than this when an engine leaves a GPU alone, in bytes.
const MIN_ENGINE_BYTES: u64 = 64 << 20;

/// What is judged, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// The measured window.
    Window,
    /// The passes of prefill alone.
    Prefill,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Window => "the window",
            Self::Prefill => "the passes of prefill alone",
        })
    }
}

/// A code with what happened.
type Found = Option<(ReasonCode, String)>;

impl Recording {
    /// What speaks against the energy of the work between two edges. `limited` are GPUs under a lowered power limit. Of the passes of prefill
    /// alone, whose energy is only compared with the window's, the sensors that count, and what is not to be said of the window already.
    pub(crate) fn reasons(
        &self,
        judged: Judged,
        start: &Edge,
        end: &Edge,
        work: Work,
        limited: &[String],
    ) -> Vec<Reason> {
        let energy = self.energy(start, end, Some(work));
        let edges = start.readings.iter().zip(&end.readings);
        let domains = self.domains.iter().zip(edges).zip(&energy.devices);
        let of_window = judged == Judged::Window;
        domains
            .filter(|((record, _), _)| of_window || self.counts(record))
            .flat_map(|((record, (first, last)), device)| {
                let states = record.states_between(work.start_ns, work.end_ns);
                let is_limited = limited.contains(&record.domain.id);
                let found = [
                    counter_reason(judged, record, *first, *last),
                    alignment(judged, record, *first, *last),
                    gaps(judged, record, work),
                    disagreement(device),
                    throttled(judged, record, states),
                    power_capped(judged, record, states, is_limited).filter(|_| of_window || is_limited),
                ];
                let of_window_alone =
                    || [no_counter(record, device, *first, *last), drift(record, states), unused(record, work)];
                let more = of_window.then(of_window_alone).into_iter().flatten();
                let all = found.into_iter().chain(more).flatten();
                all.map(|(code, happened)| self.reason(record, code, &happened))
            })
            .collect()
    }
}

fn counter_reason(judged: Judged, record: &DomainRecording, first: EdgeReading, last: EdgeReading) -> Found {
    let id = &record.domain.id;
    Some(match counter_fault(record, first, last)? {
        CounterFault::Reset => {
            (ReasonCode::CounterReset, format!("the energy counter of {id} was set back during {judged}"))
        }
        CounterFault::Lost => {
            let happened =
                format!("the energy counter of {id} could not be read at an edge of {judged}, or stood still");
            (ReasonCode::PowerSourceLost, happened)
        }
    })
}

fn alignment(judged: Judged, record: &DomainRecording, first: EdgeReading, last: EdgeReading) -> Found {
    let wrong = [first, last].into_iter().find(|edge| matches!(edge.counter_j, Ok(Some(_))) && !edge.aligned)?;
    let happened = format!(
        "no tick of the energy counter of {} was seen at an edge of {judged}; the edge is known to {:.0} ms",
        record.domain.id,
        wrong.bracket_ns as f64 / 1e6
    );
    Some((ReasonCode::EdgeNotAligned, happened))
}

/// A GPU without a counter has the energy of its curve, and without sampling none.
fn no_counter(record: &DomainRecording, device: &DeviceEnergy, first: EdgeReading, last: EdgeReading) -> Found {
    let id = &record.domain.id;
    let is_gpu = record.domain.scope == llem_protocol::PowerScope::Gpu;
    let absent = (first.counter_j, last.counter_j) == (Ok(None), Ok(None));
    let found = if device.energy_j.is_some() {
        (
            ReasonCode::NoEnergyCounter,
            format!("{id} has no energy counter: its energy is the integral of its power curve"),
        )
    } else if record.points.is_empty() && record.failures.is_empty() {
        let happened = format!(
            "{id} has no energy counter and its power was not sampled, so that its energy is null: `measurement.sample_hz` is 0"
        );
        (ReasonCode::NoGpuPowerSource, happened)
    } else {
        (
            ReasonCode::NoEnergyCounter,
            format!("{id} has no energy counter, and its power curve is not whole: its energy is null"),
        )
    };
    (is_gpu && absent).then_some(found)
}

/// A curve that ends before the work, or has a hole in it. Without sampling there is neither.
fn gaps(judged: Judged, record: &DomainRecording, work: Work) -> Found {
    let (id, curve) = (&record.domain.id, record.curve());
    if record.points.is_empty() {
        let happened = format!("{id} gave no power at all");
        return (!record.failures.is_empty()).then_some((ReasonCode::PowerSourceLost, happened));
    }
    let limit_s = curve.longest_step_s();
    let silent_s = record.silent_s(work.start_ns, work.end_ns);
    if silent_s > limit_s {
        let happened = format!("{id} gave no power for the last {silent_s:.2} s of {judged}");
        return Some((ReasonCode::PowerSourceLost, happened));
    }
    let longest_s = curve.longest_gap_s(work.start_ns, work.end_ns);
    let happened = format!("{id} gave no power for {longest_s:.2} s inside {judged}, more than {limit_s:.2} s");
    (longest_s > limit_s).then_some((ReasonCode::SamplesMissing, happened))
}

fn disagreement(device: &DeviceEnergy) -> Found {
    beside_is_more(device).or_else(|| cross_check_fails(device))
}

/// The curve has more energy beside the work than the counter in all: see [`beside_j`].
fn beside_is_more(device: &DeviceEnergy) -> Found {
    let (counter_j, beside_j) = (device.counter_j?, beside_j(device)?);
    let happened = format!(
        "the counter of {} gives {counter_j:.1} J from edge to edge, and its power curve {beside_j:.1} J beside the work alone, so that \
         the work's energy is null",
        device.domain.id
    );
    (beside_j > counter_j).then_some((ReasonCode::SourcesDisagree, happened))
}

fn cross_check_fails(device: &DeviceEnergy) -> Found {
    let check = device.cross_check.filter(|check| !check.agrees)?;
    let (counter_j, curve_j) = (device.counter_j?, device.curve_j?);
    let basis = match check.basis {
        CrossCheckBasis::OnePercent => "the fixed limit",
        CrossCheckBasis::CurveUncertainty => "twice the curve's own uncertainty",
    };
    let happened = format!(
        "over {:.1} s the counter of {} gives {counter_j:.1} J and its power curve {curve_j:.1} J, {:+.1} %; {:.1} % are allowed, {basis}",
        seconds_between(device.start.t_ns, device.end.t_ns),
        device.domain.id,
        check.difference_percent,
        check.allowed_percent
    );
    Some((ReasonCode::SourcesDisagree, happened))
}

/// Share of the states in which one of the bits of `mask` is set, with all such bits; `None` when no state has them.
fn share_of(states: &[StateSample], mask: u64) -> Option<(f64, u64)> {
    let masks: Vec<u64> = states.iter().filter_map(|sample| sample.state.throttle_reasons).collect();
    let hits = masks.iter().filter(|found| *found & mask != 0).count();
    let bits = masks.iter().fold(0, |all, found| all | (found & mask));
    (hits > 0).then(|| (hits as f64 / masks.len() as f64, bits))
}

fn throttled(judged: Judged, record: &DomainRecording, states: &[StateSample]) -> Found {
    let (share, bits) = share_of(states, THROTTLED)?;
    let happened = format!(
        "{} was slowed down by heat or hardware protection for {:.0} % of {judged} (clocks-event reasons {bits:#x})",
        record.domain.id,
        share * 100.0
    );
    Some((ReasonCode::Throttled, happened))
}

/// A board that runs into its own default limit does what it is built to do; one whose limit was lowered is another machine.
fn power_capped(judged: Judged, record: &DomainRecording, states: &[StateSample], is_limited: bool) -> Found {
    let (share, _) = share_of(states, POWER_CAP)?;
    let (code, limit) = if is_limited {
        (ReasonCode::PowerCapped, "a power limit below its default")
    } else {
        (ReasonCode::PowerLimitReached, "its default power limit")
    };
    Some((code, format!("{} was at {limit} for {:.0} % of {judged}", record.domain.id, share * 100.0)))
}

/// Of each device against itself: that two devices differ is no drift.
fn drift(record: &DomainRecording, states: &[StateSample]) -> Found {
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
    ((last_c - first_c).abs() > MAX_DRIFT_K).then_some((ReasonCode::TemperatureDrift, happened))
}

/// A GPU on which memory in use never grew holds nothing of an engine.
fn unused(record: &DomainRecording, work: Work) -> Found {
    let before = record.states.iter().find_map(|sample| sample.state.memory_used_bytes)?;
    let states = record.states_between(work.start_ns, work.end_ns);
    let used = states.iter().filter_map(|sample| sample.state.memory_used_bytes).max()?;
    let grown_mib = used.saturating_sub(before) >> 20;
    let happened =
        format!("memory in use on {} was {grown_mib} MiB more in the window than before the engine", record.domain.id);
    (used.saturating_sub(before) < MIN_ENGINE_BYTES).then_some((ReasonCode::GpuNotUsed, happened))
}

#[cfg(test)]
mod tests;
