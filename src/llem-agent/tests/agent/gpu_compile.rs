//! What an engine compiles while it loads: a phase of its own.

use fake_nvml::{Device, Origin};
use llem_protocol::{EnergyMethod, EventBody, FailureClass, Phase, PhaseRecord};

use crate::gpu::{Seen, gpu, gpu_bench, see, uuid};
use crate::harness::bench;

/// A run whose driver works on something in two stretches of its load.
fn compiling(fault: &str) -> Option<Seen> {
    // Both are work before the warm-up pass.
    Some(see(gpu_bench(fault, vec![Device { events_from: Origin::Work(4), ..gpu(0) }])?))
}

fn phase(seen: &Seen, phase: Phase) -> &PhaseRecord {
    seen.report.phases.iter().find(|record| record.phase == phase).unwrap()
}

#[test]
fn compiling_has_its_own_time_and_energy_and_the_load_what_remains() {
    let Some(seen) = compiling("compiles") else { return };
    let (load, compile) = (phase(&seen, Phase::Load), phase(&seen, Phase::Compile));
    assert_eq!((compile.stretches.len(), load.stretches.len()), (2, 3));
    let seconds =
        |record: &PhaseRecord| record.stretches.iter().map(|s| s.end_ns - s.start_ns).sum::<u64>() as f64 / 1e9;
    let whole_s = (load.end_ns.unwrap() - load.start_ns) as f64 / 1e9;
    assert!((seconds(load) + seconds(compile) - whole_s).abs() < 1e-9);
    assert!((0.9..1.2).contains(&seconds(compile)) && whole_s > 2.0, "{compile:?}");
    for record in [load, compile] {
        let devices = &record.energy.as_ref().unwrap().devices;
        let energy = devices.iter().find(|device| device.domain.id == uuid(0)).unwrap();
        let truth = record.stretches.iter().map(|s| seen.script.true_energy_j(0, s.start_ns, s.end_ns).unwrap());
        let (true_j, found_j) = (truth.sum::<f64>(), energy.energy_j.unwrap());
        let u_j = energy.edge_u_j.unwrap().hypot(energy.sampling_u_j.unwrap());
        assert!((found_j - true_j).abs() <= 2.0 * u_j, "{true_j} J: {energy:?}");
        assert!(u_j < 0.1 * true_j, "{true_j} J: {energy:?}");
        assert_eq!(energy.method, Some(EnergyMethod::CounterShare));
    }
    let order: Vec<Phase> = seen.report.phases.iter().map(|record| record.phase).take(4).collect();
    assert_eq!(order, [Phase::Environment, Phase::Import, Phase::Load, Phase::Compile]);
}

#[test]
fn both_are_told_when_the_load_ends() {
    let Some(bench) = bench("compiles") else { return };
    let outcome = bench.run();
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    let finished = outcome.events.iter().filter_map(|event| match event.body {
        EventBody::PhaseFinished { phase, seconds } => Some((phase, seconds)),
        _ => None,
    });
    let of_load: Vec<_> = finished.filter(|(phase, _)| matches!(phase, Phase::Load | Phase::Compile)).collect();
    let [(Phase::Compile, compile_s), (Phase::Load, load_s)] = of_load[..] else { panic!("{of_load:?}") };
    assert!((0.9..1.2).contains(&compile_s) && (1.2..2.0).contains(&load_s), "{of_load:?}");
}

#[test]
fn an_engine_that_compiles_nothing_has_no_such_phase() {
    let Some(bench) = bench("compile_nothing") else { return };
    assert_eq!(bench.run().status, Some(0));
    let phases = bench.report().unwrap().phases;
    assert!(phases.iter().all(|record| record.phase != Phase::Compile && record.stretches.is_empty()), "{phases:?}");
}

#[test]
fn stretches_that_cannot_be_break_the_protocol() {
    for fault in ["compile_unordered", "compile_overlapping", "compile_before_the_load", "compile_in_the_future"] {
        let Some(bench) = bench(fault) else { return };
        let failure = bench.run().failure();
        assert_eq!((failure.class, failure.phase), (FailureClass::Protocol, Phase::Load), "{fault}");
        assert!(failure.message.contains("compiling"), "{fault}: {}", failure.message);
    }
}
