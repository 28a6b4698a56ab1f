//! Time that runs take.
//!
//! ```text
//! run, at least    = window  (+ idle baseline + thermal floor + prefill passes, where a power sensor is readable)
//! study, at least  = Σ runs + Σ gaps
//! study, expected  = Σ (median of the earlier runs of the same experiment, else at least) + Σ gaps
//! ```
//!
//! Start, import, loading, warm-up passes beyond the thermal floor, the thermal gate and the rest of the last pass come on top of *at
//! least*: nobody knows them before they were measured once.

use serde::Serialize;

use crate::config::{ExecutionConfig, MeasurementConfig};
use crate::plan::order::PlannedRun;

/// Seconds that one run of an experiment takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RunTime {
    /// By its settings, on a machine without a power sensor.
    pub least_s: f64,
    /// By its settings, on a machine with one.
    pub least_with_sensor_s: f64,
    /// Median wall time of earlier completed runs of the same experiment; absent without any.
    pub measured_s: Option<f64>,
    /// How many of them there are.
    pub measured_runs: usize,
}

/// Seconds that a study takes, its gaps included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StudyTime {
    /// Rests between runs and cycles.
    pub gaps_s: f64,
    /// By the settings, on a machine without a power sensor.
    pub least_s: f64,
    /// By the settings, on a machine with one.
    pub least_with_sensor_s: f64,
    /// With earlier runs in place of settings where there are any; absent without any.
    pub expected_s: Option<f64>,
    /// Runs of the plan whose experiment was run before.
    pub measured_runs: usize,
}

/// The time of one run by its settings and by earlier runs, in seconds of wall time each.
pub fn run_time(measurement: &MeasurementConfig, earlier_s: &[f64]) -> RunTime {
    let m = measurement;
    let mut earlier = earlier_s.to_vec();
    earlier.sort_by(f64::total_cmp);
    let least_s = m.min_seconds;
    RunTime {
        least_s,
        least_with_sensor_s: least_s + m.baseline_seconds + m.thermal_floor_seconds + m.prefill_min_seconds,
        measured_s: median(&earlier),
        measured_runs: earlier.len(),
    }
}

/// The time of a study whose experiments take `times` for a run.
pub fn study_time(plan: &[PlannedRun], execution: &ExecutionConfig, times: &[RunTime]) -> StudyTime {
    let gaps_s: f64 = plan.windows(2).map(|pair| gap_s(execution, pair)).sum();
    let runs: Vec<&RunTime> = plan.iter().filter_map(|run| times.get(run.experiment)).collect();
    let sum = |figure: fn(&RunTime) -> f64| gaps_s + runs.iter().map(|time| figure(time)).sum::<f64>();
    let measured_runs = runs.iter().filter(|time| time.measured_s.is_some()).count();
    StudyTime {
        gaps_s,
        least_s: sum(|time| time.least_s),
        least_with_sensor_s: sum(|time| time.least_with_sensor_s),
        expected_s: (measured_runs > 0).then(|| sum(|time| time.measured_s.unwrap_or(time.least_s))),
        measured_runs,
    }
}

/// Seconds of rest between two runs that follow each other.
pub(crate) fn gap_s(execution: &ExecutionConfig, pair: &[PlannedRun]) -> f64 {
    match pair {
        [a, b] if a.cycle == b.cycle => execution.experiment_gap_seconds,
        _ => execution.cycle_gap_seconds.max(execution.experiment_gap_seconds),
    }
}

/// Of ascending values.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    let lower = if sorted.len().is_multiple_of(2) { *sorted.get(middle - 1)? } else { upper };
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::{run_time, study_time};
    use crate::config::{CycleOrder, Profile};
    use crate::plan::order::order;

    /// 60 s window, 30 s baseline, 60 s floor, 20 s prefill.
    #[test]
    fn a_run_takes_at_least_what_its_settings_ask_for() {
        let time = run_time(&Profile::Publication.measurement(), &[]);
        assert_eq!((time.least_s, time.least_with_sensor_s, time.measured_s), (60.0, 170.0, None));
        let measured = |earlier: &[f64]| run_time(&Profile::Quick.measurement(), earlier).measured_s;
        assert_eq!((measured(&[9.0, 3.0, 4.0]), measured(&[9.0, 3.0])), (Some(4.0), Some(6.0)));
    }

    /// Two experiments, five cycles, interleaved: ten runs, five gaps of 30 s inside cycles and four of 60 s between them.
    #[test]
    fn gaps_count_once_between_two_runs() {
        let execution = Profile::Publication.execution();
        let plan = order(2, &execution);
        let known = run_time(&Profile::Publication.measurement(), &[200.0]);
        let unknown = run_time(&Profile::Publication.measurement(), &[]);
        let time = study_time(&plan, &execution, &[known, unknown]);
        assert_eq!((time.gaps_s, time.least_s, time.least_with_sensor_s), (390.0, 990.0, 2090.0));
        assert_eq!((time.measured_runs, time.expected_s), (5, Some(390.0 + 5.0 * 200.0 + 5.0 * 60.0)));
        assert_eq!(study_time(&plan, &execution, &[unknown, unknown]).expected_s, None);
        let mut sequential = execution;
        sequential.cycle_order = CycleOrder::Sequential;
        // Every pair of runs is of two cycles.
        let time = study_time(&order(2, &sequential), &sequential, &[unknown, unknown]);
        assert_eq!((time.gaps_s, time.expected_s), (540.0, None));
    }
}
