//! The end of a study's jobs, whatever ends the study: none is left in the queue.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::take::Source;
use super::{Array, DIRECTORY, Queue, count_of_jobs, unless_stopped};
use crate::runner::slurm::{End, SlurmError, Stage};
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
        notify(StudyEvent::Notice { text: format!("cancelling {}", count_of_jobs(jobs)) });
        let mut cancelled = self.cancel(queue).await;
        if !after_error {
            self.withdraw(queue)?;
        }
        let deadline = Instant::now() + PATIENCE;
        while !queue.arrays.is_empty() && Instant::now() < deadline && !self.options.stop.hard.is_cancelled() {
            if cancelled.is_err() {
                cancelled = self.cancel(queue).await;
            }
            if !after_error {
                self.look(queue, notify).await?;
            } else if self.is_over(queue).await {
                break;
            }
            tokio::select! {
                () = sleep(if queue.arrays.is_empty() { Duration::ZERO } else { PERIOD }) => {}
                () = self.options.stop.hard.cancelled() => {}
            }
        }
        match cancelled {
            Err(error) if !queue.arrays.is_empty() => tell_of_left(queue, &error, notify),
            _ if after_error => {}
            _ => self.give_up(queue, notify).await?,
        }
        Ok(())
    }

    /// Cancels all arrays. After the user's second signal there is little time for it.
    async fn cancel(&self, queue: &Queue) -> Result<(), SlurmError> {
        let silent = || Err(SlurmError::Silent("scancel".to_owned()));
        unless_stopped(cancel(queue), &self.options.stop.hard, LAST_TRY).await.unwrap_or_else(silent)
    }

    /// Whether no job of the study is left; `false` when nobody says so.
    async fn is_over(&self, queue: &Queue) -> bool {
        let names: Vec<&str> = queue.arrays.iter().map(|array| array.name.as_str()).collect();
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
        for array in queue.arrays.iter().filter(|array| array.is_over()) {
            array.clear_away(self.directory.path());
        }
        queue.arrays.retain(|array| !array.is_over());
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
                && let Err(error) = queue.slurm.cancel_some(job, &idle).await
            {
                let text =
                    format!("{error}; jobs that have nothing left to do end by themselves when their turn comes");
                notify(StudyEvent::Notice { text });
            }
        }
        for array in queue.arrays.iter().filter(|array| array.is_over()) {
            array.clear_away(self.directory.path());
        }
        queue.arrays.retain(|array| !array.is_over());
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

async fn cancel(queue: &Queue) -> Result<(), SlurmError> {
    let ids: Vec<u64> = queue.arrays.iter().filter_map(|array| array.job).collect();
    let mut done = if ids.is_empty() { Ok(()) } else { queue.slurm.cancel(&ids).await };
    for array in queue.arrays.iter().filter(|array| array.job.is_none()) {
        done = queue.slurm.cancel_named(&array.name).await.and(done);
    }
    done
}

/// What could not be cancelled is told: it is the user's to do, or goes on.
fn tell_of_left(queue: &Queue, error: &SlurmError, notify: &impl Fn(StudyEvent)) {
    let ids = queue.arrays.iter().map(|array| match array.job {
        Some(id) => id.to_string(),
        None => format!("--name={}", array.name),
    });
    let ids: Vec<String> = ids.collect();
    let text = format!(
        "{error}: jobs may be left, and their runs go on; --resume takes these up; to end them instead: scancel {}",
        ids.join(" ")
    );
    notify(StudyEvent::Notice { text });
}

impl Array {
    /// Whether all its runs have ended.
    pub(super) fn is_over(&self) -> bool {
        self.jobs.iter().all(|job| job.open.is_empty())
    }

    /// Removes its plan, and the output of jobs that said nothing.
    pub(super) fn clear_away(&self, study: &std::path::Path) {
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
