//! Runs a plan from its first run to its last file.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::fleet::Fleet;
use super::lock::StudyLock;
use super::prepare::{Prepared, blocking, prepare};
use super::run::{Ended, RunContext, carry_out};
use super::{Programs, RunOptions, StudyError, StudyEvent};
use crate::config::StudyConfig;
use crate::engine_cache::{CacheSettings, EngineCache};
use crate::host::HostSnapshot;
use crate::plan::order::{PlannedRun, order};
use crate::result::{
    ExperimentResult, ExperimentSummary, ImageRecord, Journal, JournalEvent, ParetoFrontier, RunRow, RunStatus,
    SCHEMA_VERSION, SameWork, SameWorkLedger, StudyDirectory, StudyResult, StudyStatus,
};
use llem_protocol::{FailureClass, ReasonCode};

/// Carries out a study: every experiment in every cycle, each run in an environment of its own.
///
/// Failed runs are part of the result; an error means that the study itself could not go on. Everything that was finished is on
/// disk when this returns, whatever it returns.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use llem::config::{Profile, StudyConfig};
/// use llem::study::{RunOptions, run_study};
///
/// let study = StudyConfig::from_file("examples/quickstart.yaml".as_ref(), &[], Profile::Standard)?;
/// let (events, mut progress) = tokio::sync::mpsc::unbounded_channel();
/// tokio::spawn(async move { while let Some(event) = progress.recv().await { eprintln!("{event:?}") } });
/// let result = run_study(study, RunOptions { events: Some(events), ..RunOptions::default() }).await?;
/// println!("{}: {:?}", result.directory, result.status);
/// # Ok(())
/// # }
/// ```
pub async fn run_study(study: StudyConfig, options: RunOptions) -> Result<StudyResult, StudyError> {
    let events = options.events.clone();
    let notify = move |event: StudyEvent| {
        if let Some(events) = &events {
            // Nobody has to listen.
            let _ = events.send(event);
        }
    };
    let programs = options.programs.clone().map_or_else(Programs::locate, Ok)?;
    let probing = Mutex::new(());
    let stopped = async {
        options.stop.soft.cancelled().await;
        // A probe that is under way hears of it, too, and removes its container.
        drop(probing.lock().await);
    };
    let (fleet, prepared) = tokio::select! {
        ready = make_ready(&study, &options, &programs, &probing, &notify) => ready?,
        () = stopped => return Err(StudyError::Stopped),
    };
    let lock = lock(&study, &options, &programs, &prepared, &notify).await?;
    let mut session = Session::open(study, options, programs, fleet, prepared)?;
    session.directory.write_lock(&lock)?;
    session.run(&notify).await
}

/// Everything before the study's directory is made.
async fn make_ready(
    study: &StudyConfig,
    options: &RunOptions,
    programs: &Programs,
    probing: &Mutex<()>,
    notify: &impl Fn(StudyEvent),
) -> Result<(Fleet, Vec<Prepared>), StudyError> {
    let fleet = Fleet::choose(study.experiments.iter().map(|e| e.config.backend), options, notify).await?;
    let prepared = prepare(study, options, programs, &fleet, probing, notify).await?;
    Ok((fleet, prepared))
}

/// What the study is run with, if a lock file does not ask for something else.
async fn lock(
    study: &StudyConfig,
    options: &RunOptions,
    programs: &Programs,
    prepared: &[Prepared],
    notify: &impl Fn(StudyEvent),
) -> Result<StudyLock, StudyError> {
    let (study, prepared, programs) = (study.clone(), prepared.to_vec(), programs.clone());
    let cache_root = options.user.cache_root();
    let what = "hashes of the weights".to_owned();
    let lock = blocking(what, notify, move || StudyLock::of(&study, &prepared, &programs, &cache_root)).await??;
    if let Some(path) = &options.locked {
        lock.check(path)?;
    }
    Ok(lock)
}

/// A study that is under way.
struct Session {
    study: StudyConfig,
    options: RunOptions,
    programs: Programs,
    agent_sha256: String,
    host: HostSnapshot,
    fleet: Fleet,
    prepared: Vec<Prepared>,
    directory: StudyDirectory,
    journal: Journal,
    plan: Vec<PlannedRun>,
    started: Timestamp,
    rows: Vec<Vec<RunRow>>,
    same_work: SameWorkLedger,
    cache: EngineCache,
    /// What the user has been told of the machine's config already.
    told: BTreeSet<String>,
}

impl Session {
    fn open(
        study: StudyConfig,
        options: RunOptions,
        programs: Programs,
        fleet: Fleet,
        prepared: Vec<Prepared>,
    ) -> Result<Self, StudyError> {
        let started = Timestamp::now();
        let plan = order(study.experiments.len(), &study.execution);
        let directory = StudyDirectory::create(&options.output, &study.name)?;
        if let Some(source) = &study.source {
            directory.write_source(&source.text)?;
        }
        let mut journal = directory.journal()?;
        journal.append(&JournalEvent::StudyStarted {
            study_id: &directory.study_id(),
            design_hash: &study.design_hash(),
            runs: plan.len(),
            pid: std::process::id(),
            llem_version: env!("CARGO_PKG_VERSION"),
        })?;
        let rows = vec![Vec::new(); study.experiments.len()];
        let agent_sha256 = programs.agent_sha256()?;
        let host = HostSnapshot::read();
        let cache = EngineCache::open(CacheSettings::of(&options.user));
        Ok(Self {
            study,
            options,
            programs,
            agent_sha256,
            host,
            fleet,
            prepared,
            directory,
            journal,
            plan,
            started,
            rows,
            same_work: SameWorkLedger::default(),
            cache,
            told: BTreeSet::new(),
        })
    }

    async fn run(&mut self, notify: &impl Fn(StudyEvent)) -> Result<StudyResult, StudyError> {
        notify(StudyEvent::Started {
            directory: self.directory.path().to_owned(),
            experiments: self.study.experiments.len(),
            runs: self.plan.len(),
            runner: self.fleet.names(),
        });
        let engine_lost_in = self.all_runs(notify).await?;
        let result = self.result();
        self.directory.write_result(&result)?;
        self.journal.append(&JournalEvent::StudyFinished { status: result.status })?;
        notify(StudyEvent::Finished { status: result.status });
        match engine_lost_in {
            None => Ok(result),
            Some(run_id) => Err(StudyError::EngineLost { run_id, directory: self.directory.path().to_owned() }),
        }
    }

    /// Carries out the plan until its end, until the user stops it, or until a run loses the container engine: then that run.
    async fn all_runs(&mut self, notify: &impl Fn(StudyEvent)) -> Result<Option<String>, StudyError> {
        let mut previous: Option<PlannedRun> = None;
        for planned in self.plan.clone() {
            if let Some(previous) = previous {
                self.rest(previous, planned, notify).await;
            }
            if self.options.stop.soft.is_cancelled() {
                break;
            }
            let row = self.one(planned, notify).await?;
            if row.failure.is_some_and(|failure| failure.class == FailureClass::ContainerEngineLost) {
                return Ok(Some(row.run_id));
            }
            previous = Some(planned);
        }
        Ok(None)
    }

    /// Carries out one run and keeps its row.
    async fn one(&mut self, planned: PlannedRun, notify: &impl Fn(StudyEvent)) -> Result<RunRow, StudyError> {
        let (Some(experiment), Some(prepared)) =
            (self.study.experiments.get(planned.experiment), self.prepared.get(planned.experiment))
        else {
            return Err(StudyError::Task("the plan names an experiment that the study does not have".to_owned()));
        };
        let run_id = format!("{:03}-{}-c{}", planned.number, experiment.id, planned.cycle);
        self.journal.append(&JournalEvent::RunStarted {
            run_id: &run_id,
            experiment_id: &experiment.id,
            cycle: planned.cycle,
        })?;
        notify(StudyEvent::RunStarted {
            number: planned.number,
            run_id: run_id.clone(),
            label: experiment.label.clone(),
            cycle: planned.cycle,
        });
        let context = RunContext {
            run_id: &run_id,
            cycle: planned.cycle,
            experiment,
            execution: &self.study.execution,
            prepared,
            programs: &self.programs,
            agent_sha256: &self.agent_sha256,
            host: &self.host,
            runner: self.fleet.runner(experiment.config.backend),
            directory: &self.directory,
            user: &self.options.user,
            cache: &self.cache,
            stop: &self.options.stop,
        };
        let Ended { row, directory, work } = carry_out(&context, notify).await?;
        let failure = row.failure.as_ref().map(|f| f.class);
        let (status, valid) = (row.status, row.valid);
        self.journal.append(&JournalEvent::RunFinished { run_id: &run_id, status, valid, failure })?;
        notify(StudyEvent::RunFinished { number: planned.number, row: Box::new(row.clone()), directory });
        if let Some(rows) = self.rows.get_mut(planned.experiment) {
            rows.push(row.clone());
        }
        if let Some(work) = work.filter(|_| self.has_several_backends()) {
            self.same_work.add(work);
        }
        self.tell(&row, notify);
        Ok(row)
    }

    /// What is wrong with the machine's config and not with the run, once for all runs.
    fn tell(&mut self, row: &RunRow, notify: &impl Fn(StudyEvent)) {
        for reason in row.reasons.iter().filter(|reason| reason.code == ReasonCode::CalibrationUnmatched) {
            if self.told.insert(reason.message.clone()) {
                notify(StudyEvent::Notice { text: reason.to_string() });
            }
        }
    }

    /// The gap between two runs; a stop ends it.
    async fn rest(&self, previous: PlannedRun, next: PlannedRun, notify: &impl Fn(StudyEvent)) {
        let execution = &self.study.execution;
        let seconds = if previous.cycle == next.cycle {
            execution.experiment_gap_seconds
        } else {
            execution.cycle_gap_seconds.max(execution.experiment_gap_seconds)
        };
        if seconds <= 0.0 || self.options.stop.soft.is_cancelled() {
            return;
        }
        notify(StudyEvent::Gap { seconds });
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => {}
            () = self.options.stop.soft.cancelled() => {}
        }
    }

    /// Whether there is anything to compare between.
    fn has_several_backends(&self) -> bool {
        let mut backends = self.study.experiments.iter().map(|experiment| experiment.config.backend);
        backends.next().is_some_and(|first| backends.any(|backend| backend != first))
    }

    fn result(&self) -> StudyResult {
        let same_work = self.same_work.conclude();
        let experiments = self.study.experiments.iter().zip(&self.rows).map(|(experiment, runs)| ExperimentResult {
            experiment_id: experiment.id.clone(),
            label: experiment.label.clone(),
            varied: experiment.varied.clone(),
            config: experiment.config.clone(),
            summary: ExperimentSummary::of(runs),
            runs: runs.clone(),
        });
        let experiments: Vec<ExperimentResult> = experiments.collect();
        let objectives = ParetoFrontier::default_objectives(&experiments);
        StudyResult {
            schema_version: SCHEMA_VERSION,
            upgraded_from: None,
            name: self.study.name.clone(),
            study_id: self.directory.study_id(),
            directory: self.directory.path().display().to_string(),
            design_hash: self.study.design_hash(),
            status: self.status(&same_work),
            started: self.started.to_string(),
            finished: Timestamp::now().to_string(),
            llem_version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: self.study.profile.name().to_owned(),
            overrides: self.study.source.iter().flat_map(|s| s.overrides.clone()).collect(),
            execution: self.study.execution.clone(),
            varied_keys: self.study.varied_keys.clone(),
            pareto: Some(ParetoFrontier::of(&experiments, objectives)),
            experiments,
            merged: self.study.merged.clone(),
            images: self.images(),
            same_work,
        }
    }

    /// The images that were looked into, each once.
    fn images(&self) -> Vec<ImageRecord> {
        let mut found: Vec<ImageRecord> = Vec::new();
        for (experiment, prepared) in self.study.experiments.iter().zip(&self.prepared) {
            let Some(facts) = &prepared.facts else { continue };
            let backend = experiment.config.backend;
            if !found.iter().any(|known| known.backend == backend && known.image == prepared.image) {
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
        let rows: Vec<&RunRow> = self.rows.iter().flatten().collect();
        if self.options.stop.soft.is_cancelled() && (rows.len() < self.plan.len() || any(&rows, RunStatus::Interrupted))
        {
            StudyStatus::Interrupted
        } else if rows.len() == self.plan.len()
            && rows.iter().all(|row| row.status == RunStatus::Completed)
            && !same_work.iter().any(SameWork::is_different_work)
        {
            StudyStatus::Completed
        } else {
            StudyStatus::Failed
        }
    }
}

fn any(rows: &[&RunRow], status: RunStatus) -> bool {
    rows.iter().any(|row| row.status == status)
}
