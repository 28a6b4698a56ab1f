//! The built library, loaded by nvml-wrapper. A test that needs a script starts itself again as a program under test.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

mod scenes;

use std::path::Path;
use std::process::Command;

use fake_nvml::{
    Affected, Clocks, Counter, Curve, Device, EnergySamples, Failure, Grace, Load, Memory, Origin, Pid, Power, Process,
    ProcessKind, Script, Span, Square, Throttle, code,
};
use nvml_wrapper::Nvml;

/// Runs a test of `scenes` in a process of its own, which loads the library as any program would; what it printed.
fn play(scene: &str, directory: &Path, script: &Script) -> String {
    let environment = fake_nvml::stage(directory, script).unwrap();
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--ignored", "--exact", "--nocapture", &format!("scenes::{scene}")]);
    program.envs(environment).env("SCENE_DIRECTORY", directory);
    let output = program.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{scene}:\n{text}");
    text
}

fn play_devices(scene: &str, devices: Vec<Device>) {
    let directory = tempfile::tempdir().unwrap();
    play(scene, directory.path(), &Script { devices, ..Script::starting_now() });
}

#[test]
fn without_a_script_there_is_an_idle_gpu() {
    let nvml = Nvml::builder().lib_path(fake_nvml::library_path().unwrap().as_os_str()).init().unwrap();
    let device = nvml.device_by_index(0).unwrap();
    assert_eq!((nvml.device_count().unwrap(), device.power_usage().unwrap()), (1, 70_000));
    nvml.shutdown().unwrap();
}

#[test]
fn everything_is_read() {
    let process = |number, kind| Process { pid: Pid::Number(number), bytes: Some(5), kind, ..Process::default() };
    let named = Process { name: Some("python".to_owned()), bytes: None, ..process(42, ProcessKind::Compute) };
    let device = Device {
        uuid: "GPU-second".to_owned(),
        pci_bus_id: "00000000:C1:00.0".to_owned(),
        temperature_c: Curve::constant(61.0),
        clocks: Clocks { sm_mhz: Curve::constant(1755.0), ..Clocks::default() },
        throttle_reasons: vec![
            Throttle { mask: 4, ..Throttle::default() },
            Throttle { mask: 32, ..Throttle::default() },
        ],
        memory: Memory { used_bytes: 7 << 30, ..Memory::default() },
        processes: vec![named, process(43, ProcessKind::Compute), process(44, ProcessKind::Graphics)],
        ..Device::default()
    };
    play_devices("everything", vec![Device::default(), device]);
}

#[test]
fn the_counter_keeps_its_times() {
    let power = Power::Square(Square { period_s: 0.15, ..Square::default() });
    let counter = Counter { slow_every: 20, phase_ms: 21.0, ..Counter::default() };
    play_devices("counter", vec![Device { power, counter, ..Device::default() }]);
}

#[test]
fn samples_add_up_to_the_truth() {
    let power = Power::Square(Square { period_s: 0.15, ..Square::default() });
    play_devices("samples", vec![Device { power, ..Device::default() }]);
}

#[test]
fn what_a_gpu_cannot_do_is_not_supported() {
    let device = Device {
        counter: Counter { supported: false, ..Counter::default() },
        samples: EnergySamples { supported: false, ..EnergySamples::default() },
        temperature_c: Curve::default(),
        ecc: None,
        mig: None,
        ..Device::default()
    };
    let grace = Device { grace: Some(Grace { rest: Power::Constant(130.0) }), ..Device::default() };
    play_devices("unsupported", vec![device, grace]);
}

#[test]
fn faults_come_and_go() {
    let failure = Failure { during: Span::new(-1.0, 1.0), code: code::TIMEOUT, affected: Affected::Power };
    let lost = Device { lost_at_s: Some(1.0), failures: vec![failure], ..Device::default() };
    play_devices("faults", vec![lost]);
}

#[test]
fn power_and_processes_follow_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name| directory.path().join(name);
    let load = Some(Load { file: file("load"), busy: Power::Constant(470.0) });
    let processes = vec![Process { pid: Pid::File(file("pid").display().to_string()), ..Process::default() }];
    let devices = vec![Device { load, processes, ..Device::default() }];
    play("follow", directory.path(), &Script { devices, ..Script::starting_now() });
}

#[test]
fn events_wait_for_work() {
    let directory = tempfile::tempdir().unwrap();
    let load = Some(Load { file: directory.path().join("load"), busy: Power::Constant(470.0) });
    let counter = Counter { reset_at_s: Some(0.1), ..Counter::default() };
    let throttle_reasons = vec![Throttle { mask: 4, during: Span::new(0.0, 60.0) }];
    let device = Device { load, counter, throttle_reasons, lost_at_s: Some(0.5), ..Device::default() };
    let devices = vec![Device { events_from: Origin::Work(2), ..device }];
    play("events", directory.path(), &Script { devices, ..Script::starting_now() });
}

#[test]
fn wrong_calls_are_refused() {
    play_devices("wrong_calls", vec![Device::default()]);
}

#[test]
fn a_library_that_does_not_start_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let refusing = Script { init_code: Some(code::LIB_RM_VERSION_MISMATCH), ..Script::default() };
    play("refused", directory.path(), &refusing);
    let late = Script { devices: Vec::new(), ..Script::default() };
    play("nothing", directory.path(), &late);
}
