//! Which experiments of a study no other beats at everything.

use std::collections::BTreeSet;

use llem_protocol::PowerSourceKind;
use llem_statistics::{Bootstrap, Direction, Estimate, Sample, Standing, frontier, mean_interval};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ExperimentResult, Figure, MeanUncertainty, Metrics, RunRow, Spread};

/// A figure to be compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Objective {
    /// Which.
    pub figure: Figure,
    /// Whether less or more of it is better.
    pub direction: Direction,
}

impl From<Figure> for Objective {
    fn from(figure: Figure) -> Self {
        Self { figure, direction: figure.direction() }
    }
}

/// The experiments of a study, compared by several figures at once. Only valid runs count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ParetoFrontier {
    /// What they are compared by.
    pub objectives: Vec<Objective>,
    /// One entry for each experiment, in the order of the study.
    pub experiments: Vec<ExperimentStanding>,
    /// Whether the valid runs were measured by different sensors. Their gains do not cancel then, and are in the intervals of what sensors tell.
    #[serde(default)]
    pub several_sensors: bool,
}

/// Where an experiment stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExperimentStanding {
    /// The experiment.
    pub experiment_id: String,
    /// `frontier`: no other is at least as good in every figure and better in one; `undecided`: another is by the means, but not beyond both
    /// 95 % intervals in every figure; `dominated`: another is, beyond them. Null without valid runs, or without one of the figures.
    pub standing: Option<Standing>,
}

impl ParetoFrontier {
    /// The objectives for a study: energy per token and tokens per second; where no valid run has an energy, tokens per second and time to first
    /// token.
    pub fn default_objectives(experiments: &[ExperimentResult]) -> Vec<Objective> {
        let mut valid = experiments.iter().flat_map(|experiment| &experiment.runs).filter(|run| run.valid);
        let has_energy = valid.any(|run| figure(run, Figure::EnergyPerOutputTokenJ).is_some());
        let figures = if has_energy {
            [Figure::EnergyPerOutputTokenJ, Figure::OutputTokensPerS]
        } else {
            [Figure::TtftP50Ms, Figure::OutputTokensPerS]
        };
        figures.map(Objective::from).to_vec()
    }

    /// Compares experiments.
    pub fn of(experiments: &[ExperimentResult], objectives: Vec<Objective>) -> Self {
        let several_sensors = have_several_sensors(experiments);
        let estimates = |e: &ExperimentResult| -> Option<Vec<Estimate>> {
            objectives.iter().map(|objective| estimate(&e.runs, objective.figure, several_sensors)).collect()
        };
        let points: Vec<Option<Vec<Estimate>>> = experiments.iter().map(estimates).collect();
        let compared: Vec<Vec<Estimate>> = points.iter().flatten().cloned().collect();
        let directions: Vec<Direction> = objectives.iter().map(|objective| objective.direction).collect();
        let mut standings = frontier(&compared, &directions).into_iter();
        let experiments = experiments.iter().zip(&points).map(|(experiment, point)| ExperimentStanding {
            experiment_id: experiment.experiment_id.clone(),
            standing: point.as_ref().and_then(|_| standings.next()),
        });
        Self { experiments: experiments.collect(), objectives, several_sensors }
    }

    /// Where an experiment stands; nothing for one that could not be compared.
    pub fn standing(&self, experiment_id: &str) -> Option<Standing> {
        self.experiments.iter().find(|entry| entry.experiment_id == experiment_id)?.standing
    }
}

/// Whether not all valid runs were measured by one set of sensors. GPUs have ids of their own; the zones of processors are called alike on every
/// node.
fn have_several_sensors(experiments: &[ExperimentResult]) -> bool {
    let valid = experiments.iter().flat_map(|experiment| &experiment.runs).filter(|run| run.valid);
    let mut sets = BTreeSet::new();
    for run in valid {
        let Some(metrics) = run.metrics.as_ref().filter(|metrics| metrics.energy.energy_j.is_some()) else { continue };
        let counted = metrics.energy.domains.iter().filter(|domain| domain.counted);
        let ids: BTreeSet<&str> = counted.clone().map(|domain| domain.domain.id.as_str()).collect();
        let has_zones = counted.clone().any(|domain| domain.domain.source == PowerSourceKind::Rapl);
        let node = run.identity.as_ref().and_then(|identity| identity.node.as_deref()).filter(|_| has_zones);
        sets.insert((node, ids));
    }
    sets.len() > 1
}

/// The mean over an experiment's valid runs; nothing when none has the figure.
fn estimate(runs: &[RunRow], wanted: Figure, several_sensors: bool) -> Option<Estimate> {
    let valid: Vec<&Metrics> = runs.iter().filter(|run| run.valid).filter_map(|run| run.metrics.as_ref()).collect();
    let values: Vec<f64> = valid.iter().filter_map(|metrics| wanted.of(metrics)).collect();
    let sample = Sample::new(&values).ok()?;
    let mean = sample.mean();
    let mut limits = mean_interval(sample, &Bootstrap::default()).map(|interval| (interval.low, interval.high));
    if several_sensors && wanted.is_of_sensors() {
        let spread = Spread { n: sample.n() as u64, mean, sd: sample.sd() };
        let uncertainty = MeanUncertainty::of_figure(wanted, &valid, Some(spread));
        limits = limits.zip(uncertainty).map(|(limits, uncertainty)| uncertainty.with_gain(mean, limits));
    }
    Some(Estimate { value: mean, limits })
}

fn figure(run: &RunRow, figure: Figure) -> Option<f64> {
    run.metrics.as_ref().and_then(|metrics| figure.of(metrics))
}

#[cfg(test)]
mod tests {
    use llem_statistics::Standing;

    use super::{Figure, ParetoFrontier};
    use crate::result::uncertainty::Components;
    use crate::result::{EnergyFigures, ExperimentResult, RunRow, StudyResult, UncertaintyBudget};

    /// Three runs of an experiment with tokens per second, and joules per token if there is energy.
    fn experiment(id: &str, speeds: [f64; 3], joules: Option<f64>) -> ExperimentResult {
        let old = include_bytes!("../../../../tests/old-results/schema-1/study.json");
        let mut experiment = StudyResult::from_json(old).unwrap().experiments.remove(0);
        let row = |speed| {
            let mut row: RunRow = experiment.runs[0].clone();
            row.valid = true;
            let metrics = row.metrics.as_mut().unwrap();
            metrics.output_tokens_per_s = speed;
            metrics.energy = EnergyFigures { energy_per_output_token_j: joules, ..EnergyFigures::default() };
            row
        };
        experiment.runs = speeds.map(row).to_vec();
        id.clone_into(&mut experiment.experiment_id);
        experiment
    }

    fn standings(experiments: &[ExperimentResult]) -> Vec<Option<Standing>> {
        let frontier = ParetoFrontier::of(experiments, ParetoFrontier::default_objectives(experiments));
        experiments.iter().map(|experiment| frontier.standing(&experiment.experiment_id)).collect()
    }

    #[test]
    fn a_point_is_dominated_only_beyond_both_intervals() {
        let fast = experiment("fast", [99.0, 100.0, 101.0], Some(1.0));
        let sparing = experiment("sparing", [49.0, 50.0, 51.0], Some(0.5));
        let beaten = experiment("beaten", [29.0, 30.0, 31.0], Some(2.0));
        let close = experiment("close", [97.0, 98.0, 99.0], Some(1.0));
        assert_eq!(
            standings(&[fast, sparing, beaten, close]),
            [Standing::Frontier, Standing::Frontier, Standing::Dominated, Standing::Undecided].map(Some)
        );
    }

    /// The gains of two GPUs' sensors differ by as much as 5 % each.
    #[test]
    fn what_sensors_of_several_devices_tell_is_decided_beyond_their_gains() {
        let on = |id: &str, gpu: &str, joules: f64| {
            let mut experiment = experiment(id, [joules * 100.0; 3], Some(joules));
            for (run, scatter) in experiment.runs.iter_mut().zip([-0.001, 0.0, 0.001]) {
                let metrics = run.metrics.as_mut().unwrap();
                metrics.output_tokens_per_s = 10.0;
                metrics.output_tokens = 100;
                let budget = UncertaintyBudget::new(
                    100.0 * joules,
                    Components { gain: 2.89 * joules, edge: 0.0, sampling: 0.0, baseline: None },
                );
                let domain = serde_json::from_value(serde_json::json!({
                    "domain": {"source": "nvml", "id": gpu, "scope": "gpu"}, "counted": true,
                    "start": {"t_ns": 0, "aligned": true, "bracket_ms": 1.0, "counter_j": 0.0},
                    "end": {"t_ns": 1, "aligned": true, "bracket_ms": 1.0, "counter_j": 0.0},
                    "energy_raw_j": joules, "energy_j": joules, "method": "counter", "calibration": null,
                    "uncertainty": budget, "baseline_power_w": null, "baseline_u_w": null, "counter_j": null, "curve_j": null,
                    "curve_u_j": null, "curve_kind": null, "curve_difference_percent": null, "cross_check": null,
                    "lead_j": 0.0, "tail_j": 0.0, "mean_w": null, "peak_w": null, "samples": 0,
                }));
                metrics.energy = EnergyFigures {
                    energy_j: Some(100.0 * joules),
                    energy_per_output_token_j: Some(joules * (1.0 + scatter)),
                    uncertainty: Some(budget),
                    domains: vec![domain.unwrap()],
                    ..EnergyFigures::default()
                };
            }
            experiment
        };
        let decided = [Some(Standing::Frontier), Some(Standing::Dominated)];
        let one = [on("a", "GPU-1", 1.0), on("b", "GPU-1", 1.05)];
        assert_eq!(standings(&one), decided);
        let two = [on("a", "GPU-1", 1.0), on("b", "GPU-2", 1.05)];
        assert_eq!(standings(&two), [Some(Standing::Frontier), Some(Standing::Undecided)]);
        assert_eq!(standings(&[on("a", "GPU-1", 1.0), on("b", "GPU-2", 1.3)]), decided);
        let frontier = |experiments: &[ExperimentResult]| {
            ParetoFrontier::of(experiments, ParetoFrontier::default_objectives(experiments)).several_sensors
        };
        assert_eq!((frontier(&one), frontier(&two)), (false, true));
    }

    #[test]
    fn runs_that_are_not_valid_and_absent_energies_stand_nowhere() {
        let good = experiment("good", [1.0, 2.0, 3.0], Some(1.0));
        let without = experiment("without", [9.0, 9.0, 9.0], None);
        let mut bad = experiment("bad", [9.0, 9.0, 9.0], Some(0.1));
        bad.runs.iter_mut().for_each(|run| run.valid = false);
        assert_eq!(standings(&[bad, good, without.clone()]), [None, Some(Standing::Frontier), None]);
        let by_time = ParetoFrontier::default_objectives(&[without]);
        assert_eq!(by_time.iter().map(|o| o.figure).collect::<Vec<_>>(), [Figure::TtftP50Ms, Figure::OutputTokensPerS]);
    }
}
