//! Clocks, temperature, memory, processes, modes and limits.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlClockType_enum_NVML_CLOCK_MEM as CLOCK_MEMORY, nvmlClockType_enum_NVML_CLOCK_VIDEO as CLOCK_VIDEO,
    nvmlClockType_t, nvmlEnableState_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlProcessInfo_t,
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH as VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED, nvmlReturn_t, nvmlTemperatureSensors_t,
};

use super::boundary::{Answer, Handle, Out, export};
use crate::script::{Affected, Limits, ProcessKind};

/// `NVML_STRUCT_VERSION(Memory, 2)`.
const MEMORY_VERSION_2: c_uint = size_of::<nvmlMemory_v2_t>() as c_uint | (2 << 24);
/// What the driver says instead of a number that it does not know.
const NOT_AVAILABLE: c_ulonglong = c_ulonglong::MAX;
/// Instance identifiers of a process on a GPU that is not partitioned.
const NO_INSTANCE: c_uint = c_uint::MAX;

export! {
    fn nvmlDeviceGetTemperature(handle: Handle, sensor: nvmlTemperatureSensors_t, degrees_c: Out<c_uint>) {
        let scene = handle.scene(Affected::Temperature)?;
        let now_c = scene.device.temperature_c.at(scene.t_s).ok_or(NOT_SUPPORTED)?;
        if sensor != 0 {
            return Err(INVALID_ARGUMENT);
        }
        degrees_c.put(now_c.round() as c_uint)
    }
    fn nvmlDeviceGetClockInfo(handle: Handle, kind: nvmlClockType_t, mhz: Out<c_uint>) {
        let scene = handle.scene(Affected::Clocks)?;
        let clocks = &scene.device.clocks;
        let curve = if is_memory(kind)? { &clocks.memory_mhz } else { &clocks.sm_mhz };
        mhz.put(curve.at(scene.t_s).ok_or(NOT_SUPPORTED)?.round() as c_uint)
    }
    fn nvmlDeviceGetMaxClockInfo(handle: Handle, kind: nvmlClockType_t, mhz: Out<c_uint>) {
        let clocks = &handle.scene(Affected::Clocks)?.device.clocks;
        mhz.put(if is_memory(kind)? { clocks.max_memory_mhz } else { clocks.max_sm_mhz })
    }
    fn nvmlDeviceGetCurrentClocksThrottleReasons(handle: Handle, mask: Out<c_ulonglong>) {
        mask.put(throttle_mask(handle)?)
    }
    fn nvmlDeviceGetCurrentClocksEventReasons(handle: Handle, mask: Out<c_ulonglong>) {
        mask.put(throttle_mask(handle)?)
    }
    fn nvmlDeviceGetMemoryInfo(handle: Handle, info: Out<nvmlMemory_t>) {
        let [total, reserved, used, free] = memory(handle)?;
        info.put(nvmlMemory_t { total, free, used: used + reserved })
    }
    fn nvmlDeviceGetMemoryInfo_v2(handle: Handle, info: Out<nvmlMemory_v2_t>) {
        let version = info.get()?.version;
        if version != MEMORY_VERSION_2 {
            return Err(VERSION_MISMATCH);
        }
        let [total, reserved, used, free] = memory(handle)?;
        info.put(nvmlMemory_v2_t { version, total, reserved, free, used })
    }
    fn nvmlDeviceGetComputeRunningProcesses_v2(handle: Handle, count: Out<c_uint>, infos: Out<nvmlProcessInfo_t>) {
        processes(handle, ProcessKind::Compute, &count, &infos)
    }
    fn nvmlDeviceGetComputeRunningProcesses_v3(handle: Handle, count: Out<c_uint>, infos: Out<nvmlProcessInfo_t>) {
        processes(handle, ProcessKind::Compute, &count, &infos)
    }
    fn nvmlDeviceGetGraphicsRunningProcesses_v2(handle: Handle, count: Out<c_uint>, infos: Out<nvmlProcessInfo_t>) {
        processes(handle, ProcessKind::Graphics, &count, &infos)
    }
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(handle: Handle, count: Out<c_uint>, infos: Out<nvmlProcessInfo_t>) {
        processes(handle, ProcessKind::Graphics, &count, &infos)
    }
    fn nvmlDeviceGetEccMode(handle: Handle, current: Out<nvmlEnableState_t>, pending: Out<nvmlEnableState_t>) {
        let state = u32::from(handle.scene(Affected::Settings)?.device.ecc.ok_or(NOT_SUPPORTED)?);
        current.put(state)?;
        pending.put(state)
    }
    fn nvmlDeviceGetMigMode(handle: Handle, current: Out<c_uint>, pending: Out<c_uint>) {
        let state = u32::from(handle.scene(Affected::Settings)?.device.mig.ok_or(NOT_SUPPORTED)?);
        current.put(state)?;
        pending.put(state)
    }
    fn nvmlDeviceGetPersistenceMode(handle: Handle, state: Out<nvmlEnableState_t>) {
        state.put(u32::from(handle.scene(Affected::Settings)?.device.persistence))
    }
    fn nvmlDeviceGetEnforcedPowerLimit(handle: Handle, limit_mw: Out<c_uint>) {
        limit_mw.put(milliwatts(limits(handle)?.enforced_w))
    }
    fn nvmlDeviceGetPowerManagementLimit(handle: Handle, limit_mw: Out<c_uint>) {
        limit_mw.put(milliwatts(limits(handle)?.management_w))
    }
    fn nvmlDeviceGetPowerManagementDefaultLimit(handle: Handle, limit_mw: Out<c_uint>) {
        limit_mw.put(milliwatts(limits(handle)?.default_w))
    }
    fn nvmlDeviceGetPowerManagementLimitConstraints(handle: Handle, min_mw: Out<c_uint>, max_mw: Out<c_uint>) {
        let limits = limits(handle)?;
        min_mw.put(milliwatts(limits.min_w))?;
        max_mw.put(milliwatts(limits.max_w))
    }
}

fn is_memory(kind: nvmlClockType_t) -> Result<bool, nvmlReturn_t> {
    if kind > CLOCK_VIDEO { Err(INVALID_ARGUMENT) } else { Ok(kind == CLOCK_MEMORY) }
}

fn throttle_mask(handle: Handle) -> Result<c_ulonglong, nvmlReturn_t> {
    let scene = handle.scene(Affected::Throttle)?;
    let holding = scene.device.throttle_reasons.iter().filter(|throttle| throttle.during.contains(scene.event_s));
    Ok(holding.fold(0, |mask, throttle| mask | throttle.mask))
}

/// Total, reserved, used and free memory in bytes.
fn memory(handle: Handle) -> Result<[c_ulonglong; 4], nvmlReturn_t> {
    let scene = handle.scene(Affected::Memory)?;
    let memory = &scene.device.memory;
    let used = memory.used_at(scene.event_s);
    let free = memory.total_bytes.saturating_sub(memory.reserved_bytes).saturating_sub(used);
    Ok([memory.total_bytes, memory.reserved_bytes, used, free])
}

fn limits(handle: Handle) -> Result<&'static Limits, nvmlReturn_t> {
    Ok(&handle.scene(Affected::Settings)?.device.limits)
}

fn milliwatts(watts: f64) -> c_uint {
    (watts * 1e3).round() as c_uint
}

/// Lists processes, or says how many there are when there is no room for them.
fn processes(handle: Handle, kind: ProcessKind, count: &Out<c_uint>, infos: &Out<nvmlProcessInfo_t>) -> Answer {
    let scene = handle.scene(Affected::Processes)?;
    let listed = scene.device.processes.iter().filter(|process| process.kind == kind);
    let there = listed.filter(|process| process.during.contains(scene.event_s));
    let found: Vec<nvmlProcessInfo_t> = there
        .flat_map(|process| process.pid.numbers().into_iter().map(|pid| process_info(pid, process.bytes)))
        .collect();
    let room = count.get()? as usize;
    count.put(found.len() as c_uint)?;
    if found.len() > room {
        return Err(INSUFFICIENT_SIZE);
    }
    infos.put_all(found)
}

fn process_info(pid: u32, bytes: Option<u64>) -> nvmlProcessInfo_t {
    nvmlProcessInfo_t {
        pid,
        usedGpuMemory: bytes.unwrap_or(NOT_AVAILABLE),
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    }
}
