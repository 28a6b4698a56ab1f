//! Small statistics: enough to describe, not to infer.

use llem_statistics::quantile;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A sample described by its moments and percentiles.
///
/// Percentiles interpolate linearly between order statistics (definition 7 of Hyndman and Fan, *Sample Quantiles in Statistical
/// Packages*, The American Statistician 50, 1996), as NumPy does by default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Distribution {
    /// Number of values.
    pub n: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Smallest value.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest value.
    pub max: f64,
}

impl Distribution {
    /// Describes `values`, or nothing when there are none. Not-a-number values are not expected and sort last.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (first, last) = (*values.first()?, *values.last()?);
        let n = values.len();
        Some(Self {
            n: n as u64,
            mean: values.iter().sum::<f64>() / n as f64,
            min: first,
            p50: quantile(&values, 0.50)?,
            p90: quantile(&values, 0.90)?,
            p95: quantile(&values, 0.95)?,
            p99: quantile(&values, 0.99)?,
            max: last,
        })
    }
}

/// Mean and spread of one figure over the runs of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// Number of runs that have the figure.
    pub n: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (n − 1); null for fewer than two runs.
    pub sd: Option<f64>,
}

impl Spread {
    /// Describes `values`, or nothing when there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let sd = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        Some(Self { n: n as u64, mean, sd })
    }
}

#[cfg(test)]
mod tests {
    use super::{Distribution, Spread};

    #[test]
    fn percentiles_agree_with_numpy() {
        // numpy.percentile([3, 1, 4, 1, 5, 9, 2, 6], [50, 90, 95, 99]) = [3.5, 6.9, 7.95, 8.79]
        let d = Distribution::of([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0].to_vec()).unwrap();
        for (got, want) in [(d.p50, 3.5), (d.p90, 6.9), (d.p95, 7.95), (d.p99, 8.79), (d.mean, 3.875)] {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        assert!((d.min - 1.0).abs() < 1e-12 && (d.max - 9.0).abs() < 1e-12 && d.n == 8);
    }

    #[test]
    fn one_value_is_every_percentile_and_none_is_none() {
        let d = Distribution::of(vec![2.5]).unwrap();
        assert_eq!((d.min.to_bits(), d.p99.to_bits()), (2.5f64.to_bits(), 2.5f64.to_bits()));
        assert!(Distribution::of(Vec::new()).is_none());
    }

    #[test]
    fn spread_is_the_sample_standard_deviation() {
        let s = Spread::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert!((s.mean - 5.0).abs() < 1e-12 && (s.sd.unwrap() - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of(&[1.0]).unwrap().sd, None);
        assert_eq!(Spread::of(&[]), None);
    }
}
