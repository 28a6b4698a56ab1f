//! Programs under test. Each is started by a test of the same subject, with a script and the library in its environment.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fake_nvml::{Script, mark_load, monotonic_ns, realtime_offset_ns};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, Sampling, TemperatureSensor};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{nvmlFieldValue_t, nvmlMemory_t, nvmlMemory_v2_t};

const POWER_AVERAGE: u32 = 185;
const POWER_INSTANT: u32 = 186;
const TOTAL_ENERGY: u32 = 83;

fn script() -> Script {
    Script::read(&PathBuf::from(std::env::var_os("FAKE_NVML").unwrap())).unwrap()
}

fn milliseconds(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn field(device: &Device<'_>, id: u32) -> Result<SampleValue, NvmlError> {
    device.field_values_for(&[FieldId(id)])?.remove(0)?.value
}

/// Return code, value type and milliwatts of instant power in a scope.
#[expect(unsafe_code, reason = "the wrapper knows no scopes")]
fn power_in_scope(nvml: &Nvml, device: &Device<'_>, scope: u32) -> (u32, u32, u32) {
    // SAFETY: the struct is plain data, for which zeros are valid; the handle is that of a living library.
    unsafe {
        let mut value: nvmlFieldValue_t = std::mem::zeroed();
        (value.fieldId, value.scopeId) = (POWER_INSTANT, scope);
        assert_eq!(nvml.lib().nvmlDeviceGetFieldValues(device.handle(), 1, &raw mut value), 0);
        (value.nvmlReturn, value.valueType, value.value.uiVal)
    }
}

#[test]
#[ignore = "needs a script"]
fn everything() {
    let nvml = Nvml::init().unwrap();
    assert_eq!(nvml.sys_driver_version().unwrap(), "580.159.04");
    assert_eq!(nvml.sys_nvml_version().unwrap(), "13.580.159.04");
    assert_eq!((nvml.sys_cuda_driver_version().unwrap(), nvml.device_count().unwrap()), (13000, 2));
    assert_eq!(nvml.sys_process_name(42, 64).unwrap(), "python");
    let device = nvml.device_by_uuid("GPU-second").unwrap();
    assert_eq!(nvml.device_by_pci_bus_id("00000000:c1:00.0").unwrap().index().unwrap(), 1);
    assert_eq!(nvml.device_by_index(1).unwrap().uuid().unwrap(), "GPU-second");
    assert!(matches!(nvml.device_by_index(2), Err(NvmlError::InvalidArg)));
    assert!(matches!(nvml.device_by_uuid("GPU-x"), Err(NvmlError::NotFound)));
    assert_eq!(device.name().unwrap(), "NVIDIA H100 80GB HBM3");
    assert_eq!(device.vbios_version().unwrap(), "96.00.74.00.0D");
    assert_eq!(
        (device.pci_info().unwrap().bus, device.pci_info().unwrap().bus_id.as_str()),
        (0xC1, "00000000:C1:00.0")
    );
    assert_eq!(device.cuda_compute_capability().unwrap().major, 9);
    assert_eq!(device.num_cores().unwrap(), 16_896);
    assert_eq!(device.temperature(TemperatureSensor::Gpu).unwrap(), 61);
    let clocks = [device.clock_info(Clock::SM), device.clock_info(Clock::Memory), device.max_clock_info(Clock::SM)];
    assert_eq!(clocks.map(Result::unwrap), [1755, 2619, 1980]);
    let held_back = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::SW_THERMAL_SLOWDOWN;
    assert_eq!(device.current_throttle_reasons().unwrap(), held_back);
    let memory = device.memory_info().unwrap();
    assert_eq!((memory.used, memory.total), (7 << 30, 81_559 << 20));
    assert_eq!(memory.used + memory.free + memory.reserved, memory.total);
    assert!(device.is_ecc_enabled().unwrap().currently_enabled && device.is_in_persistent_mode().unwrap());
    assert_eq!(device.mig_mode().unwrap().current, 0);
    assert_eq!((device.enforced_power_limit().unwrap(), device.power_management_limit().unwrap()), (700_000, 700_000));
    assert_eq!(device.power_management_limit_constraints().unwrap().min_limit, 200_000);
    assert_eq!(device.power_management_limit_default().unwrap(), 700_000);
    processes_are_listed(&device);
    assert_eq!((device.power_usage().unwrap(), power_in_scope(&nvml, &device, 0)), (70_000, (0, 1, 70_000)));
    assert!(matches!(field(&device, POWER_AVERAGE), Ok(SampleValue::U32(70_000))));
    assert!(matches!(field(&device, TOTAL_ENERGY), Ok(SampleValue::U64(999_000_000..))));
    assert!(matches!(field(&device, 1), Err(NvmlError::NotSupported)));
    assert!(device.total_energy_consumption().unwrap() >= 999_000_000);
    assert_eq!(device.samples(Sampling::Power, None).unwrap().len(), 119);
    assert!(matches!(device.samples(Sampling::GpuUtilization, None), Err(NvmlError::NotSupported)));
}

fn processes_are_listed(device: &Device<'_>) {
    let compute = device.running_compute_processes().unwrap();
    assert_eq!(compute.iter().map(|process| process.pid).collect::<Vec<_>>(), [42, 43]);
    assert_eq!(compute[0].used_gpu_memory, UsedGpuMemory::Unavailable);
    assert_eq!(compute[1].used_gpu_memory, UsedGpuMemory::Used(5));
    assert_eq!(compute[1].gpu_instance_id, None);
    assert_eq!(device.running_graphics_processes().unwrap()[0].pid, 44);
}

#[test]
#[ignore = "needs a script"]
fn counter() {
    let (script, nvml) = (script(), Nvml::init().unwrap());
    let device = nvml.device_by_index(0).unwrap();
    let epoch_ns = script.epoch_monotonic_ns.unwrap();
    // Until when a value read at this moment has counted.
    let counted_to_ns = |stamp_ns: u64| stamp_ns - (stamp_ns + 79_000_000 - epoch_ns) % 100_000_000 - 5_000_000;
    let mut values: Vec<(u64, u64)> = Vec::new();
    let mut slow = 0;
    let start = Instant::now();
    while start.elapsed() < milliseconds(1500) {
        let before_ns = monotonic_ns();
        let value_mj = device.total_energy_consumption().unwrap();
        let after_ns = monotonic_ns();
        assert!(after_ns - before_ns >= 3_000_000);
        slow += u32::from(after_ns - before_ns >= 90_000_000);
        // A refresh during the call leaves open which value it was.
        if counted_to_ns(before_ns) == counted_to_ns(after_ns) {
            values.push((counted_to_ns(before_ns), value_mj));
        }
    }
    values.dedup();
    assert!(slow >= 2 && values.len() >= 5, "{slow} {values:?}");
    for pair in values.windows(2) {
        let truth_j = script.true_energy_j(0, pair[0].0, pair[1].0).unwrap();
        assert!(((pair[1].1 - pair[0].1) as f64 / 1e3 - truth_j).abs() < 0.01, "{truth_j} {pair:?}");
    }
}

#[test]
#[ignore = "needs a script"]
fn samples() {
    let (script, nvml) = (script(), Nvml::init().unwrap());
    let device = nvml.device_by_index(0).unwrap();
    let offset_ns = realtime_offset_ns();
    let monotonic_us = |realtime_us: u64| u64::try_from(i128::from(realtime_us) - offset_ns / 1000).unwrap();
    let before_us = monotonic_ns() / 1000;
    let mut all = device.samples(Sampling::Power, None).unwrap();
    let after_us = monotonic_ns() / 1000;
    let newest_us = all[all.len() - 1].timestamp;
    let newest_age_us = [before_us, after_us].map(|now_us| now_us - monotonic_us(newest_us));
    assert!(newest_age_us[0] < 148_000 && newest_age_us[1] > 99_000, "{newest_age_us:?}");
    assert!(matches!(device.samples(Sampling::Power, newest_us + 10_000_000), Err(NvmlError::NotFound)));
    for _ in 0..4 {
        sleep(milliseconds(200));
        all.extend(device.samples(Sampling::Power, all[all.len() - 1].timestamp).unwrap());
    }
    assert!(all.windows(2).all(|pair| (8_000..=47_000).contains(&(pair[1].timestamp - pair[0].timestamp))));
    let joules: f64 = all
        .windows(2)
        .map(|pair| {
            let SampleValue::U32(power_mw) = pair[1].value else { panic!("not a number of milliwatts") };
            f64::from(power_mw) / 1e3 * (pair[1].timestamp - pair[0].timestamp) as f64 / 1e6
        })
        .sum();
    let [from_ns, to_ns] = [0, all.len() - 1].map(|index| monotonic_us(all[index].timestamp) * 1000);
    let truth_j = script.true_energy_j(0, from_ns, to_ns).unwrap();
    assert!((joules - truth_j).abs() < 0.1, "{joules} {truth_j}");
}

#[test]
#[ignore = "needs a script"]
fn unsupported() {
    let nvml = Nvml::init().unwrap();
    let (device, grace) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
    assert!(matches!(device.total_energy_consumption(), Err(NvmlError::NotSupported)));
    assert!(matches!(field(&device, TOTAL_ENERGY), Err(NvmlError::NotSupported)));
    assert!(matches!(device.samples(Sampling::Power, None), Err(NvmlError::NotSupported)));
    assert!(matches!(device.temperature(TemperatureSensor::Gpu), Err(NvmlError::NotSupported)));
    assert!(matches!(device.is_ecc_enabled(), Err(NvmlError::NotSupported)));
    assert!(matches!(device.mig_mode(), Err(NvmlError::NotSupported)));
    assert!(matches!(device.fan_speed(0), Err(NvmlError::FailedToLoadSymbol(_))));
    assert_eq!(power_in_scope(&nvml, &device, 1).0, 3);
    assert_eq!(power_in_scope(&nvml, &grace, 1), (0, 1, 200_000));
    assert_eq!(power_in_scope(&nvml, &grace, 0), (0, 1, 70_000));
}

#[test]
#[ignore = "needs a script"]
fn faults() {
    let (script, nvml) = (script(), Nvml::init().unwrap());
    let device = nvml.device_by_index(0).unwrap();
    let failing = (device.power_usage(), field(&device, POWER_INSTANT), device.total_energy_consumption());
    let elapsed_ns = monotonic_ns() - script.epoch_monotonic_ns.unwrap();
    if elapsed_ns < 990_000_000 {
        assert!(matches!(failing, (Err(NvmlError::Timeout), Err(NvmlError::Timeout), Ok(_))), "{failing:?}");
    }
    sleep(milliseconds(1000));
    assert!(matches!(device.power_usage(), Err(NvmlError::GpuLost)));
    assert!(matches!(device.total_energy_consumption(), Err(NvmlError::GpuLost)));
    assert!(matches!(field(&device, POWER_INSTANT), Err(NvmlError::GpuLost)));
    assert!(matches!(device.name(), Err(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_by_index(0), Err(NvmlError::GpuLost)));
    assert_eq!(nvml.device_count().unwrap(), 1);
}

#[test]
#[ignore = "needs a script"]
fn follow() {
    let directory = PathBuf::from(std::env::var_os("SCENE_DIRECTORY").unwrap());
    let (script, nvml) = (script(), Nvml::init().unwrap());
    let device = nvml.device_by_index(0).unwrap();
    assert!(device.running_compute_processes().unwrap().is_empty());
    fs_err::write(directory.join("pid"), std::process::id().to_string()).unwrap();
    assert_eq!(device.running_compute_processes().unwrap()[0].pid, std::process::id());
    assert_eq!(device.power_usage().unwrap(), 70_000);
    let load = directory.join("load");
    let start_ns = monotonic_ns();
    mark_load(&load, true).unwrap();
    sleep(milliseconds(300));
    assert!(matches!(field(&device, POWER_INSTANT), Ok(SampleValue::U32(470_000))));
    let busy_s = (monotonic_ns() - start_ns) as f64 / 1e9;
    mark_load(&load, false).unwrap();
    sleep(milliseconds(200));
    assert!(matches!(field(&device, POWER_INSTANT), Ok(SampleValue::U32(70_000))));
    let end_ns = monotonic_ns();
    let above_idle_j = script.true_energy_j(0, start_ns, end_ns).unwrap() - 70.0 * (end_ns - start_ns) as f64 / 1e9;
    assert!(above_idle_j > 400.0 * 0.29 && above_idle_j < 400.0 * (busy_s + 0.1), "{above_idle_j} {busy_s}");
}

#[test]
#[ignore = "needs a script"]
fn events() {
    let load = PathBuf::from(std::env::var_os("SCENE_DIRECTORY").unwrap()).join("load");
    let nvml = Nvml::init().unwrap();
    let device = nvml.device_by_index(0).unwrap();
    mark_load(&load, true).unwrap();
    mark_load(&load, false).unwrap();
    sleep(milliseconds(600));
    assert_eq!(device.current_throttle_reasons().unwrap(), ThrottleReasons::empty());
    assert!(device.total_energy_consumption().unwrap() > 900_000_000);
    mark_load(&load, true).unwrap();
    assert_eq!(device.current_throttle_reasons().unwrap(), ThrottleReasons::SW_POWER_CAP);
    sleep(milliseconds(150));
    assert!(device.total_energy_consumption().unwrap() < 900_000_000);
    sleep(milliseconds(400));
    assert!(matches!(device.total_energy_consumption(), Err(NvmlError::GpuLost)));
}

#[test]
#[ignore = "needs a script"]
#[expect(unsafe_code, reason = "the wrapper makes no such calls")]
fn wrong_calls() {
    let nvml = Nvml::init().unwrap();
    let (lib, device) = (nvml.lib(), nvml.device_by_index(0).unwrap());
    // SAFETY: the addresses are null, which the library checks, or those of local variables of the size that is given.
    unsafe {
        let (handle, none) = (device.handle(), std::ptr::null_mut());
        assert_eq!(lib.nvmlDeviceGetPowerUsage(handle, none), 2);
        assert_eq!(lib.nvmlDeviceGetPowerUsage(std::ptr::null_mut(), none), 2);
        assert_eq!(lib.nvmlDeviceGetPowerUsage(std::ptr::without_provenance_mut(99), none), 2);
        assert_eq!(lib.nvmlDeviceGetHandleByUUID(std::ptr::null(), std::ptr::null_mut()), 2);
        let mut short = [0; 4];
        assert_eq!(lib.nvmlDeviceGetName(handle, short.as_mut_ptr(), 4), 7);
        let mut memory: nvmlMemory_v2_t = std::mem::zeroed();
        assert_eq!(lib.nvmlDeviceGetMemoryInfo_v2(handle, &raw mut memory), 25);
        let mut memory: nvmlMemory_t = std::mem::zeroed();
        assert_eq!((lib.nvmlDeviceGetMemoryInfo(handle, &raw mut memory), memory.used), (0, 555 << 20));
        assert_eq!(std::ffi::CStr::from_ptr(lib.nvmlErrorString(15)), c"GPU is lost");
        assert_eq!(lib.nvmlShutdown(), 0);
        assert_eq!((lib.nvmlShutdown(), lib.nvmlDeviceGetPowerUsage(handle, none)), (1, 1));
        assert_eq!(lib.nvmlInit_v2(), 0);
    }
}

#[test]
#[ignore = "needs a script"]
fn refused() {
    assert!(matches!(Nvml::init(), Err(NvmlError::LibRmVersionMismatch)));
}

#[test]
#[ignore = "needs a script"]
fn nothing() {
    let nvml = Nvml::init().unwrap();
    assert_eq!(nvml.device_count().unwrap(), 0);
    assert!(matches!(nvml.device_by_index(0), Err(NvmlError::InvalidArg)));
}
