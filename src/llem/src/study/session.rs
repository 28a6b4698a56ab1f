//! Runs a plan from its first run to its last file.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use llem_protocol::FailureClass;
use tokio::sync::Mutex;

use super::fleet::Fleet;
use super::gpu_claim::GpuClaim;
use super::ledger::Ledger;
use super::lock::StudyLock;
use super::policy::{Breaker, Streak};
use super::prepare::{Prepared, blocking, prepare};
use super::resume::Resumed;
use super::{Programs, RunOptions, StudyError, StudyEvent};
use crate::config::StudyConfig;
use crate::engine_cache::{CacheSettings, EngineCache};
use crate::gpu_watch::Owner;
use crate::host::HostSnapshot;
use crate::host::gpu_lock::GpuLock;
use crate::plan::estimate::time::gap_s;
use crate::plan::order::PlannedRun;
use crate::result::{Design, Journal, JournalEvent, NumberedRuns, StopCause, StudyDirectory, StudyResult, number_runs};

/// Carries out a study: every experiment in every cycle, each run in an environment of its own. With [`RunOptions::resume`], goes on with
/// one that was begun: what is measured is not measured again.
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
    // Before anything is cleared up: what belongs to this study is not left by a dead one.
    let resumed = Resumed::open(&study, &options)?;
    let probing = Mutex::new(());
    let stopped = async {
        options.stop.soft.cancelled().await;
        // A probe that is under way hears of it, too, and removes its container.
        drop(probing.lock().await);
    };
    // The locks last as long as the study: what happens between its runs is in its measurement, too.
    let (fleet, prepared, _locks) = tokio::select! {
        ready = Box::pin(make_ready(&study, &options, &programs, resumed.as_ref(), &probing, &notify)) => ready?,
        () = stopped => return Err(StudyError::Stopped),
    };
    let lock = lock(&study, &options, &programs, &prepared, &notify).await?;
    let is_locked = match &resumed {
        Some(resumed) => resumed.keeps(&Design::of(&study, &fleet.names()), &lock, &notify)?,
        None => false,
    };
    let mut session = Session::open(study, options, programs, fleet, prepared, resumed)?;
    if session.is_new_design || !is_locked {
        session.directory.write_lock(&lock)?;
    }
    let outcome = Box::pin(session.run(&notify)).await;
    outcome.map_err(|error| error.with_space(session.directory.path()))
}

/// Everything before the study's directory is made.
async fn make_ready(
    study: &StudyConfig,
    options: &RunOptions,
    programs: &Programs,
    resumed: Option<&Resumed>,
    probing: &Mutex<()>,
    notify: &impl Fn(StudyEvent),
) -> Result<(Fleet, Vec<Prepared>, Vec<GpuLock>), StudyError> {
    let backends = study.experiments.iter().map(|e| e.config.backend);
    let names = resumed.map(Resumed::container_names).unwrap_or_default();
    let fleet = Fleet::choose(backends, options, programs, &names, notify).await?;
    let own = containers_left(&fleet, resumed, &names).await?;
    // Jobs of a batch system claim theirs on their nodes.
    let is_here = fleet.slurm().is_none();
    if let Some(resumed) = resumed.filter(|_| is_here) {
        resumed.refuse_other_machine(&options.user)?;
    }
    let claim = is_here.then(|| GpuClaim::of_study(study, &options.user, own, &options.stop.soft));
    if let Some(claim) = &claim {
        claim.check(notify).await?;
    }
    let prepared = prepare(study, options, programs, &fleet, probing, notify).await?;
    let locks = match &claim {
        Some(claim) => claim.take(notify).await?,
        None => Vec::new(),
    };
    Ok((fleet, prepared, locks))
}

/// Containers that a study which goes on left when its controller died: what computes in them is its own.
async fn containers_left(fleet: &Fleet, resumed: Option<&Resumed>, names: &[String]) -> Result<Vec<Owner>, StudyError> {
    let (Some(docker), Some(resumed)) = (fleet.docker(), resumed) else { return Ok(Vec::new()) };
    let survivors = docker.survivors(resumed.directory.lock_path(), names).await?;
    Ok(survivors.into_iter().map(|survivor| Owner::Container(survivor.id)).collect())
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
pub(super) struct Session {
    pub(super) study: StudyConfig,
    pub(super) options: RunOptions,
    pub(super) programs: Programs,
    pub(super) agent_sha256: String,
    pub(super) host: HostSnapshot,
    pub(super) fleet: Fleet,
    pub(super) prepared: Vec<Prepared>,
    pub(super) directory: StudyDirectory,
    pub(super) journal: Journal,
    pub(super) runs: NumberedRuns,
    pub(super) ledger: Ledger,
    /// When the study began, in UTC, RFC 3339.
    pub(super) started: String,
    /// Experiments that are too large for the machine, with what their last run died of.
    pub(super) too_large: BTreeMap<usize, FailureClass>,
    pub(super) cache: EngineCache,
    /// What the user has been told of the machine's config already.
    pub(super) told: BTreeSet<String>,
    /// Failed runs in a row when the study was taken up.
    pub(super) streak: Streak,
    /// Whether the design that holds is of this session.
    is_new_design: bool,
    /// What is to be said when the study begins.
    notices: Vec<String>,
}

/// Why a study ends before its plan does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// The container engine does not come back.
    EngineLost { run_id: String },
    /// A run could not write its results.
    OutputUnwritable { run_id: String },
    /// Too many runs failed one after the other.
    Failures { runs: u32 },
}

impl Session {
    pub(super) fn open(
        study: StudyConfig,
        options: RunOptions,
        programs: Programs,
        fleet: Fleet,
        prepared: Vec<Prepared>,
        resumed: Option<Resumed>,
    ) -> Result<Self, StudyError> {
        let agent_sha256 = programs.agent_sha256()?;
        let design = Design::of(&study, &fleet.names());
        let begun = match resumed {
            Some(resumed) => Begun::again(resumed, &design, &study)?,
            None => Begun::anew(&design, &study, &options)?,
        };
        let Begun { directory, journal, runs, ledger, started, streak, is_new_design, notices } = begun;
        let cache = EngineCache::open(CacheSettings::of(&options.user));
        Ok(Self {
            study,
            options,
            programs,
            agent_sha256,
            host: HostSnapshot::read(),
            fleet,
            prepared,
            directory,
            journal,
            runs,
            ledger,
            started,
            too_large: BTreeMap::new(),
            cache,
            told: BTreeSet::new(),
            streak,
            is_new_design,
            notices,
        })
    }

    pub(super) async fn run(&mut self, notify: &impl Fn(StudyEvent)) -> Result<StudyResult, StudyError> {
        notify(StudyEvent::Started {
            directory: self.directory.path().to_owned(),
            experiments: self.study.experiments.len(),
            runs: self.runs.planned.len(),
            completed: self.completed(),
            runner: self.fleet.names(),
        });
        for text in std::mem::take(&mut self.notices) {
            notify(StudyEvent::Notice { text });
        }
        if self.fleet.slurm().is_none() {
            self.take_up(notify).await?;
        }
        let halt = match self.fleet.slurm().cloned() {
            Some(slurm) => Box::pin(self.runs_in_arrays(slurm, notify)).await?,
            None => self.all_runs(notify).await?,
        };
        if let Some(halt) = &halt {
            self.journal.append(&JournalEvent::StudyStopped { cause: halt.cause() })?;
        }
        let result = self.conclude(notify)?;
        self.directory.write_result(&result)?;
        self.journal.append(&JournalEvent::StudyFinished { status: result.status })?;
        notify(StudyEvent::Finished { status: result.status });
        let directory = self.directory.path().to_owned();
        let cause = match halt {
            None => return Ok(result),
            Some(Halt::EngineLost { run_id }) => StudyError::EngineLost { run_id, directory },
            Some(Halt::OutputUnwritable { run_id }) => StudyError::unwritable(&run_id, directory),
            Some(Halt::Failures { runs }) => StudyError::TooManyFailures { runs, directory },
        };
        Err(StudyError::Halted { cause: Box::new(cause), result: Box::new(result) })
    }

    /// Runs of the plan that are measured.
    pub(super) fn completed(&self) -> usize {
        self.runs.planned.iter().filter(|run| self.ledger.is_completed(run.number)).count()
    }

    /// Carries out what is left of the plan, until its end, until the user stops it, or until it makes no sense to go on.
    async fn all_runs(&mut self, notify: &impl Fn(StudyEvent)) -> Result<Option<Halt>, StudyError> {
        let mut breaker = Breaker::new(self.study.execution.max_consecutive_failures, self.streak);
        let mut previous: Option<PlannedRun> = None;
        for planned in self.runs.planned.clone() {
            if self.ledger.is_completed(planned.number) || self.too_large.contains_key(&planned.experiment) {
                continue;
            }
            if let Some(previous) = previous {
                self.rest(previous, planned, notify).await;
            }
            if self.options.stop.soft.is_cancelled() {
                break;
            }
            let row = self.one(planned, notify).await?;
            match row.failure.as_ref().map(|failure| failure.class) {
                Some(FailureClass::ContainerEngineLost) => return Ok(Some(Halt::EngineLost { run_id: row.run_id })),
                Some(FailureClass::OutputUnwritable) => return Ok(Some(Halt::OutputUnwritable { run_id: row.run_id })),
                _ => {}
            }
            if let Some(runs) = breaker.count(planned.number, &row) {
                return Ok(Some(Halt::Failures { runs }));
            }
            previous = Some(planned);
        }
        Ok(None)
    }

    /// The gap between two runs; a stop ends it.
    async fn rest(&self, previous: PlannedRun, next: PlannedRun, notify: &impl Fn(StudyEvent)) {
        let seconds = gap_s(&self.study.execution, &[previous, next]);
        if seconds > 0.0 {
            self.pause(Duration::from_secs_f64(seconds), notify).await;
        }
    }

    /// Waits, unless the user stops the study.
    pub(super) async fn pause(&self, pause: Duration, notify: &impl Fn(StudyEvent)) {
        if self.options.stop.soft.is_cancelled() {
            return;
        }
        notify(StudyEvent::Gap { seconds: pause.as_secs_f64() });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.options.stop.soft.cancelled() => {}
        }
    }
}

impl Halt {
    fn cause(&self) -> StopCause {
        match self {
            Self::EngineLost { .. } => StopCause::ContainerEngineLost,
            Self::OutputUnwritable { .. } => StopCause::OutputUnwritable,
            Self::Failures { .. } => StopCause::ConsecutiveFailures,
        }
    }
}

/// A study that has a directory, whether it is new or goes on.
struct Begun {
    directory: StudyDirectory,
    journal: Journal,
    runs: NumberedRuns,
    ledger: Ledger,
    started: String,
    streak: Streak,
    is_new_design: bool,
    notices: Vec<String>,
}

impl Begun {
    fn anew(design: &Design, study: &StudyConfig, options: &RunOptions) -> Result<Self, StudyError> {
        let directory = StudyDirectory::create(&options.output, &study.name)?;
        let source = study.source.as_ref().map(|source| source.text.as_str());
        let wrote = || -> Result<_, StudyError> {
            directory.write_design(design, source, &study.experiments)?;
            let mut journal = directory.create_journal()?;
            let runs = number_runs(std::slice::from_ref(design));
            journal.append(&study_started(&directory, design, &runs))?;
            Ok((journal, runs))
        };
        let (journal, runs) = wrote().map_err(|error| error.with_space(directory.path()))?;
        let started = Timestamp::now().to_string();
        let (ledger, streak) = (Ledger::default(), Streak::default());
        Ok(Self { directory, journal, runs, ledger, started, streak, is_new_design: true, notices: Vec::new() })
    }

    fn again(resumed: Resumed, design: &Design, study: &StudyConfig) -> Result<Self, StudyError> {
        let extension = resumed.extension(design.clone());
        let Resumed { directory, mut designs, ledger, recovery } = resumed;
        let mut journal = directory.open_journal()?;
        if let Some(extension) = &extension {
            let source = study.source.as_ref().map(|source| source.text.as_str());
            directory.write_design(extension, source, &study.experiments)?;
            designs.push(extension.clone());
        }
        let runs = number_runs(&designs);
        if recovery.started.is_none() {
            // Its controller died between making the directory and saying so.
            journal.append(&study_started(&directory, design, &runs))?;
        }
        recovery.tell(&mut journal)?;
        journal.append(&JournalEvent::StudyResumed {
            pid: std::process::id(),
            llem_version: env!("CARGO_PKG_VERSION").to_owned(),
            completed: runs.planned.iter().filter(|run| ledger.is_completed(run.number)).count(),
            runs: runs.planned.len(),
            torn_lines: recovery.torn_lines,
        })?;
        let is_new_design = extension.is_some();
        if let Some(extension) = extension {
            journal.append(&JournalEvent::StudyExtended {
                revision: extension.revision,
                design_hash: extension.design_hash,
                runs: runs.planned.len(),
            })?;
        }
        let (notices, streak) = (recovery.notices(), recovery.streak);
        let started = recovery.started.unwrap_or_else(|| Timestamp::now().to_string());
        Ok(Self { directory, journal, runs, ledger, started, streak, is_new_design, notices })
    }
}

fn study_started(directory: &StudyDirectory, design: &Design, runs: &NumberedRuns) -> JournalEvent {
    JournalEvent::StudyStarted {
        study_id: directory.study_id(),
        design_hash: design.design_hash.clone(),
        runs: runs.planned.len(),
        pid: std::process::id(),
        llem_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
