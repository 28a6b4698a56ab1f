//! Whether clocks and temperatures have settled.

use llem_protocol::PowerDomain;

use super::DeviceState;
use super::judge::THROTTLED;
use super::recording::StateSample;
use crate::clock::seconds_between;

/// Seconds of work that are looked at; the means of their two halves are compared.
pub(crate) const SPAN_S: f64 = 20.0;

/// States of a time shorter than this share of the span tell nothing.
const MIN_COVERAGE: f64 = 0.9;

/// The most that the mean temperature may move from one half to the other, in kelvin.
const MAX_STEP_K: f64 = 1.0;

/// The most that the mean clock may move, as a share.
const MAX_CLOCK_STEP: f64 = 0.01;

/// What has not settled in the last [`SPAN_S`] seconds up to `now_ns`, one line for each device and quantity; empty when all has.
/// `None` when no device gives any state.
pub(crate) fn unsettled(devices: &[(PowerDomain, Vec<StateSample>)], now_ns: u64) -> Option<Vec<String>> {
    let known = devices.iter().filter(|(_, states)| !states.is_empty());
    let lines: Vec<Vec<String>> = known.map(|(domain, states)| device(&domain.id, states, now_ns)).collect();
    (!lines.is_empty()).then(|| lines.concat())
}

fn device(id: &str, states: &[StateSample], now_ns: u64) -> Vec<String> {
    let from_ns = now_ns.saturating_sub((SPAN_S * 1e9) as u64);
    let first = states.partition_point(|sample| sample.t_ns < from_ns);
    let span = states.get(first..).unwrap_or_default();
    let covered_s = span.first().map_or(0.0, |sample| seconds_between(sample.t_ns, now_ns));
    if covered_s < MIN_COVERAGE * SPAN_S {
        return vec![format!("{id} has worked for {covered_s:.0} s of the {SPAN_S:.0} s that are looked at")];
    }
    let middle = span.partition_point(|sample| sample.t_ns < now_ns - (now_ns - from_ns) / 2);
    let (before, after) = span.split_at(middle);
    [temperature(id, before, after), clock(id, before, after), throttle(id, after)].into_iter().flatten().collect()
}

fn temperature(id: &str, before: &[StateSample], after: &[StateSample]) -> Option<String> {
    let degrees = |state: &DeviceState| state.temperature_c.map(f64::from);
    let was = mean(before, degrees)?;
    let Some(is) = mean(after, degrees) else { return Some(format!("temperature of {id} can no longer be read")) };
    ((is - was).abs() > MAX_STEP_K).then(|| format!("temperature of {id} went from {was:.1} to {is:.1} °C"))
}

fn clock(id: &str, before: &[StateSample], after: &[StateSample]) -> Option<String> {
    let megahertz = |state: &DeviceState| state.clock_mhz.map(f64::from);
    let was = mean(before, megahertz)?;
    let Some(is) = mean(after, megahertz) else { return Some(format!("clock of {id} can no longer be read")) };
    ((is - was).abs() > MAX_CLOCK_STEP * was).then(|| format!("clock of {id} went from {was:.0} to {is:.0} MHz"))
}

fn throttle(id: &str, after: &[StateSample]) -> Option<String> {
    let reasons = after.iter().filter_map(|sample| sample.state.throttle_reasons);
    let bits = reasons.fold(0, |all, found| all | (found & THROTTLED));
    (bits != 0).then(|| format!("{id} is slowed down by heat or hardware protection (clocks-event reasons {bits:#x})"))
}

fn mean(states: &[StateSample], quantity: impl Fn(&DeviceState) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = states.iter().filter_map(|sample| quantity(&sample.state)).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use llem_protocol::{PowerScope, PowerSourceKind};

    use super::*;

    const S: u64 = 1_000_000_000;

    /// States of 40 s, twice a second; `at` gets the second.
    fn after_40_s(at: impl Fn(f64, &mut DeviceState)) -> Vec<String> {
        let sample = |i: u64| {
            let mut state = DeviceState {
                temperature_c: Some(60),
                clock_mhz: Some(1980),
                throttle_reasons: Some(0),
                ..DeviceState::default()
            };
            at(i as f64 / 2.0, &mut state);
            StateSample { t_ns: i * S / 2, state }
        };
        let domain = PowerDomain { source: PowerSourceKind::Nvml, id: "GPU-1".to_owned(), scope: PowerScope::Gpu };
        unsettled(&[(domain, (0..=80).map(sample).collect())], 40 * S).unwrap()
    }

    #[test]
    fn steady_devices_have_settled() {
        assert!(after_40_s(|_, _| {}).is_empty());
        // What was before the span does not count.
        assert!(after_40_s(|t, state| state.temperature_c = Some(if t < 15.0 { 40 } else { 60 })).is_empty());
        // A power cap is no throttling, and a clock that jitters around its mean has settled.
        assert!(
            after_40_s(|t, state| {
                state.throttle_reasons = Some(4);
                state.clock_mhz = Some(if ((t * 2.0) as u64).is_multiple_of(2) { 1500 } else { 1700 });
            })
            .is_empty()
        );
    }

    #[test]
    fn what_moves_is_named() {
        let warming = after_40_s(|t, state| state.temperature_c = Some(30 + t as u32));
        assert!(warming.len() == 1 && warming[0].contains("temperature of GPU-1"), "{warming:?}");
        let clock = after_40_s(|t, state| state.clock_mhz = Some(if t < 30.0 { 1980 } else { 1900 }));
        assert!(clock.len() == 1 && clock[0].contains("1980 to 1900 MHz"), "{clock:?}");
        let lost = after_40_s(|t, state| {
            if t > 25.0 {
                *state = DeviceState::default();
            }
        });
        assert!(lost.len() == 2 && lost[0].contains("temperature of GPU-1 can no longer be read"), "{lost:?}");
        let hot = after_40_s(|t, state| state.throttle_reasons = Some(if t > 35.0 { 0x20 } else { 0 }));
        assert!(hot.len() == 1 && hot[0].contains("0x20"), "{hot:?}");
    }

    #[test]
    fn too_little_is_not_settled_and_nothing_is_unknown() {
        let domain = PowerDomain { source: PowerSourceKind::Nvml, id: "GPU-1".to_owned(), scope: PowerScope::Gpu };
        let sample = StateSample { t_ns: 35 * S, state: DeviceState::default() };
        let lines = unsettled(&[(domain.clone(), vec![sample])], 40 * S).unwrap();
        assert!(lines[0].contains("5 s of the 20 s"), "{lines:?}");
        assert_eq!(unsettled(&[(domain, Vec::new())], 40 * S), None);
    }
}
