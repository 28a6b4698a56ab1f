//! The site's batch system, SLURM: what belongs to a site and a user's account there, not to a study.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Seconds between two looks at the queue unless the site says otherwise.
const POLL_SECONDS: f64 = 10.0;

/// How runs become jobs of SLURM. Texts are handed to `sbatch` as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmConfig {
    /// `sbatch --partition`; absent: the site's default.
    pub partition: Option<String>,
    /// `sbatch --account`.
    pub account: Option<String>,
    /// `sbatch --qos`.
    pub qos: Option<String>,
    /// `sbatch --gres`, e.g. `gpu:h100:1`. Without it, most sites give a job no GPU.
    pub gres: Option<String>,
    /// `sbatch --constraint`, e.g. one model of GPU: nodes that differ are not comparable.
    pub constraint: Option<String>,
    /// Whether a job has its node to itself; absent: `true`. Beside other jobs, energy of processor and memory is not the run's alone.
    pub exclusive: bool,
    /// Jobs of one study that run at the same time; absent: as many as the site lets.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_parallel: Option<u32>,
    /// Minutes that a job may take; absent: estimated from the plan and from earlier runs, with a margin.
    #[schemars(range(min = 1, max = 525_600))]
    pub time_limit_minutes: Option<u32>,
    /// Lines of shell before llem starts on the node, e.g. `module load cuda`.
    pub prologue: Vec<String>,
    /// Seconds between two looks at the queue: one `squeue` each, whatever the number of runs.
    #[schemars(range(min = 1.0, max = 3600.0))]
    pub poll_seconds: f64,
    /// What carries out a run on its node; absent: `process`.
    pub node_runner: NodeRunner,
    /// Runs that one job carries out, one after the other, on one node and the same GPUs; absent: 1. Runs that follow each other in the
    /// plan share a job, as long as they are of one cycle (of one experiment where `cycle_order` is `sequential`).
    #[schemars(range(min = 1, max = 10_000))]
    pub tasks_per_job: u32,
}

/// What carries out a run on its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeRunner {
    /// As a process of the job.
    #[default]
    Process,
    /// In a container of Apptainer's for each run.
    Apptainer,
}

impl NodeRunner {
    /// The name in files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Apptainer => "apptainer",
        }
    }
}

impl Default for SlurmConfig {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            qos: None,
            gres: None,
            constraint: None,
            exclusive: true,
            max_parallel: None,
            time_limit_minutes: None,
            prologue: Vec::new(),
            poll_seconds: POLL_SECONDS,
            node_runner: NodeRunner::Process,
            tasks_per_job: 1,
        }
    }
}
