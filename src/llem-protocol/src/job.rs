use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{CpuPinning, Phase};

/// Everything that the agent needs for one run: what to start, what to feed, how to measure. `job.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// [`crate::JOB_SCHEMA_VERSION`], for those who read the file later.
    pub schema_version: u32,
    /// [`crate::PROTOCOL_VERSION`] of the controller, which the agent refuses when it is another than its own.
    pub protocol_version: u32,
    /// Identifies the run in every event, e.g. `003-1f2e3d4c5b6a-c1`.
    pub run_id: String,
    /// Content of the nonce file on the results volume.
    pub nonce: String,
    /// Directory, as the agent sees it, for the agent's files.
    pub output_dir: PathBuf,
    /// How to start the driver.
    pub driver: DriverCommand,
    /// What the driver loads.
    pub engine: EngineSpec,
    /// What the driver runs.
    pub workload: WorkloadRef,
    /// How to measure.
    pub measurement: MeasurementSpec,
    /// Seconds allowed for each phase. A phase without an entry has no limit of its own.
    pub timeouts_s: BTreeMap<Phase, f64>,
    /// The graphics processors of the experiment by UUID; empty for a run on the processor.
    pub gpus: Vec<String>,
    /// Directory in which the agent finds the kernel's RAPL zones (`intel-rapl:N`), nested or flat; absent on machines without.
    #[serde(default)]
    pub powercap: Option<PathBuf>,
    /// The processors that agent and driver keep to; absent: wherever the kernel puts them.
    #[serde(default)]
    pub cpus: Option<CpuPinning>,
}

/// The driver's command line, as the agent's machine or container sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverCommand {
    /// Programs to try in order; the first that exists is started. A name without `/` is looked up in `PATH`.
    pub programs: Vec<String>,
    /// Arguments.
    pub args: Vec<String>,
    /// Variables added to the agent's own environment.
    pub env: BTreeMap<String, String>,
}

/// Where the driver finds the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelLocation {
    /// A directory with `config.json` and safetensors files, as the driver sees it.
    Directory(PathBuf),
}

/// What the driver loads and with which settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSpec {
    /// `candle`, `pytorch`, `vllm`, `tensorrt`.
    pub backend: String,
    /// The weights.
    pub model: ModelLocation,
    /// `float32`, `bfloat16`, `float16` or `auto`.
    pub dtype: String,
    /// The experiment's section of this backend, without `image` and `extra`; absent fields are the engine's default. The model that
    /// drafts tokens is a directory as the driver sees it.
    pub options: Map<String, Value>,
    /// Passed to the engine verbatim.
    pub extra: Map<String, Value>,
    /// The experiment's `sampling` section; empty means greedy.
    pub sampling: Map<String, Value>,
    /// The experiment's `lora` section, if any, with `adapter` being the adapter's directory as the driver sees it
    /// (`adapter_config.json`, `adapter_model.safetensors`).
    #[serde(default)]
    pub lora: Option<Map<String, Value>>,
    /// Seed of everything random in the engine. As a string, because JSON numbers end at 2^53.
    pub random_seed: String,
}

/// The tokenised workload: a file of [`WorkloadLine`]s in the order in which they are fed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRef {
    /// Path as agent and driver see it.
    pub path: PathBuf,
    /// SHA-256 of the file, hexadecimal. The agent checks it before it starts the driver.
    pub sha256: String,
    /// Number of requests in one pass.
    pub requests: u64,
    /// Whether the end-of-sequence token is ignored, so that every request has its exact length.
    pub ignore_eos: bool,
}

/// One request of the workload. One JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadLine {
    /// Position in the workload, from 0.
    pub index: u64,
    /// The prompt as token ids; never empty.
    pub prompt_ids: Vec<u32>,
    /// Tokens to generate; at least 1. Exact when end-of-sequence is ignored, else the limit.
    pub output_tokens: u32,
}

/// How the agent measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasurementSpec {
    /// Seconds of idle power before the driver starts; 0 skips the phase.
    pub baseline_s: f64,
    /// Full passes of the workload before the window.
    pub warmup_passes: u32,
    /// Where a power source is readable, warm-up goes on in whole passes until this many seconds have passed.
    pub thermal_floor_s: f64,
    /// After warm-up, whole passes go on until clocks and temperature have settled, at most this many seconds; 0 skips the gate.
    pub thermal_gate_timeout_s: f64,
    /// The window goes on in whole passes until this many seconds have passed.
    pub window_min_s: f64,
    /// Whole passes that the window has at least.
    pub window_min_passes: u32,
    /// After the window, whole passes of the workload with one generated token per request go on for this many seconds, to measure
    /// the energy of prefill alone; 0 skips them, and so does the absence of a power source.
    pub prefill_min_s: f64,
    /// Power samples per second of the sensors that have no buffer of their own; 0 takes none of any sensor, only counters, and
    /// clocks and temperatures twice a second.
    pub sample_hz: f64,
    /// Whether a GPU in MIG mode is measured, and marked, instead of refused: its power is that of all its instances.
    pub allow_mig: bool,
}
