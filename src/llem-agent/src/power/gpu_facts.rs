//! What NVML says about the experiment's GPUs, and what of it speaks against a measurement.

use std::collections::BTreeMap;

use llem_protocol::{FailureClass, Reason, ReasonCode};
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::Clock;
use serde_json::Value;

use crate::fault::Fault;

/// `NVML_DEVICE_MIG_ENABLE` of nvml.h.
const MIG_ENABLED: u32 = 1;

/// The experiment's GPUs.
#[derive(Clone, Debug, Default)]
pub(crate) struct GpuFacts {
    /// Version of the GPU driver.
    pub(crate) driver: Option<String>,
    /// One entry for each GPU: name, UUID and settings.
    pub(crate) gpus: Vec<BTreeMap<String, Value>>,
    /// GPUs whose power limit is lower than their default.
    pub(crate) limited: Vec<String>,
}

impl GpuFacts {
    pub(super) fn add(&mut self, gpu: BTreeMap<String, Value>) {
        let watts = |name: &str| gpu.get(name).and_then(Value::as_f64);
        if let (Some(limit_w), Some(default_w)) = (watts("power_limit_w"), watts("power_limit_default_w"))
            && limit_w < default_w
        {
            self.limited.push(text(&gpu, "uuid"));
        }
        self.gpus.push(gpu);
    }

    /// What speaks against the devices as they are set up. A GPU in MIG mode is a fault unless it is allowed.
    pub(super) fn reasons(&self, allow_mig: bool) -> Result<Vec<Reason>, Fault> {
        let mut reasons = Vec::new();
        for gpu in &self.gpus {
            let (uuid, is) = (text(gpu, "uuid"), |name: &str| gpu.get(name).and_then(Value::as_bool));
            if is("mig_mode") == Some(true) {
                let happened = format!("{uuid} is in MIG mode");
                if !allow_mig {
                    let hint = "its power is that of all instances together; set `measurement.allow_mig: true` to measure it all the same";
                    return Err(Fault::new(FailureClass::Unsupported, format!("{happened}; {hint}")));
                }
                reasons.push(Reason::new(ReasonCode::MigEnabled, happened));
            }
            if is("persistence_mode") == Some(false) {
                reasons.push(Reason::new(ReasonCode::PersistenceOff, format!("persistence mode of {uuid} is off")));
            }
        }
        Ok(reasons)
    }
}

fn text(gpu: &BTreeMap<String, Value>, name: &str) -> String {
    gpu.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What goes into the result about a GPU. What the device does not tell is left out.
pub(super) fn describe(uuid: &str, device: &Device<'_>) -> BTreeMap<String, Value> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(gpu: Value) -> GpuFacts {
        let mut facts = GpuFacts::default();
        facts.add(serde_json::from_value(gpu).unwrap());
        facts
    }

    fn codes(facts: &GpuFacts) -> Vec<ReasonCode> {
        facts.reasons(true).unwrap().iter().map(|reason| reason.code).collect()
    }

    #[test]
    fn mig_is_refused_or_marked() {
        let divided = facts(json!({"uuid": "GPU-1", "mig_mode": true, "persistence_mode": true}));
        let fault = divided.reasons(false).unwrap_err();
        assert_eq!(fault.class, FailureClass::Unsupported);
        assert!(
            fault.message.contains("GPU-1") && fault.message.contains("measurement.allow_mig"),
            "{}",
            fault.message
        );
        assert_eq!(codes(&divided), [ReasonCode::MigEnabled]);
    }

    #[test]
    fn persistence_that_is_off_is_noted_and_unknown_is_not() {
        assert_eq!(codes(&facts(json!({"uuid": "GPU-1", "persistence_mode": false}))), [ReasonCode::PersistenceOff]);
        assert!(codes(&facts(json!({"uuid": "GPU-1", "mig_mode": false}))).is_empty());
    }

    #[test]
    fn a_lowered_power_limit_is_remembered() {
        let limits = |limit| json!({"uuid": "GPU-1", "power_limit_w": limit, "power_limit_default_w": 700.0});
        assert_eq!(facts(limits(600.0)).limited, ["GPU-1"]);
        assert!(facts(limits(700.0)).limited.is_empty());
    }
}
