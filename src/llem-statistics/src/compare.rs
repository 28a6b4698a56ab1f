//! Whether one deployment takes more than another, and by how much.
//!
//! Figures that cost energy or time are positive and scatter by shares of themselves, so their logarithms are compared: the difference is a
//! ratio, and +5 % one way is −4.76 % the other.

use serde::{Deserialize, Serialize};

use crate::sample::Sample;
use crate::student::{t_p_value, t_quantile};

/// How two figures were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparisonMethod {
    /// Student's t on the logarithm of the ratio within each pair: what both of a pair share (the hour, the warmth of the room) cancels.
    PairedT,
    /// Welch's t on logarithms, for runs that do not belong together.
    WelchT,
}

impl ComparisonMethod {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PairedT => "paired_t",
            Self::WelchT => "welch_t",
        }
    }
}

/// The second figure against the first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Ratio of the geometric means, less 1: 0.03 is 3 % more.
    pub relative_difference: f64,
    /// Lower limit of its interval.
    pub low: f64,
    /// Upper limit.
    pub high: f64,
    /// Confidence level of the interval, 0 to 1.
    pub level: f64,
    /// Chance of a difference at least as large, either way, where there is none.
    pub p_value: f64,
    /// How it was found.
    pub method: ComparisonMethod,
    /// Values of the first figure, or pairs.
    pub n_first: usize,
    /// Values of the second figure, or pairs.
    pub n_second: usize,
    log_ratio: f64,
    standard_error: f64,
    degrees: f64,
}

impl Comparison {
    /// Chance of such values where the second figure is in truth no more than `threshold` above the first (0.03: 3 %). One-sided.
    pub fn p_above(&self, threshold: f64) -> Option<f64> {
        self.p_beyond(threshold, 1.0)
    }

    /// Chance of such values where the second figure is in truth no more than `threshold` below the first (−0.03: 3 % less). One-sided.
    pub fn p_below(&self, threshold: f64) -> Option<f64> {
        self.p_beyond(threshold, -1.0)
    }

    /// The same comparison where the ratio has a further standard uncertainty that all its values share and that their scatter does not show, such as
    /// that of the gains of two sensors: relative, 0.029 is 2.9 %. Its degrees of freedom count as infinite (JCGM 100:2008, G.4.2).
    #[must_use]
    pub fn with_shared_uncertainty(&self, relative: f64) -> Option<Self> {
        if relative == 0.0 {
            return Some(*self);
        }
        if !relative.is_finite() || relative < 0.0 {
            return None;
        }
        let standard_error = self.standard_error.hypot(relative);
        let share = if self.standard_error > 0.0 { standard_error / self.standard_error } else { f64::INFINITY };
        // A t distribution of a million degrees is normal to 6 digits.
        let degrees = (self.degrees * share.powi(4)).min(1e6);
        let scatter = Scatter { log_ratio: self.log_ratio, standard_error, degrees };
        Self::new(scatter, self.level, self.method, (self.n_first, self.n_second))
    }

    fn p_beyond(&self, threshold: f64, sign: f64) -> Option<f64> {
        let excess = sign * (self.log_ratio - threshold.ln_1p());
        if !excess.is_finite() {
            return None;
        }
        let two_sided = p_value(excess, self.standard_error, self.degrees)?;
        Some(if excess >= 0.0 { two_sided / 2.0 } else { 1.0 - two_sided / 2.0 })
    }

    fn new(scatter: Scatter, level: f64, method: ComparisonMethod, n: (usize, usize)) -> Option<Self> {
        let Scatter { log_ratio, standard_error, degrees } = scatter;
        let half = t_quantile(degrees, level)? * standard_error;
        Some(Self {
            relative_difference: log_ratio.exp_m1(),
            low: (log_ratio - half).exp_m1(),
            high: (log_ratio + half).exp_m1(),
            level,
            p_value: p_value(log_ratio, standard_error, degrees)?,
            method,
            n_first: n.0,
            n_second: n.1,
            log_ratio,
            standard_error,
            degrees,
        })
    }
}

#[derive(Clone, Copy)]
struct Scatter {
    log_ratio: f64,
    standard_error: f64,
    degrees: f64,
}

/// Two-sided. Figures without any scatter differ for certain or not at all.
fn p_value(difference: f64, standard_error: f64, degrees: f64) -> Option<f64> {
    if standard_error > 0.0 {
        return t_p_value(difference / standard_error, degrees);
    }
    Some(if difference == 0.0 { 1.0 } else { 0.0 })
}

/// Compares values that belong together: the same place in both is one pair. Nothing for fewer than two pairs, unequal numbers, or a value that
/// is not above 0.
pub fn paired(first: Sample<'_>, second: Sample<'_>, level: f64) -> Option<Comparison> {
    if first.n() != second.n() {
        return None;
    }
    let ratios: Vec<f64> = logarithms(second)?.iter().zip(logarithms(first)?).map(|(b, a)| b - a).collect();
    let ratios = Sample::new(&ratios).ok()?;
    let n = ratios.n();
    let standard_error = ratios.sd()? / (n as f64).sqrt();
    let scatter = Scatter { log_ratio: ratios.mean(), standard_error, degrees: n as f64 - 1.0 };
    Comparison::new(scatter, level, ComparisonMethod::PairedT, (n, n))
}

/// Compares values that do not belong together. Nothing for fewer than two of either, or a value that is not above 0.
pub fn unpaired(first: Sample<'_>, second: Sample<'_>, level: f64) -> Option<Comparison> {
    let (a, b) = (logarithms(first)?, logarithms(second)?);
    let (a, b) = (Sample::new(&a).ok()?, Sample::new(&b).ok()?);
    let share = |sample: Sample<'_>| Some(sample.sd()?.powi(2) / sample.n() as f64);
    let (of_a, of_b) = (share(a)?, share(b)?);
    let sum = of_a + of_b;
    let own = |share: f64, n: usize| share.powi(2) / (n as f64 - 1.0);
    // Welch and Satterthwaite's degrees of freedom; without scatter in either, any will do.
    let degrees = if sum > 0.0 { sum.powi(2) / (own(of_a, a.n()) + own(of_b, b.n())) } else { 1.0 };
    let scatter = Scatter { log_ratio: b.mean() - a.mean(), standard_error: sum.sqrt(), degrees };
    Comparison::new(scatter, level, ComparisonMethod::WelchT, (a.n(), b.n()))
}

fn logarithms(sample: Sample<'_>) -> Option<Vec<f64>> {
    sample.values().iter().map(|value| (*value > 0.0).then(|| value.ln())).collect()
}

/// p-values for several questions asked at once, in the order given: under `alpha` after this, one false alarm among all of them has that
/// chance (Holm, *A Simple Sequentially Rejective Multiple Test Procedure*, Scandinavian Journal of Statistics 6, 1979).
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    let at = |index: usize| p_values.get(index).copied().unwrap_or(1.0);
    order.sort_by(|a, b| at(*a).total_cmp(&at(*b)));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut highest = 0.0f64;
    for (place, index) in order.iter().enumerate() {
        highest = highest.max((at(*index) * (p_values.len() - place) as f64).min(1.0));
        if let Some(slot) = adjusted.get_mut(*index) {
            *slot = highest;
        }
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::{holm, paired, unpaired};
    use crate::{DEFAULT_LEVEL, Sample};

    const FIRST: [f64; 5] = [100.0, 102.0, 98.0, 101.0, 99.0];

    fn times(factor: f64) -> Vec<f64> {
        FIRST.iter().map(|value| value * factor).collect()
    }

    #[test]
    fn what_a_pair_shares_cancels() {
        let second: Vec<f64> =
            times(1.03).iter().enumerate().map(|(i, v)| v * (1.0 + 0.001 * (i as f64 - 2.0))).collect();
        let (first, second) = (Sample::new(&FIRST).unwrap(), Sample::new(&second).unwrap());
        let pairs = paired(first, second, DEFAULT_LEVEL).unwrap();
        let apart = unpaired(first, second, DEFAULT_LEVEL).unwrap();
        assert!((pairs.relative_difference - 0.03).abs() < 1e-4, "{pairs:?}");
        assert!(pairs.low > 0.027 && pairs.high < 0.033, "{pairs:?}");
        assert!(apart.high - apart.low > 5.0 * (pairs.high - pairs.low), "{apart:?}");
        assert!(pairs.p_above(0.0).unwrap() < 1e-5 && pairs.p_above(0.03).unwrap() > 0.4);
        assert!(pairs.p_above(0.05).unwrap() > 0.999 && pairs.p_below(-0.03).unwrap() > 0.999);
    }

    #[test]
    fn figures_without_scatter_differ_for_certain_or_not_at_all() {
        let first = Sample::new(&FIRST).unwrap();
        let same = paired(first, first, DEFAULT_LEVEL).unwrap();
        assert!((same.p_value - 1.0).abs() < 1e-12 && same.relative_difference.abs() < 1e-12, "{same:?}");
        let constant = [[3.0; 4], [6.0; 4]];
        let [a, b] = [Sample::new(&constant[0]).unwrap(), Sample::new(&constant[1]).unwrap()];
        let double = unpaired(a, b, DEFAULT_LEVEL).unwrap();
        assert!((double.relative_difference - 1.0).abs() < 1e-12 && double.p_value < 1e-12, "{double:?}");
    }

    #[test]
    fn an_uncertainty_that_all_values_share_widens_the_interval() {
        let (first, second) = (Sample::new(&FIRST).unwrap(), times(1.05));
        let alone = paired(first, Sample::new(&second).unwrap(), DEFAULT_LEVEL).unwrap();
        assert!(alone.p_above(0.0).unwrap() < 1e-6);
        // Without scatter, 1.96 of it either way: exp(0.04879 ± 1.96·0.03) − 1.
        let wide = alone.with_shared_uncertainty(0.03).unwrap();
        assert!((wide.low - -0.009_96).abs() < 1e-4 && (wide.high - 0.113_6).abs() < 1e-4, "{wide:?}");
        assert!((wide.p_above(0.0).unwrap() - 0.0519).abs() < 1e-3, "{wide:?}");
        // Next to scatter, little of it changes little.
        let scattered = unpaired(first, Sample::new(&second).unwrap(), DEFAULT_LEVEL).unwrap();
        let little = scattered.with_shared_uncertainty(1e-4).unwrap();
        assert!((little.high - scattered.high).abs() < 1e-4 && little.high > scattered.high);
        assert_eq!(scattered.with_shared_uncertainty(0.0), Some(scattered));
        assert!(
            scattered.with_shared_uncertainty(f64::NAN).is_none() && scattered.with_shared_uncertainty(-0.1).is_none()
        );
    }

    #[test]
    fn what_has_no_ratio_has_no_comparison() {
        let (first, zero) = (Sample::new(&FIRST).unwrap(), [1.0, 2.0, 0.0, 3.0, 4.0]);
        assert!(paired(first, Sample::new(&zero).unwrap(), DEFAULT_LEVEL).is_none());
        assert!(paired(first, Sample::new(&FIRST[1..]).unwrap(), DEFAULT_LEVEL).is_none());
        assert!(unpaired(first, Sample::new(&FIRST[..1]).unwrap(), DEFAULT_LEVEL).is_none());
    }

    #[test]
    fn several_questions_cost_each_of_them() {
        // Sorted: 0.01·4, 0.02·3, 0.03·2, 0.2·1, none below its predecessor.
        let adjusted = holm(&[0.03, 0.2, 0.01, 0.02]);
        for (got, want) in adjusted.iter().zip([0.06, 0.2, 0.04, 0.06]) {
            assert!((got - want).abs() < 1e-12, "{adjusted:?}");
        }
        assert!(holm(&[]).is_empty());
    }
}
