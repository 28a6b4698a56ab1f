//! Runs into jobs, jobs into arrays.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::node::ContainerPlan;
use crate::config::{CycleOrder, ExecutionConfig, UserConfig};
use crate::plan::estimate::time::gap_s;
use crate::plan::order::PlannedRun;
use crate::runner::slurm::Slurm;

/// Version of the files that controller and nodes exchange.
pub(super) const SCHEMA_VERSION: u32 = 3;

/// What the jobs of one array do: `slurm/{name}.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ArrayPlan {
    pub(super) schema_version: u32,
    /// Name of the jobs.
    pub(super) name: String,
    /// The study's directory.
    pub(super) study: PathBuf,
    /// The user config as the controller read it, with the cache's directory spelt out: a node's environment may be another.
    pub(super) user: UserConfig,
    /// What the study was submitted with: files that nodes start, and that an upgrade can replace while jobs wait.
    pub(super) programs: Vec<PlannedProgram>,
    /// What containers are made with; null where runs are processes of their jobs.
    pub(super) containers: Option<ContainerPlan>,
    /// For each job its runs.
    pub(super) jobs: Vec<Vec<PlannedTask>>,
}

/// A program as nodes must find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlannedProgram {
    pub(super) path: PathBuf,
    /// Hexadecimal.
    pub(super) sha256: String,
}

/// One run of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PlannedTask {
    /// The run; its directory has the rest.
    pub(super) run_id: String,
    /// Seconds of rest before it.
    pub(super) rest_s: f64,
}

/// What would be submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlurmPlan {
    /// The batch system, by its own account.
    pub version: String,
    /// Jobs of each array.
    pub arrays: Vec<usize>,
    /// The most jobs that the site lets an array have.
    pub max_array_jobs: usize,
    /// Minutes that each job may take; of the first array.
    pub time_limit_minutes: u32,
    /// How the first array would be submitted.
    pub command: String,
}

impl SlurmPlan {
    pub(super) fn of(
        slurm: &Slurm,
        version: String,
        max_array_jobs: usize,
        plan: &[Vec<Vec<PlannedRun>>],
        minutes: impl Fn(&[Vec<PlannedRun>]) -> u32,
    ) -> Self {
        let first = plan.first().map(Vec::as_slice).unwrap_or_default();
        let time_limit_minutes = minutes(first);
        Self {
            version,
            arrays: plan.iter().map(Vec::len).collect(),
            max_array_jobs,
            time_limit_minutes,
            command: slurm.describe(first.len(), time_limit_minutes),
        }
    }
}

/// The jobs of each array: `runs` in their order, as many in a job as the site's user says, as many jobs in an array as the site lets.
/// Runs share a job, and with it node and GPUs, within one cycle, or within one experiment where all its cycles follow each other.
pub(super) fn plan(
    runs: &[PlannedRun],
    execution: &ExecutionConfig,
    tasks_per_job: u32,
    most_jobs: usize,
) -> Vec<Vec<Vec<PlannedRun>>> {
    let together = |a: &PlannedRun, b: &PlannedRun| match execution.cycle_order {
        CycleOrder::Sequential => a.experiment == b.experiment,
        CycleOrder::Interleaved | CycleOrder::Shuffled => a.cycle == b.cycle,
    };
    let per_job = (tasks_per_job as usize).max(1);
    let jobs: Vec<Vec<PlannedRun>> =
        runs.chunk_by(together).flat_map(|block| block.chunks(per_job)).map(<[PlannedRun]>::to_vec).collect();
    jobs.chunks(most_jobs.max(1)).map(<[_]>::to_vec).collect()
}

/// Seconds of rest before each run of a job.
pub(super) fn rests(job: &[PlannedRun], execution: &ExecutionConfig) -> Vec<f64> {
    let between = job.windows(2).map(|pair| gap_s(execution, pair));
    std::iter::once(0.0).chain(between).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{plan, rests};
    use crate::config::{CycleOrder, ExecutionConfig, Profile};
    use crate::plan::order::order;

    fn execution(cycle_order: CycleOrder, n_cycles: u32) -> ExecutionConfig {
        ExecutionConfig { n_cycles, cycle_order, ..Profile::Standard.execution() }
    }

    /// The numbers of the runs of every job.
    fn numbers(execution: &ExecutionConfig, experiments: usize, per_job: u32) -> Vec<Vec<usize>> {
        let arrays = plan(&order(experiments, execution), execution, per_job, 1000);
        arrays.concat().iter().map(|job| job.iter().map(|run| run.number).collect()).collect()
    }

    #[test]
    fn what_is_compared_shares_a_job() {
        let interleaved = execution(CycleOrder::Interleaved, 2);
        assert_eq!(numbers(&interleaved, 3, 1), [[1], [2], [3], [4], [5], [6]]);
        // Never two cycles in one job, or the third experiment would have company in one cycle only.
        assert_eq!(numbers(&interleaved, 3, 2), [vec![1, 2], vec![3], vec![4, 5], vec![6]]);
        assert_eq!(numbers(&interleaved, 3, 10), [[1, 2, 3], [4, 5, 6]]);
        let sequential = execution(CycleOrder::Sequential, 3);
        assert_eq!(numbers(&sequential, 2, 10), [[1, 2, 3], [4, 5, 6]]);
    }

    #[test]
    fn arrays_are_as_large_as_the_site_lets_and_hold_every_run_once() {
        let execution = execution(CycleOrder::Interleaved, 5);
        let runs = order(1_000, &execution);
        let clock = Instant::now();
        let arrays = plan(&runs, &execution, 1, 1001);
        assert!(clock.elapsed() < Duration::from_secs(2), "{:?}", clock.elapsed());
        assert_eq!(arrays.iter().map(Vec::len).collect::<Vec<_>>(), [1001, 1001, 1001, 1001, 996]);
        assert_eq!(arrays.concat().concat(), runs);
    }

    #[test]
    fn a_node_rests_as_a_machine_does() {
        let execution = Profile::Publication.execution();
        let runs = order(2, &execution);
        assert_eq!(rests(&runs[..3], &execution), [0.0, 30.0, 60.0]);
    }
}
