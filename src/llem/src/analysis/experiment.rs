//! One experiment: its runs read, its figures, latencies and pictures made.

use std::fs::File;
use std::path::PathBuf;

use llem_protocol::{FailureClass, Phase, ReasonCode, Severity};
use llem_statistics::Standing;
use serde::Serialize;
use serde_json::Value;

use super::curve::PowerCurve;
use super::figures::FigureAnalysis;
use super::latency::{Latency, LatencyAnalysis};
use super::machine::Facts;
use super::study::{Part, RunCounts};
use super::tables::{Latencies, latencies, power};
use super::{LoadError, StudyFiles};
use crate::config::Backend;
use crate::result::{ExperimentResult, Figure, RunResult, RunRow, RunStatus};

/// Stretches of all curves of a study together.
const STRETCHES: usize = 250_000;

/// Fewest and most stretches of one curve.
const STRETCHES_OF_ONE: std::ops::RangeInclusive<usize> = 24..=300;

/// Sensors of a run whose curves are kept.
const CURVES: usize = 16;

/// What is said of one experiment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExperimentAnalysis {
    /// Identity of the experiment.
    pub experiment_id: String,
    /// What distinguishes it in its study, for people.
    pub label: String,
    /// The engine.
    pub backend: Backend,
    /// What distinguishes it, for programs.
    pub varied: Vec<(String, Value)>,
    /// Its runs by what became of them.
    pub runs: RunCounts,
    /// Whether the figures are of valid runs. Else they are of runs that are not valid: a description, not a statement.
    pub valid: bool,
    /// Measured and other runs that the figures leave out, with why.
    pub left_out: Vec<LeftOut>,
    /// Where it stands among the others; null without valid runs, or without one of the figures that are compared.
    pub standing: Option<Standing>,
    /// Figures over runs.
    pub figures: Vec<FigureAnalysis>,
    /// Latencies over requests, of the same runs.
    pub latencies: Vec<LatencyAnalysis>,
}

impl ExperimentAnalysis {
    /// One of its figures.
    pub fn figure(&self, figure: Figure) -> Option<&FigureAnalysis> {
        self.figures.iter().find(|candidate| candidate.figure == figure)
    }
}

/// A run that statements leave out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeftOut {
    /// The run.
    pub run_id: String,
    /// How it ended.
    pub status: RunStatus,
    /// The reasons against it.
    pub codes: Vec<ReasonCode>,
    /// How it failed.
    pub failure_class: Option<FailureClass>,
    /// Why it failed.
    pub failure: Option<String>,
}

/// What can be drawn of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunPicture {
    /// The run.
    pub run_id: String,
    /// Place of its experiment in the study.
    pub experiment: usize,
    /// Cycle, from 1.
    pub cycle: u32,
    /// Whether its numbers may be used.
    pub valid: bool,
    /// Length of everything that is drawn, in seconds.
    pub seconds: f64,
    /// Phases with start and end in seconds.
    pub phases: Vec<(Phase, f64, f64)>,
    /// The window in seconds.
    pub window: Option<(f64, f64)>,
    /// Power of each sensor.
    pub curves: Vec<PowerCurve>,
}

/// Analyses one experiment of a study with `all_runs` runs.
pub(super) fn analyse_experiment(
    files: &StudyFiles,
    experiment: &ExperimentResult,
    place: usize,
    standing: Option<Standing>,
    all_runs: usize,
    curves: bool,
) -> Result<Part, LoadError> {
    let mut rows: Vec<&RunRow> = experiment.runs.iter().collect();
    rows.sort_by_key(|row| row.cycle);
    let valid = rows.iter().any(|row| row.valid);
    let counts = |row: &RunRow| row.metrics.is_some() && row.valid == valid;
    let mut requests = Latencies::default();
    let (mut facts, mut pictures, mut missing) = (Facts::default(), Vec::new(), Vec::new());
    for row in &rows {
        let result = files.run(row)?;
        match &result {
            Some(result) => facts.add(result),
            None => missing.push(format!("runs/{}/result.json", row.run_id)),
        }
        if counts(row) {
            match read_table(files, row, "requests.parquet", latencies)? {
                Some(found) => {
                    hold_against_figures(files, row, &found)?;
                    requests.iter_mut().zip(found).for_each(|(all, more)| all.extend(more));
                }
                None => missing.push(format!("runs/{}/requests.parquet", row.run_id)),
            }
        }
        if let Some(result) = result.filter(|_| curves) {
            pictures.extend(picture(files, row, &result, place, all_runs)?);
        }
    }
    let used: Vec<&RunRow> = rows.iter().copied().filter(|row| counts(row)).collect();
    let latencies = Latency::ALL.into_iter().zip(requests);
    let analysis = ExperimentAnalysis {
        experiment_id: experiment.experiment_id.clone(),
        label: experiment.label.clone(),
        backend: experiment.config.backend,
        varied: experiment.varied.clone(),
        runs: RunCounts::of(experiment.runs.iter()),
        valid,
        left_out: rows.iter().filter(|row| !row.valid).map(|row| left_out(row)).collect(),
        standing,
        figures: Figure::ALL.into_iter().filter_map(|figure| FigureAnalysis::of(figure, &used, valid)).collect(),
        latencies: latencies.filter_map(|(latency, values)| LatencyAnalysis::of(latency, values, valid)).collect(),
    };
    Ok(Part { analysis, pictures, facts, missing })
}

fn left_out(row: &RunRow) -> LeftOut {
    let against = row.reasons.iter().filter(|reason| reason.severity == Severity::Invalid);
    LeftOut {
        run_id: row.run_id.clone(),
        status: row.status,
        codes: against.map(|reason| reason.code).collect(),
        failure_class: row.failure.as_ref().map(|failure| failure.class),
        failure: row.failure.as_ref().map(ToString::to_string),
    }
}

/// Requests that are not those of the run's figures are an error: percentiles of both would stand side by side.
fn hold_against_figures(files: &StudyFiles, row: &RunRow, found: &Latencies) -> Result<(), LoadError> {
    let Some(metrics) = &row.metrics else { return Ok(()) };
    let odd = Latency::ALL.into_iter().zip(found).find_map(|(latency, values)| latency.contradiction(values, metrics));
    let path = || files.run_directory(row).join("requests.parquet");
    odd.map_or(Ok(()), |problem| Err(LoadError::Contradiction { path: path(), problem }))
}

/// A table of a run, read; nothing where it is not there.
fn read_table<T>(
    files: &StudyFiles,
    row: &RunRow,
    name: &str,
    take: fn(File) -> Result<T, String>,
) -> Result<Option<T>, LoadError> {
    let Some((path, file)) = files.table(row, name)? else { return Ok(None) };
    let refused =
        |path: PathBuf, problem| LoadError::NotAFile { path, problem: format!("not a table of llem: {problem}") };
    take(file).map(Some).map_err(|problem| refused(path, problem))
}

/// Phases and power of a run, from its first phase to its last; nothing for a run without phases.
fn picture(
    files: &StudyFiles,
    row: &RunRow,
    result: &RunResult,
    experiment: usize,
    all_runs: usize,
) -> Result<Option<RunPicture>, LoadError> {
    let ended = || result.phases.iter().filter_map(|phase| Some((phase.phase, phase.start_ns, phase.end_ns?)));
    let (Some(start), Some(end)) = (ended().map(|(_, from, _)| from).min(), ended().map(|(.., to)| to).max()) else {
        return Ok(None);
    };
    let seconds = |ns: u64| ns.saturating_sub(start) as f64 / 1e9;
    let sensors = read_table(files, row, "timeseries.parquet", power)?.unwrap_or_default();
    let most =
        (STRETCHES / (all_runs * sensors.len()).max(1)).clamp(*STRETCHES_OF_ONE.start(), *STRETCHES_OF_ONE.end());
    let curves = sensors.into_iter().take(CURVES);
    Ok(Some(RunPicture {
        run_id: row.run_id.clone(),
        experiment,
        cycle: row.cycle,
        valid: row.valid,
        seconds: seconds(end),
        phases: ended().map(|(phase, from, to)| (phase, seconds(from), seconds(to))).collect(),
        window: result.window.as_ref().map(|window| (seconds(window.start_ns), seconds(window.end_ns))),
        curves: curves.map(|(domain, points)| PowerCurve::thinned(domain, &points, (start, end), most)).collect(),
    }))
}
