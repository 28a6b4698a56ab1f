//! Runs on scripted GPUs: what the agent saw, beside what was really drawn.

use fake_nvml::{Device, Load, Memory, MemoryUse, Origin, Power, Script, Span};
use llem_protocol::{DeviceEnergy, PowerSample, PowerScope, Reason, ReasonCode, Report};

use crate::harness::{Bench, bench};

/// The first pass of the window, counted over all work: one pass of warm-up is before it.
pub(crate) const IN_WINDOW: Origin = Origin::Work(2);

/// A run on scripted GPUs that has ended.
pub(crate) struct Seen {
    pub(crate) bench: Bench,
    pub(crate) script: Script,
    pub(crate) report: Report,
}

/// A healthy GPU of the stand-in's own: 80 W, and 500 W while the driver works. The engine's memory is there from the window on, which
/// is also what the seconds of its events count from.
pub(crate) fn gpu(number: usize) -> Device {
    let used = MemoryUse { during: Span::since(0.0), bytes: 9 << 30 };
    Device {
        uuid: uuid(number),
        power: Power::Constant(80.0),
        load: Some(Load { busy: Power::Constant(500.0), ..Load::default() }),
        memory: Memory { more: vec![used], ..Memory::default() },
        events_from: IN_WINDOW,
        ..Device::default()
    }
}

/// UUID of GPU `number`.
pub(crate) fn uuid(number: usize) -> String {
    format!("GPU-fa4e{number:04}-0000-4000-8000-000000000000")
}

/// A bench whose job asks for all of these GPUs and measures a window of 1.2 s in passes of 0.4 s, beside a processor package. `None`
/// where there is no driver.
pub(crate) fn gpu_bench(fault: &str, devices: Vec<Device>) -> Option<(Bench, Script)> {
    let mut bench = bench(fault)?;
    bench.with_sensor();
    bench.job.gpus = devices.iter().map(|device| device.uuid.clone()).collect();
    bench.job.measurement.window_min_s = 1.2;
    let load_file = bench.path("load");
    let script =
        Script { devices: devices.into_iter().map(|d| following(d, &load_file)).collect(), ..Script::starting_now() };
    let first = bench.job.gpus[0].clone();
    let set = [("LOAD_FILE", load_file.display().to_string()), ("GPU", first)];
    bench.job.driver.env.extend(set.map(|(name, value)| (name.to_owned(), value)));
    bench
        .job
        .driver
        .env
        .extend([("PASS_S", "0.4"), ("OTHER_PASS_S", "0.1")].map(|(n, v)| (n.to_owned(), v.to_owned())));
    bench.with_nvml(&script);
    Some((bench, script))
}

fn following(device: Device, file: &std::path::Path) -> Device {
    let load = device.load.map(|load| Load { file: file.to_owned(), ..load });
    Device { load, ..device }
}

/// Runs to the end, which has to be a good one.
pub(crate) fn see((bench, script): (Bench, Script)) -> Seen {
    let outcome = bench.run();
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    let report = bench.report().unwrap();
    Seen { bench, script, report }
}

/// A good run of these GPUs.
pub(crate) fn run_on(devices: Vec<Device>) -> Option<Seen> {
    Some(see(gpu_bench("none", devices)?))
}

impl Seen {
    /// The reason with this code that names this GPU.
    pub(crate) fn reason(&self, code: ReasonCode, number: usize) -> Option<&Reason> {
        self.report.reasons.iter().find(|reason| reason.code == code && reason.message.contains(&uuid(number)))
    }

    /// The codes of all reasons that name this GPU.
    pub(crate) fn codes_of(&self, number: usize) -> Vec<ReasonCode> {
        let about = |reason: &&Reason| reason.message.contains(&uuid(number));
        self.report.reasons.iter().filter(about).map(|reason| reason.code).collect()
    }

    /// Energy of the window of GPU `number`.
    pub(crate) fn energy(&self, number: usize) -> &DeviceEnergy {
        let devices = &self.report.window.as_ref().unwrap().energy.devices;
        devices.iter().find(|d| d.domain.id == uuid(number) && d.domain.scope == PowerScope::Gpu).unwrap()
    }

    /// Asserts that the energy of GPU `number`, the script's device `index`, is the true one within its stated expanded uncertainty.
    pub(crate) fn assert_true(&self, number: usize, index: usize) {
        let (energy, true_j) = (self.energy(number), self.truth_j(index));
        let u_j = energy.edge_u_j.unwrap().hypot(energy.sampling_u_j.unwrap());
        let error_j = energy.energy_j.unwrap() - true_j;
        assert!(error_j.abs() <= 2.0 * u_j, "{error_j} J off {true_j} J, u {u_j} J: {energy:?}");
    }

    /// What the script's device `index` really drew in the window.
    pub(crate) fn truth_j(&self, index: usize) -> f64 {
        let window = self.report.window.as_ref().unwrap();
        self.script.true_energy_j(index, window.start_ns, window.end_ns).unwrap()
    }

    /// The samples of one scope of GPU `number`.
    pub(crate) fn samples(&self, number: usize, scope: PowerScope) -> Vec<PowerSample> {
        let samples = self.bench.samples().into_iter();
        samples.filter(|sample| sample.domain.id == uuid(number) && sample.domain.scope == scope).collect()
    }
}
