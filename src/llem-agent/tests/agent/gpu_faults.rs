//! Sensors that are absent, or fail while they are read.

use fake_nvml::{Affected, Counter, Device, EnergySamples, Failure, Script, Span, code};
use llem_protocol::{EnergyMethod, PowerScope, PowerSourceKind, ReasonCode, Severity};

use crate::gpu::{gpu, gpu_bench, run_on, see};

/// A lost GPU: every call fails from half a second into the window on.
fn lost(number: usize, lost_code: u32) -> Device {
    Device { lost_at_s: Some(0.5), lost_code, ..gpu(number) }
}

#[test]
fn a_library_that_does_not_start_is_no_power_source() {
    for init_code in [code::DRIVER_NOT_LOADED, code::LIB_RM_VERSION_MISMATCH, code::UNKNOWN] {
        let Some((mut bench, script)) = gpu_bench("none", vec![gpu(0)]) else { return };
        bench.with_nvml(&Script { init_code: Some(init_code), ..script.clone() });
        let seen = see((bench, script));
        let reason = seen.reason(ReasonCode::NoGpuPowerSource, 0).unwrap();
        assert_eq!(reason.severity, Severity::Invalid, "{reason}");
        let devices = &seen.report.window.as_ref().unwrap().energy.devices;
        assert!(devices.iter().all(|device| device.domain.source == PowerSourceKind::Rapl), "{devices:?}");
        assert!(seen.samples(0, PowerScope::Gpu).is_empty());
    }
}

#[test]
fn without_the_library_there_is_no_power_source_and_with_it_there_is() {
    let Some((mut bench, script)) = gpu_bench("none", vec![gpu(0)]) else { return };
    bench.without_nvml();
    let seen = see((bench, script));
    assert_eq!(seen.reason(ReasonCode::NoGpuPowerSource, 0).unwrap().severity, Severity::Invalid);
    let Some(seen) = run_on(vec![gpu(0)]) else { return };
    assert!(seen.report.reasons.iter().all(|reason| reason.code != ReasonCode::NoGpuPowerSource));
}

#[test]
fn a_gpu_that_is_lost_in_the_window_has_no_energy_and_the_run_ends_in_order() {
    let without =
        |number, code| Device { counter: Counter { supported: false, ..Counter::default() }, ..lost(number, code) };
    let devices = vec![
        lost(0, code::GPU_IS_LOST),
        lost(1, code::UNKNOWN),
        without(2, code::GPU_IS_LOST),
        without(3, code::UNKNOWN),
        gpu(4),
    ];
    let Some(seen) = run_on(devices) else { return };
    for number in 0..4 {
        let reason = seen.reason(ReasonCode::PowerSourceLost, number).unwrap();
        assert_eq!(reason.severity, Severity::Invalid);
        let energy = seen.energy(number);
        assert_eq!((energy.energy_j, energy.mean_w), (None, None), "{energy:?}");
        let samples = seen.samples(number, PowerScope::Gpu);
        assert!(samples.iter().any(|sample| sample.curve_kind.is_some() && sample.power_w.is_none()));
        assert!(samples.iter().all(|sample| sample.power_w != Some(0.0)));
    }
    assert!(seen.codes_of(4).is_empty(), "{:?}", seen.report.reasons);
    seen.assert_true(4, 4);
    assert_eq!(seen.report.failure, None);
}

#[test]
fn a_curve_that_ends_in_the_window_is_no_energy() {
    let failures = vec![Failure { affected: Affected::Samples, during: Span::since(0.4), code: code::UNKNOWN }];
    let counter = Counter { supported: false, ..Counter::default() };
    let beside_counter = Device { failures: failures.clone(), ..gpu(1) };
    let Some(seen) = run_on(vec![Device { failures, counter, ..gpu(0) }, beside_counter]) else { return };
    for number in [0, 1] {
        assert_eq!(seen.reason(ReasonCode::PowerSourceLost, number).unwrap().severity, Severity::Invalid);
    }
    assert_eq!(seen.energy(0).energy_j, None);
    assert_eq!(seen.energy(1).method, Some(EnergyMethod::Counter));
}

#[test]
fn a_failed_reading_is_null_and_never_zero() {
    let failures = |affected| vec![Failure { affected, during: Span::new(0.2, 0.9), code: code::TIMEOUT }];
    let samples = EnergySamples { supported: false, ..EnergySamples::default() };
    let by_field = Device { samples, failures: failures(Affected::Power), ..gpu(1) };
    let Some(seen) = run_on(vec![Device { failures: failures(Affected::Samples), ..gpu(0) }, by_field]) else { return };
    for number in [0, 1] {
        let power = seen.samples(number, PowerScope::Gpu).into_iter().filter(|sample| sample.curve_kind.is_some());
        let powers: Vec<Option<f64>> = power.map(|sample| sample.power_w).collect();
        assert!(powers.contains(&None), "GPU {number}");
        assert!(powers.iter().flatten().all(|power_w| *power_w > 50.0), "GPU {number}: {powers:?}");
    }
    // The buffer still held what could not be read for a while; instant power is gone.
    assert!(seen.codes_of(0).is_empty(), "{:?}", seen.report.reasons);
    assert_eq!(seen.codes_of(1), [ReasonCode::SamplesMissing]);
    seen.assert_true(0, 0);
    seen.assert_true(1, 1);
}

#[test]
fn a_hole_in_the_curve_is_noted_and_the_counter_is_not_touched() {
    let samples = EnergySamples { lost: vec![Span::new(0.3, 0.8)], ..EnergySamples::default() };
    let Some(seen) = run_on(vec![Device { samples, ..gpu(0) }, gpu(1)]) else { return };
    assert_eq!(seen.reason(ReasonCode::SamplesMissing, 0).unwrap().severity, Severity::Note);
    assert_eq!(seen.codes_of(0), [ReasonCode::SamplesMissing]);
    seen.assert_true(0, 0);
    assert!(seen.codes_of(1).is_empty());
}
