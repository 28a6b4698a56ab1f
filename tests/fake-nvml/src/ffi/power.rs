//! Energy and power.

use std::ffi::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    field_id, nvmlFieldValue_t, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t, nvmlSample_t,
    nvmlSamplingType_enum_NVML_TOTAL_POWER_SAMPLES as TOTAL_POWER_SAMPLES, nvmlSamplingType_t, nvmlValue_t,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT as UNSIGNED_INT,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG as UNSIGNED_LONG_LONG, nvmlValueType_t,
};

use super::boundary::{Answer, Handle, Out, export};
use crate::script::Affected;
use crate::sensor::meter::{self, Window};
use crate::sensor::{counter, samples};
use crate::world::{self, Scene};

/// `NVML_POWER_SCOPE_…` of nvml.h.
const SCOPE_GPU: c_uint = 0;
const SCOPE_MODULE: c_uint = 1;

export! {
    fn nvmlDeviceGetTotalEnergyConsumption(handle: Handle, energy_mj: Out<c_ulonglong>) {
        energy_mj.put(counter_mj(handle)?)
    }
    fn nvmlDeviceGetPowerUsage(handle: Handle, power_mw: Out<c_uint>) {
        let scene = handle.scene(Affected::Power)?;
        supported(scene.device.meter.supported)?;
        let call_ms = scene.device.meter.call_ms;
        let scene = scene.after(call_ms)?;
        power_mw.put(meter::milliwatts(scene.device, &scene.work, scene.t_s, Window::Mean))
    }
    fn nvmlDeviceGetFieldValues(handle: Handle, count: c_int, values: Out<nvmlFieldValue_t>) {
        // The call itself fails for a lost device only; everything else is told for each field.
        handle.scene(Affected::Settings)?;
        for index in 0..usize::try_from(count).map_err(|_| INVALID_ARGUMENT)? {
            let place = values.nth(index);
            place.put(answered(handle, place.get()?))?;
        }
        Ok(())
    }
    fn nvmlDeviceGetSamples(
        handle: Handle,
        kind: nvmlSamplingType_t,
        last_seen_us: c_ulonglong,
        value_type: Out<nvmlValueType_t>,
        count: Out<c_uint>,
        buffer: Out<nvmlSample_t>,
    ) {
        let scene = handle.scene(Affected::Samples)?;
        supported(scene.device.samples.supported && kind == TOTAL_POWER_SAMPLES)?;
        value_type.put(UNSIGNED_INT)?;
        if buffer.is_null() {
            return count.put(scene.device.samples.capacity as c_uint);
        }
        let call_ms = scene.device.samples.call_ms;
        let newer = samples_since(&scene.after(call_ms)?, last_seen_us)?;
        let room = newer.len().min(count.get()? as usize);
        count.put(room as c_uint)?;
        buffer.put_all(newer.into_iter().take(room))
    }
}

fn supported(is_supported: bool) -> Answer {
    if is_supported { Ok(()) } else { Err(NOT_SUPPORTED) }
}

/// Takes the time of a call; the value is that of a moment within it.
fn counter_mj(handle: Handle) -> Result<u64, nvmlReturn_t> {
    let scene = handle.scene(Affected::Counter)?;
    let settings = &scene.device.counter;
    supported(settings.supported)?;
    let call_ms = counter::call_ms(settings, scene.next_counter_call());
    let latched_ms = call_ms * settings.latched_at;
    let scene = scene.after(latched_ms)?;
    let energy_mj = counter::millijoules(scene.device, &scene.work, scene.t_s);
    world::sleep(call_ms - latched_ms);
    Ok(energy_mj)
}

/// Samples that are newer than a stamp; none is an error.
fn samples_since(scene: &Scene<'_>, last_seen_us: u64) -> Result<Vec<nvmlSample_t>, nvmlReturn_t> {
    let stamped = samples::ring(scene.device, &scene.work, scene.t_s).into_iter().map(|sample| nvmlSample_t {
        timeStamp: u64::try_from(scene.world.realtime_us(sample.end_ms * 1000)).unwrap_or(0),
        sampleValue: unsigned_int(sample.milliwatts),
    });
    let newer: Vec<nvmlSample_t> = stamped.filter(|sample| sample.timeStamp > last_seen_us).collect();
    if newer.is_empty() { Err(NOT_FOUND) } else { Ok(newer) }
}

/// The answer to one entry of a request for fields.
fn answered(handle: Handle, mut field: nvmlFieldValue_t) -> nvmlFieldValue_t {
    match field_value(handle, field.fieldId, field.scopeId) {
        Ok((timestamp_us, value_type, value)) => {
            field.timestamp = timestamp_us;
            field.latencyUsec = 0;
            field.valueType = value_type;
            field.value = value;
            field.nvmlReturn = SUCCESS;
        }
        Err(code) => field.nvmlReturn = code,
    }
    field
}

/// Stamp in microseconds of the wall clock, type and value of a field.
fn field_value(handle: Handle, id: u32, scope: c_uint) -> Result<(i64, nvmlValueType_t, nvmlValue_t), nvmlReturn_t> {
    let window = match id {
        field_id::NVML_FI_DEV_POWER_AVERAGE => Window::Mean,
        field_id::NVML_FI_DEV_POWER_INSTANT => Window::Instant,
        field_id::NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION => {
            let value = nvmlValue_t { ullVal: counter_mj(handle)? };
            let world = world::world()?;
            return Ok((world.realtime_us((world.now_s() * 1e6) as i64), UNSIGNED_LONG_LONG, value));
        }
        _ => return Err(NOT_SUPPORTED),
    };
    let scene = handle.scene(Affected::Power)?;
    supported(scene.device.meter.fields_supported)?;
    let call_ms = scene.device.meter.call_ms;
    let scene = scene.after(call_ms)?;
    let (device, work, t_s) = (scene.device, &scene.work, scene.t_s);
    let power_mw = match (scope, &device.grace) {
        (SCOPE_GPU, _) => meter::milliwatts(device, work, t_s, window),
        (SCOPE_MODULE, Some(grace)) => meter::module_milliwatts(device, grace, work, t_s, window),
        _ => return Err(NOT_SUPPORTED),
    };
    let refreshed_us = (meter::refreshed_s(&device.meter, t_s) * 1e6).round() as i64;
    Ok((scene.world.realtime_us(refreshed_us), UNSIGNED_INT, unsigned_int(power_mw)))
}

/// The other bytes of the union are 0, as a caller that reads too many of them would have it.
fn unsigned_int(value: u32) -> nvmlValue_t {
    let mut wide = nvmlValue_t { ullVal: 0 };
    wide.uiVal = value;
    wide
}
