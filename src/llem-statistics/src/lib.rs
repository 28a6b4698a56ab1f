//! Statistics for measurements that are repeated a few times, of things that happen many times.
//!
//! ```text
//! one figure over the cycles of an experiment ──► mean_interval(): t or BCa, by the number of cycles ──► Interval
//!                                             └─► outlier(), trend()
//! one latency over the requests of a run ───────► quantile_interval(): exact bootstrap
//! the same figure of two deployments ───────────► paired(), unpaired(), holm()
//! two figures of many deployments ──────────────► frontier()
//! ```
//!
//! Nothing here knows what is measured. Values must be finite: [`Sample`] is the only way in. What cannot be said is `None`.
//! `docs/statistics.md` tells which method is used when, and the simulations that decided it.

mod bootstrap;
mod compare;
mod interval;
mod pareto;
mod quantile;
mod sample;
mod series;
mod student;

pub use bootstrap::{Bootstrap, DEFAULT_RESAMPLES, bca_limits};
pub use compare::{Comparison, ComparisonMethod, holm, paired, unpaired};
pub use interval::{Interval, IntervalMethod, MIN_BCA, MIN_INTERVAL, mean_interval};
pub use pareto::{Direction, Estimate, Standing, frontier};
pub use quantile::{min_requests, quantile, quantile_interval};
pub use sample::{Sample, SampleError};
pub use series::{MIN_SERIES, Trend, outlier, trend};
pub use student::t_interval;

/// Confidence level of every interval unless somebody asks for another.
pub const DEFAULT_LEVEL: f64 = 0.95;
