//! One row per experiment for spreadsheets, after RFC 4180; numbers in full.

use serde_json::Value;

use super::words;
use crate::analysis::{ExperimentAnalysis, FigureAnalysis, StudyAnalysis};
use crate::printable::csv_text;

/// The table. Absent figures are empty.
pub fn csv(study: &StudyAnalysis) -> String {
    let figures = study.figures();
    let mut head: Vec<String> = ["experiment_id", "label", "backend"].map(str::to_owned).to_vec();
    head.extend(study.varied_keys.iter().cloned());
    head.extend(["runs", "runs_valid", "valid", "pareto"].map(str::to_owned));
    for figure in &figures {
        let parts = ["", "_n", "_sd", "_ci_low", "_ci_high", "_ci_method", "_expanded_u"];
        head.extend(parts.map(|part| format!("{figure}{part}")));
    }
    let latencies = latency_names(study);
    for (latency, percentile) in &latencies {
        head.extend(["", "_ci_low", "_ci_high"].map(|part| format!("request_{latency}_{percentile}{part}")));
    }
    let mut text = line(&head);
    for experiment in &study.experiments {
        let mut cells = names(study, experiment);
        for figure in &figures {
            cells.extend(figure_cells(experiment.figure(*figure)));
        }
        for (latency, percentile) in &latencies {
            cells.extend(latency_cells(experiment, latency, percentile));
        }
        text.push_str(&line(&cells));
    }
    text
}

fn names(study: &StudyAnalysis, experiment: &ExperimentAnalysis) -> Vec<String> {
    let mut cells =
        vec![experiment.experiment_id.clone(), experiment.label.clone(), experiment.backend.name().to_owned()];
    cells.extend(study.varied_keys.iter().map(|key| {
        let of_key = experiment.varied.iter().find(|(name, _)| name == key);
        of_key.map_or_else(String::new, |(_, value)| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }));
    let standing = experiment.standing.map_or("", |standing| words::standing(Some(standing)));
    let runs = experiment.runs;
    cells.extend([runs.done.to_string(), runs.valid.to_string(), experiment.valid.to_string(), standing.to_owned()]);
    cells
}

fn figure_cells(figure: Option<&FigureAnalysis>) -> [String; 7] {
    let Some(figure) = figure else { return Default::default() };
    let interval = figure.interval;
    [
        figure.mean.to_string(),
        figure.n.to_string(),
        optional(figure.sd),
        optional(interval.map(|i| i.low)),
        optional(interval.map(|i| i.high)),
        interval.map_or_else(String::new, |i| i.method.name().to_owned()),
        optional(figure.uncertainty.map(|u| u.expanded)),
    ]
}

/// `(ttft_ms, p50)` and so on, for every latency that an experiment has.
fn latency_names(study: &StudyAnalysis) -> Vec<(&'static str, String)> {
    let mut names = Vec::new();
    for latency in study.experiments.iter().flat_map(|experiment| &experiment.latencies) {
        for percentile in &latency.percentiles {
            let name = (latency.latency.name(), percentile_name(percentile.p));
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn percentile_name(p: f64) -> String {
    format!("p{:.0}", 100.0 * p)
}

fn latency_cells(experiment: &ExperimentAnalysis, latency: &str, percentile: &str) -> [String; 3] {
    let of_latency = experiment.latencies.iter().find(|candidate| candidate.latency.name() == latency);
    let found = of_latency.and_then(|l| l.percentiles.iter().find(|p| percentile_name(p.p) == percentile));
    let Some(found) = found else { return Default::default() };
    let interval = found.interval;
    [found.value.to_string(), optional(interval.map(|i| i.low)), optional(interval.map(|i| i.high))]
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| csv_text(cell)).collect();
    format!("{}\r\n", cells.join(","))
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn cells_with_separators_are_quoted() {
        let cells = ["plain", "a,b", "-2.5", "two\nlines"].map(str::to_owned).to_vec();
        assert_eq!(line(&cells), "plain,\"a,b\",-2.5,\"two\nlines\"\r\n");
    }
}
