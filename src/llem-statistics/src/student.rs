//! Student's t.

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::interval::{Interval, IntervalMethod};
use crate::sample::Sample;

/// Interval for the mean of values that scatter normally; nothing for a single value, or a level outside 0 to 1.
pub fn t_interval(sample: Sample<'_>, level: f64) -> Option<Interval> {
    let half = t_quantile(sample.n().checked_sub(1)? as f64, level)? * sample.sd()? / (sample.n() as f64).sqrt();
    let mean = sample.mean();
    Some(Interval {
        low: mean - half,
        high: mean + half,
        level,
        method: IntervalMethod::T,
        resamples: None,
        seed: None,
    })
}

/// How many standard errors a two-sided interval of this level reaches.
pub(crate) fn t_quantile(degrees: f64, level: f64) -> Option<f64> {
    let inside = level > 0.0 && level < 1.0;
    let t = StudentsT::new(0.0, 1.0, degrees).ok().filter(|_| inside)?;
    Some(t.inverse_cdf(0.5 + level / 2.0))
}

/// Two-sided p-value of a t statistic.
pub(crate) fn t_p_value(statistic: f64, degrees: f64) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, degrees).ok()?;
    Some((2.0 * t.sf(statistic.abs())).min(1.0))
}
