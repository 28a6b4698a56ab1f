//! The table of a study: one row per experiment.

use std::path::Path;

use super::csv::text;
use super::{Column, f64s, texts, u64s, write};
use crate::engine_cache::CacheRecord;
use crate::result::ExperimentResult;
use crate::result::store::write_atomic;
use crate::result::{MeanUncertainty, Spread, StoreError, StudyResult};

/// Writes one row per experiment of a study: `experiments.parquet` and `experiments.csv`, the same columns and numbers.
pub(in crate::result) fn write_experiments(directory: &Path, study: &StudyResult) -> Result<(), StoreError> {
    let columns = columns(&study.experiments);
    write_atomic(&directory.join("experiments.csv"), text(&columns)?.as_bytes())?;
    write(&directory.join("experiments.parquet"), columns)
}

fn columns(rows: &[ExperimentResult]) -> Vec<Column> {
    let config = |e: &ExperimentResult| serde_json::to_string(&e.config).unwrap_or_default();
    let varied = |e: &ExperimentResult| {
        serde_json::to_string(&e.varied.iter().cloned().collect::<serde_json::Map<_, _>>()).unwrap_or_default()
    };
    let mut columns: Vec<Column> = vec![
        ("experiment_id", "identity of the experiment", texts(rows, |e| e.experiment_id.clone())),
        ("label", "what distinguishes it in its study", texts(rows, |e| e.label.clone())),
        ("backend", "engine", texts(rows, |e| e.config.backend.name().to_owned())),
        ("varied_json", "swept keys and values, JSON", texts(rows, varied)),
        ("config_json", "the experiment with defaults, JSON", texts(rows, config)),
        ("runs_planned_done", "runs that were carried out", u64s(rows, |e| Some(e.runs.len() as u64))),
        ("runs_summarised", "runs behind mean and sd", u64s(rows, |e| Some(e.summary.runs))),
        ("runs_valid", "valid runs", u64s(rows, |e| Some(e.runs.iter().filter(|r| r.valid).count() as u64))),
    ];
    let mut spread = |mean, sd, meaning, figure: fn(&ExperimentResult) -> Option<Spread>| {
        columns.push((mean, meaning, f64s(rows, |e| figure(e).map(|s| s.mean))));
        columns.push((sd, "sample standard deviation over runs", f64s(rows, |e| figure(e).and_then(|s| s.sd))));
    };
    let s = "generated tokens per second of window, mean over runs";
    spread("output_tokens_per_s", "output_tokens_per_s_sd", s, |e| e.summary.output_tokens_per_s);
    spread("ttft_p50_ms", "ttft_p50_ms_sd", "median time to first token, mean over runs", |e| e.summary.ttft_p50_ms);
    spread("itl_p50_ms", "itl_p50_ms_sd", "median inter-token latency, mean over runs", |e| e.summary.itl_p50_ms);
    spread("e2e_p50_ms", "e2e_p50_ms_sd", "median end-to-end latency, mean over runs", |e| e.summary.e2e_p50_ms);
    spread("energy_j", "energy_j_sd", "energy of the window, mean over runs", |e| e.summary.energy_j);
    let j = "energy per generated token, mean over runs";
    spread("energy_per_output_token_j", "energy_per_output_token_j_sd", j, |e| e.summary.energy_per_output_token_j);
    let net = "energy of the window less that of idling, mean over runs";
    spread("energy_net_j", "energy_net_j_sd", net, |e| e.summary.energy_net_j);
    let net = "energy per generated token less that of idling, mean over runs";
    spread("energy_net_per_output_token_j", "energy_net_per_output_token_j_sd", net, |e| {
        e.summary.energy_net_per_output_token_j
    });
    spread("mean_power_w", "mean_power_w_sd", "mean power, mean over runs", |e| e.summary.mean_power_w);
    spread("co2_g", "co2_g_sd", "CO2 equivalent of energy_j, mean over runs", |e| e.summary.co2_g);
    columns.extend(uncertainties(rows));
    columns.extend(engines(rows));
    columns
}

/// What became of compiled engines, and what building them took, whenever that was.
fn engines(rows: &[ExperimentResult]) -> Vec<Column> {
    let outcomes = |e: &ExperimentResult| {
        let names: Vec<_> = e.runs.iter().filter_map(|run| Some(run.engine_cache.as_ref()?.outcome.name())).collect();
        names.join(",")
    };
    let last = |e: &ExperimentResult, figure: fn(&CacheRecord) -> Option<f64>| {
        e.runs.iter().rev().find_map(|run| run.engine_cache.as_deref()).and_then(figure)
    };
    vec![
        ("engine_cache", "what became of the compiled engine in each run, with commas", texts(rows, outcomes)),
        ("engine_build_s", "building the last run's engine took", f64s(rows, |e| last(e, |r| r.build_seconds))),
        ("engine_build_j", "energy of that build", f64s(rows, |e| last(e, |r| r.build_energy_j))),
    ]
}

/// How sure the means of the energies are.
fn uncertainties(rows: &[ExperimentResult]) -> Vec<Column> {
    let total =
        |figure: fn(&MeanUncertainty) -> f64| f64s(rows, |e| e.summary.energy_j_uncertainty.as_ref().map(figure));
    let per_token = |figure: fn(&MeanUncertainty) -> f64| {
        f64s(rows, |e| e.summary.energy_per_output_token_j_uncertainty.as_ref().map(figure))
    };
    let expanded = "expanded uncertainty (k = 2) of the mean, the sensors' gain included";
    let comparison = "standard uncertainty of the mean without the sensors' gain, for comparisons on the same device";
    vec![
        ("energy_j_expanded_u", expanded, total(|u| u.expanded)),
        ("energy_j_comparison_u", comparison, total(|u| u.comparison)),
        ("energy_per_output_token_j_expanded_u", expanded, per_token(|u| u.expanded)),
        ("energy_per_output_token_j_comparison_u", comparison, per_token(|u| u.comparison)),
    ]
}
