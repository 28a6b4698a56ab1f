//! One look at the queue, and what follows from it.

use std::collections::HashMap;
use std::time::Instant;

use llem_protocol::FailureClass;

use super::files::{Begun, TaskRecord};
use super::take::Source;
use super::{Array, Job, OpenRun, Queue};
use crate::result::{JournalEvent, RunDirectory, RunRow, RunStatus};
use crate::runner::slurm::{End, Listed, Slurm, Stage};
use crate::study::policy::{Breaker, is_out_of_memory};
use crate::study::session::{Halt, Session};
use crate::study::{StudyError, StudyEvent};

/// What has become of the first open run of a job.
enum Found {
    /// It may still end well.
    Nothing,
    /// Its node says how it ended.
    Record,
    /// Its job is over, and it left nothing.
    Lost(End),
    /// Its job reached its time limit before its turn.
    NotItsTurn,
}

impl Session {
    /// Asks for the states of all jobs once, and takes what has ended.
    pub(super) async fn look(
        &mut self,
        queue: &mut Queue,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Vec<(OpenRun, RunRow)>, StudyError> {
        let names: Vec<&str> = queue.arrays.iter().map(|array| array.name.as_str()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        match queue.slurm.jobs(&names).await {
            Ok(listed) => update(queue, listed).await,
            Err(error) => {
                queue.tell_once(format!("{error}; looking again every {} s", queue.period().as_secs()), notify);
                return Ok(Vec::new());
            }
        }
        count(queue, notify);
        let mut arrays = std::mem::take(&mut queue.arrays);
        let taken = self.take_ended(queue, &mut arrays, notify).await;
        arrays.iter().filter(|array| array.is_over()).for_each(|array| array.clear_away(self.directory.path()));
        arrays.retain(|array| !array.is_over());
        queue.arrays = arrays;
        taken
    }

    async fn take_ended(
        &mut self,
        queue: &mut Queue,
        arrays: &mut [Array],
        notify: &impl Fn(StudyEvent),
    ) -> Result<Vec<(OpenRun, RunRow)>, StudyError> {
        let mut rows = Vec::new();
        for array in arrays {
            for index in 0..array.jobs.len() {
                while let Some((mut open, found)) = self.first_open(array, index, queue, notify)? {
                    let lost = match found {
                        Found::Nothing => break,
                        Found::Record => None,
                        Found::Lost(end) => Some(end),
                        Found::NotItsTurn => {
                            if self.take_back(&open)? {
                                queue.due.push((Instant::now(), open.planned));
                                array.jobs[index].open.remove(0);
                                continue;
                            }
                            Some(End::TimeLimit)
                        }
                    };
                    let ours = self.options.stop.soft.is_cancelled() || queue.leaving;
                    let node_runner = self.options.user.slurm.node_runner;
                    let source = Source { array, index, lost, ours, node_runner };
                    let row = self.take(&mut open, &source, notify).await?;
                    array.jobs[index].open.remove(0);
                    rows.push((open, row));
                }
            }
        }
        Ok(rows)
    }

    /// The first open run of a job, with what has become of it. Tells of its beginning.
    fn first_open(
        &mut self,
        array: &mut Array,
        index: usize,
        queue: &Queue,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Option<(OpenRun, Found)>, StudyError> {
        let job = &mut array.jobs[index];
        let Some(open) = job.open.first_mut().filter(|_| job.stage != Stage::Waiting) else { return Ok(None) };
        let directory = self.directory.files().run(&open.run.to_string());
        let has_begun = open.begun || Begun::is_there(&directory);
        if has_begun && !open.begun {
            self.tell_begun(open, notify)?;
        }
        let found = match job.stage {
            // A job that was told to stop says so before the queue says why.
            Stage::Running | Stage::Waiting if TaskRecord::is_there(&directory) && !is_stopped(&directory) => {
                Found::Record
            }
            Stage::Running | Stage::Waiting => Found::Nothing,
            Stage::Ended(_) if TaskRecord::is_there(&directory) => Found::Record,
            Stage::Ended(_) if job.over.is_none_or(|over| over.elapsed() < queue.settle) => Found::Nothing,
            Stage::Ended(End::TimeLimit) if !has_begun => Found::NotItsTurn,
            Stage::Ended(end) => Found::Lost(end),
        };
        Ok(Some((open.clone(), found)))
    }

    /// The line in the journal and the event of a run that has begun.
    pub(super) fn tell_begun(&mut self, open: &mut OpenRun, notify: &impl Fn(StudyEvent)) -> Result<(), StudyError> {
        let run_id = open.run.to_string();
        let (experiment_id, cycle) = (open.run.experiment.clone(), open.run.cycle);
        self.journal.append(&JournalEvent::RunStarted { run_id: run_id.clone(), experiment_id, cycle })?;
        open.begun = true;
        let label = self.study.experiments.get(open.planned.experiment).map(|e| e.label.clone()).unwrap_or_default();
        notify(StudyEvent::RunStarted { number: open.planned.number, run_id, label, cycle });
        Ok(())
    }

    /// What follows from a run that has ended: another attempt, nothing, or the end of the study.
    pub(super) async fn weigh(
        &mut self,
        queue: &mut Queue,
        open: &OpenRun,
        row: &RunRow,
        breaker: &mut Breaker,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Option<Halt>, StudyError> {
        let planned = open.planned;
        if open.adopted && row.status != RunStatus::Completed {
            // It failed under another controller, and this one was asked to go on: what failed before is repeated.
            queue.due.push((Instant::now(), planned));
            return Ok(None);
        }
        let retries = queue.retries.entry(planned.number).or_insert(0);
        if let Some(pause) = self.again(row, *retries, notify) {
            *retries += 1;
            queue.due.push((Instant::now() + pause, planned));
            return Ok(None);
        }
        if row.failure.as_ref().is_some_and(|failure| is_out_of_memory(failure.class)) {
            self.take_back_experiment(queue, planned.experiment, notify).await?;
        }
        self.judge_size(planned, row, &|number| queue.has(number), notify)?;
        if row.failure.as_ref().is_some_and(|failure| failure.class == FailureClass::OutputUnwritable) {
            return Ok(Some(Halt::OutputUnwritable { run_id: row.run_id.clone() }));
        }
        Ok(breaker.count(planned.number, row).map(|runs| Halt::Failures { runs }))
    }
}

/// Whether the record is of a run whose job was told to stop.
fn is_stopped(directory: &RunDirectory) -> bool {
    super::files::Staged::read(directory)
        .and_then(|staged| TaskRecord::read(directory, &staged.spec.job))
        .is_none_or(|record| record.stopped && record.outcome.failure.is_some())
}

/// Takes what `squeue` says, and for jobs that it does not know any more, what `sacct` does.
async fn update(queue: &mut Queue, listed: Vec<Listed>) {
    let now = Instant::now();
    let mut known: HashMap<(String, usize), Listed> = by_place(listed);
    let slurm: Slurm = queue.slurm.clone();
    for array in &mut queue.arrays {
        let of_name = |listed: &&Listed| listed.name == array.name;
        array.job = array.job.or_else(|| known.values().find(of_name).map(|listed| listed.job));
        let is_forgotten = |(index, job): (usize, &Job)| {
            !job.open.is_empty() && job.over.is_none() && !known.contains_key(&(array.name.clone(), index))
        };
        let forgets = array.jobs.iter().enumerate().any(is_forgotten);
        if let Some(job) = array.job.filter(|_| forgets) {
            for (place, listed) in by_place(slurm.remembered(job).await) {
                known.entry(place).or_insert(listed);
            }
        }
        for (index, job) in array.jobs.iter_mut().enumerate() {
            let found = known.get(&(array.name.clone(), index));
            let stage = found.map_or(Stage::Ended(End::Forgotten), |listed| listed.stage);
            match (job.stage, stage) {
                // What was seen to have ended stays ended, and is remembered better than it is later.
                (Stage::Ended(_), _) => {}
                // SLURM put it back after its node was lost, though it was asked not to: its runs have begun and do not begin again.
                (Stage::Running, Stage::Waiting) => {
                    job.stage = Stage::Ended(End::NodeLost);
                    if let Some(id) = array.job {
                        // What cannot be cancelled finds its runs begun and ends.
                        let _ = slurm.cancel_some(id, &[index]).await;
                    }
                }
                _ => job.stage = stage,
            }
            job.node = found.and_then(|listed| listed.node.clone()).or(job.node.take());
            if matches!(job.stage, Stage::Ended(_)) {
                job.over.get_or_insert(now);
            }
        }
    }
}

fn by_place(listed: Vec<Listed>) -> HashMap<(String, usize), Listed> {
    listed.into_iter().map(|listed| ((listed.name.clone(), listed.index), listed)).collect()
}

/// Tells how many jobs wait and run, when that has changed.
fn count(queue: &mut Queue, notify: &impl Fn(StudyEvent)) {
    let jobs = || queue.arrays.iter().flat_map(|array| &array.jobs).filter(|job| !job.open.is_empty());
    let waiting = jobs().filter(|job| job.stage == Stage::Waiting).count();
    let running = jobs().filter(|job| job.stage == Stage::Running).count();
    if queue.counted != (waiting, running) {
        queue.counted = (waiting, running);
        notify(StudyEvent::Jobs { waiting, running });
    }
}
