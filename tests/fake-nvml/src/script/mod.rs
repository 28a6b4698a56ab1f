//! The script: what the GPUs are and what happens to them, as a JSON file. Times are seconds after the epoch.

mod sensors;
mod settings;
mod span;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use sensors::{Affected, Counter, EnergySamples, Failure, Meter};
pub use settings::{Clocks, Grace, Limits, Memory, MemoryUse, Pid, Process, ProcessKind, Throttle};
pub use span::{Curve, Origin, Span};

use crate::clock;
use crate::load::Load;
use crate::shape::Power;

/// Return codes of nvml.h that a script may want.
pub mod code {
    /// `NVML_ERROR_NOT_SUPPORTED`
    pub const NOT_SUPPORTED: u32 = 3;
    /// `NVML_ERROR_NO_PERMISSION`
    pub const NO_PERMISSION: u32 = 4;
    /// `NVML_ERROR_DRIVER_NOT_LOADED`
    pub const DRIVER_NOT_LOADED: u32 = 9;
    /// `NVML_ERROR_TIMEOUT`
    pub const TIMEOUT: u32 = 10;
    /// `NVML_ERROR_GPU_IS_LOST`
    pub const GPU_IS_LOST: u32 = 15;
    /// `NVML_ERROR_LIB_RM_VERSION_MISMATCH`
    pub const LIB_RM_VERSION_MISMATCH: u32 = 18;
    /// `NVML_ERROR_UNKNOWN`
    pub const UNKNOWN: u32 = 999;
}

/// Everything that the fake library replays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Second 0 as a `CLOCK_MONOTONIC` stamp in nanoseconds. Absent, it is the first `nvmlInit` after the library was loaded:
    /// processes that read the same device then disagree.
    pub epoch_monotonic_ns: Option<u64>,
    /// The GPUs, in the order of their indices.
    pub devices: Vec<Device>,
    /// Version of the GPU driver.
    pub driver_version: String,
    /// Version of the library.
    pub nvml_version: String,
    /// Version of CUDA that the driver speaks: 1000 × major + 10 × minor.
    pub cuda_version: i32,
    /// What `nvmlInit` returns when it does not succeed, see [`code`].
    pub init_code: Option<u32>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    /// What the GPU is found by.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Version of its firmware.
    pub vbios: String,
    /// PCI address, as `domain:bus:device.function` in hexadecimal.
    pub pci_bus_id: String,
    /// CUDA compute capability. A counter is another switch: a GPU before Volta needs `counter.supported: false` too.
    pub compute_capability: (i32, i32),
    /// CUDA cores; absent, the driver does not tell.
    pub cuda_cores: Option<u32>,
    /// Power of the GPU, while it does not follow `load`.
    pub power: Power,
    /// Power that follows the program under test.
    pub load: Option<Load>,
    /// Temperature of the GPU in °C.
    pub temperature_c: Curve,
    /// Clocks and their limits.
    pub clocks: Clocks,
    /// When clocks were held back, and why. Masks of overlapping entries are combined; outside all of them nothing holds.
    pub throttle_reasons: Vec<Throttle>,
    /// Memory of the GPU.
    pub memory: Memory,
    /// Who computes or draws on the GPU.
    pub processes: Vec<Process>,
    /// Whether the GPU is partitioned; absent, it cannot be.
    pub mig: Option<bool>,
    /// Whether the driver stays loaded when nobody uses the GPU.
    pub persistence: bool,
    /// Whether memory errors are corrected; absent, the memory cannot do it.
    pub ecc: Option<bool>,
    /// Power limits.
    pub limits: Limits,
    /// The energy counter.
    pub counter: Counter,
    /// What the driver says about power now.
    pub meter: Meter,
    /// The driver's ring of power samples.
    pub samples: EnergySamples,
    /// A board where a CPU shares the module with the GPU; absent, the scope of the module is not supported.
    pub grace: Option<Grace>,
    /// What the seconds of events count from. Events are `lost_at_s`, `counter.reset_at_s` and everything with a span; power
    /// and curves always count from the epoch.
    pub events_from: Origin,
    /// From this second on every call about this GPU fails with `lost_code`, also finding it.
    pub lost_at_s: Option<f64>,
    /// What calls about a lost GPU return, see [`code`].
    pub lost_code: u32,
    /// Calls that fail for a while.
    pub failures: Vec<Failure>,
}

/// Why a script cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The file cannot be read or written; the error names it.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// It is not what a script looks like.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: String,
        /// What is wrong, with its line.
        source: serde_json::Error,
    },
    /// A number that means nothing.
    #[error("device {index}: {fault}")]
    Meaningless {
        /// The device's index.
        index: usize,
        /// The field and its value.
        fault: String,
    },
    /// The truth depends on when second 0 was.
    #[error("the script has no epoch_monotonic_ns, so only the loaded library knows when its second 0 was")]
    NoEpoch,
    /// Fewer devices than that.
    #[error("the script has no device {index}")]
    NoDevice {
        /// The index asked for.
        index: usize,
    },
}

impl Default for Script {
    fn default() -> Self {
        Self {
            epoch_monotonic_ns: None,
            devices: vec![Device::default()],
            driver_version: "580.159.04".to_owned(),
            nvml_version: "13.580.159.04".to_owned(),
            cuda_version: 13000,
            init_code: None,
        }
    }
}

impl Default for Device {
    /// An idle H100 on which everything works.
    fn default() -> Self {
        Self {
            uuid: "GPU-fa4e0000-0000-4000-8000-000000000000".to_owned(),
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            vbios: "96.00.74.00.0D".to_owned(),
            pci_bus_id: "00000000:0A:00.0".to_owned(),
            compute_capability: (9, 0),
            cuda_cores: Some(16_896),
            power: Power::default(),
            load: None,
            temperature_c: Curve::constant(30.0),
            clocks: Clocks::default(),
            throttle_reasons: Vec::new(),
            memory: Memory::default(),
            processes: Vec::new(),
            mig: Some(false),
            persistence: true,
            ecc: Some(true),
            limits: Limits::default(),
            counter: Counter::default(),
            meter: Meter::default(),
            samples: EnergySamples::default(),
            grace: None,
            events_from: Origin::Epoch,
            lost_at_s: None,
            lost_code: code::GPU_IS_LOST,
            failures: Vec::new(),
        }
    }
}

impl Script {
    /// The default script with its second 0 now.
    pub fn starting_now() -> Self {
        Self { epoch_monotonic_ns: Some(clock::monotonic_ns()), ..Self::default() }
    }

    /// Reads and checks a script.
    pub fn read(path: &Path) -> Result<Self, ScriptError> {
        let text = fs_err::read_to_string(path)?;
        let wrong = |source| ScriptError::Json { path: path.display().to_string(), source };
        let script: Self = serde_json::from_str(&text).map_err(wrong)?;
        script.check()?;
        Ok(script)
    }

    /// Checks a script and writes it where `FAKE_NVML` will point.
    pub fn write(&self, path: &Path) -> Result<(), ScriptError> {
        self.check()?;
        let wrong = |source| ScriptError::Json { path: path.display().to_string(), source };
        let text = serde_json::to_string_pretty(self).map_err(wrong)?;
        Ok(fs_err::write(path, text)?)
    }

    fn check(&self) -> Result<(), ScriptError> {
        for (index, device) in self.devices.iter().enumerate() {
            if let Some(fault) = device.fault() {
                return Err(ScriptError::Meaningless { index, fault });
            }
        }
        Ok(())
    }
}

impl Device {
    fn fault(&self) -> Option<String> {
        let shapes =
            [Some(&self.power), self.load.as_ref().map(|load| &load.busy), self.grace.as_ref().map(|g| &g.rest)];
        let shape = shapes.into_iter().flatten().find_map(Power::fault);
        let periods = [("counter.period_ms", self.counter.period_ms), ("meter.period_ms", self.meter.period_ms)];
        let windows = [("meter.mean_ms", self.meter.mean_ms), ("meter.instant_ms", self.meter.instant_ms)];
        if self.samples.spacing == 0 {
            return Some("samples.spacing 0".to_owned());
        }
        let length = periods.into_iter().chain(windows).find(|(_, ms)| ms.is_nan() || *ms <= 0.0);
        shape.or_else(|| length.map(|(name, ms)| format!("{name} {ms}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script.json");
        let load = Some(Load { file: "load".into(), busy: Power::Sum(vec![Power::Constant(1.0)]) });
        let processes = vec![Process { pid: Pid::File("pid".to_owned()), ..Process::default() }];
        let device = Device { load, processes, lost_at_s: Some(3.0), ..Device::default() };
        let script = Script { devices: vec![device], ..Script::starting_now() };
        script.write(&path).unwrap();
        assert_eq!(Script::read(&path).unwrap(), script);
    }

    #[test]
    fn everything_has_a_default_and_nothing_is_overlooked() {
        assert_eq!(serde_json::from_str::<Script>("{}").unwrap(), Script::default());
        let device = r#"{"devices": [{"power": {"square": {"high_w": 600}}, "temperature_c": [[0, 30], [10, 60]]}]}"#;
        assert_eq!(serde_json::from_str::<Script>(device).unwrap().devices[0].temperature_c.at(5.0), Some(45.0));
        let unknown = serde_json::from_str::<Script>(r#"{"devices": [{"lost_at": 3}]}"#);
        assert!(unknown.unwrap_err().to_string().contains("lost_at"));
    }

    #[test]
    fn numbers_without_meaning_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let counter = Counter { period_ms: 0.0, ..Counter::default() };
        let script = Script { devices: vec![Device { counter, ..Device::default() }], ..Script::default() };
        let refused = script.write(&dir.path().join("script.json")).unwrap_err();
        assert_eq!(refused.to_string(), "device 0: counter.period_ms 0");
    }
}
