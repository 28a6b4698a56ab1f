//! How long a job may take. A limit that is too short costs runs, one that is too long only a place in the queue: the margin is wide.
//!
//! ```text
//! run, measured before   1.5 × median of its earlier runs + 2 min
//! run, never measured    2 × (window, baseline, thermal floor, prefill) + 15 min for start, load, warm-up and the rest of its passes
//! job                    Σ runs + Σ rests + 5 min
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use super::array::rests;
use crate::config::{ExecutionConfig, SlurmConfig, StudyConfig};
use crate::plan::estimate::time::{RunTime, run_time};
use crate::plan::order::PlannedRun;
use crate::result::earlier_runs;

/// Seconds of each experiment's runs, with what earlier studies below `output` tell.
pub(super) fn times(study: &StudyConfig, output: &Path) -> Vec<RunTime> {
    let ids: BTreeSet<&str> = study.experiments.iter().map(|experiment| experiment.id.as_str()).collect();
    let earlier = earlier_runs(output, &ids);
    let seconds = |id: &str| -> Vec<f64> { earlier.get(id).into_iter().flatten().map(|run| run.wall_s).collect() };
    study.experiments.iter().map(|e| run_time(&e.config.measurement, &seconds(&e.id))).collect()
}

/// Minutes that every job of an array may take: what the user config says, else the estimate for the longest.
pub(super) fn minutes(
    jobs: &[Vec<PlannedRun>],
    times: &[RunTime],
    execution: &ExecutionConfig,
    config: &SlurmConfig,
) -> u32 {
    let of_run = |run: &PlannedRun| times.get(run.experiment).map_or(0.0, run_s);
    let of_job = |job: &Vec<PlannedRun>| {
        300.0 + job.iter().map(of_run).sum::<f64>() + rests(job, execution).into_iter().sum::<f64>()
    };
    let longest_s = jobs.iter().map(of_job).fold(0.0, f64::max);
    config.time_limit_minutes.unwrap_or((longest_s / 60.0).ceil() as u32)
}

fn run_s(time: &RunTime) -> f64 {
    match time.measured_s {
        Some(median) => 1.5 * median + 120.0,
        None => 2.0 * time.least_with_sensor_s + 900.0,
    }
}

#[cfg(test)]
mod tests {
    use super::minutes;
    use crate::config::{Profile, SlurmConfig};
    use crate::plan::estimate::time::run_time;
    use crate::plan::order::order;

    #[test]
    fn the_longest_job_decides_and_the_site_overrules() {
        let execution = Profile::Publication.execution();
        let measurement = Profile::Publication.measurement();
        // 170 s by its settings; 200 s as it was measured.
        let times = [run_time(&measurement, &[]), run_time(&measurement, &[200.0])];
        let runs = order(2, &execution);
        let config = SlurmConfig::default();
        let limit = |jobs: &[Vec<_>]| minutes(jobs, &times, &execution, &config);
        // 300 + 2 × 170 + 900 = 1540 s; 300 + 1.5 × 200 + 120 = 720 s; both, 300 + 1240 + 420 with a rest of 30 s: 1990 s.
        assert_eq!(limit(&[vec![runs[0]], vec![runs[1]]]), 26);
        assert_eq!(limit(&[vec![runs[1]]]), 12);
        assert_eq!(limit(&[vec![runs[0], runs[1]]]), 34);
        let config = SlurmConfig { time_limit_minutes: Some(7), ..config };
        assert_eq!(minutes(&[vec![runs[0]]], &times, &execution, &config), 7);
    }
}
