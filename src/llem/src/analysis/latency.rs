//! Latencies over requests. What they say of requests is never mixed with what cycles say of runs.

use llem_statistics::{DEFAULT_LEVEL, Interval, Sample, quantile, quantile_interval};
use serde::Serialize;

use crate::result::{Distribution, Metrics};

/// The percentiles that are reported.
const PERCENTILES: [f64; 4] = [0.50, 0.90, 0.95, 0.99];

/// How far two numbers that say the same may be apart, relative.
const SAME: f64 = 1e-6;

/// Steps of the distribution that is drawn.
const STEPS: u32 = 40;

/// A latency of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// From handing a request to the engine to its first token.
    TtftMs,
    /// Mean time between two tokens of a request, also called time per output token.
    ItlMeanMs,
    /// From handing a request to the engine to its last token.
    E2eMs,
}

impl Latency {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::TtftMs, Self::ItlMeanMs, Self::E2eMs];

    /// The name in files; a column of `requests.parquet`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TtftMs => "ttft_ms",
            Self::ItlMeanMs => "itl_mean_ms",
            Self::E2eMs => "e2e_ms",
        }
    }
}

/// A latency over the requests of an experiment's runs, taken together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatencyAnalysis {
    /// Which.
    pub latency: Latency,
    /// Requests that have it.
    pub requests: u64,
    /// Arithmetic mean in milliseconds.
    pub mean: f64,
    /// Percentiles.
    pub percentiles: Vec<Percentile>,
    /// Quantiles at equal steps from the smallest value to the largest, for drawing.
    #[serde(skip)]
    pub steps: Vec<f64>,
}

/// One percentile of a latency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentile {
    /// Which: 0.5 for the median.
    pub p: f64,
    /// In milliseconds, by linear interpolation.
    pub value: f64,
    /// 95 % interval for independent requests; null where there are too few requests, and for runs that are not valid.
    pub interval: Option<Interval>,
}

impl Latency {
    /// What contradicts the run's own figures in the values of its requests; nothing where they agree. What a run does not sum up is not held
    /// against anything.
    pub(super) fn contradiction(self, values: &[f64], metrics: &Metrics) -> Option<String> {
        let written = match self {
            Self::TtftMs => metrics.ttft_ms,
            Self::E2eMs => metrics.e2e_ms,
            Self::ItlMeanMs => return None,
        };
        let found = Distribution::of(values.to_vec());
        let name = self.name();
        let (written, found) = match (written, found) {
            (Some(written), Some(found)) => (written, found),
            (Some(_), None) => return Some(format!("has no {name}, and the run's figures sum some up")),
            (None, Some(_)) => return Some(format!("has {name}, and the run's figures have none")),
            (None, None) => return None,
        };
        let pairs = [("n", written.n as f64, found.n as f64), ("mean", written.mean, found.mean)];
        let percentiles = [("p50", written.p50, found.p50), ("p99", written.p99, found.p99)];
        let apart = |(_, a, b): &(&str, f64, f64)| (a - b).abs() > SAME * a.abs().max(b.abs());
        let (what, says, is) = pairs.into_iter().chain(percentiles).find(apart)?;
        Some(format!("has {is} as {what} of {name}, and the run's figures say {says}"))
    }
}

impl LatencyAnalysis {
    /// Of the requests' values; nothing where there are none, or one is no number.
    pub(super) fn of(latency: Latency, mut values: Vec<f64>, valid: bool) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let sample = Sample::new(&values).ok()?;
        let percentile = |p: f64| {
            let interval = if valid { quantile_interval(sample, p, DEFAULT_LEVEL) } else { None };
            Some(Percentile { p, value: quantile(&values, p)?, interval })
        };
        Some(Self {
            latency,
            requests: values.len() as u64,
            mean: sample.mean(),
            percentiles: PERCENTILES.into_iter().filter_map(percentile).collect(),
            steps: (0..=STEPS).filter_map(|step| quantile(&values, f64::from(step) / f64::from(STEPS))).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Latency, LatencyAnalysis};

    #[test]
    fn percentiles_have_intervals_from_enough_requests_on() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let of = |valid| LatencyAnalysis::of(Latency::TtftMs, values.clone(), valid).unwrap();
        let known: Vec<bool> = of(true).percentiles.iter().map(|p| p.interval.is_some()).collect();
        assert_eq!(known, [true, true, true, false]);
        assert!(of(false).percentiles.iter().all(|p| p.interval.is_none()));
        let (median, steps) = (of(true).percentiles[0], of(true).steps);
        assert!((median.value - 50.5).abs() < 1e-9 && steps.len() == 41);
        assert!((steps[0] - 1.0).abs() < 1e-9 && (steps[40] - 100.0).abs() < 1e-9);
        assert_eq!(LatencyAnalysis::of(Latency::E2eMs, Vec::new(), true), None);
        assert_eq!(LatencyAnalysis::of(Latency::E2eMs, vec![f64::NAN], true), None);
    }
}
