//! A study's result, from the result files of its runs: the same whether one controller carried it out or many.

use jiff::Timestamp;
use tracing::debug;

use super::ledger::{Ended, Ledger, is_of};
use super::prepare::Prepared;
use super::session::Session;
use super::{StudyError, StudyEvent};
use crate::config::StudyConfig;
use crate::plan::order::PlannedRun;
use crate::preflight::{Images, KnownImage};
use crate::result::{
    ExperimentResult, ExperimentSummary, FileIdentity, ImageRecord, JournalEvent, Output, ParetoFrontier, RunId,
    RunResult, RunRow, RunStatus, RunWork, SCHEMA_VERSION, SameWork, SameWorkLedger, SkippedCycles, StudyFiles,
    StudyResult, StudyStatus, Variant,
};

impl Session {
    /// Reads the results of all runs and sums them up. A result that is damaged is told, and its run counts as not carried out. The
    /// session's experiments go into the result: a study has up to ten thousands of them, and is over.
    pub(super) fn conclude(&mut self, notify: &impl Fn(StudyEvent)) -> Result<StudyResult, StudyError> {
        let runs: Vec<PlannedRun> = self.runs.planned.iter().chain(&self.runs.beside).copied().collect();
        let Gathered { rows, same_work, lost } =
            gather(&self.study, &self.prepared, &runs, &self.ledger, self.directory.files());
        for run in lost {
            self.ledger.lost(&run);
            self.journal.append(&JournalEvent::ResultLost { run_id: run.to_string() })?;
            let text = format!("the result of {run} is damaged or gone; --resume repeats the run");
            notify(StudyEvent::Notice { text });
        }
        let status = self.status(&same_work);
        let (design_hash, images) = (self.study.design_hash(), self.images());
        let experiments = std::mem::take(&mut self.study.experiments).into_iter().zip(rows).enumerate();
        let experiments = experiments.map(|(place, (experiment, runs))| ExperimentResult {
            experiment_id: experiment.id,
            label: experiment.label,
            varied: experiment.varied,
            config: experiment.config,
            summary: ExperimentSummary::of(&runs),
            skipped: self.skipped(place),
            runs,
        });
        let experiments: Vec<ExperimentResult> = experiments.collect();
        let objectives = ParetoFrontier::default_objectives(&experiments);
        Ok(StudyResult {
            schema_version: SCHEMA_VERSION,
            upgraded_from: None,
            name: self.study.name.clone(),
            study_id: self.directory.study_id(),
            directory: self.directory.path().display().to_string(),
            design_hash,
            status,
            started: self.started.clone(),
            finished: Timestamp::now().to_string(),
            llem_version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: self.study.profile.name().to_owned(),
            overrides: self.study.source.iter().flat_map(|s| s.overrides.clone()).collect(),
            execution: self.study.execution.clone(),
            varied_keys: self.study.varied_keys.clone(),
            pareto: Some(ParetoFrontier::of(&experiments, objectives)),
            experiments,
            merged: self.study.merged.clone(),
            images,
            same_work,
        })
    }

    fn skipped(&self, experiment: usize) -> Option<SkippedCycles> {
        let cycles = self.left_out(experiment);
        let failure = self.too_large.get(&experiment).copied().filter(|_| !cycles.is_empty())?;
        Some(SkippedCycles { failure, cycles })
    }

    /// The images that were looked into, each once.
    fn images(&self) -> Vec<ImageRecord> {
        let mut found: Vec<ImageRecord> = Vec::new();
        // Nodes may have looked into them since.
        let elsewhere = self.fleet.elsewhere();
        let noted = elsewhere.and_then(|_| Images::new(&self.options.user, &self.programs.agent).ok());
        for (experiment, prepared) in self.study.experiments.iter().zip(&self.prepared) {
            let Some(facts) = &prepared.facts else { continue };
            let backend = experiment.config.backend;
            if !found.iter().any(|known| known.backend == backend && known.image == prepared.image) {
                let known = noted.as_ref().map(|images| images.known_file((**facts).clone(), Some(backend)));
                let facts = match &known {
                    Some(KnownImage::Probed(facts)) => facts,
                    _ => &**facts,
                };
                found.push(ImageRecord {
                    backend,
                    image: prepared.image.clone(),
                    image_id: facts.id.clone(),
                    image_digests: facts.digests.clone(),
                    image_labels: facts.labels.clone(),
                    image_versions: facts.versions.clone(),
                });
            }
        }
        found
    }

    fn status(&self, same_work: &[SameWork]) -> StudyStatus {
        let is_measured = self.completed() == self.runs.planned.len();
        // What had failed before might have been tried again.
        if self.options.stop.soft.is_cancelled() && !is_measured {
            StudyStatus::Interrupted
        } else if is_measured && !same_work.iter().any(SameWork::is_different_work) {
            StudyStatus::Completed
        } else {
            StudyStatus::Failed
        }
    }
}

/// What the runs gave.
#[derive(Debug, Default)]
struct Gathered {
    /// The rows of each experiment, in the order of their numbers.
    rows: Vec<Vec<RunRow>>,
    same_work: Vec<SameWork>,
    /// Runs whose result cannot be used any more.
    lost: Vec<RunId>,
}

/// Reads the newest result of every run, one file after the other.
fn gather(
    study: &StudyConfig,
    prepared: &[Prepared],
    runs: &[PlannedRun],
    ledger: &Ledger,
    directory: &StudyFiles,
) -> Gathered {
    let mut gathered = Gathered { rows: vec![Vec::new(); study.experiments.len()], ..Gathered::default() };
    let mut same_work = SameWorkLedger::default();
    let compares = has_several_backends(study);
    let mut in_order: Vec<&PlannedRun> = runs.iter().collect();
    in_order.sort_by_key(|run| run.number);
    for planned in in_order {
        let Some(ended) = ledger.ended(planned.number) else { continue };
        let experiment = study.experiments.get(planned.experiment).zip(prepared.get(planned.experiment));
        let Some(((experiment, prepared), rows)) = experiment.zip(gathered.rows.get_mut(planned.experiment)) else {
            continue;
        };
        let Some((text, row)) = row(directory, ended, &experiment.label) else {
            gathered.lost.push(ended.run.clone());
            continue;
        };
        if compares && row.status == RunStatus::Completed {
            match work(directory, &text, prepared) {
                Ok(work) => same_work.add(work),
                Err(error) => {
                    debug!(run = row.run_id, %error, "its outputs cannot be read");
                    gathered.lost.push(ended.run.clone());
                    continue;
                }
            }
        }
        if rows.capacity() == 0 {
            // A list that grows by itself has room for four where three are put in.
            rows.reserve_exact(study.execution.n_cycles as usize);
        }
        rows.push(row);
    }
    gathered.same_work = same_work.conclude();
    gathered
}

/// A run's `result.json` and its row; `None` when the file is not the one that the run wrote.
fn row(directory: &StudyFiles, ended: &Ended, label: &str) -> Option<(Vec<u8>, RunRow)> {
    let run_id = ended.run.to_string();
    let text = fs_err::read(directory.run(&run_id).result_file()).ok()?;
    if ended.file.as_ref().is_some_and(|file| *file != FileIdentity::of(&text)) {
        return None;
    }
    let result = RunResult::from_json(&text).ok().filter(|result| is_of(result, &ended.run))?;
    // A journal that was changed by hand does not make a failed run a measured one.
    (result.status == ended.status).then(|| (text, RunRow::of(&result, label)))
}

/// Whether there is anything to compare between.
fn has_several_backends(study: &StudyConfig) -> bool {
    let mut backends = study.experiments.iter().map(|experiment| experiment.config.backend);
    backends.next().is_some_and(|first| backends.any(|backend| backend != first))
}

/// What a measured run did, for the comparison with others.
fn work(directory: &StudyFiles, text: &[u8], prepared: &Prepared) -> Result<RunWork, StudyError> {
    let result = RunResult::from_json(text).map_err(|error| StudyError::Task(error.to_string()))?;
    let output = Output::read(&directory.run(&result.run_id).requests_file())?;
    let config = &result.config;
    let dtype = result.engine.as_ref().and_then(|engine| engine.dtype.clone());
    let checkpoint = prepared.weights.model.config.quantization.clone();
    let name = |source: &str, revision: Option<&str>| format!("{source}@{}", revision.unwrap_or("-"));
    let model = name(&result.model.source, result.model.revision.as_deref());
    let adapter = result.adapter.as_ref().map(|adapter| name(&adapter.source, adapter.revision.as_deref()));
    Ok(RunWork {
        workload_sha256: result.workload.sha256.clone(),
        weights: adapter.map_or_else(|| model.clone(), |adapter| format!("{model} + {adapter}")),
        variant: Variant {
            backend: config.backend.name().to_owned(),
            dtype: dtype.unwrap_or_else(|| config.dtype.name().to_owned()),
            quantization: config.quantization().or(checkpoint),
        },
        greedy: config.is_greedy(),
        exact: config.workload.ignore_eos,
        output,
        run_id: result.run_id,
    })
}
