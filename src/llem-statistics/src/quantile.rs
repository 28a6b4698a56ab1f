//! Quantiles of many values, and how sure they are.

use statrs::function::beta::checked_beta_reg;

use crate::interval::{Interval, IntervalMethod};
use crate::sample::Sample;

/// Quantile of ascending values by linear interpolation between order statistics (definition 7 of Hyndman and Fan, *Sample Quantiles in
/// Statistical Packages*, The American Statistician 50, 1996), as NumPy does by default; `p` from 0 to 1, nothing without values.
pub fn quantile(sorted: &[f64], p: f64) -> Option<f64> {
    let position = p.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let below = position.floor() as usize;
    let low = *sorted.get(below)?;
    let high = sorted.get(below + 1).copied().unwrap_or(low);
    Some(low + (high - low) * (position - below as f64))
}

/// How many values it takes before an interval of this level for the quantile `p` has two limits: with fewer, the true quantile lies
/// beyond all values too often.
pub fn min_requests(p: f64, level: f64) -> usize {
    let tail = (1.0 - level) / 2.0;
    let outer = p.max(1.0 - p);
    (tail.ln() / outer.ln()).ceil().max(1.0) as usize
}

/// Interval for the quantile `p` over independent values, from the exact bootstrap distribution: what infinitely many resamples would
/// give. Resampling picks the k-th smallest of n draws, and that is at most the j-th value with the probability that at least k of n draws fall
/// on the first j values, a binomial (Efron, *Bootstrap Methods: Another Look at the Jackknife*, Annals of Statistics 7, 1979, section 3).
/// Nothing with fewer than [`min_requests`] values.
pub fn quantile_interval(sample: Sample<'_>, p: f64, level: f64) -> Option<Interval> {
    let n = sample.n();
    let inside = |share: f64| share > 0.0 && share < 1.0;
    if !inside(p) || !inside(level) || n < min_requests(p, level) {
        return None;
    }
    let sorted = sample.sorted();
    let tail = (1.0 - level) / 2.0;
    let rank = ((n as f64 * p).ceil() as usize).clamp(1, n);
    let at = |chance: f64| sorted.get(first_place(n, rank, chance)?).copied();
    let (low, high) = (at(tail)?, at(1.0 - tail)?);
    Some(Interval { low, high, level, method: IntervalMethod::OrderStatistics, resamples: None, seed: None })
}

/// The first place (from 0) that a resample's `rank`-th smallest value does not exceed with at least this chance.
fn first_place(n: usize, rank: usize, chance: f64) -> Option<usize> {
    let reaches = |place: usize| {
        let share = (place + 1) as f64 / n as f64;
        place + 1 == n || checked_beta_reg(rank as f64, (n - rank + 1) as f64, share).is_ok_and(|p| p >= chance)
    };
    let (mut low, mut high) = (0, n.checked_sub(1)?);
    while low < high {
        let middle = low + (high - low) / 2;
        if reaches(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::{min_requests, quantile, quantile_interval};
    use crate::{DEFAULT_LEVEL, Sample};

    #[test]
    fn quantiles_agree_with_numpy() {
        // numpy.percentile([3, 1, 4, 1, 5, 9, 2, 6], [50, 90, 95, 99]) = [3.5, 6.9, 7.95, 8.79]
        let sorted = [1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0];
        for (p, want) in [(0.5, 3.5), (0.9, 6.9), (0.95, 7.95), (0.99, 8.79), (0.0, 1.0), (1.0, 9.0)] {
            assert!((quantile(&sorted, p).unwrap() - want).abs() < 1e-12);
        }
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn too_few_values_have_no_interval() {
        // 0.99^367 = 0.0250, 0.95^72 = 0.0249, 0.5^6 = 0.0156
        assert_eq!([0.99, 0.95, 0.5].map(|p| min_requests(p, DEFAULT_LEVEL)), [368, 72, 6]);
        let values: Vec<f64> = (0..71).map(f64::from).collect();
        let sample = Sample::new(&values).unwrap();
        assert_eq!(quantile_interval(sample, 0.95, DEFAULT_LEVEL), None);
        assert!(quantile_interval(sample, 0.5, DEFAULT_LEVEL).is_some());
        assert_eq!(quantile_interval(sample, 1.0, DEFAULT_LEVEL), None);
    }

    #[test]
    fn the_median_of_many_has_the_limits_of_the_binomial() {
        let values: Vec<f64> = (1..=1000).map(f64::from).collect();
        let interval = quantile_interval(Sample::new(&values).unwrap(), 0.5, DEFAULT_LEVEL).unwrap();
        // 500 ± 1.96 · √(1000 · 0.25) = 469 to 531
        assert!((interval.low - 469.0).abs() <= 1.0 && (interval.high - 531.0).abs() <= 1.0, "{interval:?}");
    }
}
