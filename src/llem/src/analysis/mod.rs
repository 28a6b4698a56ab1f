//! From the files of a study to statements about it.
//!
//! ```text
//! directory ──► StudyFiles: read, bounded, checked ──► StudyAnalysis::of
//!                                                        ├ figures over valid runs: mean, sd, intervals, outliers, trend, uncertainty
//!                                                        ├ latencies over requests: percentiles with intervals of their own
//!                                                        ├ standing of each experiment, reasons, facts about the machine
//!                                                        └ phases and thinned power curves, where they are asked for
//! ```
//!
//! `docs/statistics.md` says which method is used when.

pub mod compare;
mod curve;
mod experiment;
mod figures;
mod latency;
mod load;
mod machine;
mod study;
mod tables;

pub use curve::PowerCurve;
pub use experiment::{ExperimentAnalysis, LeftOut, RunPicture};
pub use figures::{FigureAnalysis, RunValue};
pub use latency::{Latency, LatencyAnalysis, Percentile};
pub use load::{LoadError, StudyFiles, read_run, read_study};
pub use machine::Fact;
pub use study::{ANALYSIS_SCHEMA_VERSION, AnalysisOptions, ReasonCount, RunCounts, StudyAnalysis, TrendWarning};
