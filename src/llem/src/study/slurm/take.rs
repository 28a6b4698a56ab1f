//! A run that has ended on a node, or with it: into the study's directory like any other.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use llem_protocol::{Failure, FailureClass, Phase};

use super::files::{self, Begun, Staged, TaskRecord};
use super::{Array, DIRECTORY, OpenRun};
use crate::config::NodeRunner;
use crate::gpu_watch::{GpuWait, Verdict};
use crate::host::load::LoadSeen;
use crate::host::{GpusSnapshot, HostSnapshot, free_bytes};
use crate::printable::printable;
use crate::result::{Collected, RunDirectory, RunRow, read_left};
use crate::runner::RunOutcome;
use crate::runner::slurm::{End, SlurmRecord, Stage};
use crate::study::engine::RunEngine;
use crate::study::run::{Attempt, RunContext, Times, close, take_files};
use crate::study::session::Session;
use crate::study::{StudyError, StudyEvent};

/// Lines of a job's output that a failure has.
const TAIL: usize = 20;
/// Bytes of a job's output that are read.
const OUTPUT_BYTES: u64 = 1024 * 1024;
/// With less free space than this, a job that left nothing had no room to.
const NO_ROOM_BYTES: u64 = 1024 * 1024;

/// The job that carried out a run, when it is taken.
pub(super) struct Source<'a> {
    pub(super) array: &'a Array,
    pub(super) index: usize,
    /// How the job ended that left nothing; `None` where the node left a record.
    pub(super) lost: Option<End>,
    /// Whether it was llem that cancelled the jobs.
    pub(super) ours: bool,
    /// What carries out runs on nodes.
    pub(super) node_runner: NodeRunner,
}

/// What is known of a run that has ended.
struct Known {
    outcome: RunOutcome,
    gpus: Vec<String>,
    verdict: Verdict,
    nvidia: Option<GpusSnapshot>,
    wait: Option<GpuWait>,
    load: LoadSeen,
    host: HostSnapshot,
    started: String,
    wall_s: f64,
}

impl Session {
    /// Writes the result of a run and everything that goes with it.
    pub(super) async fn take(
        &mut self,
        open: &mut OpenRun,
        source: &Source<'_>,
        notify: &impl Fn(StudyEvent),
    ) -> Result<RunRow, StudyError> {
        if !open.begun {
            self.tell_begun(open, notify)?;
        }
        let run_id = open.run.to_string();
        let directory = self.directory.files().run(&run_id);
        let staged = Staged::read(&directory);
        let record = staged.as_ref().filter(|_| source.lost.is_none());
        let known = match record.and_then(|staged| TaskRecord::read(&directory, &staged.spec.job)) {
            Some(record) => source.with_cause(record),
            None => source.without_record(&directory, self.directory.path()),
        };
        let Known { outcome, gpus, verdict, nvidia, wait, load, host, started, wall_s } = known;
        let context = RunContext { host: &host, ..self.context(open.planned, &run_id)? };
        let engine = RunEngine::without(&context, super::ON_NODES);
        let (collected, failure) = match &staged {
            Some(staged) => take_files(&directory, &staged.spec.job, &outcome),
            None => (Collected::default(), outcome.failure.clone()),
        };
        let attempt = Attempt { outcome, collected, failure, gpus, verdict, nvidia, wait, load };
        let started = started.parse().unwrap_or_else(|_| Timestamp::now());
        let ended = Box::pin(close(&context, &directory, attempt, engine, Times { started, wall_s }, notify)).await?;
        files::clear(&directory);
        self.keep(&open.run, ended, notify)
    }
}

impl Source<'_> {
    /// A node's record. It does not know why its job was told to stop; the queue does.
    fn with_cause(&self, record: TaskRecord) -> Known {
        let TaskRecord { mut outcome, stopped, gpus, verdict, nvidia, wait, load, host, started, wall_s, .. } = record;
        if let Some(failure) = outcome.failure.as_mut().filter(|_| stopped) {
            let end = match self.array.jobs.get(self.index).map(|job| job.stage) {
                Some(Stage::Ended(end)) => end,
                _ => End::Cancelled,
            };
            (failure.class, failure.message) = self.cause(end);
        }
        Known { outcome, gpus, verdict, nvidia, wait, load, host, started, wall_s }
    }

    /// What can be said of a run whose node said nothing.
    fn without_record(&self, directory: &RunDirectory, study: &Path) -> Known {
        let begun = Begun::read(directory);
        let (mut class, mut message) = self.cause(self.lost.unwrap_or(End::Exited));
        let mut log_tail = Vec::new();
        if class == FailureClass::JobDied {
            log_tail = self.output_tail(study);
            if free_bytes(study).is_some_and(|(free, _)| free < NO_ROOM_BYTES) {
                (class, message) = (FailureClass::OutputUnwritable, format!("{message}; the disk is full"));
            } else if begun.is_none() && log_tail.is_empty() {
                // A batch system whose controller dies forgets jobs that it was just starting: a script that fails says something.
                (class, message) =
                    (FailureClass::NodeLost, format!("{message}; it does not seem to have been started"));
            }
        }
        let started = begun.as_ref().map_or_else(|| Timestamp::now().to_string(), |begun| begun.started.clone());
        let slurm = begun.and_then(|begun| begun.slurm).unwrap_or_else(|| self.record());
        let failure = Failure { class, phase: Phase::Start, message, log_tail };
        Known {
            outcome: RunOutcome { failure: Some(failure), slurm: Some(slurm), ..RunOutcome::default() },
            gpus: Vec::new(),
            verdict: Verdict::default(),
            nvidia: None,
            wait: None,
            load: LoadSeen::default(),
            host: HostSnapshot::default(),
            started,
            wall_s: 0.0,
        }
    }

    fn cause(&self, end: End) -> (FailureClass, String) {
        let job = self.job();
        if self.ours {
            return (FailureClass::Interrupted, format!("{job} was cancelled because the study was stopped"));
        }
        match end {
            End::Exited => {
                (FailureClass::JobDied, format!("{job} ended and left no result; {}", self.output_file().display()))
            }
            End::Cancelled => (FailureClass::NodeLost, format!("{job} was cancelled, and not by llem")),
            End::TimeLimit => {
                (FailureClass::TimeLimit, format!("{job} reached its time limit before the run had ended"))
            }
            End::NodeLost => (FailureClass::NodeLost, format!("{job}: its node failed, or was taken for another job")),
            End::OutOfMemory => (FailureClass::HostOutOfMemory, format!("{job} had more memory than it was given")),
            End::Forgotten => {
                (FailureClass::NodeLost, format!("{job} is not in the queue any more, and left no result"))
            }
        }
    }

    /// `job 77_3 on n01`.
    fn job(&self) -> String {
        let id = self.array.job.map_or_else(|| self.array.name.clone(), |job| job.to_string());
        let node = self.array.jobs.get(self.index).and_then(|job| job.node.clone());
        let node = node.map_or_else(String::new, |node| format!(" on {}", printable(&node)));
        format!("job {id}_{}{node}", self.index)
    }

    fn record(&self) -> SlurmRecord {
        SlurmRecord {
            array_job_id: self.array.job.map(|job| job.to_string()),
            task: self.index as u32,
            node: self.array.jobs.get(self.index).and_then(|job| job.node.clone()),
            node_runner: self.node_runner.name().to_owned(),
            ..SlurmRecord::default()
        }
    }

    fn output_file(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(format!("{}-{}.log", self.array.name, self.index))
    }

    /// The last lines that the job wrote.
    fn output_tail(&self, study: &Path) -> Vec<String> {
        let file = self.output_file();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let text = read_left(&study.join(DIRECTORY), &name, OUTPUT_BYTES).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(TAIL)).map(|line| printable(line)).collect()
    }
}
