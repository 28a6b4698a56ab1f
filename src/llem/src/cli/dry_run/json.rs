//! The plan of a study for programs.

use llem::config::{Experiment, StudyConfig};
use llem::study::Forecast;
use serde_json::json;

use crate::cli::dry_run_images::ImageLine;

/// One object: experiments, runs in their order, and what they need.
pub(super) fn plan(study: &StudyConfig, forecast: &Forecast, images: &[ImageLine]) -> serde_json::Value {
    let varied = |e: &Experiment| e.varied.iter().cloned().collect::<serde_json::Map<_, _>>();
    let experiments: Vec<_> = study
        .experiments
        .iter()
        .zip(&forecast.experiments)
        .map(|(e, needs)| {
            json!({
                "experiment_id": e.id, "label": e.label, "varied": varied(e), "config": e.config,
                "memory": needs.memory, "measured_peak_memory_bytes": needs.measured_peak_memory_bytes, "time": needs.time,
            })
        })
        .collect();
    let runs: Vec<_> = forecast
        .plan
        .iter()
        .filter_map(|run| {
            let experiment = study.experiments.get(run.experiment)?;
            Some(json!({"number": run.number, "experiment_id": experiment.id, "cycle": run.cycle}))
        })
        .collect();
    let impossible: Vec<_> =
        forecast.impossible().into_iter().map(|(why, numbers)| json!({"why": why, "experiments": numbers})).collect();
    json!({
        "schema_version": llem::result::SCHEMA_VERSION,
        "name": study.name,
        "profile": study.profile.name(),
        "design_hash": study.design_hash(),
        "execution": study.execution,
        "time": forecast.time,
        "gpus": forecast.gpus,
        "experiments": experiments,
        "merged": study.merged,
        "runs": runs,
        "weights": forecast.weights,
        "images": images.iter().map(ImageLine::as_json).collect::<Vec<_>>(),
        "disk": forecast.disk,
        "impossible": impossible,
    })
}
