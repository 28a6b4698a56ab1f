//! The energy counter: its ticks, its faults, and what the curve says of it.

use fake_nvml::{Counter, Device, EnergySamples, Origin};
use llem_protocol::{EnergyMethod, ReasonCode, Severity};

use crate::gpu::{gpu, run_on};

fn with_counter(number: usize, counter: Counter) -> Device {
    Device { counter, ..gpu(number) }
}

#[test]
fn an_edge_without_a_tick_is_said_and_one_slow_call_is_no_such_edge() {
    let frozen = Counter { period_ms: 1e9, ..Counter::default() };
    let slow = Counter { call_ms: 90.0, ..Counter::default() };
    let hiccups = Counter { slow_every: 60, slow_ms: 90.0, ..Counter::default() };
    let devices = vec![with_counter(0, frozen), with_counter(1, slow), with_counter(2, hiccups), gpu(3)];
    let Some(seen) = run_on(devices) else { return };
    for number in [0, 1] {
        let reason = seen.reason(ReasonCode::EdgeNotAligned, number).unwrap();
        assert_eq!(reason.severity, Severity::Invalid);
        let energy = seen.energy(number);
        assert!(!energy.start.aligned || !energy.end.aligned, "{energy:?}");
    }
    assert_eq!((seen.codes_of(2), seen.codes_of(3)), (vec![], vec![]));
    for number in [2, 3] {
        let energy = seen.energy(number);
        assert!(energy.start.aligned && energy.end.aligned && energy.start.bracket_ms < 60.0, "{energy:?}");
        assert_eq!(energy.method, Some(EnergyMethod::Counter));
        seen.assert_true(number, number);
    }
    seen.assert_true(1, 1);
    // A counter that stands still says nothing of the energy, least of all that it was 0.
    assert_eq!((seen.energy(0).energy_j, seen.energy(0).counter_j), (None, None));
}

#[test]
fn sources_that_disagree_are_told_with_both_numbers() {
    let generous = with_counter(0, Counter { gain: 1.05, ..Counter::default() });
    let samples = EnergySamples { gain: 0.9, ..EnergySamples::default() };
    let Some(seen) = run_on(vec![generous, Device { samples, ..gpu(1) }, gpu(2)]) else { return };
    for number in [0, 1] {
        let reason = seen.reason(ReasonCode::SourcesDisagree, number).unwrap();
        let energy = seen.energy(number);
        for joules in [energy.counter_j.unwrap(), energy.curve_j.unwrap()] {
            assert!(reason.message.contains(&format!("{joules:.1} J")), "{}", reason.message);
        }
        assert_eq!(reason.severity, Severity::Invalid);
    }
    assert!(seen.codes_of(2).is_empty(), "{:?}", seen.report.reasons);
}

#[test]
fn a_counter_that_is_set_back_in_the_window_leaves_no_energy() {
    let reset = |number, at_s| with_counter(number, Counter { reset_at_s: Some(at_s), ..Counter::default() });
    let before = Device { events_from: Origin::Work(1), ..reset(1, 0.02) };
    let Some(seen) = run_on(vec![reset(0, 0.5), before, gpu(2)]) else { return };
    assert_eq!(seen.reason(ReasonCode::CounterReset, 0).unwrap().severity, Severity::Invalid);
    assert_eq!((seen.energy(0).energy_j, seen.energy(0).counter_j), (None, None));
    // Before the window it is no concern of the window's.
    assert_eq!((seen.codes_of(1), seen.codes_of(2)), (vec![], vec![]));
    seen.assert_true(1, 1);
}

#[test]
fn a_device_without_a_counter_is_measured_by_its_curve_and_says_so() {
    let bare = with_counter(0, Counter { supported: false, ..Counter::default() });
    let Some(seen) = run_on(vec![bare, gpu(1)]) else { return };
    let reason = seen.reason(ReasonCode::NoEnergyCounter, 0).unwrap();
    assert_eq!(reason.severity, Severity::Note);
    assert_eq!((seen.energy(0).method, seen.energy(0).counter_j), (Some(EnergyMethod::Curve), None));
    seen.assert_true(0, 0);
    assert!(seen.codes_of(1).is_empty());
    assert_eq!(seen.energy(1).method, Some(EnergyMethod::Counter));
}
