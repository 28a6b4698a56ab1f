//! The bootstrap of a mean.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{ContinuousCDF, Normal};

use crate::DEFAULT_LEVEL;
use crate::interval::{Interval, IntervalMethod};
use crate::quantile::quantile;
use crate::sample::Sample;

/// Enough for the limits of a 95 % interval to scatter by a few percent of its width.
pub const DEFAULT_RESAMPLES: u32 = 2_000;

/// How a bootstrap is drawn. The same settings and values give the same limits on every machine (ChaCha with 8 rounds).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Number of resamples.
    pub resamples: u32,
    /// Seed of the draws.
    pub seed: u64,
    /// Confidence level, 0 to 1.
    pub level: f64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: DEFAULT_RESAMPLES, seed: 42, level: DEFAULT_LEVEL }
    }
}

impl Bootstrap {
    /// Means of the resamples, in the order of the draws.
    pub fn means(&self, sample: Sample<'_>) -> Vec<f64> {
        let mean = sample.mean();
        // Deviations are summed, not values: their sum does not lose what little they differ.
        let deviations: Vec<f64> = sample.values().iter().map(|value| value - mean).collect();
        let n = deviations.len();
        let mut draws = ChaCha8Rng::seed_from_u64(self.seed);
        let mut place = || {
            // The upper half of a product with n: uneven by at most n / 2^32 of a chance.
            let place = (u64::from(draws.next_u32()) * n as u64) >> 32;
            deviations.get(place as usize).copied().unwrap_or_default()
        };
        (0..self.resamples).map(|_| mean + (0..n).map(|_| place()).sum::<f64>() / n as f64).collect()
    }

    /// Percentiles of the resampled means.
    pub fn percentile(&self, sample: Sample<'_>) -> Option<Interval> {
        let mut means = self.means(sample);
        means.sort_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        let limits = (quantile(&means, tail)?, quantile(&means, 1.0 - tail)?);
        Some(self.interval(limits, IntervalMethod::Percentile))
    }

    /// Bias-corrected and accelerated interval of the mean; nothing where the values have no spread.
    pub fn bca(&self, sample: Sample<'_>) -> Option<Interval> {
        let (mean, n) = (sample.mean(), sample.n() as f64);
        let without: Vec<f64> = sample.values().iter().map(|value| mean + (mean - value) / (n - 1.0)).collect();
        let limits = bca_limits(self.means(sample), mean, &without, self.level)?;
        Some(self.interval(limits, IntervalMethod::Bca))
    }

    fn interval(&self, (low, high): (f64, f64), method: IntervalMethod) -> Interval {
        let (resamples, seed) = (Some(self.resamples), Some(self.seed));
        Interval { low, high, level: self.level, method, resamples, seed }
    }
}

/// Limits of the BCa interval from the statistic's bootstrap distribution, its estimate, and its values with one observation left out each
/// (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 14; ties count half, as in SciPy). Nothing where the correction is
/// not defined: no spread, or all of the distribution on one side of the estimate.
pub fn bca_limits(mut distribution: Vec<f64>, estimate: f64, jackknife: &[f64], level: f64) -> Option<(f64, f64)> {
    distribution.sort_by(f64::total_cmp);
    let below = distribution.partition_point(|value| *value < estimate);
    let up_to = distribution.partition_point(|value| *value <= estimate);
    let share = (below + up_to) as f64 / (2 * distribution.len()) as f64;
    let acceleration = acceleration(jackknife)?;
    let normal = Normal::standard();
    let bias = Some(normal.inverse_cdf(share)).filter(|bias| bias.is_finite())?;
    let corrected = |tail: f64| {
        let z = bias + normal.inverse_cdf(tail);
        normal.cdf(bias + z / (1.0 - acceleration * z))
    };
    let tail = (1.0 - level) / 2.0;
    Some((quantile(&distribution, corrected(tail))?, quantile(&distribution, corrected(1.0 - tail))?))
}

/// A sixth of the skewness of the statistic's influence values.
fn acceleration(jackknife: &[f64]) -> Option<f64> {
    let mean = Sample::new(jackknife).ok()?.mean();
    let sum = |power: i32| jackknife.iter().map(|value| (mean - value).powi(power)).sum::<f64>();
    let acceleration = sum(3) / (6.0 * sum(2).powf(1.5));
    Some(acceleration).filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::Bootstrap;
    use crate::Sample;

    #[test]
    fn a_seed_gives_the_same_means_again_and_another_gives_others() {
        let values = [3.0, 1.0, 4.0, 1.0, 5.0];
        let sample = Sample::new(&values).unwrap();
        let means = |seed| Bootstrap { seed, resamples: 50, ..Bootstrap::default() }.means(sample);
        assert_eq!(means(1), means(1));
        assert_ne!(means(1), means(2));
    }

    #[test]
    fn resampled_means_scatter_as_theory_says() {
        let values: Vec<f64> = (0..40).map(|i| f64::from(i * i)).collect();
        let sample = Sample::new(&values).unwrap();
        let means = Bootstrap { resamples: 20_000, ..Bootstrap::default() }.means(sample);
        let means = Sample::new(&means).unwrap();
        // Variance with n in its denominator, over n.
        let expected = sample.sd().unwrap() * (39.0f64 / 40.0).sqrt() / 40.0f64.sqrt();
        assert!((means.sd().unwrap() / expected - 1.0).abs() < 0.02);
        assert!((means.mean() - sample.mean()).abs() < 0.05 * expected);
    }

    #[test]
    fn without_spread_there_is_no_bca_interval() {
        assert_eq!(Bootstrap::default().bca(Sample::new(&[2.0; 30]).unwrap()), None);
        assert_eq!(Bootstrap::default().bca(Sample::new(&[2.0]).unwrap()), None);
    }
}
