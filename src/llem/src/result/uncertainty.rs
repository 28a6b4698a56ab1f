//! How sure an energy is: components, and how they combine.
//!
//! Standard uncertainties after JCGM 100:2008 (*Guide to the expression of uncertainty in measurement*): one standard deviation; a
//! bound of ±a without further knowledge counts as a/√3 (4.3.7); independent components combine as the root of their sum of squares
//! (5.1.2), fully correlated ones as their sum (5.2.2). `docs/uncertainty.md` tells all of it with an example.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Figure, Metrics, Spread};
use crate::config::Calibration;

/// Bound of a sensor's gain error without calibration, relative to its reading.
///
/// NVML: ±5 % of the reading, by an examination of over 70 GPUs and comparison with an external meter (Yang, Adamek, Armour, *Part-time Power
/// Measurements: nvidia-smi's Lack of Attention*, arXiv:2312.02741). RAPL: the same number, as an assumption: its error differs
/// between processors and is in part an offset (Desrochers, Paradis, Weaver, *A Validation of DRAM RAPL Power Measurements*, MEMSYS
/// 2016).
pub const GAIN_BOUND: f64 = 0.05;

/// Expanded uncertainty over combined: about 95 % for a normal distribution.
pub const COVERAGE_FACTOR: f64 = 2.0;

/// Uncertainty of one energy, in joules unless said otherwise. All but `expanded_*` are standard uncertainties.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UncertaintyBudget {
    /// From the sensor's gain: of the calibration, or of a bound of ±5 % where there is none. The same in all runs on the same device.
    pub gain_j: f64,
    /// From the edges: when the counter ticked, and what around the ticks belongs to the work.
    pub edge_j: f64,
    /// From what sampling may have missed; 0 where a counter was read.
    pub sampling_j: f64,
    /// From the idle power that was subtracted; null for energies from which nothing was.
    pub baseline_j: Option<f64>,
    /// All components together.
    pub combined_j: f64,
    /// `coverage_factor` times `combined_j`.
    pub expanded_j: f64,
    /// Two.
    pub coverage_factor: f64,
    /// Without the gain: for comparisons between runs on the same device, in which it cancels.
    pub comparison_j: f64,
    /// `combined_j` in percent of the energy; null when that is not above 0. The same for energy per token, whose count is exact.
    pub combined_percent: Option<f64>,
    /// `expanded_j` in percent of the energy.
    pub expanded_percent: Option<f64>,
    /// `comparison_j` in percent of the energy.
    pub comparison_percent: Option<f64>,
}

/// The components of a budget in joules.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Components {
    pub(super) gain: f64,
    pub(super) edge: f64,
    pub(super) sampling: f64,
    pub(super) baseline: Option<f64>,
}

impl UncertaintyBudget {
    /// The budget of `energy_j`.
    pub(super) fn new(energy_j: f64, parts: Components) -> Self {
        let comparison_j = root_sum_of_squares([parts.edge, parts.sampling, parts.baseline.unwrap_or(0.0)]);
        let combined_j = comparison_j.hypot(parts.gain);
        let percent = |joules: f64| (energy_j > 0.0).then(|| 100.0 * joules / energy_j);
        Self {
            gain_j: parts.gain,
            edge_j: parts.edge,
            sampling_j: parts.sampling,
            baseline_j: parts.baseline,
            combined_j,
            expanded_j: COVERAGE_FACTOR * combined_j,
            coverage_factor: COVERAGE_FACTOR,
            comparison_j,
            combined_percent: percent(combined_j),
            expanded_percent: percent(COVERAGE_FACTOR * combined_j),
            comparison_percent: percent(comparison_j),
        }
    }

    /// Whether the combined figures are those of the components, up to this relative difference, and none is below 0.
    pub(crate) fn adds_up(&self, tolerance: f64) -> bool {
        let Self { gain_j, edge_j, sampling_j, baseline_j, .. } = *self;
        let parts = [gain_j, edge_j, sampling_j, baseline_j.unwrap_or(0.0)];
        let [_, beside_gain @ ..] = parts;
        let comparison_j = root_sum_of_squares(beside_gain);
        let combined_j = comparison_j.hypot(gain_j);
        let pairs = [
            (self.comparison_j, comparison_j),
            (self.combined_j, combined_j),
            (self.expanded_j, COVERAGE_FACTOR * combined_j),
        ];
        let same = |(said, made): (f64, f64)| (said - made).abs() <= tolerance * made;
        parts.iter().all(|part| *part >= 0.0) && pairs.into_iter().all(same)
    }

    /// The budget of a sum over devices. Gains of one kind of sensor may err alike, so they add up; edges, sampling and baselines are
    /// each device's own.
    pub(super) fn total(energy_j: f64, devices: &[Self]) -> Self {
        let squares = |figure: fn(&Self) -> f64| root_sum_of_squares(devices.iter().map(figure));
        let has_baseline = devices.iter().any(|d| d.baseline_j.is_some());
        Self::new(
            energy_j,
            Components {
                gain: devices.iter().map(|d| d.gain_j).sum(),
                edge: squares(|d| d.edge_j),
                sampling: squares(|d| d.sampling_j),
                baseline: has_baseline.then(|| squares(|d| d.baseline_j.unwrap_or(0.0))),
            },
        )
    }
}

/// Standard uncertainty of a sensor's gain, relative: the calibration's, or that of the bound.
pub(super) fn gain_relative(calibration: Option<&Calibration>) -> f64 {
    calibration.map_or(GAIN_BOUND / 3.0_f64.sqrt(), |c| c.relative_uncertainty)
}

pub(super) fn root_sum_of_squares(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// Uncertainty of a mean over the runs of an experiment, in the unit of the figure. All but `expanded` are standard uncertainties.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeanUncertainty {
    /// From the sensors' gain: the mean of the runs', for more runs do not make it smaller.
    pub gain: f64,
    /// From edges and sampling of the single runs, which are independent: the root of their sum of squares over the number of runs.
    pub within_runs: f64,
    /// From the scatter between runs: sample standard deviation over the root of their number; null for fewer than two runs.
    pub repeatability: Option<f64>,
    /// `gain` with the larger of `within_runs` and `repeatability`: the scatter holds edges and sampling already.
    pub combined: f64,
    /// Twice `combined`.
    pub expanded: f64,
    /// Without the gain: for comparisons between experiments on the same device, in which it cancels.
    pub comparison: f64,
    /// `expanded` in percent of the mean; null when that is not above 0.
    pub expanded_percent: Option<f64>,
    /// `comparison` in percent of the mean.
    pub comparison_percent: Option<f64>,
}

impl MeanUncertainty {
    /// Of an energy over the runs that have it, in joules or per token. Nothing for other figures, and unless each of these runs has a budget.
    pub(crate) fn of_figure(figure: Figure, runs: &[&Metrics], spread: Option<Spread>) -> Option<Self> {
        let spread = spread?;
        let (is_net, is_per_token) = match figure {
            Figure::EnergyJ => (false, false),
            Figure::EnergyPerOutputTokenJ => (false, true),
            Figure::EnergyNetJ => (true, false),
            Figure::EnergyNetPerOutputTokenJ => (true, true),
            _ => return None,
        };
        let budget = |m: &Metrics| if is_net { m.energy.net_uncertainty } else { m.energy.uncertainty };
        let divisor = |m: &Metrics| if is_per_token { m.output_tokens as f64 } else { 1.0 };
        let with_energy = runs.iter().filter(|m| figure.of(m).is_some() && divisor(m) > 0.0);
        let budgets: Vec<(UncertaintyBudget, f64)> =
            with_energy.map(|m| budget(m).map(|budget| (budget, divisor(m)))).collect::<Option<_>>()?;
        if budgets.len() as u64 != spread.n {
            return None;
        }
        let n = spread.n as f64;
        let gain = budgets.iter().map(|(budget, by)| budget.gain_j / by).sum::<f64>() / n;
        let within_runs = root_sum_of_squares(budgets.iter().map(|(budget, by)| budget.comparison_j / by)) / n;
        Some(Self::new(spread.mean, gain, within_runs, spread.sd.map(|sd| sd / n.sqrt())))
    }

    /// Limits of a 95 % interval over cycles, widened by twice the gain's standard uncertainty, where it does not cancel.
    pub fn with_gain(&self, mean: f64, (low, high): (f64, f64)) -> (f64, f64) {
        let gain = COVERAGE_FACTOR * self.gain;
        (mean - gain.hypot(mean - low), mean + gain.hypot(high - mean))
    }

    fn new(mean: f64, gain: f64, within_runs: f64, repeatability: Option<f64>) -> Self {
        let comparison = within_runs.max(repeatability.unwrap_or(0.0));
        let combined = gain.hypot(comparison);
        let percent = |value: f64| (mean > 0.0).then(|| 100.0 * value / mean);
        Self {
            gain,
            within_runs,
            repeatability,
            combined,
            expanded: COVERAGE_FACTOR * combined,
            comparison,
            expanded_percent: percent(COVERAGE_FACTOR * combined),
            comparison_percent: percent(comparison),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Components, MeanUncertainty, UncertaintyBudget, gain_relative};
    use crate::config::Calibration;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} {b}");
    }

    #[test]
    fn a_bound_of_five_percent_is_two_point_nine_percent_standard() {
        // 0.05 / sqrt(3)
        close(gain_relative(None), 0.028_867_513_459_481_29);
        let calibration = Calibration {
            device: "GPU-a".into(),
            factor: 1.02,
            relative_uncertainty: 0.008,
            date: "2026-11-22".into(),
            method: "m".into(),
        };
        close(gain_relative(Some(&calibration)), 0.008);
    }

    #[test]
    fn components_combine_as_the_root_of_their_squares() {
        let parts = Components { gain: 12.0, edge: 3.0, sampling: 4.0, baseline: None };
        let budget = UncertaintyBudget::new(1000.0, parts);
        close(budget.comparison_j, 5.0);
        close(budget.combined_j, 13.0);
        close(budget.expanded_j, 26.0);
        close(budget.combined_percent.unwrap(), 1.3);
        close(budget.expanded_percent.unwrap(), 2.6);
        close(budget.comparison_percent.unwrap(), 0.5);
        let net = UncertaintyBudget::new(-1.0, Components { baseline: Some(12.0), ..parts });
        close(net.comparison_j, 13.0);
        assert_eq!(net.combined_percent, None);
    }

    #[test]
    fn gains_of_several_devices_add_up_and_the_rest_does_not() {
        let device =
            |gain| UncertaintyBudget::new(500.0, Components { gain, edge: 3.0, sampling: 0.0, baseline: Some(1.0) });
        let total = UncertaintyBudget::total(1000.0, &[device(10.0), device(14.0)]);
        close(total.gain_j, 24.0);
        close(total.edge_j, 18.0_f64.sqrt());
        close(total.baseline_j.unwrap(), 2.0_f64.sqrt());
        close(total.combined_j, (24.0_f64 * 24.0 + 18.0 + 2.0).sqrt());
    }

    #[test]
    fn the_gain_of_a_mean_stays_and_scatter_holds_the_edges() {
        // Scatter larger than the edges: sqrt(12² + 5²) = 13.
        let scattered = MeanUncertainty::new(100.0, 12.0, 1.0, Some(5.0));
        close(scattered.comparison, 5.0);
        close(scattered.combined, 13.0);
        close(scattered.expanded, 26.0);
        close(scattered.expanded_percent.unwrap(), 26.0);
        // Runs that happen to agree are no surer than their edges, and so is a single run.
        for repeatability in [Some(0.1), None] {
            close(MeanUncertainty::new(100.0, 12.0, 5.0, repeatability).combined, 13.0);
        }
    }
}
