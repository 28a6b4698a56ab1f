//! `runs.parquet`: one row per run of a study.

use super::{Column, f64s, maybe_texts, texts, u64s};
use crate::result::{Distribution, ExperimentResult, Figure, Metrics, RunRow, StudyResult};

/// A run with its experiment.
type Row<'a> = (&'a ExperimentResult, &'a RunRow);

/// Name and meaning of a percentile's column, and which it is.
type Percentile = (&'static str, &'static str, fn(&Metrics) -> Option<f64>);

/// The columns of the table.
pub(super) fn columns(study: &StudyResult) -> Vec<Column> {
    let rows: Vec<Row<'_>> = study.experiments.iter().flat_map(|e| e.runs.iter().map(move |run| (e, run))).collect();
    let rows = rows.as_slice();
    let codes = |run: &RunRow| run.reasons.iter().map(|reason| reason.code.code()).collect::<Vec<_>>().join(",");
    let varied = |e: &ExperimentResult| {
        serde_json::to_string(&e.varied.iter().cloned().collect::<serde_json::Map<_, _>>()).unwrap_or_default()
    };
    let valid = |run: &RunRow| if run.valid { "true" } else { "false" };
    let count = |of: fn(&Metrics) -> u64| u64s(rows, |(_, run)| run.metrics.as_ref().map(of));
    let mut columns: Vec<Column> = vec![
        ("run_id", "the run, and its directory under runs/", texts(rows, |(_, run)| run.run_id.clone())),
        ("experiment_id", "identity of its experiment", texts(rows, |(e, _)| e.experiment_id.clone())),
        ("label", "what distinguishes its experiment in the study", texts(rows, |(e, _)| e.label.clone())),
        ("backend", "engine", texts(rows, |(e, _)| e.config.backend.name().to_owned())),
        ("varied_json", "swept keys and values, JSON", texts(rows, |(e, _)| varied(e))),
        ("cycle", "cycle, from 1", u64s(rows, |(_, run)| Some(u64::from(run.cycle)))),
        ("status", "completed, failed or interrupted", texts(rows, |(_, run)| run.status.name().to_owned())),
        (
            "valid",
            "true where its numbers may be compared and published",
            maybe_texts(rows, |(_, run)| Some(valid(run))),
        ),
        ("reasons", "reason codes with commas between them", texts(rows, |(_, run)| codes(run))),
        ("window_s", "length of the window", figures(rows, |m| Some(m.window_s))),
        ("passes", "whole passes of the workload in the window", count(|m| m.passes)),
        ("requests", "requests in the window", count(|m| m.requests)),
        ("prompt_tokens", "prompt tokens in the window, without padding", count(|m| m.prompt_tokens)),
        ("output_tokens", "generated tokens in the window, without padding", count(|m| m.output_tokens)),
        ("requests_per_s", "requests per second of window", figures(rows, |m| Some(m.requests_per_s))),
    ];
    columns.extend(Figure::ALL.map(|figure| (figure.name(), figure.description(), figures(rows, |m| figure.of(m)))));
    columns.extend(PERCENTILES.map(|(name, meaning, of)| (name, meaning, figures(rows, of))));
    columns.extend([
        ("energy_raw_j", "energy of the window as the sensors give it", figures(rows, |m| m.energy.energy_raw_j)),
        ("baseline_power_w", "idle power of the same devices", figures(rows, |m| m.energy.baseline_power_w)),
        (
            "energy_j_expanded_u",
            "expanded uncertainty (k = 2) of energy_j, the sensors' gain included",
            figures(rows, |m| m.energy.uncertainty.map(|u| u.expanded_j)),
        ),
        (
            "energy_j_comparison_u",
            "standard uncertainty of energy_j without the sensors' gain",
            figures(rows, |m| m.energy.uncertainty.map(|u| u.comparison_j)),
        ),
    ]);
    columns
}

const PERCENTILES: [Percentile; 9] = [
    ("ttft_p90_ms", "90th percentile of time to first token", |m| of(m.ttft_ms, |d| d.p90)),
    ("ttft_p95_ms", "95th percentile of time to first token", |m| of(m.ttft_ms, |d| d.p95)),
    ("ttft_p99_ms", "99th percentile of time to first token", |m| of(m.ttft_ms, |d| d.p99)),
    ("itl_p90_ms", "90th percentile of inter-token latency", |m| of(m.itl_ms, |d| d.p90)),
    ("itl_p95_ms", "95th percentile of inter-token latency", |m| of(m.itl_ms, |d| d.p95)),
    ("itl_p99_ms", "99th percentile of inter-token latency", |m| of(m.itl_ms, |d| d.p99)),
    ("e2e_p90_ms", "90th percentile of end-to-end latency", |m| of(m.e2e_ms, |d| d.p90)),
    ("e2e_p95_ms", "95th percentile of end-to-end latency", |m| of(m.e2e_ms, |d| d.p95)),
    ("e2e_p99_ms", "99th percentile of end-to-end latency", |m| of(m.e2e_ms, |d| d.p99)),
];

fn of(latency: Option<Distribution>, percentile: fn(Distribution) -> f64) -> Option<f64> {
    latency.map(percentile)
}

fn figures(rows: &[Row<'_>], of: impl Fn(&Metrics) -> Option<f64>) -> arrow_array::ArrayRef {
    f64s(rows, |(_, run)| run.metrics.as_ref().and_then(&of))
}
