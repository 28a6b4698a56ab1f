//! One run of a session: its attempts, and those that a dead controller left.

use std::time::Duration;

use llem_protocol::{Failure, ReasonCode};

use super::ledger::{self, run_finished};
use super::policy::{is_infrastructure, is_out_of_memory, wait_before};
use super::prepare::blocking;
use super::resume::container_names;
use super::run::{self, Ended, RunContext, carry_out};
use super::session::Session;
use super::{StudyError, StudyEvent};
use crate::plan::order::PlannedRun;
use crate::result::{JournalEvent, RunId, RunRow};
use crate::runner::docker::Survivor;
use crate::runner::end_left_process;

impl Session {
    /// Carries out one run, again where the machine failed and not the run, and gives the row of its last attempt.
    pub(super) async fn one(
        &mut self,
        planned: PlannedRun,
        notify: &impl Fn(StudyEvent),
    ) -> Result<RunRow, StudyError> {
        let mut retries = 0;
        loop {
            let row = self.attempt(planned, notify).await?;
            if !self.can_retry(&row, &mut retries, notify).await {
                self.judge_size(planned, &row, &|_| false, notify)?;
                return Ok(row);
            }
        }
    }

    /// Waits until a run that the machine failed can be tried again; false when it cannot. An engine that is not back by then costs one
    /// of the retries, as an attempt on it would have.
    async fn can_retry(&self, row: &RunRow, retries: &mut u32, notify: &impl Fn(StudyEvent)) -> bool {
        while let Some(pause) = self.again(row, *retries, notify) {
            *retries += 1;
            self.pause(pause, notify).await;
            if !self.options.stop.soft.is_cancelled() && self.engine_is_back().await {
                return true;
            }
        }
        false
    }

    /// The wait before another attempt, where the machine failed and not the run, and it was not tried often enough yet.
    pub(super) fn again(&self, row: &RunRow, retries: u32, notify: &impl Fn(StudyEvent)) -> Option<Duration> {
        let execution = &self.study.execution;
        let is_last = retries >= execution.max_retries || self.options.stop.soft.is_cancelled();
        if is_last || !is_infrastructure(row) {
            return None;
        }
        let pause = wait_before(retries + 1, execution);
        let text = format!(
            "{}: {}; attempt {} of {} in {} s",
            row.run_id,
            row.failure.as_ref().map_or_else(|| "a power sensor was lost".to_owned(), short),
            retries + 2,
            execution.max_retries + 1,
            pause.as_secs_f64().round()
        );
        notify(StudyEvent::Notice { text });
        Some(pause)
    }

    /// One attempt, from its directory to its line in the journal.
    async fn attempt(&mut self, planned: PlannedRun, notify: &impl Fn(StudyEvent)) -> Result<RunRow, StudyError> {
        let experiment = self.study.experiments.get(planned.experiment).ok_or_else(no_such_experiment)?;
        let run = RunId {
            number: planned.number,
            experiment: experiment.id.clone(),
            cycle: planned.cycle,
            attempt: self.ledger.next_attempt(planned.number),
        };
        let run_id = run.to_string();
        self.journal.append(&JournalEvent::RunStarted {
            run_id: run_id.clone(),
            experiment_id: experiment.id.clone(),
            cycle: planned.cycle,
        })?;
        notify(StudyEvent::RunStarted {
            number: planned.number,
            run_id: run_id.clone(),
            label: experiment.label.clone(),
            cycle: planned.cycle,
        });
        self.ledger.begun(&run);
        let ended = Box::pin(carry_out(&self.context(planned, &run_id)?, notify)).await?;
        self.keep(&run, ended, notify)
    }

    /// Takes the result of an attempt into journal and ledger.
    pub(super) fn keep(
        &mut self,
        run: &RunId,
        ended: Ended,
        notify: &impl Fn(StudyEvent),
    ) -> Result<RunRow, StudyError> {
        let Ended { row, directory, file, wall_s } = ended;
        self.journal.append(&run_finished(run, &row, &file))?;
        let failure = row.failure.as_ref().map(|failure| failure.class);
        self.ledger.finished(ledger::Ended { run: run.clone(), status: row.status, failure, file: Some(file) });
        notify(StudyEvent::RunFinished { number: run.number, row: Box::new(row.clone()), directory, wall_s });
        self.tell(&row, notify);
        Ok(row)
    }

    /// What a run needs, with its name.
    pub(super) fn context<'a>(&'a self, planned: PlannedRun, run_id: &'a str) -> Result<RunContext<'a>, StudyError> {
        let experiment = self.study.experiments.get(planned.experiment).ok_or_else(no_such_experiment)?;
        let prepared = self.prepared.get(planned.experiment).ok_or_else(no_such_experiment)?;
        Ok(RunContext {
            run_id,
            cycle: planned.cycle,
            experiment,
            execution: &self.study.execution,
            prepared,
            programs: &self.programs,
            agent_sha256: &self.agent_sha256,
            host: &self.host,
            runner: self.fleet.runner(experiment.config.backend),
            runner_name: self.fleet.runner_name(experiment.config.backend),
            directory: &self.directory,
            user: &self.options.user,
            cache: &self.cache,
            stop: &self.options.stop,
        })
    }

    /// Takes up what a dead controller left: runs whose containers are there are followed to their end and count as if nothing had
    /// happened; the others are cleared up, to be repeated.
    pub(super) async fn take_up(&mut self, notify: &impl Fn(StudyEvent)) -> Result<(), StudyError> {
        let open = self.ledger.open_attempts();
        self.end_left(&open, notify).await?;
        let mut survivors = match self.fleet.docker() {
            Some(docker) => {
                let names = container_names(self.directory.files(), &open);
                docker.survivors(self.directory.lock_path(), &names).await?
            }
            None => Vec::new(),
        };
        for run in open {
            let planned = self.planned(run.number);
            let place = survivors.iter().position(|survivor| survivor.run_id == run.to_string());
            match (planned, place.map(|place| survivors.swap_remove(place))) {
                (Some(planned), Some(survivor)) => self.adopt_or_discard(planned, &run, survivor, notify).await?,
                (_, survivor) => {
                    survivors.extend(survivor);
                    self.directory.files().run(&run.to_string()).abandon();
                }
            }
        }
        self.discard(&survivors, notify).await
    }

    /// Ends what is left of runs without a container of an engine: nobody can read from them any more.
    async fn end_left(&self, open: &[RunId], notify: &impl Fn(StudyEvent)) -> Result<(), StudyError> {
        for run in open {
            let directory = self.directory.files().run(&run.to_string()).path().to_owned();
            let ended = blocking(format!("end of {run}"), notify, move || end_left_process(&directory)).await?;
            if let Some(pid) = ended.map_err(|error| StudyError::Store(error.into()))? {
                let text = format!("{run}: ended process {pid}, which its controller left");
                notify(StudyEvent::Notice { text });
            }
        }
        Ok(())
    }

    async fn adopt_or_discard(
        &mut self,
        planned: PlannedRun,
        run: &RunId,
        survivor: Survivor,
        notify: &impl Fn(StudyEvent),
    ) -> Result<(), StudyError> {
        let run_id = run.to_string();
        let directory = self.directory.files().run(&run_id);
        let Some(job) = directory.read_job().filter(|job| survivor.is_of(job)) else {
            directory.abandon();
            return self.discard(&[survivor], notify).await;
        };
        self.journal.append(&JournalEvent::RunAdopted { run_id: run_id.clone(), container: survivor.id.clone() })?;
        let short = survivor.id.get(..12).unwrap_or(&survivor.id);
        notify(StudyEvent::Notice {
            text: format!("{run_id}: going on with container {short}, which its controller left"),
        });
        let context = self.context(planned, &run_id)?;
        notify(StudyEvent::RunStarted {
            number: planned.number,
            run_id: run_id.clone(),
            label: context.experiment.label.clone(),
            cycle: planned.cycle,
        });
        let docker = self.fleet.docker().ok_or_else(|| StudyError::Task("a container without an engine".to_owned()))?;
        let ended = run::adopt(&context, docker, &survivor, job, notify).await?;
        let row = self.keep(run, ended, notify)?;
        self.judge_size(planned, &row, &|_| false, notify)
    }

    /// Removes containers of this study that are of no use.
    async fn discard(&self, survivors: &[Survivor], notify: &impl Fn(StudyEvent)) -> Result<(), StudyError> {
        let Some(docker) = self.fleet.docker() else { return Ok(()) };
        for survivor in survivors {
            docker.discard(survivor).await?;
            let text = format!("removed the container of {}, which cannot be gone on with", survivor.run_id);
            notify(StudyEvent::Notice { text });
        }
        Ok(())
    }

    /// Whether runs can go on: asks the engine, and clears away what the failed run may have left there.
    async fn engine_is_back(&self) -> bool {
        let Some(docker) = self.fleet.docker() else { return true };
        let Ok(survivors) = docker.survivors(self.directory.lock_path(), &[]).await else { return false };
        for survivor in survivors {
            if docker.discard(&survivor).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Leaves out the other cycles of an experiment that is too large for the machine, but for those that are under way.
    pub(super) fn judge_size(
        &mut self,
        planned: PlannedRun,
        row: &RunRow,
        is_under_way: &dyn Fn(usize) -> bool,
        notify: &impl Fn(StudyEvent),
    ) -> Result<(), StudyError> {
        let Some(class) = row.failure.as_ref().map(|f| f.class).filter(|class| is_out_of_memory(*class)) else {
            return Ok(());
        };
        self.too_large.insert(planned.experiment, class);
        let open = self.left_out_runs(planned.experiment).filter(|run| !is_under_way(run.number));
        let cycles: Vec<u32> = open.map(|run| run.cycle).collect();
        let experiment = self.study.experiments.get(planned.experiment).ok_or_else(no_such_experiment)?;
        if !cycles.is_empty() {
            let name = if experiment.label.is_empty() { &experiment.id } else { &experiment.label };
            let text = format!("{name}: {class}; its other cycles are left out ({})", list(&cycles));
            notify(StudyEvent::Notice { text });
        }
        let experiment_id = experiment.id.clone();
        Ok(self.journal.append(&JournalEvent::ExperimentSkipped { experiment_id, failure: class, cycles })?)
    }

    /// Cycles of an experiment that have no result.
    pub(super) fn left_out(&self, experiment: usize) -> Vec<u32> {
        self.left_out_runs(experiment).map(|run| run.cycle).collect()
    }

    fn left_out_runs(&self, experiment: usize) -> impl Iterator<Item = &PlannedRun> {
        let of_experiment = self.runs.planned.iter().filter(move |run| run.experiment == experiment);
        of_experiment.filter(|run| self.ledger.ended(run.number).is_none())
    }

    pub(super) fn planned(&self, number: usize) -> Option<PlannedRun> {
        let mut all = self.runs.planned.iter().chain(&self.runs.beside);
        all.find(|run| run.number == number).copied()
    }

    /// What is wrong with the machine's config and not with the run, once for all runs.
    fn tell(&mut self, row: &RunRow, notify: &impl Fn(StudyEvent)) {
        for reason in row.reasons.iter().filter(|reason| reason.code == ReasonCode::CalibrationUnmatched) {
            if self.told.insert(reason.message.clone()) {
                notify(StudyEvent::Notice { text: reason.to_string() });
            }
        }
    }
}

pub(super) fn no_such_experiment() -> StudyError {
    StudyError::Task("the plan names an experiment that the study does not have".to_owned())
}

fn short(failure: &Failure) -> String {
    failure.class.what().to_owned()
}

fn list(cycles: &[u32]) -> String {
    cycles.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}
