//! One look at the queue, and what follows from it.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use llem_protocol::FailureClass;
use tokio_util::sync::CancellationToken;

use super::files::{Begun, TaskRecord};
use super::leave::drop_finished;
use super::take::Source;
use super::{Array, Job, OpenRun, Queue, count_of_jobs, unless_stopped};
use crate::printable::printable;
use crate::result::{JournalEvent, RunDirectory, RunRow, RunStatus};
use crate::runner::slurm::{End, Listed, Slurm, Stage};
use crate::study::policy::{Breaker, is_out_of_memory};
use crate::study::session::{Halt, Session};
use crate::study::{StudyError, StudyEvent};

/// Looks in a row without a job after which SLURM does not have it any more.
const LOOKS: u32 = 3;

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
        // Who leaves waits for answers until told not to.
        let stop = if queue.leaving { &self.options.stop.hard } else { &self.options.stop.soft };
        match unless_stopped(queue.slurm.jobs(&names), stop, Duration::ZERO).await {
            None => return Ok(Vec::new()),
            Some(Ok(listed)) => update(queue, listed, stop).await,
            Some(Err(error)) => {
                queue.tell_once(format!("{error}; looking again every {} s", queue.period().as_secs()), notify);
                return Ok(Vec::new());
            }
        }
        count(queue, notify);
        tell_of_waiting(queue, notify);
        let mut arrays = std::mem::take(&mut queue.arrays);
        let taken = self.take_ended(queue, &mut arrays, notify).await;
        drop_finished(&mut arrays, self.directory.path());
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
async fn update(queue: &mut Queue, listed: Vec<Listed>, stop: &CancellationToken) {
    let now = Instant::now();
    let mut known: HashMap<(String, usize), Listed> = by_place(listed);
    let slurm: Slurm = queue.slurm.clone();
    for array in &mut queue.arrays {
        let of_name = |listed: &&Listed| listed.name == array.name;
        array.job = array.job.or_else(|| known.values().find(of_name).map(|listed| listed.job));
        let is_missing = |(index, job): (usize, &Job)| {
            !job.open.is_empty() && job.over.is_none() && !known.contains_key(&(array.name.clone(), index))
        };
        let misses = array.jobs.iter().enumerate().any(is_missing);
        if let Some(job) = array.job.filter(|_| misses) {
            let remembered = unless_stopped(slurm.remembered(job), stop, Duration::ZERO).await;
            for (place, listed) in by_place(remembered.unwrap_or_default()) {
                known.entry(place).or_insert(listed);
            }
        }
        let mut given_up = Vec::new();
        for (index, job) in array.jobs.iter_mut().enumerate() {
            if job.see(known.remove(&(array.name.clone(), index)), now) && !job.open.is_empty() {
                given_up.push(index);
            }
        }
        if let Some(id) = array.job.filter(|_| !given_up.is_empty()) {
            // What cannot be cancelled finds its runs begun and ends.
            let _ = unless_stopped(slurm.cancel_some(id, &given_up), stop, Duration::ZERO).await;
        }
    }
}

impl Job {
    /// Takes what the queue says of it, if anything. Whether it is given up though SLURM may still have it: then it is to be cancelled.
    fn see(&mut self, listed: Option<Listed>, now: Instant) -> bool {
        let was = self.stage;
        let Some(listed) = listed else {
            self.missing += 1;
            // One answer without it may be half an answer.
            let is_forgotten = self.missing >= LOOKS && !matches!(was, Stage::Ended(_));
            if is_forgotten {
                (self.stage, self.over) = (Stage::Ended(End::Forgotten), Some(now));
            }
            return is_forgotten;
        };
        self.missing = 0;
        self.waits_for = listed.waits_for;
        self.node = listed.node.or(self.node.take());
        // What was seen to have ended stays ended, and is remembered better than it is later. What SLURM put back after its node was lost,
        // though it was asked not to, has begun its runs and does not begin them again.
        let is_put_back = (was, listed.stage) == (Stage::Running, Stage::Waiting);
        match was {
            Stage::Ended(_) => {}
            _ if is_put_back => self.stage = Stage::Ended(End::NodeLost),
            _ => self.stage = listed.stage,
        }
        if matches!(self.stage, Stage::Ended(_)) {
            self.over.get_or_insert(now);
        }
        is_put_back
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

/// Tells what jobs wait for when that is not their turn: it may never come.
fn tell_of_waiting(queue: &mut Queue, notify: &impl Fn(StudyEvent)) {
    let jobs = queue.arrays.iter().flat_map(|array| &array.jobs);
    let waiting = jobs.filter(|job| !job.open.is_empty() && job.stage == Stage::Waiting);
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in waiting.filter_map(|job| job.waits_for.as_deref()) {
        *reasons.entry(reason).or_default() += 1;
    }
    // Told once for each reason, however many jobs there are in the end.
    let told = reasons.keys().copied().collect::<Vec<_>>().join(", ");
    if queue.told_of_waiting.as_ref() == Some(&told) {
        return;
    }
    for (reason, jobs) in &reasons {
        let text = format!("{} waiting for `{}`: {}", count_of_jobs(*jobs), printable(reason), what_to_do(reason));
        notify(StudyEvent::Notice { text });
    }
    queue.told_of_waiting = Some(told);
}

/// What helps jobs that wait for a reason of SLURM's.
fn what_to_do(reason: &str) -> &'static str {
    match reason {
        "PartitionTimeLimit" => {
            "their time limit is above the partition's; stop the study, set `slurm.time_limit_minutes` or `slurm.partition` in the user \
             config, and go on with --resume"
        }
        "DependencyNeverSatisfied" => "stop the study and go on with --resume",
        _ if reason.starts_with("JobHeld") => "somebody holds them; `scontrol release` lets them go on",
        _ => "`man squeue` lists what that means, and `scontrol show job` the whole of a job",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{End, Job, LOOKS, Listed, Stage};

    fn listed(stage: Stage) -> Listed {
        Listed { name: "llem-1".to_owned(), index: 0, job: 77, stage, node: None, waits_for: None }
    }

    #[test]
    fn a_job_is_forgotten_when_it_is_missing_again_and_again() {
        let mut job = Job::new(Vec::new());
        let now = Instant::now();
        let mut see = |found| (job.see(found, now), job.stage);
        assert_eq!(see(Some(listed(Stage::Running))), (false, Stage::Running));
        for _ in 0..3 {
            for _ in 1..LOOKS {
                assert_eq!(see(None), (false, Stage::Running), "half an answer");
            }
            assert_eq!(see(Some(listed(Stage::Running))), (false, Stage::Running));
        }
        for _ in 1..LOOKS {
            see(None);
        }
        assert_eq!(see(None), (true, Stage::Ended(End::Forgotten)), "given up, and cancelled");
        assert_eq!(see(None), (false, Stage::Ended(End::Forgotten)), "once");
    }

    #[test]
    fn a_job_that_is_put_back_has_lost_its_node() {
        let mut job = Job::new(Vec::new());
        let now = Instant::now();
        assert!(!job.see(Some(listed(Stage::Waiting)), now) && !job.see(Some(listed(Stage::Running)), now));
        assert!(job.see(Some(listed(Stage::Waiting)), now) && job.over.is_some());
        assert!(!job.see(Some(listed(Stage::Running)), now));
        assert_eq!(job.stage, Stage::Ended(End::NodeLost), "its first end counts");
    }
}
