//! What the devices are, what state they are in, and what that says against a run.

use fake_nvml::{Curve, Device, Limits, Memory, Power, Span, Throttle, Triangle};
use llem_protocol::{EventBody, FailureClass, GateOutcome, Phase, ReasonCode, Severity};

use crate::gpu::{gpu, gpu_bench, run_on, see, uuid};
use crate::harness::bench;

/// Codes that tell of the machine on which the tests run.
const OF_THE_MACHINE: [ReasonCode; 2] = [ReasonCode::AgentOverhead, ReasonCode::ProcessorEnergyUnavailable];

fn held_back(number: usize, mask: u64) -> Device {
    let during = Span::since(0.0);
    Device { throttle_reasons: vec![Throttle { during, mask }], ..gpu(number) }
}

#[test]
fn nothing_speaks_against_a_healthy_run_of_full_length() {
    let Some((mut bench, script)) = gpu_bench("none", vec![gpu(0), gpu(1)]) else { return };
    let spec = &mut bench.job.measurement;
    (spec.baseline_s, spec.warmup_passes, spec.thermal_floor_s) = (2.2, 3, 30.0);
    (spec.thermal_gate_timeout_s, spec.window_min_s, spec.prefill_min_s) = (30.0, 10.2, 0.3);
    spec.window_min_passes = 1;
    let env = [("PASS_S", "10.2"), ("OTHER_PASS_S", "2.0")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    bench.job.driver.env.extend(env);
    bench.job.powercap = None;
    let seen = see((bench, script));
    let reasons: Vec<_> = seen.report.reasons.iter().filter(|reason| !OF_THE_MACHINE.contains(&reason.code)).collect();
    assert!(reasons.is_empty(), "{reasons:?}");
    let gate = seen.report.thermal_gate.as_ref().unwrap();
    assert_eq!((gate.outcome, gate.unsettled.len()), (GateOutcome::Settled, 0));
    for number in [0, 1] {
        seen.assert_true(number, number);
        // A window of ten seconds is known to half a per cent.
        let energy = seen.energy(number);
        assert!(2.0 * energy.edge_u_j.unwrap() < 0.005 * energy.energy_j.unwrap(), "{energy:?}");
        let idle = seen.report.baseline.as_ref().unwrap().devices.iter().find(|power| power.domain.id == uuid(number));
        assert!((idle.unwrap().mean_w - 80.0).abs() < 0.01);
    }
}

#[test]
fn short_cuts_are_said() {
    let Some(seen) = run_on(vec![gpu(0)]) else { return };
    let severity = |code| seen.report.reasons.iter().find(|reason| reason.code == code).map(|reason| reason.severity);
    assert_eq!(severity(ReasonCode::WindowTooShort), Some(Severity::Invalid));
    assert_eq!(severity(ReasonCode::ThermalFloorShortened), Some(Severity::Note));
    assert_eq!(severity(ReasonCode::WarmupShortened), Some(Severity::Note));
    assert_eq!(severity(ReasonCode::ThermalGateOff), Some(Severity::Note));
    assert_eq!(seen.report.thermal_gate.as_ref().unwrap().outcome, GateOutcome::Off);
}

#[test]
fn throttling_is_invalid_and_the_default_limit_a_note() {
    let limits = Limits { enforced_w: 500.0, management_w: 500.0, ..Limits::default() };
    let lowered = Device { limits: limits.clone(), ..held_back(2, 4) };
    let unreached = Device { limits, ..gpu(3) };
    let Some(seen) =
        run_on(vec![held_back(0, 0x20), held_back(1, 4), lowered, unreached, held_back(4, 1), held_back(5, 0x80)])
    else {
        return;
    };
    let found = |number, code| seen.reason(code, number).map(|reason| reason.severity);
    assert_eq!(found(0, ReasonCode::Throttled), Some(Severity::Invalid));
    assert!(seen.reason(ReasonCode::Throttled, 0).unwrap().message.contains("0x20"));
    assert_eq!(found(5, ReasonCode::Throttled), Some(Severity::Invalid));
    assert_eq!(found(1, ReasonCode::PowerLimitReached), Some(Severity::Note));
    assert_eq!(found(2, ReasonCode::PowerCapped), Some(Severity::Invalid));
    assert_eq!([0, 1, 2, 5].map(|number| seen.codes_of(number).len()), [1; 4]);
    assert_eq!([3, 4].map(|number| seen.codes_of(number).len()), [0; 2]);
}

#[test]
fn drift_is_of_each_device_against_itself() {
    let at = |number, temperature_c| Device { temperature_c, ..gpu(number) };
    let warming = Curve(vec![(0.0, 30.0), (5.0, 180.0)]);
    let devices = vec![at(0, warming), at(1, Curve::constant(40.0)), at(2, Curve::constant(75.0))];
    let Some(seen) = run_on(devices) else { return };
    assert_eq!(seen.reason(ReasonCode::TemperatureDrift, 0).unwrap().severity, Severity::Invalid);
    assert_eq!((seen.codes_of(1), seen.codes_of(2)), (vec![], vec![]));
}

#[test]
fn mig_is_refused_before_the_driver_starts_unless_it_is_allowed() {
    let divided = || vec![Device { mig: Some(true), ..gpu(0) }, Device { mig: None, ..gpu(1) }];
    let Some((bench, _)) = gpu_bench("none", divided()) else { return };
    let outcome = bench.run();
    let failure = outcome.failure();
    assert_eq!((failure.class, failure.phase), (FailureClass::Unsupported, Phase::Environment));
    assert!(failure.message.contains(&uuid(0)) && failure.message.contains("allow_mig"), "{}", failure.message);
    let started = |body: &EventBody| matches!(body, EventBody::PhaseStarted { phase: Phase::Import, .. });
    assert!(!outcome.events.iter().any(|event| started(&event.body)));
    let Some((mut bench, script)) = gpu_bench("none", divided()) else { return };
    bench.job.measurement.allow_mig = true;
    let seen = see((bench, script));
    assert_eq!(seen.reason(ReasonCode::MigEnabled, 0).unwrap().severity, Severity::Invalid);
    assert!(seen.codes_of(1).is_empty());
}

#[test]
fn settings_and_use_of_each_device_are_looked_at() {
    let unused = Device { memory: Memory::default(), ..gpu(1) };
    let Some(seen) = run_on(vec![Device { persistence: false, ..gpu(0) }, unused, gpu(2)]) else { return };
    assert_eq!(seen.reason(ReasonCode::PersistenceOff, 0).unwrap().severity, Severity::Note);
    assert_eq!(seen.reason(ReasonCode::GpuNotUsed, 1).unwrap().severity, Severity::Invalid);
    assert_eq!([0, 1, 2].map(|number| seen.codes_of(number).len()), [1, 1, 0]);
    let wrong = |reason: &llem_protocol::Reason| reason.code == ReasonCode::WrongDevice;
    assert!(!seen.report.reasons.iter().any(wrong));
}

#[test]
fn another_device_than_the_jobs_is_the_wrong_one() {
    for (claimed, named) in [(Some(uuid(7)), uuid(7)), (None, "the processor".to_owned())] {
        let Some((mut bench, script)) = gpu_bench("none", vec![gpu(0)]) else { return };
        bench.job.driver.env.remove("GPU");
        bench.job.driver.env.extend(claimed.map(|uuid| ("GPU".to_owned(), uuid)));
        let seen = see((bench, script));
        let reason = seen.reason(ReasonCode::WrongDevice, 0).unwrap();
        assert!(reason.severity == Severity::Invalid && reason.message.contains(&named), "{reason}");
    }
}

#[test]
fn idle_power_that_moves_is_unstable() {
    let wave = Power::Triangle(Triangle { period_s: 4.0, low_w: 60.0, high_w: 200.0, phase_s: 0.0 });
    let Some((mut bench, script)) = gpu_bench("none", vec![Device { power: wave, ..gpu(0) }, gpu(1)]) else { return };
    bench.job.measurement.baseline_s = 2.2;
    let seen = see((bench, script));
    assert_eq!(seen.reason(ReasonCode::BaselineUnstable, 0).unwrap().severity, Severity::Note);
    assert!(seen.reason(ReasonCode::BaselineUnstable, 1).is_none());
    let idle = &seen.report.baseline.as_ref().unwrap().devices;
    let of = |number| idle.iter().find(|power| power.domain.id == uuid(number)).unwrap();
    let baseline = seen.report.baseline.as_ref().unwrap();
    let true_j = seen.script.true_energy_j(0, baseline.start_ns, baseline.end_ns).unwrap();
    let seconds = (baseline.end_ns - baseline.start_ns) as f64 / 1e9;
    assert!((of(0).mean_w - true_j / seconds).abs() < 0.02 * of(0).mean_w, "{:?}", of(0));
    assert!((of(1).mean_w - 80.0).abs() < 0.01);
}

#[test]
fn a_gate_that_sees_too_little_is_timed_out() {
    let Some((mut bench, script)) = gpu_bench("none", vec![gpu(0)]) else { return };
    bench.job.measurement.thermal_gate_timeout_s = 0.5;
    let seen = see((bench, script));
    let gate = seen.report.thermal_gate.as_ref().unwrap();
    assert!(gate.outcome == GateOutcome::TimedOut && gate.passes >= 1 && gate.seconds >= 0.5, "{gate:?}");
    assert_eq!(seen.reason(ReasonCode::ThermalGateTimedOut, 0).unwrap().severity, Severity::Invalid);
}

#[test]
fn a_gate_names_the_gpu_that_grows_warm() {
    let warming = Curve(vec![(0.0, 30.0), (100.0, 80.0)]);
    let Some((mut bench, script)) = gpu_bench("none", vec![Device { temperature_c: warming, ..gpu(0) }, gpu(1)]) else {
        return;
    };
    bench.job.measurement.thermal_gate_timeout_s = 20.0;
    let seen = see((bench, script));
    let gate = seen.report.thermal_gate.as_ref().unwrap();
    assert_eq!(gate.outcome, GateOutcome::TimedOut);
    let [line] = &gate.unsettled[..] else { panic!("{gate:?}") };
    assert!(line.contains(&uuid(0)) && line.contains("temperature"), "{line}");
}

#[test]
fn a_gate_without_states_has_no_sensor() {
    let Some(mut bench) = bench("none") else { return };
    bench.with_sensor();
    bench.job.measurement.thermal_gate_timeout_s = 20.0;
    assert_eq!(bench.run().status, Some(0));
    let report = bench.report().unwrap();
    assert_eq!(report.thermal_gate.unwrap().outcome, GateOutcome::NoSensor);
    assert!(report.reasons.iter().all(|reason| reason.code != ReasonCode::ThermalGateTimedOut));
}
