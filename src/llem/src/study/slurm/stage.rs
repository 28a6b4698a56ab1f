//! From runs that are due to jobs in the queue; and from a dead controller's plans to what is still in it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::array::{ArrayPlan, PlannedTask, SCHEMA_VERSION, plan, rests};
use super::files::{Begun, Staged, write_private};
use super::node::ContainerPlan;
use super::{Array, DIRECTORY, Job, OpenRun, Queue, time_limit};
use crate::config::UserConfig;
use crate::plan::order::PlannedRun;
use crate::result::{JournalEvent, RunId, StoreError};
use crate::runner::slurm::{ArrayRequest, SlurmError, Stage};
use crate::study::attempt::no_such_experiment;
use crate::study::engine::RunEngine;
use crate::study::job::run_spec;
use crate::study::session::Session;
use crate::study::{StudyError, StudyEvent};

impl Session {
    /// Submits the runs whose time has come.
    pub(super) async fn submit_due(
        &mut self,
        queue: &mut Queue,
        notify: &impl Fn(StudyEvent),
    ) -> Result<(), StudyError> {
        let now = Instant::now();
        let (ready, later): (Vec<_>, Vec<_>) = queue.due.drain(..).partition(|(from, _)| *from <= now);
        queue.due = later;
        let runs: Vec<PlannedRun> = ready.into_iter().map(|(_, run)| run).filter(|run| !self.is_settled(run)).collect();
        if runs.is_empty() {
            return Ok(());
        }
        let execution = self.study.execution.clone();
        let config = queue.slurm.config().clone();
        let times = time_limit::times(&self.study, &self.options.output);
        let mut after = None;
        for jobs in plan(&runs, &execution, config.tasks_per_job, queue.most_jobs) {
            if self.options.stop.soft.is_cancelled() {
                break;
            }
            let minutes = time_limit::minutes(&jobs, &times, &execution, &config);
            match self.submit(queue, &jobs, minutes, after).await {
                Ok(job) => {
                    let text = format!("submitted job array {job}: {} jobs of at most {minutes} min", jobs.len());
                    notify(StudyEvent::Notice { text });
                    // The site's limit on jobs at a time is for one array.
                    after = config.max_parallel.map(|_| job);
                }
                // A limit on what a user may have in the queue: there is room when something of it has ended.
                Err(StudyError::Slurm(error @ (SlurmError::Refused { .. } | SlurmError::Silent(_))))
                    if !queue.arrays.is_empty() =>
                {
                    let text = format!("{} jobs wait for room in the queue: {error}", jobs.len());
                    queue.tell_once(text, notify);
                    let again = now + queue.period();
                    queue.due.extend(jobs.into_iter().flatten().map(|run| (again, run)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Stages the runs of an array and submits it; takes everything back when the batch system refuses.
    async fn submit(
        &mut self,
        queue: &mut Queue,
        jobs: &[Vec<PlannedRun>],
        time_limit_minutes: u32,
        after: Option<u64>,
    ) -> Result<u64, StudyError> {
        let name = format!("llem-{:016x}", RandomState::new().build_hasher().finish());
        let directory = self.directory.path().join(DIRECTORY);
        fs_err::create_dir_all(&directory).map_err(StoreError::from)?;
        let plan_file = directory.join(format!("{name}.json"));
        let (plan, staged) = self.stage(&name, jobs)?;
        write_private(&plan_file, &plan, true).map_err(StoreError::from)?;
        let runs = jobs.iter().map(Vec::len).sum();
        self.journal.append(&JournalEvent::ArrayPlanned { name: name.clone(), jobs: jobs.len(), runs })?;
        let request = ArrayRequest {
            name: name.clone(),
            jobs: jobs.len(),
            time_limit_minutes,
            directory: self.directory.path().to_owned(),
            log: directory.join(format!("{name}-%a.log")),
            command: task_command(&plan_file)?,
            after,
        };
        match queue.slurm.submit(&request).await {
            Ok(job) => {
                self.journal.append(&JournalEvent::ArraySubmitted { name: name.clone(), job })?;
                queue.arrays.push(Array { name, plan_file, job: Some(job), jobs: staged });
                Ok(job)
            }
            Err(error) => {
                for open in staged.iter().flat_map(|job| &job.open) {
                    self.take_back(open)?;
                }
                if let SlurmError::Silent(_) = error {
                    // It may have been accepted all the same: its jobs would find nothing to do.
                    let _ = queue.slurm.cancel_named(&name).await;
                }
                let _ = fs_err::remove_file(&plan_file);
                Err(error.into())
            }
        }
    }

    /// Makes the directories of an array's runs, with what a node needs to carry them out.
    fn stage(&mut self, name: &str, jobs: &[Vec<PlannedRun>]) -> Result<(ArrayPlan, Vec<Job>), StudyError> {
        let mut staged = Vec::with_capacity(jobs.len());
        for job in jobs {
            let open: Result<Vec<OpenRun>, StudyError> = job.iter().map(|planned| self.stage_run(*planned)).collect();
            staged.push(Job { open: open?, stage: Stage::Waiting, node: None, over: None });
        }
        let tasks = jobs.iter().zip(&staged).map(|(job, staged)| {
            let rests = rests(job, &self.study.execution);
            let task = |(open, rest_s): (&OpenRun, f64)| PlannedTask { run_id: open.run.to_string(), rest_s };
            staged.open.iter().zip(rests).map(task).collect()
        });
        let plan = ArrayPlan {
            schema_version: SCHEMA_VERSION,
            name: name.to_owned(),
            study: self.directory.path().to_owned(),
            user: UserConfig { cache_dir: Some(self.options.user.cache_root()), ..self.options.user.clone() },
            containers: self
                .fleet
                .elsewhere()
                .map(|elsewhere| ContainerPlan { agent: self.programs.agent.clone(), images: elsewhere.images() }),
            jobs: tasks.collect(),
        };
        Ok((plan, staged))
    }

    fn stage_run(&mut self, planned: PlannedRun) -> Result<OpenRun, StudyError> {
        let experiment = self.study.experiments.get(planned.experiment).ok_or_else(no_such_experiment)?;
        let attempt = self.ledger.next_attempt(planned.number);
        let run = RunId { number: planned.number, experiment: experiment.id.clone(), cycle: planned.cycle, attempt };
        let run_id = run.to_string();
        let directory = self.directory.run(&run_id)?;
        let gpus = experiment.config.gpu_count();
        let context = self.context(planned, &run_id)?;
        let engine = RunEngine::without(&context, ON_NODES);
        let spec = run_spec(&context, &directory, &engine);
        Staged { spec, gpus }.write(&directory).map_err(StoreError::from)?;
        self.ledger.begun(&run);
        Ok(OpenRun { run, planned, begun: false, adopted: false })
    }

    /// Takes back a run that no node has begun; `false` when one has.
    pub(super) fn take_back(&mut self, open: &OpenRun) -> Result<bool, StudyError> {
        let directory = self.directory.files().run(&open.run.to_string());
        let begun = Begun { started: jiff::Timestamp::now().to_string(), slurm: None };
        match begun.claim(&directory) {
            Ok(false) if Begun::read(&directory).is_none_or(|begun| begun.slurm.is_some()) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::from(error).into()),
        }
        crate::files::remove_tree(directory.path()).map_err(StoreError::from)?;
        self.ledger.withdrawn(&open.run);
        Ok(true)
    }

    /// Takes up the arrays that a dead controller left. Runs that it staged and that are in none of them are taken back.
    pub(super) fn adopt_arrays(&mut self, queue: &mut Queue, notify: &impl Fn(StudyEvent)) -> Result<(), StudyError> {
        let open = self.ledger.open_attempts();
        if open.is_empty() {
            return Ok(());
        }
        let (mut ids, mut started) = (HashMap::new(), HashSet::new());
        self.directory.files().read_journal(|event| match event {
            JournalEvent::ArraySubmitted { name, job } => drop(ids.insert(name, job)),
            JournalEvent::RunStarted { run_id, .. } => drop(started.insert(run_id)),
            _ => {}
        })?;
        let mut left: HashMap<String, OpenRun> = HashMap::new();
        for run in open {
            let begun = started.contains(&run.to_string());
            if let Some(planned) = self.planned(run.number) {
                left.insert(run.to_string(), OpenRun { run, planned, begun, adopted: true });
            }
        }
        for (plan_file, plan) in plans(&self.directory.path().join(DIRECTORY)) {
            let job = |runs: &Vec<PlannedTask>| Job {
                open: runs.iter().filter_map(|task| left.remove(&task.run_id)).collect(),
                stage: Stage::Waiting,
                node: None,
                over: None,
            };
            let jobs: Vec<Job> = plan.jobs.iter().map(job).collect();
            if jobs.iter().any(|job| !job.open.is_empty()) {
                queue.arrays.push(Array { job: ids.get(&plan.name).copied(), name: plan.name, plan_file, jobs });
            } else {
                let _ = fs_err::remove_file(plan_file);
            }
        }
        for open in left.into_values() {
            if !self.take_back(&open)? {
                self.directory.files().run(&open.run.to_string()).abandon();
            }
        }
        let runs = queue.arrays.iter().flat_map(|array| &array.jobs).map(|job| job.open.len()).sum::<usize>();
        if runs > 0 {
            let text = format!("going on with {runs} runs that an earlier controller submitted");
            notify(StudyEvent::Notice { text });
        }
        Ok(())
    }
}

/// Why nothing that nodes compile is kept.
pub(in crate::study) const ON_NODES: &str = "runs of the batch system compile for themselves";

/// llem itself, as the node will find it.
fn task_command(plan_file: &Path) -> Result<Vec<String>, StudyError> {
    let own = std::env::current_exe().map_err(StoreError::from)?;
    let text = |path: &Path| path.display().to_string();
    Ok(vec![text(&own), "slurm-task".to_owned(), "--plan".to_owned(), text(plan_file)])
}

/// The plans of a study that are left. What is none is passed over.
fn plans(directory: &Path) -> Vec<(PathBuf, ArrayPlan)> {
    let entries = fs_err::read_dir(directory).into_iter().flatten().flatten();
    let read = |path: PathBuf| {
        let plan: ArrayPlan = serde_json::from_slice(&fs_err::read(&path).ok()?).ok()?;
        (plan.schema_version == SCHEMA_VERSION).then_some((path, plan))
    };
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .filter_map(read)
        .collect()
}
