//! A study, analysed: what `llem report` says in all of its formats.

use std::collections::BTreeMap;

use llem_protocol::{ReasonCode, Severity};
use llem_statistics::{DEFAULT_LEVEL, Standing, holm};
use serde::Serialize;
use serde_json::Value;

use super::experiment::{ExperimentAnalysis, RunPicture, analyse_experiment};
use super::machine::{Fact, Facts};
use super::{LoadError, StudyFiles};
use crate::config::ExecutionConfig;
use crate::result::{Figure, ImageRecord, Objective, ParetoFrontier, RunRow, RunStatus, SameWork, StudyStatus};

/// Version of what `llem report --format json` prints.
pub const ANALYSIS_SCHEMA_VERSION: u32 = 1;

/// A trend is told when its p-value, corrected for the number of trends that were looked for, is below this.
const ALPHA: f64 = 0.05;

/// Most threads that read runs.
const THREADS: usize = 8;

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct AnalysisOptions {
    /// What experiments are compared by; empty: [`ParetoFrontier::default_objectives`].
    pub objectives: Vec<Figure>,
    /// Whether power curves are read, into [`StudyAnalysis::pictures`].
    pub curves: bool,
}

/// Everything that is said of a study.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyAnalysis {
    /// [`ANALYSIS_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The study's name.
    pub name: String,
    /// Name of the study's directory.
    pub study_id: String,
    /// Identity of the set of experiments.
    pub design_hash: String,
    /// How it ended.
    pub status: StudyStatus,
    /// Start in UTC, RFC 3339.
    pub started: String,
    /// End in UTC, RFC 3339.
    pub finished: String,
    /// The controller that ran it.
    pub llem_version: String,
    /// Profile that the defaults came from.
    pub profile: String,
    /// `key=value` from the command line.
    pub overrides: Vec<String>,
    /// How it was carried out.
    pub execution: ExecutionConfig,
    /// The keys that vary.
    pub varied_keys: Vec<String>,
    /// Confidence level of all intervals.
    pub level: f64,
    /// Runs by what became of them.
    pub runs: RunCounts,
    /// Every reason with its runs.
    pub reasons: Vec<ReasonCount>,
    /// What experiments are compared by.
    pub objectives: Vec<Objective>,
    /// Whether the valid runs were measured by different sensors: see [`ParetoFrontier::several_sensors`].
    pub several_sensors: bool,
    /// The experiments, in the order of the study.
    pub experiments: Vec<ExperimentAnalysis>,
    /// Trends over the cycles that chance does not explain.
    pub trends: Vec<TrendWarning>,
    /// Workloads that several backends ran.
    pub same_work: Vec<SameWork>,
    /// Images of the study.
    pub images: Vec<ImageRecord>,
    /// Machine, engine, model and workload of the runs, with what varies between them.
    pub facts: Vec<Fact>,
    /// Files that should be there and are not.
    pub missing: Vec<String>,
    /// Phases and power curves of the runs, where they were asked for.
    #[serde(skip)]
    pub pictures: Vec<RunPicture>,
}

/// Runs by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RunCounts {
    /// Carried out.
    pub done: u64,
    /// Measured to the end.
    pub completed: u64,
    /// Valid: what statements are made of.
    pub valid: u64,
    /// Failed.
    pub failed: u64,
    /// Stopped by the user.
    pub interrupted: u64,
}

impl RunCounts {
    pub(super) fn of<'a>(runs: impl Iterator<Item = &'a RunRow>) -> Self {
        runs.fold(Self::default(), |mut counts, run| {
            counts.done += 1;
            counts.valid += u64::from(run.valid);
            match run.status {
                RunStatus::Completed => counts.completed += 1,
                RunStatus::Failed => counts.failed += 1,
                RunStatus::Interrupted => counts.interrupted += 1,
            }
            counts
        })
    }
}

/// A reason and how many runs have it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReasonCount {
    /// Which.
    pub code: ReasonCode,
    /// Whether it makes runs invalid.
    pub severity: Severity,
    /// Runs that have it.
    pub runs: u64,
    /// What the first of them says.
    pub message: String,
}

/// A figure that moves with the cycles.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrendWarning {
    /// Of which experiment.
    pub experiment_id: String,
    /// Which figure.
    pub figure: Figure,
    /// Chance of so strong a trend without any, after Holm's correction for all trends of the study.
    pub p_value: f64,
    /// Median change from cycle to cycle, in percent of the mean.
    pub percent_per_cycle: f64,
}

impl StudyAnalysis {
    /// Reads the runs of a study and analyses them. A run whose files are gone is known by `study.json` alone.
    pub fn of(files: &StudyFiles, options: &AnalysisOptions) -> Result<Self, LoadError> {
        let study = files.study();
        let objectives = match options.objectives.as_slice() {
            [] => ParetoFrontier::default_objectives(&study.experiments),
            chosen => chosen.iter().copied().map(Objective::from).collect(),
        };
        let pareto = ParetoFrontier::of(&study.experiments, objectives);
        let standings: Vec<Option<Standing>> = pareto.experiments.iter().map(|entry| entry.standing).collect();
        let parts = analyse_all(files, &standings, options)?;
        let mut facts = Facts::default();
        let (mut experiments, mut pictures, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            facts.merge(part.facts);
            experiments.push(part.analysis);
            pictures.extend(part.pictures);
            missing.extend(part.missing);
        }
        let rows = || study.experiments.iter().flat_map(|experiment| &experiment.runs);
        Ok(Self {
            schema_version: ANALYSIS_SCHEMA_VERSION,
            name: study.name.clone(),
            study_id: study.study_id.clone(),
            design_hash: study.design_hash.clone(),
            status: study.status,
            started: study.started.clone(),
            finished: study.finished.clone(),
            llem_version: study.llem_version.clone(),
            profile: study.profile.clone(),
            overrides: study.overrides.clone(),
            execution: study.execution.clone(),
            varied_keys: study.varied_keys.clone(),
            level: DEFAULT_LEVEL,
            runs: RunCounts::of(rows()),
            reasons: reasons(rows()),
            objectives: pareto.objectives,
            several_sensors: pareto.several_sensors,
            trends: trends(&experiments),
            experiments,
            same_work: study.same_work.clone(),
            images: study.images.clone(),
            facts: facts.into_list(),
            missing,
            pictures,
        })
    }

    /// Whether statements are made of any run.
    pub fn has_valid(&self) -> bool {
        self.runs.valid > 0
    }

    /// The figures that any experiment has, in the order of [`Figure::ALL`].
    pub fn figures(&self) -> Vec<Figure> {
        let has = |figure: &Figure| self.experiments.iter().any(|experiment| experiment.figure(*figure).is_some());
        Figure::ALL.into_iter().filter(has).collect()
    }

    /// The values of a swept key, in the order of the study.
    pub fn values_of(&self, key: &str) -> Vec<Value> {
        let mut values: Vec<Value> = Vec::new();
        for (_, value) in self.experiments.iter().flat_map(|e| &e.varied).filter(|(name, _)| name == key) {
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
        values
    }
}

/// What one experiment contributes.
pub(super) struct Part {
    pub(super) analysis: ExperimentAnalysis,
    pub(super) pictures: Vec<RunPicture>,
    pub(super) facts: Facts,
    pub(super) missing: Vec<String>,
}

/// Analyses the experiments on as many threads as the machine has processors. Of files, only what statements need is kept.
fn analyse_all(
    files: &StudyFiles,
    standings: &[Option<Standing>],
    options: &AnalysisOptions,
) -> Result<Vec<Part>, LoadError> {
    let experiments = &files.study().experiments;
    let runs = experiments.iter().map(|experiment| experiment.runs.len()).sum();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let share = experiments.len().div_ceil(processors.min(THREADS)).max(1);
    let standing = |place: usize| standings.get(place).copied().flatten();
    std::thread::scope(|scope| {
        let workers: Vec<_> = experiments
            .chunks(share)
            .enumerate()
            .map(|(chunk, experiments)| {
                scope.spawn(move || {
                    let places = experiments.iter().zip(chunk * share..);
                    let one = |(experiment, place)| {
                        analyse_experiment(files, experiment, place, standing(place), runs, options.curves)
                    };
                    places.map(one).collect::<Result<Vec<Part>, LoadError>>()
                })
            })
            .collect();
        let mut parts = Vec::with_capacity(experiments.len());
        for worker in workers {
            // A panic of a worker is one of this thread.
            parts.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(parts)
    })
}

fn reasons<'a>(runs: impl Iterator<Item = &'a RunRow>) -> Vec<ReasonCount> {
    let mut found: BTreeMap<ReasonCode, ReasonCount> = BTreeMap::new();
    for reason in runs.flat_map(|run| &run.reasons) {
        let first =
            || ReasonCount { code: reason.code, severity: reason.severity, runs: 0, message: reason.message.clone() };
        found.entry(reason.code).or_insert_with(first).runs += 1;
    }
    let mut list: Vec<ReasonCount> = found.into_values().collect();
    list.sort_by_key(|reason| std::cmp::Reverse((reason.severity, reason.runs)));
    list
}

/// Trends that stay after the correction for having looked for so many.
fn trends(experiments: &[ExperimentAnalysis]) -> Vec<TrendWarning> {
    let all: Vec<_> = experiments
        .iter()
        .flat_map(|experiment| experiment.figures.iter().map(move |figure| (experiment, figure)))
        .filter_map(|(experiment, figure)| Some((experiment, figure, figure.trend?)))
        .collect();
    let corrected = holm(&all.iter().map(|(_, _, trend)| trend.p_value).collect::<Vec<_>>());
    let warnings = all.iter().zip(corrected).filter(|(_, p_value)| *p_value < ALPHA);
    warnings
        .map(|((experiment, figure, trend), p_value)| TrendWarning {
            experiment_id: experiment.experiment_id.clone(),
            figure: figure.figure,
            p_value,
            percent_per_cycle: 100.0 * trend.per_step / figure.mean,
        })
        .collect()
}
