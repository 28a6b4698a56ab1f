//! The end of a study's jobs, whatever ends the study: none is left in the queue.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::take::Source;
use super::{Array, DIRECTORY, Queue, count_of_jobs, unless_stopped};
use crate::runner::slurm::{End, Slurm, SlurmError, Stage};
use crate::study::session::Session;
use crate::study::{StudyError, StudyEvent};

/// How long jobs may take to end: agents get 10 s, SLURM kills what is left after its `KillWait`, 30 s by default.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long `scancel` may still take after the user's second signal.
const LAST_TRY: Duration = Duration::from_secs(3);
/// Time between two looks meanwhile; the user waits.
const PERIOD: Duration = Duration::from_secs(1);

impl Session {
    /// Cancels what is left, takes back what has not begun, waits for the rest and takes it, too. After an error, and where nothing can be
    /// cancelled, nothing is written any more: `--resume` finds what nodes left.
    pub(super) async fn leave(
        &mut self,
        queue: &mut Queue,
        after_error: bool,
        notify: &impl Fn(StudyEvent),
    ) -> Result<(), StudyError> {
        if queue.arrays.is_empty() {
            return Ok(());
        }
        let jobs = queue.arrays.iter().flat_map(|array| &array.jobs).filter(|job| !job.open.is_empty()).count();
        queue.leaving = true;
        // Of all arrays: those of which nothing has begun are taken back, and their jobs wait in the queue all the same.
        let targets = Targets::of(queue);
        notify(StudyEvent::Notice { text: format!("cancelling {}", count_of_jobs(jobs)) });
        let mut cancelled = self.cancel(queue, &targets).await;
        if !after_error {
            self.withdraw(queue)?;
        }
        let deadline = Instant::now() + PATIENCE;
        let is_awaited =
            |queue: &Queue, cancelled: &Result<(), SlurmError>| !queue.arrays.is_empty() || cancelled.is_err();
        while is_awaited(queue, &cancelled) && Instant::now() < deadline && !self.options.stop.hard.is_cancelled() {
            if cancelled.is_err() {
                cancelled = self.cancel(queue, &targets).await;
            }
            if cancelled.is_err() && self.is_over(queue, &targets).await {
                cancelled = Ok(());
            }
            if !after_error && !queue.arrays.is_empty() {
                self.look(queue, notify).await?;
            } else if after_error && self.is_over(queue, &targets).await {
                break;
            }
            tokio::select! {
                () = sleep(if is_awaited(queue, &cancelled) { PERIOD } else { Duration::ZERO }) => {}
                () = self.options.stop.hard.cancelled() => {}
            }
        }
        match cancelled {
            Err(error) => targets.tell_of_left(&error, notify),
            _ if after_error => {}
            _ => self.give_up(queue, notify).await?,
        }
        Ok(())
    }

    /// Cancels all arrays. After the user's second signal there is little time for it.
    async fn cancel(&self, queue: &Queue, targets: &Targets) -> Result<(), SlurmError> {
        let silent = || Err(SlurmError::Silent("scancel".to_owned()));
        unless_stopped(targets.cancel(&queue.slurm), &self.options.stop.hard, LAST_TRY).await.unwrap_or_else(silent)
    }

    /// Whether no job of the study is left; `false` when nobody says so.
    async fn is_over(&self, queue: &Queue, targets: &Targets) -> bool {
        let names: Vec<&str> = targets.0.iter().map(|(_, name)| name.as_str()).collect();
        let listed = unless_stopped(queue.slurm.jobs(&names), &self.options.stop.hard, Duration::ZERO).await;
        listed.is_some_and(|jobs| jobs.is_ok_and(|jobs| jobs.iter().all(|job| matches!(job.stage, Stage::Ended(_)))))
    }

    /// Takes back every run that no node has begun.
    fn withdraw(&mut self, queue: &mut Queue) -> Result<(), StudyError> {
        for array in &mut queue.arrays {
            for job in &mut array.jobs {
                let mut kept = Vec::new();
                for open in std::mem::take(&mut job.open) {
                    if open.begun || !self.take_back(&open)? {
                        kept.push(open);
                    }
                }
                job.open = kept;
            }
        }
        drop_finished(&mut queue.arrays, self.directory.path());
        Ok(())
    }

    /// Takes back the runs of an experiment that no node has begun, and cancels the jobs that have nothing else to do.
    pub(super) async fn take_back_experiment(
        &mut self,
        queue: &mut Queue,
        experiment: usize,
        notify: &impl Fn(StudyEvent),
    ) -> Result<(), StudyError> {
        for array in &mut queue.arrays {
            let mut idle = Vec::new();
            for (index, job) in array.jobs.iter_mut().enumerate() {
                let had = job.open.len();
                for open in std::mem::take(&mut job.open) {
                    let is_kept = open.planned.experiment != experiment || open.begun || !self.take_back(&open)?;
                    job.open.extend(is_kept.then_some(open));
                }
                if job.open.is_empty() && had > 0 && job.stage == Stage::Waiting {
                    idle.push(index);
                }
            }
            if let Some(job) = array.job.filter(|_| !idle.is_empty())
                && let Some(Err(error)) =
                    unless_stopped(queue.slurm.cancel_some(job, &idle), &self.options.stop.soft, LAST_TRY).await
            {
                let text =
                    format!("{error}; jobs that have nothing left to do end by themselves when their turn comes");
                notify(StudyEvent::Notice { text });
            }
        }
        drop_finished(&mut queue.arrays, self.directory.path());
        Ok(())
    }

    /// Ends what did not end in time.
    async fn give_up(&mut self, queue: &mut Queue, notify: &impl Fn(StudyEvent)) -> Result<(), StudyError> {
        for mut array in std::mem::take(&mut queue.arrays) {
            for index in 0..array.jobs.len() {
                let open = std::mem::take(&mut array.jobs[index].open);
                for mut open in open {
                    let node_runner = self.options.user.slurm.node_runner;
                    let source = Source { array: &array, index, lost: Some(End::Cancelled), ours: true, node_runner };
                    self.take(&mut open, &source, notify).await?;
                }
            }
            array.clear_away(self.directory.path());
        }
        Ok(())
    }
}

/// Arrays by their ids, where these are known, and by the names of their jobs.
struct Targets(Vec<(Option<u64>, String)>);

impl Targets {
    fn of(queue: &Queue) -> Self {
        Self(queue.arrays.iter().map(|array| (array.job, array.name.clone())).collect())
    }

    fn ids(&self) -> Vec<u64> {
        self.0.iter().filter_map(|(id, _)| *id).collect()
    }

    fn names_without_id(&self) -> impl Iterator<Item = &String> {
        self.0.iter().filter(|(id, _)| id.is_none()).map(|(_, name)| name)
    }

    async fn cancel(&self, slurm: &Slurm) -> Result<(), SlurmError> {
        let ids = self.ids();
        let mut done = if ids.is_empty() { Ok(()) } else { slurm.cancel(&ids).await };
        for name in self.names_without_id() {
            done = slurm.cancel_named(name).await.and(done);
        }
        done
    }

    /// What could not be cancelled is told: it is the user's to do, or goes on.
    fn tell_of_left(&self, error: &SlurmError, notify: &impl Fn(StudyEvent)) {
        let ids: Vec<String> = self.ids().iter().map(u64::to_string).collect();
        // Together they would mean jobs of these ids that have this name.
        let by_id = (!ids.is_empty()).then(|| format!("scancel {}", ids.join(" ")));
        let by_name = self.names_without_id().map(|name| format!("scancel --name={name}"));
        let commands: Vec<String> = by_id.into_iter().chain(by_name).collect();
        let text = format!(
            "{error}: jobs may be left, and their runs go on; --resume takes these up; to end them instead: {}",
            commands.join("; ")
        );
        notify(StudyEvent::Notice { text });
    }
}

/// Forgets arrays whose runs have all ended.
pub(super) fn drop_finished(arrays: &mut Vec<Array>, study: &Path) {
    arrays.iter().filter(|array| array.is_over()).for_each(|array| array.clear_away(study));
    arrays.retain(|array| !array.is_over());
}

impl Array {
    /// Whether all its runs have ended.
    pub(super) fn is_over(&self) -> bool {
        self.jobs.iter().all(|job| job.open.is_empty())
    }

    /// Removes its plan, and the output of jobs that said nothing.
    pub(super) fn clear_away(&self, study: &Path) {
        // What cannot be removed harms nothing.
        let _ = fs_err::remove_file(&self.plan_file);
        for index in 0..self.jobs.len() {
            let log = study.join(DIRECTORY).join(format!("{}-{index}.log", self.name));
            if fs_err::metadata(&log).is_ok_and(|found| found.len() == 0) {
                let _ = fs_err::remove_file(log);
            }
        }
    }
}
