//! What is odd about values in their order: some far from the others, or all of them moving.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::quantile::quantile;
use crate::sample::Sample;

/// Fewer values can show neither outliers nor a trend.
pub const MIN_SERIES: usize = 5;

/// Chance of an outlier in a sample that scatters normally.
const OUTLIER_CHANCE: f64 = 0.02;

/// The last length for which orders are counted one by one; beyond it the normal approximation is good to a thousandth.
const EXACT_TREND: usize = 50;

/// A steady move of values in their order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// Kendall's τ of value against order: 1 when every value is larger than all before it, −1 when smaller.
    pub tau: f64,
    /// Chance of so strong a trend, up or down, among values in random order (Mann and Kendall's test).
    pub p_value: f64,
    /// Median change from one value to the next (Theil and Sen's slope), in the unit of the values.
    pub per_step: f64,
}

/// Place (from 0) of the value that lies too far from the mean for so many values that scatter normally: farther than in 49 of 50 such samples, by
/// Grubbs' two-sided test (*Technometrics* 11, 1969). Nothing among fewer than [`MIN_SERIES`] values. Two of a kind can hide each other.
pub fn outlier(sample: Sample<'_>) -> Option<usize> {
    let (n, mean, sd) = (sample.n() as f64, sample.mean(), sample.sd().filter(|sd| *sd > 0.0)?);
    if sample.n() < MIN_SERIES {
        return None;
    }
    let distances = sample.values().iter().map(|value| (value - mean).abs() / sd).enumerate();
    let (place, farthest) = distances.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let t = StudentsT::new(0.0, 1.0, n - 2.0).ok()?.inverse_cdf(1.0 - OUTLIER_CHANCE / (2.0 * n));
    let limit = (n - 1.0) / n.sqrt() * (t * t / (n - 2.0 + t * t)).sqrt();
    (farthest > limit).then_some(place)
}

/// Whether the values move with their order; nothing for fewer than [`MIN_SERIES`], or when all are the same.
pub fn trend(sample: Sample<'_>) -> Option<Trend> {
    let values = sample.values();
    let n = values.len();
    if n < MIN_SERIES {
        return None;
    }
    let pairs = || {
        values
            .iter()
            .enumerate()
            .flat_map(|(i, a)| values.iter().enumerate().skip(i + 1).map(move |(j, b)| (j - i, b - a)))
    };
    let (ups, downs) = pairs().fold((0usize, 0usize), |(ups, downs), (_, change)| {
        (ups + usize::from(change > 0.0), downs + usize::from(change < 0.0))
    });
    if ups + downs == 0 {
        return None;
    }
    let mut slopes: Vec<f64> = pairs().map(|(steps, change)| change / steps as f64).collect();
    slopes.sort_by(f64::total_cmp);
    let all = n * (n - 1) / 2;
    // Ties count for neither side: with them the test is careful, not eager.
    let p_value = if n <= EXACT_TREND { exact_p(n, ups.max(downs)) } else { normal_p(n, ups, downs) };
    Some(Trend { tau: (ups as f64 - downs as f64) / all as f64, p_value, per_step: quantile(&slopes, 0.5)? })
}

/// Chance of at least so many pairs in one direction, times two: counts the orders of n values by their inversions (Kendall, *Rank Correlation
/// Methods*, 1948).
fn exact_p(n: usize, in_order: usize) -> f64 {
    let mut chances = vec![1.0];
    for m in 2..=n {
        let mut next = vec![0.0; chances.len() + m - 1];
        for (inversions, chance) in chances.iter().enumerate() {
            for slot in next.iter_mut().skip(inversions).take(m) {
                *slot += chance / m as f64;
            }
        }
        chances = next;
    }
    (2.0 * chances.iter().skip(in_order).sum::<f64>()).min(1.0)
}

fn normal_p(n: usize, ups: usize, downs: usize) -> f64 {
    let n = n as f64;
    let sd = (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    // Counts move in steps of two: half a step is taken off.
    let z = ((ups as f64 - downs as f64).abs() - 1.0).max(0.0) / sd;
    statrs::function::erf::erfc(z / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use statrs::distribution::{ContinuousCDF, Normal};

    use super::{exact_p, normal_p, outlier, trend};
    use crate::Sample;

    #[test]
    fn one_value_far_away_is_found_and_scatter_is_not() {
        let found = |values: &[f64]| outlier(Sample::new(values).unwrap());
        assert_eq!(found(&[10.0, 10.1, 9.9, 12.0, 10.05, 9.95]), Some(3));
        assert_eq!(found(&[10.0, 10.1, 9.9, 10.2, 10.05, 9.95]), None);
        assert_eq!(found(&[1.0, 1.0, 1.0, 1.0, 9.0]), Some(4));
        assert_eq!((found(&[10.0, 10.1, 99.0]), found(&[1.0; 9])), (None, None));
    }

    #[test]
    fn one_of_fifty_normal_samples_has_an_outlier() {
        let mut draws = ChaCha8Rng::seed_from_u64(7);
        let mut normal = || Normal::standard().inverse_cdf((f64::from(draws.next_u32()) + 0.5) / 4_294_967_296.0);
        for n in [5, 6, 10, 15, 25, 40, 200] {
            let samples = if n < 100 { 20_000 } else { 4_000 };
            let has = |_: &u32| outlier(Sample::new(&(0..n).map(|_| normal()).collect::<Vec<_>>()).unwrap()).is_some();
            let share = (0..samples).filter(has).count() as f64 / f64::from(samples);
            assert!((0.014..0.026).contains(&share), "{n}: {share}");
        }
    }

    #[test]
    fn five_rising_values_are_one_of_sixty_orders() {
        // Two of 5! = 120 orders are as strong.
        let rising = trend(Sample::new(&[1.0, 2.0, 3.0, 5.0, 7.0]).unwrap()).unwrap();
        assert!((rising.p_value - 2.0 / 120.0).abs() < 1e-12 && (rising.tau - 1.0).abs() < 1e-12, "{rising:?}");
        assert!((rising.per_step - 1.5).abs() < 1e-12, "{rising:?}");
        let mixed = trend(Sample::new(&[2.0, 1.0, 3.0, 1.5, 2.5]).unwrap()).unwrap();
        assert!(mixed.p_value > 0.4, "{mixed:?}");
        assert_eq!(trend(Sample::new(&[1.0; 9]).unwrap()), None);
        assert_eq!(trend(Sample::new(&[1.0, 2.0, 3.0, 4.0]).unwrap()), None);
    }

    #[test]
    fn counting_and_the_approximation_meet() {
        let all = 50 * 49 / 2;
        for ups in [650, 700, 760, 800] {
            assert!((exact_p(50, ups) - normal_p(50, ups, all - ups)).abs() < 2e-3);
        }
    }
}
