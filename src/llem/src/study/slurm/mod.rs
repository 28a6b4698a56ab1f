//! A study as job arrays of SLURM: the controller stages runs, submits them, looks at the queue, and takes what nodes left; on a node,
//! `llem slurm-task` carries out the runs of one job.
//!
//! ```text
//! controller                              shared directory                   node
//! stage ─► plan ─► sbatch                 slurm/{array}.json                 llem slurm-task --plan …
//!   │                                     runs/{run}/.spec.json  ──────────►   claim, agent, GPU watch
//!   │   squeue, once a period             runs/{run}/.begun      ◄──────────     │
//!   └─► follow ─► take ─► judge, journal  runs/{run}/.volume, .task.json ◄───────┘
//! ```
//!
//! What a node leaves goes through the same collector and the same judgement as what any agent leaves. Whoever makes `.begun` owns the
//! run's beginning: no lock is needed between nodes.

mod array;
mod files;
mod follow;
mod leave;
mod node;
mod node_gpus;
mod stage;
mod take;
mod task;
mod time_limit;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::fleet::Fleet;
use super::policy::Breaker;
use super::session::{Halt, Session};
use super::{RunOptions, StudyError, StudyEvent};
use crate::config::StudyConfig;
use crate::plan::order::{PlannedRun, order};
use crate::result::{RunId, StoreError};
use crate::runner::slurm::{Slurm, Stage};

pub use array::SlurmPlan;
pub(super) use stage::ON_NODES;
pub use task::{SlurmTaskError, run_slurm_task};

/// Where the plans and the output of jobs are in the study's directory.
const DIRECTORY: &str = "slurm";

/// As people write it.
fn count_of_jobs(jobs: usize) -> String {
    if jobs == 1 { "1 job".to_owned() } else { format!("{jobs} jobs") }
}

/// What of a study is in the batch system's hands.
struct Queue {
    slurm: Slurm,
    /// The most jobs that an array may have.
    most_jobs: usize,
    arrays: Vec<Array>,
    /// Runs that are still to be submitted, with the time from which on.
    due: Vec<(Instant, PlannedRun)>,
    /// How often each run was tried again.
    retries: HashMap<usize, u32>,
    /// Whether llem has cancelled its jobs.
    leaving: bool,
    /// How long what a node wrote may take until it is seen here.
    settle: Duration,
    /// Open runs in the queue when the site took no more, and when that was.
    refused: Option<(usize, Instant)>,
    /// llem itself, as nodes find it. Asked for at the start: a binary that is replaced while jobs wait has no path any more.
    program: PathBuf,
    /// What nodes must find beside it.
    programs: Vec<array::PlannedProgram>,
    /// What the user has been told last, so that it is told once.
    told: Option<String>,
    /// The same of what jobs wait for.
    told_of_waiting: Option<String>,
    /// Jobs without and with a node, as last told.
    counted: (usize, usize),
}

/// An array that has open runs.
struct Array {
    name: String,
    plan_file: PathBuf,
    /// `None` where the controller that submitted it died before it wrote it down.
    job: Option<u64>,
    jobs: Vec<Job>,
}

/// One job of an array.
struct Job {
    /// What has not ended yet, in order.
    open: Vec<OpenRun>,
    stage: Stage,
    node: Option<String>,
    /// What it waits for, where that is out of the ordinary.
    waits_for: Option<String>,
    /// Since when it is known to be over.
    over: Option<Instant>,
    /// Looks at the queue in a row that did not find it.
    missing: u32,
}

/// A run that is staged.
#[derive(Clone)]
struct OpenRun {
    run: RunId,
    planned: PlannedRun,
    /// Whether the journal says that it began.
    begun: bool,
    /// Whether another controller staged it.
    adopted: bool,
}

impl Job {
    fn new(open: Vec<OpenRun>) -> Self {
        Self { open, stage: Stage::Waiting, node: None, waits_for: None, over: None, missing: 0 }
    }
}

impl Queue {
    fn new(
        slurm: Slurm,
        most_jobs: usize,
        programs: Vec<array::PlannedProgram>,
        directory: &Path,
    ) -> std::io::Result<Self> {
        Ok(Self {
            slurm,
            most_jobs,
            arrays: Vec::new(),
            due: Vec::new(),
            retries: HashMap::new(),
            leaving: false,
            settle: files::settle_time(directory),
            refused: None,
            program: std::env::current_exe()?,
            programs,
            told: None,
            told_of_waiting: None,
            counted: (0, 0),
        })
    }

    /// Runs in the queue that have not ended.
    fn open_runs(&self) -> usize {
        self.arrays.iter().flat_map(|array| &array.jobs).map(|job| job.open.len()).sum()
    }

    fn period(&self) -> Duration {
        Duration::try_from_secs_f64(self.slurm.config().poll_seconds).unwrap_or(Duration::from_secs(10))
    }

    fn has(&self, number: usize) -> bool {
        self.arrays.iter().any(|array| array.has(number))
    }

    /// A notice, unless it was the last one.
    fn tell_once(&mut self, text: String, notify: &impl Fn(StudyEvent)) {
        if self.told.as_ref() != Some(&text) {
            notify(StudyEvent::Notice { text: text.clone() });
            self.told = Some(text);
        }
    }
}

impl Session {
    /// Carries out what is left of the plan through the batch system, until its end, until the user stops it, or until it makes no sense
    /// to go on. No job is left, whatever the end.
    pub(super) async fn runs_in_arrays(
        &mut self,
        slurm: Slurm,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Option<Halt>, StudyError> {
        let (_, most_jobs) = slurm.site().await?;
        let programs = self.planned_programs()?;
        let mut queue = Queue::new(slurm, most_jobs, programs, self.directory.path()).map_err(StoreError::from)?;
        self.adopt_arrays(&mut queue, notify)?;
        let now = Instant::now();
        queue.due = self
            .runs
            .planned
            .iter()
            .filter(|run| !self.is_settled(run) && !queue.has(run.number))
            .map(|run| (now, *run))
            .collect();
        let followed = Box::pin(self.follow(&mut queue, notify)).await;
        let left = Box::pin(self.leave(&mut queue, followed.is_err(), notify)).await;
        let halt = followed?;
        left.map(|()| halt)
    }

    /// Whether nothing is to be done for a run.
    fn is_settled(&self, run: &PlannedRun) -> bool {
        self.ledger.is_completed(run.number) || self.too_large.contains_key(&run.experiment)
    }

    /// Submits, looks and takes until nothing is left or there is a reason to end.
    async fn follow(&mut self, queue: &mut Queue, notify: &impl Fn(StudyEvent)) -> Result<Option<Halt>, StudyError> {
        let mut breaker = Breaker::new(self.study.execution.max_consecutive_failures, self.streak);
        loop {
            if self.options.stop.soft.is_cancelled() {
                return Ok(None);
            }
            self.submit_due(queue, notify).await?;
            if queue.arrays.is_empty() && queue.due.is_empty() {
                return Ok(None);
            }
            tokio::select! {
                () = tokio::time::sleep(queue.period()) => {}
                () = self.options.stop.soft.cancelled() => return Ok(None),
            }
            for (open, row) in self.look(queue, notify).await? {
                if let Some(halt) = self.weigh(queue, &open, &row, &mut breaker, notify).await? {
                    return Ok(Some(halt));
                }
            }
        }
    }
}

/// What a command of SLURM says; `None` when it has not answered within `grace` after the user stopped waiting for it.
async fn unless_stopped<T>(command: impl Future<Output = T>, stop: &CancellationToken, grace: Duration) -> Option<T> {
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        biased;
        said = command => Some(said),
        () = stopped => None,
    }
}

impl Array {
    fn has(&self, number: usize) -> bool {
        self.jobs.iter().flat_map(|job| &job.open).any(|open| open.planned.number == number)
    }
}

/// What would be submitted for a study; `None` where the batch system does not carry it out. Nothing is written.
pub async fn slurm_plan(study: &StudyConfig, options: &RunOptions) -> Result<Option<SlurmPlan>, StudyError> {
    let backends = study.experiments.iter().map(|experiment| experiment.config.backend);
    let Some(slurm) = Fleet::slurm_of(backends, options)? else { return Ok(None) };
    let (version, most_jobs) = slurm.site().await?;
    let runs = order(study.experiments.len(), &study.execution);
    let plan = array::plan(&runs, &study.execution, slurm.config().tasks_per_job, most_jobs);
    let times = time_limit::times(study, &options.output);
    Ok(Some(SlurmPlan::of(&slurm, version, most_jobs, &plan, |jobs| {
        time_limit::minutes(jobs, &times, &study.execution, slurm.config())
    })))
}
