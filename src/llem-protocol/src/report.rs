use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{BaselineRecord, Device, EnergyReport, EnergySplit, Failure, Phase, Reason};

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
    /// Idle power before the engine existed, where it was measured.
    #[serde(default)]
    pub baseline: Option<BaselineRecord>,
    /// How the run was warmed up.
    #[serde(default)]
    pub warmup: Option<WarmupRecord>,
    /// How waiting for steady clocks and temperatures ended.
    #[serde(default)]
    pub thermal_gate: Option<ThermalGateRecord>,
    /// The measured window, if it was closed.
    #[serde(default)]
    pub window: Option<WindowRecord>,
    /// The passes that generated one token per request, where there were any.
    #[serde(default)]
    pub prefill: Option<PrefillRecord>,
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClockPair {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME` in nanoseconds since 1970, UTC.
    pub realtime_ns: u64,
}

/// The machine as seen from inside the container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EnvironmentReport {
    /// Kernel release.
    pub kernel: Option<String>,
    /// Processor model.
    pub cpu_model: Option<String>,
    /// Processors that this process may use.
    pub cpus: Option<u32>,
    /// The processors that the kernel lets the agent run on, in its own words (`Cpus_allowed_list` of `/proc`).
    #[serde(default)]
    pub agent_cpus: Option<String>,
    /// The same of the driver, read when it had been started.
    #[serde(default)]
    pub engine_cpus: Option<String>,
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
    /// Packages of the image's own package manager (dpkg, rpm or apk) with their versions.
    #[serde(default)]
    pub system_packages: BTreeMap<String, String>,
    /// Packages of conda environments in the image with their versions.
    #[serde(default)]
    pub conda_packages: BTreeMap<String, String>,
}

/// The engine by its own account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EngineReport {
    /// Engine name.
    pub engine: String,
    /// Engine version.
    pub engine_version: String,
    /// Versions of what it stands on.
    pub libraries: BTreeMap<String, String>,
    /// Every package of its own package manager.
    #[serde(default)]
    pub packages: BTreeMap<String, String>,
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

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stretch {
    /// Its beginning.
    pub start_ns: u64,
    /// Its end.
    pub end_ns: u64,
}

/// A phase that began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PhaseRecord {
    /// Which.
    pub phase: Phase,
    /// Its beginning.
    pub start_ns: u64,
    /// Its end; absent when the run ended in it.
    pub end_ns: Option<u64>,
    /// Where another phase lies between `start_ns` and `end_ns`: the stretches that are this one's, in order. Empty when all is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stretches: Vec<Stretch>,
    /// Energy of the phase, by the same sources as the window; its edges are not aligned to ticks.
    pub energy: Option<EnergyReport>,
}

/// How the run was warmed up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WarmupRecord {
    /// Whole passes.
    pub passes: u32,
    /// How long they took.
    pub seconds: f64,
    /// [`crate::MeasurementSpec::thermal_floor_s`].
    pub floor_s: f64,
    /// Whether the floor was kept; it is not where no power source is readable, for there is nothing to settle that could be seen.
    pub floor_applied: bool,
}

/// How the thermal gate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum GateOutcome {
    /// Clocks and temperatures had settled and no thermal throttle reason was active.
    Settled,
    /// They had not when the time was over.
    TimedOut,
    /// No sensor gives clocks or temperatures.
    NoSensor,
    /// The gate was switched off.
    Off,
}

/// The thermal gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ThermalGateRecord {
    /// How it ended.
    pub outcome: GateOutcome,
    /// Whole passes during which it waited.
    pub passes: u32,
    /// How long it waited.
    pub seconds: f64,
    /// What had not settled at the end, for people; empty when all had.
    #[serde(default)]
    pub unsettled: Vec<String>,
}

/// The measured window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WindowRecord {
    /// The work's beginning: the first request of the first pass is handed to the engine.
    pub start_ns: u64,
    /// The work's end: all work of the last pass is done and the devices are idle.
    pub end_ns: u64,
    /// The passes inside.
    pub passes: Vec<PassRecord>,
    /// Energy of the work. Each sensor has edges of its own around it, at ticks of its counter.
    pub energy: EnergyReport,
    /// Prefill and decode by the stamps of the tokens, for engines with static batches; one entry per sensor that can resolve them.
    #[serde(default)]
    pub split: Vec<EnergySplit>,
    /// What the agent itself used between start and end.
    pub agent: SelfUsage,
    /// Processor seconds of the agent, the driver and everything below them from just before the start to just after the end; absent
    /// where `/proc` cannot be read.
    #[serde(default)]
    pub run_cpu_s: Option<f64>,
}

/// Passes that generated one token per request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PrefillRecord {
    /// The work's beginning.
    pub start_ns: u64,
    /// The work's end.
    pub end_ns: u64,
    /// The passes inside.
    pub passes: Vec<PassRecord>,
    /// Energy of the work.
    pub energy: EnergyReport,
    /// What speaks against it. With any, nothing is derived from it; the window is not touched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
}

/// One pass of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// What the agent itself used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SelfUsage {
    /// Processor seconds of user and system time.
    pub cpu_s: f64,
    /// Share of one core.
    pub cpu_share: f64,
    /// Resident memory in bytes at the window's end; null where the kernel did not tell.
    #[serde(default)]
    pub resident_bytes: Option<u64>,
}
