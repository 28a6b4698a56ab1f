//! One figure over the runs of an experiment.

use llem_statistics::{Bootstrap, Interval, MIN_SERIES, Sample, Trend, mean_interval, outlier, trend};
use serde::Serialize;

use crate::result::{Figure, MeanUncertainty, Metrics, RunRow, Spread};

/// What the runs of an experiment say of one figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FigureAnalysis {
    /// Which.
    pub figure: Figure,
    /// Runs that have it.
    pub n: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (n − 1); null for one run.
    pub sd: Option<f64>,
    /// 95 % interval of the mean over cycles by the default rule: how well runs repeat. Null for fewer than 3 runs, and for runs that are not
    /// valid.
    pub interval: Option<Interval>,
    /// BCa bootstrap interval of the same, from 5 valid runs on.
    pub bca: Option<Interval>,
    /// For energies: how sure the mean is, the sensors' gain included; null for runs that are not valid.
    pub uncertainty: Option<MeanUncertainty>,
    /// The run whose value lies far from the others; it is in the mean.
    pub outlier: Option<String>,
    /// How the value moves with the cycles; null for fewer than 5 valid runs.
    pub trend: Option<Trend>,
    /// The values, by cycle.
    pub values: Vec<RunValue>,
}

/// The value of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunValue {
    /// The run.
    pub run_id: String,
    /// Its value, in the unit of the figure.
    pub value: f64,
}

impl FigureAnalysis {
    /// Limits of the mean to tell experiments apart by, with the sensors' gain where they are several.
    pub fn limits(&self, several_sensors: bool) -> Option<(f64, f64)> {
        let limits = self.interval.map(|interval| (interval.low, interval.high))?;
        if several_sensors && self.figure.is_of_sensors() {
            self.uncertainty.map(|uncertainty| uncertainty.with_gain(self.mean, limits))
        } else {
            Some(limits)
        }
    }

    /// Of the runs that count; nothing where none has the figure. Where they are not valid, they are described and nothing is inferred.
    pub(super) fn of(figure: Figure, runs: &[&RunRow], valid: bool) -> Option<Self> {
        let with = |run: &&RunRow| Some((run.run_id.clone(), figure.of(run.metrics.as_ref()?)?));
        let values: Vec<RunValue> =
            runs.iter().filter_map(with).map(|(run_id, value)| RunValue { run_id, value }).collect();
        let numbers: Vec<f64> = values.iter().map(|run| run.value).collect();
        let sample = Sample::new(&numbers).ok()?;
        let bootstrap = Bootstrap::default();
        let inferred = |make: &dyn Fn() -> Option<Interval>| if valid { make() } else { None };
        let spread = Spread { n: sample.n() as u64, mean: sample.mean(), sd: sample.sd() };
        let metrics: Vec<&Metrics> = runs.iter().filter_map(|run| run.metrics.as_ref()).collect();
        let odd = if valid { outlier(sample) } else { None };
        Some(Self {
            figure,
            n: spread.n,
            mean: spread.mean,
            sd: spread.sd,
            interval: inferred(&|| mean_interval(sample, &bootstrap)),
            bca: inferred(&|| if sample.n() < MIN_SERIES { None } else { bootstrap.bca(sample) }),
            uncertainty: MeanUncertainty::of_figure(figure, &metrics, Some(spread)).filter(|_| valid),
            outlier: odd.and_then(|place| values.get(place)).map(|run| run.run_id.clone()),
            trend: if valid { trend(sample) } else { None },
            values,
        })
    }
}

#[cfg(test)]
mod tests {
    use llem_statistics::IntervalMethod;

    use super::FigureAnalysis;
    use crate::result::{Figure, RunRow, StudyResult};

    fn rows(speeds: &[f64]) -> Vec<RunRow> {
        let old = include_bytes!("../../../../tests/old-results/schema-1/study.json");
        let row = StudyResult::from_json(old).unwrap().experiments.remove(0).runs.remove(0);
        let of = |(place, speed): (usize, &f64)| {
            let mut row = row.clone();
            row.run_id = format!("r{place}");
            row.metrics.as_mut().unwrap().output_tokens_per_s = *speed;
            row
        };
        speeds.iter().enumerate().map(of).collect()
    }

    fn analysed(speeds: &[f64], valid: bool) -> FigureAnalysis {
        let rows = rows(speeds);
        FigureAnalysis::of(Figure::OutputTokensPerS, &rows.iter().collect::<Vec<_>>(), valid).unwrap()
    }

    #[test]
    fn the_number_of_runs_decides_what_is_said() {
        let two = analysed(&[1.0, 2.0], true);
        assert_eq!((two.n, two.interval, two.bca, two.trend), (2, None, None, None));
        let three = analysed(&[1.0, 2.0, 3.0], true).interval.unwrap();
        // 4.3027 / sqrt(3)
        assert_eq!(three.method, IntervalMethod::T);
        assert!((three.half_width() - 2.484_138).abs() < 1e-5, "{three:?}");
        let six = analysed(&[10.0, 10.1, 9.9, 12.0, 10.05, 9.95], true);
        assert_eq!((six.bca.unwrap().method, six.bca.unwrap().resamples), (IntervalMethod::Bca, Some(2000)));
        assert_eq!((six.outlier.as_deref(), six.trend.is_some()), (Some("r3"), true));
        let of_runs: Vec<&str> = six.values.iter().map(|run| run.run_id.as_str()).collect();
        assert_eq!(of_runs, ["r0", "r1", "r2", "r3", "r4", "r5"]);
    }

    #[test]
    fn nothing_is_inferred_from_runs_that_are_not_valid() {
        let not = analysed(&[10.0, 10.1, 9.9, 12.0, 10.05, 9.95], false);
        assert!((not.mean - 10.333_333).abs() < 1e-5 && not.sd.is_some());
        assert_eq!((not.interval, not.bca, not.trend, not.uncertainty), (None, None, None, None));
        assert!(not.outlier.is_none());
    }

    #[test]
    fn a_figure_that_no_run_has_is_absent() {
        let rows = rows(&[1.0]);
        assert_eq!(FigureAnalysis::of(Figure::Co2G, &rows.iter().collect::<Vec<_>>(), true), None);
    }
}
