//! One side of a comparison: a study, or a single run.

use std::path::{Path, PathBuf};

use super::record::SideRecord;
use super::text::shown;
use crate::analysis::{LoadError, StudyFiles, read_run, read_study};
use crate::config::CycleOrder;
use crate::result::{ExperimentResult, ExperimentSummary, RunIdentity, RunResult, RunRow, StudyResult, StudyStatus};

/// What is compared with another.
#[derive(Clone, Debug)]
pub struct Side {
    path: PathBuf,
    study_id: String,
    started: String,
    cycle_order: Option<CycleOrder>,
    profile: Option<String>,
    status: Option<StudyStatus>,
    pub(super) experiments: Vec<ExperimentResult>,
}

impl Side {
    /// Reads a study's directory, a `study.json` of any name, a run's directory, or its `result.json`.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        if path.is_dir() && !path.join("study.json").exists() && path.join("result.json").exists() {
            return Ok(Self::of_run(path, &read_run(path)?));
        }
        if path.is_dir() {
            return Self::of_directory(path);
        }
        if path.file_name().is_some_and(|name| name == "result.json") {
            return Ok(Self::of_run(path, &read_run(path)?));
        }
        match read_study(path) {
            Ok(study) => Ok(Self::of_study(path, study)),
            Err(not_a_study) => match read_run(path) {
                Ok(run) => Ok(Self::of_run(path, &run)),
                Err(_) => Err(not_a_study),
            },
        }
    }

    /// Rows of older files do not say what they were measured on; the results of their runs do.
    fn of_directory(path: &Path) -> Result<Self, LoadError> {
        let files = StudyFiles::open(path)?;
        let mut side = Self::of_study(path, files.study().clone());
        for row in side.experiments.iter_mut().flat_map(|experiment| &mut experiment.runs) {
            if row.valid && row.identity.is_none() {
                row.identity = files.run(row)?.as_ref().map(RunIdentity::of);
            }
        }
        Ok(side)
    }

    /// A study that is in memory; `path` is what messages call it.
    pub fn of_study(path: &Path, study: StudyResult) -> Self {
        Self {
            path: path.to_owned(),
            study_id: study.study_id,
            started: study.started,
            cycle_order: Some(study.execution.cycle_order),
            profile: Some(study.profile),
            status: Some(study.status),
            experiments: study.experiments,
        }
    }

    /// A single run.
    fn of_run(path: &Path, run: &RunResult) -> Self {
        let runs = vec![RunRow::of(run, "")];
        let experiment = ExperimentResult {
            experiment_id: run.experiment_id.clone(),
            label: String::new(),
            varied: Vec::new(),
            config: run.config.clone(),
            summary: ExperimentSummary::of(&runs),
            runs,
        };
        Self {
            path: path.to_owned(),
            study_id: run.study_id.clone(),
            started: run.started.clone(),
            cycle_order: None,
            profile: None,
            status: None,
            experiments: vec![experiment],
        }
    }

    /// What messages call it.
    pub(super) fn name(&self) -> String {
        shown(&self.path.display().to_string())
    }

    pub(super) fn is_same_study(&self, other: &Self) -> bool {
        !self.study_id.is_empty() && self.study_id == other.study_id && self.started == other.started
    }

    /// Whether each cycle has every experiment, so that what changes slowly meets all of them alike.
    pub(super) fn is_mixed_in_time(&self) -> bool {
        self.cycle_order.is_some_and(|order| order != CycleOrder::Sequential)
    }

    pub(super) fn record(&self) -> SideRecord {
        let runs = || self.experiments.iter().flat_map(|experiment| &experiment.runs);
        SideRecord {
            path: self.path.display().to_string(),
            study_id: self.study_id.clone(),
            started: self.started.clone(),
            runs: runs().count() as u64,
            valid_runs: runs().filter(|row| row.valid).count() as u64,
        }
    }
}

/// What a reader has to know of both studies.
pub(super) fn notes(baseline: &Side, candidate: &Side) -> Vec<String> {
    let mut notes = Vec::new();
    for (side, role) in [(baseline, "baseline"), (candidate, "candidate")] {
        match side.status {
            Some(StudyStatus::Interrupted) => {
                notes.push(format!("the {role} was interrupted: not all of its runs were made"));
            }
            Some(StudyStatus::Failed) => notes.push(format!("not all runs of the {role} were measured")),
            Some(StudyStatus::Completed) | None => {}
        }
    }
    if let (Some(a), Some(b)) = (&baseline.profile, &candidate.profile)
        && a != b
    {
        notes.push(format!("other profile: {} in the baseline, {} in the candidate", shown(a), shown(b)));
    }
    notes
}
