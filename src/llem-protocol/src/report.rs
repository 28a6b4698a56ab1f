use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Device, Failure, Phase, Reason};

/// What the agent measured: `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`crate::REPORT_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// [`crate::Job::run_id`].
    pub run_id: String,
    /// The agent's package version.
    pub agent_version: String,
    /// Clocks at the agent's start.
    pub clock_start: ClockPair,
    /// Clocks at the end.
    pub clock_end: ClockPair,
    /// The machine as seen from inside.
    pub environment: EnvironmentReport,
    /// The engine, once it was up.
    #[serde(default)]
    pub engine: Option<EngineReport>,
    /// Every phase that began, in order.
    pub phases: Vec<PhaseRecord>,
    /// The measured window, if it was closed.
    #[serde(default)]
    pub window: Option<WindowRecord>,
    /// Why figures are absent or the run is not valid.
    pub reasons: Vec<Reason>,
    /// Set when the run failed.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// Lines in `requests.jsonl`.
    pub request_records: u64,
    /// Lines in `samples.jsonl`.
    pub power_samples: u64,
}

/// Both clocks read together: joins monotonic stamps with wall-clock time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockPair {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME` in nanoseconds since 1970, UTC.
    pub realtime_ns: u64,
}

/// The machine as seen from inside the container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentReport {
    /// Kernel release.
    pub kernel: Option<String>,
    /// Processor model.
    pub cpu_model: Option<String>,
    /// Processors that this process may use.
    pub cpus: Option<u32>,
    /// Frequency governor of the first processor.
    pub cpu_governor: Option<String>,
    /// Main memory of the machine in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory limit of the container in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// `NAME VERSION` of the image's operating system.
    pub os: Option<String>,
    /// Version of the C library that the agent runs on.
    pub libc: Option<String>,
    /// NVIDIA driver version, when NVML answers.
    pub nvidia_driver: Option<String>,
    /// Graphics processors of the experiment: name, UUID and settings as NVML gives them.
    pub gpus: Vec<BTreeMap<String, Value>>,
}

/// The engine by its own account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineReport {
    /// Engine name.
    pub engine: String,
    /// Engine version.
    pub engine_version: String,
    /// Versions of what it stands on.
    pub libraries: BTreeMap<String, String>,
    /// Number of parameters.
    pub parameters: Option<u64>,
    /// Data type of the weights as loaded.
    pub dtype: Option<String>,
    /// Where the model is.
    pub devices: Vec<Device>,
    /// Settings in effect.
    pub settings: Map<String, Value>,
    /// Peak memory of the engine on its devices in bytes.
    pub peak_memory_bytes: Option<u64>,
}

/// A phase that began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// Which.
    pub phase: Phase,
    /// Its beginning.
    pub start_ns: u64,
    /// Its end; absent when the run ended in it.
    pub end_ns: Option<u64>,
    /// Energy of the phase, by the same sources as the window.
    pub energy: Option<EnergyReport>,
}

/// The measured window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowRecord {
    /// Opening edge.
    pub start_ns: u64,
    /// Closing edge; all work was done and the devices were idle.
    pub end_ns: u64,
    /// The passes inside.
    pub passes: Vec<PassRecord>,
    /// Energy between the edges.
    pub energy: EnergyReport,
    /// What the agent itself used between the edges.
    pub agent: SelfUsage,
}

/// One pass of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassRecord {
    /// Number of the pass, counted over warm-up and window.
    pub pass: u32,
    /// First request handed to the engine.
    pub start_ns: u64,
    /// All work done, devices idle.
    pub end_ns: u64,
    /// Prompt tokens, without padding.
    pub prompt_tokens: u64,
    /// Generated tokens, without padding.
    pub output_tokens: u64,
}

/// Energy between two edges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EnergyReport {
    /// One entry per sensor domain. Empty when nothing could be read; the reasons say why.
    pub devices: Vec<DeviceEnergy>,
}

/// Where a power figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerSourceKind {
    /// NVIDIA's management library.
    Nvml,
    /// The processor's running average power limit counters.
    Rapl,
}

/// What a sensor covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PowerDomain {
    /// The interface.
    pub source: PowerSourceKind,
    /// `GPU-…` for NVML; `package-0`, `dram-0` … for RAPL.
    pub id: String,
}

/// Energy of one sensor domain between two edges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceEnergy {
    /// What the sensor covers.
    pub domain: PowerDomain,
    /// Difference of the hardware counter in joules; null when there is no counter, it failed, or the stretch is shorter than ten of
    /// the counter's refreshes.
    pub counter_j: Option<f64>,
    /// Integral of the sampled power curve in joules; null with fewer than two samples.
    pub curve_j: Option<f64>,
    /// Mean of the sampled power in watts, weighted by time.
    pub mean_w: Option<f64>,
    /// Highest sampled power in watts.
    pub peak_w: Option<f64>,
    /// Samples between the edges.
    pub samples: u64,
}

/// What the agent itself used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SelfUsage {
    /// Processor seconds of user and system time.
    pub cpu_s: f64,
    /// Share of one core.
    pub cpu_share: f64,
    /// Resident memory in bytes at the window's end.
    pub resident_bytes: u64,
}

/// One reading of one sensor domain. One JSON object a line in `samples.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PowerSample {
    /// When it was read.
    pub t_ns: u64,
    /// What the sensor covers.
    pub domain: PowerDomain,
    /// Power in watts; null when the reading failed.
    pub power_w: Option<f64>,
    /// Temperature in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Clock of the compute units in megahertz.
    pub clock_mhz: Option<f64>,
    /// Memory in use on the device in bytes.
    pub memory_used_bytes: Option<u64>,
}
