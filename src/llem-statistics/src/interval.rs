//! Intervals, and which method makes them when.

use serde::{Deserialize, Serialize};

use crate::bootstrap::Bootstrap;
use crate::sample::Sample;
use crate::student::t_interval;

/// Fewer values have no interval: with two, a t interval at 95 % is 18 standard errors wide and says nothing.
pub const MIN_INTERVAL: usize = 3;

/// From so many values on, the interval is a BCa bootstrap; below it, Student's t. BCa intervals of fewer values are too narrow:
/// `docs/statistics.md` has the simulation.
pub const MIN_BCA: usize = 30;

/// How an interval was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalMethod {
    /// Student's t on the mean.
    T,
    /// Bias-corrected and accelerated bootstrap of the mean (Efron, *Better Bootstrap Confidence Intervals*, JASA 82, 1987).
    Bca,
    /// Percentiles of the bootstrap's means.
    Percentile,
    /// Percentiles of the exact bootstrap distribution of a quantile.
    OrderStatistics,
}

impl IntervalMethod {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::T => "t",
            Self::Bca => "bca",
            Self::Percentile => "percentile",
            Self::OrderStatistics => "order_statistics",
        }
    }
}

/// An interval that holds the true value in `level` of all cases, as far as its method's assumptions hold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower limit, in the unit of the values.
    pub low: f64,
    /// Upper limit.
    pub high: f64,
    /// Confidence level, 0 to 1.
    pub level: f64,
    /// How it was made.
    pub method: IntervalMethod,
    /// Number of resamples, for methods that draw.
    pub resamples: Option<u32>,
    /// Seed of the draws.
    pub seed: Option<u64>,
}

impl Interval {
    /// Half its width.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

/// The interval for the mean by the default rule: none below [`MIN_INTERVAL`] values, Student's t below [`MIN_BCA`], BCa from there on.
/// Where BCa is not defined (no spread), t.
pub fn mean_interval(sample: Sample<'_>, bootstrap: &Bootstrap) -> Option<Interval> {
    let t = || t_interval(sample, bootstrap.level);
    match sample.n() {
        n if n < MIN_INTERVAL => None,
        n if n < MIN_BCA => t(),
        _ => bootstrap.bca(sample).or_else(t),
    }
}

#[cfg(test)]
mod tests {
    use super::{IntervalMethod, MIN_BCA, mean_interval};
    use crate::{Bootstrap, Sample};

    fn method(n: usize, value: impl Fn(usize) -> f64) -> Option<IntervalMethod> {
        let values: Vec<f64> = (0..n).map(value).collect();
        mean_interval(Sample::new(&values).unwrap(), &Bootstrap::default()).map(|interval| interval.method)
    }

    #[test]
    fn the_number_of_values_decides_the_method() {
        let spread = |n| method(n, |i| (i * i) as f64);
        assert_eq!([1, 2].map(spread), [None, None]);
        assert_eq!([3, 5, MIN_BCA - 1].map(spread), [Some(IntervalMethod::T); 3]);
        assert_eq!([MIN_BCA, 100].map(spread), [Some(IntervalMethod::Bca); 2]);
        // Values without any spread have no bias to correct.
        assert_eq!(method(MIN_BCA, |_| 7.0), Some(IntervalMethod::T));
    }
}
