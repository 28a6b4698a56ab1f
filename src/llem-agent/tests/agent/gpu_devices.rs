//! Which devices are read, and by which of their sensors.

use fake_nvml::{Counter, Device, EnergySamples, Grace, Load, Meter, Power};
use llem_protocol::{CurveKind, EnergyMethod, PowerScope, ReasonCode};

use crate::gpu::{Seen, gpu, gpu_bench, run_on, see, uuid};

fn drawing(number: usize, busy_w: f64) -> Device {
    Device { load: Some(Load { busy: Power::Constant(busy_w), ..Load::default() }), ..gpu(number) }
}

const NO_COUNTER: fn() -> Counter = || Counter { supported: false, ..Counter::default() };
const NO_BUFFER: fn() -> EnergySamples = || EnergySamples { supported: false, ..EnergySamples::default() };

#[test]
fn exactly_the_gpus_of_the_job_are_read_in_its_order() {
    let devices = vec![drawing(0, 300.0), drawing(1, 400.0), drawing(2, 600.0)];
    let Some((mut bench, script)) = gpu_bench("none", devices) else { return };
    bench.job.gpus = vec![uuid(2), uuid(0)];
    let seen = see((bench, script));
    let devices = &seen.report.window.as_ref().unwrap().energy.devices;
    let ids: Vec<&str> = devices.iter().map(|device| device.domain.id.as_str()).collect();
    assert_eq!(ids, [uuid(2).as_str(), uuid(0).as_str(), "package-0"]);
    let described: Vec<_> = seen.report.environment.gpus.iter().map(|gpu| gpu["uuid"].as_str().unwrap()).collect();
    assert_eq!(described, [uuid(2), uuid(0)]);
    for number in [0, 2] {
        seen.assert_true(number, number);
        assert!(!seen.samples(number, PowerScope::Gpu).is_empty());
    }
    assert!(seen.energy(2).energy_j.unwrap() > 1.9 * seen.energy(0).energy_j.unwrap());
    assert!(seen.samples(1, PowerScope::Gpu).is_empty());
}

#[test]
fn a_module_is_recorded_apart_from_its_gpu() {
    let board = Device { grace: Some(Grace { rest: Power::Constant(150.0) }), ..gpu(0) };
    let Some(seen) = run_on(vec![board, gpu(1)]) else { return };
    let devices = &seen.report.window.as_ref().unwrap().energy.devices;
    let modules: Vec<_> = devices.iter().filter(|device| device.domain.scope == PowerScope::Module).collect();
    let [module] = modules[..] else { panic!("one module: {devices:?}") };
    assert_eq!((module.domain.id.clone(), module.curve_kind), (uuid(0), Some(CurveKind::Instant)));
    assert_eq!((module.counter_j, module.method), (None, Some(EnergyMethod::Curve)));
    let window = seen.report.window.as_ref().unwrap();
    let module_j = seen.truth_j(0) + 150.0 * (window.end_ns - window.start_ns) as f64 / 1e9;
    let u_j = module.edge_u_j.unwrap().hypot(module.sampling_u_j.unwrap());
    assert!((module.energy_j.unwrap() - module_j).abs() <= 2.0 * u_j, "{module_j} J: {module:?}");
    seen.assert_true(0, 0);
    let states = |scope| seen.samples(0, scope).into_iter().filter(|sample| sample.temperature_c.is_some()).count();
    assert!(states(PowerScope::Gpu) > 0 && states(PowerScope::Module) == 0);
    assert!(seen.codes_of(0).is_empty(), "{:?}", seen.report.reasons);
}

#[test]
fn each_sensor_that_is_missing_has_a_successor_that_is_less_sure() {
    let meter = Meter { fields_supported: false, ..Meter::default() };
    let old = Device { counter: NO_COUNTER(), samples: NO_BUFFER(), meter, ..gpu(2) };
    let by_field = Device { counter: NO_COUNTER(), samples: NO_BUFFER(), ..gpu(1) };
    let Some(seen) = run_on(vec![Device { counter: NO_COUNTER(), ..gpu(0) }, by_field, old, gpu(3)]) else { return };
    let kinds = [CurveKind::Mean, CurveKind::Instant, CurveKind::MovingAverage, CurveKind::Mean];
    for (number, kind) in kinds.into_iter().enumerate() {
        assert_eq!(seen.energy(number).curve_kind, Some(kind));
        seen.assert_true(number, number);
        assert_eq!(seen.reason(ReasonCode::NoEnergyCounter, number).is_some(), number < 3);
    }
    let u_j = |number: usize| {
        let energy = seen.energy(number);
        energy.edge_u_j.unwrap().hypot(energy.sampling_u_j.unwrap())
    };
    assert!(u_j(2) > u_j(1) && u_j(1) > u_j(0), "{:?}", [0, 1, 2].map(u_j));
    assert!(seen.energy(1).sampling_u_j > seen.energy(0).sampling_u_j);
    assert!(seen.energy(2).sampling_u_j > seen.energy(3).sampling_u_j);
}

#[test]
fn the_average_over_a_second_is_kept_apart_from_power() {
    let Some(seen) = run_on(vec![Device { samples: NO_BUFFER(), ..gpu(0) }, gpu(1)]) else { return };
    for (number, kind) in [(0, CurveKind::Instant), (1, CurveKind::Mean)] {
        let samples = seen.samples(number, PowerScope::Gpu);
        let (power, states): (Vec<_>, Vec<_>) = samples.into_iter().partition(|sample| sample.curve_kind.is_some());
        assert!(power.iter().all(|sample| sample.curve_kind == Some(kind) && sample.power_average_w.is_none()));
        assert!(states.iter().all(|sample| sample.power_w.is_none() && sample.power_average_w.is_some()));
        // Power jumps with the work; its average climbs for a second.
        let between = |power_w: f64| (90.0..490.0).contains(&power_w);
        assert!(power.iter().filter(|sample| sample.power_w.is_some_and(between)).count() < power.len() / 3);
        assert!(states.iter().any(|sample| sample.power_average_w.is_some_and(between)));
    }
}

#[test]
fn without_samples_the_counter_gives_energy_and_nothing_is_recorded() {
    let Some((mut bench, script)) = gpu_bench("none", vec![gpu(0), Device { counter: NO_COUNTER(), ..gpu(1) }]) else {
        return;
    };
    bench.job.measurement.sample_hz = 0.0;
    let seen: Seen = see((bench, script));
    let samples = seen.samples(0, PowerScope::Gpu);
    assert!(samples.iter().all(|sample| sample.power_w.is_none() && sample.curve_kind.is_none()));
    assert!(samples.iter().any(|sample| sample.clock_mhz.is_some()), "what the device does is looked at all the same");
    let energy = seen.energy(0);
    assert_eq!((energy.method, energy.curve_j, energy.samples), (Some(EnergyMethod::Counter), None, 0));
    seen.assert_true(0, 0);
    assert_eq!((seen.energy(1).energy_j, seen.energy(1).curve_j), (None, None));
    // Of a curve that nobody took, nothing is said.
    assert_eq!(seen.codes_of(1), [ReasonCode::NoGpuPowerSource]);
    let reason = seen.reason(ReasonCode::NoGpuPowerSource, 1).unwrap();
    assert!(reason.message.contains("`measurement.sample_hz` is 0"), "{reason}");
}

#[test]
fn a_buffer_that_is_not_as_seen_on_hopper_is_taken_for_what_it_surely_is() {
    let sparse = || EnergySamples { spacing: 5, mean_ms: Some(25.0), ..EnergySamples::default() };
    let devices = vec![
        Device { samples: sparse(), ..gpu(0) },
        Device { samples: sparse(), counter: NO_COUNTER(), ..gpu(1) },
        gpu(2),
    ];
    let Some(seen) = run_on(devices) else { return };
    for (number, kind) in [(0, CurveKind::Samples), (1, CurveKind::Samples), (2, CurveKind::Mean)] {
        assert_eq!(seen.energy(number).curve_kind, Some(kind));
        let samples = seen.samples(number, PowerScope::Gpu);
        assert!(samples.iter().filter_map(|sample| sample.curve_kind).all(|found| found == kind));
        seen.assert_true(number, number);
    }
    // Whether such samples show the idle time beside the work is not known.
    assert_eq!((seen.energy(0).lead_j, seen.energy(0).tail_j), (None, None));
    assert!(seen.energy(0).edge_u_j > seen.energy(2).edge_u_j);
    // Readings at moments were seen up to 9 % off: a standard uncertainty of 5.2 % of what the curve holds between the edges, which is a
    // little less than what it holds with them.
    assert!(seen.energy(1).sampling_u_j.unwrap() > 0.04 * seen.energy(1).energy_j.unwrap());
}

#[test]
fn an_average_over_a_second_tells_nothing_of_the_idle_time_beside_the_work() {
    let meter = Meter { fields_supported: false, ..Meter::default() };
    let Some(seen) = run_on(vec![Device { samples: NO_BUFFER(), meter, ..gpu(0) }, gpu(1)]) else { return };
    let (average, means) = (seen.energy(0), seen.energy(1));
    assert_eq!((average.curve_kind, average.method), (Some(CurveKind::MovingAverage), Some(EnergyMethod::Counter)));
    assert_eq!((average.lead_j, average.tail_j), (None, None));
    assert!(average.edge_u_j.unwrap() > 5.0 * means.edge_u_j.unwrap(), "{average:?} {means:?}");
    seen.assert_true(0, 0);
    assert!(seen.codes_of(0).is_empty(), "{:?}", seen.report.reasons);
}

/// What the controller asks before a study whether GPUs get into containers.
#[test]
fn the_visible_gpus_are_said_without_a_job() {
    let Some((mut bench, _)) = gpu_bench("none", vec![gpu(0), gpu(1)]) else { return };
    let ask = |bench: &crate::harness::Bench| -> llem_protocol::VisibleGpus {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_llem-agent"));
        let output = command.arg("--gpus").envs(bench.environment().iter().cloned()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let seen = ask(&bench);
    assert_eq!((seen.uuids, seen.problem), (vec![uuid(0), uuid(1)], None));
    bench.without_nvml();
    if !std::path::Path::new("/dev/nvidiactl").exists() {
        let seen = ask(&bench);
        assert!(seen.uuids.is_empty() && seen.problem.is_some(), "{seen:?}");
    }
}
