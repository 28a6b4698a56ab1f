//! The record of a run: `result.json`.

use llem_protocol::{
    BaselineRecord, ClockPair, CpuPinning, EngineReport, EnvironmentReport, Failure, PhaseRecord, PrefillRecord,
    Reason, Severity, ThermalGateRecord, WarmupRecord, WindowRecord,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FlopsReference, Metrics, PhaseEnergy};
use crate::config::ExperimentConfig;
use crate::engine_cache::CacheRecord;
use crate::gpu_watch::{GpuProcess, GpuWait};
use crate::host::{HostLoad, HostSnapshot};
use crate::runner::ContainerRecord;
use crate::runner::slurm::SlurmRecord;
use crate::workload::DatasetProvenance;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// Measured to the end.
    Completed,
    /// Not measured; the failure says why.
    Failed,
    /// Stopped by the user.
    Interrupted,
}

impl RunStatus {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Everything about one run: `result.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunResult {
    /// [`super::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of the file that it was read from, where that was an older one: what that version did not know is null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgraded_from: Option<u32>,
    /// `{NNN}-{experiment_id}-c{cycle}`, also the name of the run's directory.
    pub run_id: String,
    /// Identity of the study.
    pub study_id: String,
    /// Identity of the experiment.
    pub experiment_id: String,
    /// Cycle, from 1.
    pub cycle: u32,
    /// How it ended.
    pub status: RunStatus,
    /// Whether the numbers may be compared and published.
    pub valid: bool,
    /// Why figures are null, or the run is not valid.
    pub reasons: Vec<Reason>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Start in UTC, RFC 3339.
    pub started: String,
    /// End in UTC, RFC 3339.
    pub finished: String,
    /// Wall-clock seconds of the whole run, container included, without `gpu_wait`.
    pub wall_s: f64,
    /// The figures; null when the window was not finished.
    pub metrics: Option<Metrics>,
    /// The experiment, complete with defaults.
    pub config: ExperimentConfig,
    /// What was run.
    pub workload: WorkloadIdentity,
    /// Where the weights came from.
    pub model: ModelIdentity,
    /// The adapter on top of them, where there was one.
    #[serde(default)]
    pub adapter: Option<WeightsIdentity>,
    /// The model that drafted tokens, where there was one.
    #[serde(default)]
    pub draft_model: Option<WeightsIdentity>,
    /// The engine by its own account.
    pub engine: Option<EngineReport>,
    /// `docker`, `process` or `slurm`.
    pub runner: String,
    /// The container, where there was one.
    pub container: Option<ContainerRecord>,
    /// Where the batch system had it carried out.
    #[serde(default)]
    pub slurm: Option<SlurmRecord>,
    /// The machine as seen from inside.
    pub environment: Option<EnvironmentReport>,
    /// The processors that the run was kept to, as asked; what was in effect is in `environment`. Null where nothing was asked.
    #[serde(default)]
    pub cpus: Option<CpuPinning>,
    /// The machine as seen from outside.
    #[serde(default)]
    pub host: Option<HostSnapshot>,
    /// What else the machine did in the window; null where it was not watched throughout.
    #[serde(default)]
    pub host_load: Option<HostLoad>,
    /// Processes that were on any GPU of the machine while the run lasted, or kept it from its own (`gpu_busy`); empty for a run without
    /// GPUs.
    #[serde(default)]
    pub gpu_processes: Vec<GpuProcess>,
    /// The wait for others who computed on the run's GPUs when it was to begin; null where nobody did.
    #[serde(default)]
    pub gpu_wait: Option<GpuWait>,
    /// The compiled engine: from the cache, or built; null for a run that compiles nothing.
    #[serde(default)]
    pub engine_cache: Option<CacheRecord>,
    /// Every phase with its times and energy.
    pub phases: Vec<PhaseRecord>,
    /// Energy of every phase, summed over the sensors that count.
    #[serde(default)]
    pub phase_energy: Vec<PhaseEnergy>,
    /// Idle power before the engine existed, where it was measured.
    #[serde(default)]
    pub baseline: Option<BaselineRecord>,
    /// How the run was warmed up.
    #[serde(default)]
    pub warmup: Option<WarmupRecord>,
    /// How waiting for steady clocks and temperatures ended.
    #[serde(default)]
    pub thermal_gate: Option<ThermalGateRecord>,
    /// The window with its passes.
    pub window: Option<WindowRecord>,
    /// The passes that generated one token per request, where there were any.
    #[serde(default)]
    pub prefill: Option<PrefillRecord>,
    /// Floating-point operations of the window by a formula, for reference only.
    #[serde(default)]
    pub flops: Option<FlopsReference>,
    /// Both clocks at the agent's start: joins `*_ns` with wall-clock time.
    pub clock_start: Option<ClockPair>,
    /// Both clocks at the agent's end.
    pub clock_end: Option<ClockPair>,
    /// The agent's version.
    pub agent_version: Option<String>,
    /// SHA-256 of the agent's binary.
    pub agent_sha256: String,
    /// The controller's version.
    pub llem_version: String,
    /// Commit that the controller was built from, with `+dirty` when its sources differed; null when it was not built from a clone.
    #[serde(default)]
    pub llem_commit: Option<String>,
}

impl RunResult {
    /// Valid means measured to the end with no reason against it.
    pub(crate) fn judge(status: RunStatus, reasons: &[Reason]) -> bool {
        status == RunStatus::Completed && reasons.iter().all(|reason| reason.severity < Severity::Invalid)
    }
}

/// Which prompts were run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadIdentity {
    /// SHA-256 of the tokenised workload.
    pub sha256: String,
    /// Requests in one pass.
    pub requests: u64,
    /// Prompt tokens in one pass.
    pub prompt_tokens: u64,
    /// Output tokens asked for in one pass.
    pub output_tokens: u64,
    /// The data set.
    pub dataset: DatasetProvenance,
}

/// Which weights were run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelIdentity {
    /// `synthetic`, a directory, or a hub id.
    pub source: String,
    /// Content id of a synthetic model, commit of a hub model; null for a directory.
    pub revision: Option<String>,
    /// Architecture in the model's config; null where it names none.
    pub architecture: Option<String>,
    /// Parameters by the headers of its files, else by its config; null where neither tells.
    pub parameters: Option<u64>,
}

/// Which weights were used beside the model's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WeightsIdentity {
    /// A directory, or a hub id.
    pub source: String,
    /// Commit of a hub repository; null for a directory.
    pub revision: Option<String>,
}
