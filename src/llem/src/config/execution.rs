//! How a study is carried out: what does not change what an experiment is.

use std::collections::BTreeMap;

use llem_protocol::Phase;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most cycles that a study may have.
pub const MOST_CYCLES: u32 = 10_000;

/// How a study is carried out. Defaults come from the profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = super::schema::all_optional)]
pub struct ExecutionConfig {
    /// How often every experiment is run.
    #[schemars(range(min = 1, max = MOST_CYCLES))]
    pub n_cycles: u32,
    /// The order of the runs.
    pub cycle_order: CycleOrder,
    /// Seed of `cycle_order: shuffled`.
    pub shuffle_seed: u64,
    /// Seconds of rest between two runs.
    #[schemars(range(min = 0.0, max = 86_400.0))]
    pub experiment_gap_seconds: f64,
    /// Seconds of rest between two cycles, instead of the gap between runs.
    #[schemars(range(min = 0.0, max = 86_400.0))]
    pub cycle_gap_seconds: f64,
    /// Main memory that a container may use, in GiB; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 1_000_000.0))]
    pub memory_gib: Option<f64>,
    /// Size of a container's `/dev/shm` in GiB.
    #[schemars(range(min = 0.001, max = 1_000_000.0))]
    pub shm_gib: f64,
    /// Processes and threads that a container may have.
    #[schemars(range(min = 16, max = 4_194_304))]
    pub pids_limit: u32,
    /// Seconds allowed for each phase of a run (`import`, `load`, `warmup`, `window`, …); absent phases keep their default.
    #[serde(default)]
    #[schemars(with = "BTreeMap<PhaseName, Seconds>")]
    pub timeouts_s: BTreeMap<Phase, f64>,
    /// Whether a run that is not valid counts as failed.
    pub strict: bool,
    /// How often a run is tried again when the machine failed: GPU busy, container engine gone, container ended from outside, sensors lost.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub max_retries: u32,
    /// Seconds before the first retry; each further one waits twice as long, at most 600 s.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 600.0))]
    pub retry_wait_seconds: f64,
    /// Failed runs in a row after which the study stops; 0: never. Experiments that do not fit into memory are not counted.
    #[serde(default)]
    #[schemars(range(max = 1_000_000))]
    pub max_consecutive_failures: u32,
}

/// The order of a study's runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CycleOrder {
    /// All cycles of one experiment, then the next experiment.
    Sequential,
    /// One cycle of every experiment, then the next cycle: drift of the machine hits all experiments alike.
    Interleaved,
    /// Every cycle in an order of its own, drawn with `shuffle_seed`.
    Shuffled,
}

/// Seconds until something is given up.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "gives the values of `timeouts_s` to the JSON Schema; never constructed")]
struct Seconds(#[schemars(range(min = 0.1, max = 604_800.0))] f64);

/// Names of the phases that a time-out can be set for.
#[derive(JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "gives the keys of `timeouts_s` to the JSON Schema; never constructed")]
enum PhaseName {
    Start,
    Environment,
    Baseline,
    Import,
    Load,
    Warmup,
    ThermalGate,
    Window,
    Prefill,
    Collect,
    Shutdown,
    Write,
}
