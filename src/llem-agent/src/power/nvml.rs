//! NVIDIA's management library: exactly the experiment's GPUs, found by UUID. Loaded at run time.

use std::collections::BTreeMap;

use llem_protocol::{PowerDomain, PowerSourceKind};
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use serde_json::Value;

use super::{Counter, PowerError, PowerSource, Reading};
use crate::clock;

/// `NVML_FI_DEV_POWER_INSTANT` of nvml.h: power without the driver's one-second mean, in milliwatts.
const POWER_INSTANT: FieldId = FieldId(186);

/// `NVML_DEVICE_MIG_ENABLE` of nvml.h.
const MIG_ENABLED: u32 = 1;

/// What NVML says about the experiment's GPUs.
#[derive(Clone, Debug, Default)]
pub(crate) struct GpuFacts {
    /// Version of the GPU driver.
    pub(crate) driver: Option<String>,
    /// One entry for each GPU: name, UUID and settings.
    pub(crate) gpus: Vec<BTreeMap<String, Value>>,
}

/// The GPUs of one run.
pub(crate) struct NvmlSource {
    gpus: Vec<Gpu>,
}

struct Gpu {
    uuid: String,
    device: Device<'static>,
    last_counter_mj: Option<u64>,
}

/// Loads the library and finds all of `uuids`. One that is missing is an error: half of the energy is a wrong number.
pub(crate) fn open(uuids: &[String]) -> Result<(NvmlSource, GpuFacts), NvmlError> {
    // Devices borrow the library; both live until the process ends.
    let nvml: &'static Nvml = Box::leak(Box::new(Nvml::init()?));
    let mut source = NvmlSource { gpus: Vec::new() };
    let mut facts = GpuFacts { driver: nvml.sys_driver_version().ok(), gpus: Vec::new() };
    for uuid in uuids {
        let device = nvml.device_by_uuid(uuid.as_str())?;
        facts.gpus.push(describe(uuid, &device));
        source.gpus.push(Gpu { uuid: uuid.clone(), device, last_counter_mj: None });
    }
    Ok((source, facts))
}

impl PowerSource for NvmlSource {
    fn domains(&self) -> Vec<PowerDomain> {
        self.gpus.iter().map(|gpu| PowerDomain { source: PowerSourceKind::Nvml, id: gpu.uuid.clone() }).collect()
    }

    fn sample(&mut self, domain: usize) -> Result<Reading, PowerError> {
        let device = &self.gpu(domain)?.device;
        let power_mw = instant_power_mw(device).map_or_else(|| device.power_usage().map(f64::from), Ok)?;
        Ok(Reading {
            power_w: Some(power_mw / 1e3),
            memory_used_bytes: device.memory_info().ok().map(|memory| memory.used),
            clock_mhz: device.clock_info(Clock::SM).ok(),
            temperature_c: device.temperature(TemperatureSensor::Gpu).ok().and_then(|degrees| degrees.try_into().ok()),
        })
    }

    fn counter(&mut self, domain: usize) -> Result<Option<Counter>, PowerError> {
        let gpu = self.gpu(domain)?;
        let energy_mj = match gpu.device.total_energy_consumption() {
            Ok(energy_mj) => energy_mj,
            // Before Volta there is no counter.
            Err(NvmlError::NotSupported) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if gpu.last_counter_mj.replace(energy_mj).is_some_and(|last| energy_mj < last) {
            return Err(PowerError::Reset { sensor: gpu.uuid.clone() });
        }
        Ok(Some(Counter { t_ns: clock::monotonic_ns(), energy_j: energy_mj as f64 / 1e3 }))
    }
}

impl NvmlSource {
    fn gpu(&mut self, domain: usize) -> Result<&mut Gpu, PowerError> {
        let missing = || PowerError::Value { sensor: "NVML".to_owned(), value: format!("domain {domain}") };
        self.gpus.get_mut(domain).ok_or_else(missing)
    }
}

fn instant_power_mw(device: &Device<'_>) -> Option<f64> {
    let values = device.field_values_for(&[POWER_INSTANT]).ok()?;
    let power_mw = match values.into_iter().next()?.ok()?.value.ok()? {
        SampleValue::F64(value) => value,
        SampleValue::U32(value) => f64::from(value),
        SampleValue::U64(value) => value as f64,
        SampleValue::I64(value) => value as f64,
    };
    (power_mw > 0.0).then_some(power_mw)
}

/// What goes into the result about a GPU. What the device does not tell is left out.
fn describe(uuid: &str, device: &Device<'_>) -> BTreeMap<String, Value> {
    let mig = device.mig_mode().ok().map(|mode| mode.current);
    let facts = [
        ("name", device.name().ok().map(Value::from)),
        ("vbios", device.vbios_version().ok().map(Value::from)),
        ("power_limit_w", device.enforced_power_limit().ok().map(watts)),
        ("power_limit_default_w", device.power_management_limit_default().ok().map(watts)),
        ("sm_clock_max_mhz", device.max_clock_info(Clock::SM).ok().map(Value::from)),
        ("memory_clock_max_mhz", device.max_clock_info(Clock::Memory).ok().map(Value::from)),
        ("memory_bytes", device.memory_info().ok().map(|memory| Value::from(memory.total))),
        ("ecc", device.is_ecc_enabled().ok().map(|ecc| Value::from(ecc.currently_enabled))),
        ("persistence_mode", device.is_in_persistent_mode().ok().map(Value::from)),
        ("mig_mode", mig.map(|mode| Value::from(mode == MIG_ENABLED))),
    ];
    let known = facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.chain([("uuid".to_owned(), Value::from(uuid))]).collect()
}

fn watts(milliwatts: u32) -> Value {
    Value::from(f64::from(milliwatts) / 1e3)
}
