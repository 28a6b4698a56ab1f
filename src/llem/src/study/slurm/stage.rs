//! From runs that are due to jobs in the queue; and from a dead controller's plans to what is still in it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::array::{ArrayPlan, PlannedProgram, PlannedTask, SCHEMA_VERSION, plan, rests};
use super::files::{Begun, Staged, write_private};
use super::node::ContainerPlan;
use super::{Array, DIRECTORY, Job, OpenRun, Queue, count_of_jobs, time_limit, unless_stopped};
use crate::config::UserConfig;
use crate::plan::order::PlannedRun;
use crate::result::{JournalEvent, RunId, StoreError};
use crate::runner::slurm::{ArrayRequest, SlurmError};
use crate::study::attempt::no_such_experiment;
use crate::study::engine::RunEngine;
use crate::study::job::run_spec;
use crate::study::session::Session;
use crate::study::{Programs, ProgramsError, StudyError, StudyEvent};

/// How long a command of SLURM may still take when the user has stopped the study.
const GRACE: Duration = Duration::from_secs(5);
/// The site is asked again after this time when nothing of the study has ended meanwhile: others may have made room.
const ASK_AGAIN: Duration = Duration::from_secs(300);

impl Session {
    /// Submits the runs whose time has come.
    pub(super) async fn submit_due(
        &mut self,
        queue: &mut Queue,
        notify: &impl Fn(StudyEvent),
    ) -> Result<(), StudyError> {
        let now = Instant::now();
        let open = queue.open_runs();
        if queue.refused.is_some_and(|(was_open, when)| open >= was_open.max(1) && when.elapsed() < ASK_AGAIN) {
            return Ok(());
        }
        queue.refused = None;
        let (ready, later): (Vec<_>, Vec<_>) = queue.due.drain(..).partition(|(from, _)| *from <= now);
        queue.due = later;
        let runs: Vec<PlannedRun> = ready.into_iter().map(|(_, run)| run).filter(|run| !self.is_settled(run)).collect();
        if runs.is_empty() {
            return Ok(());
        }
        let execution = self.study.execution.clone();
        let config = queue.slurm.config().clone();
        let times = time_limit::times(&self.study, &self.options.output);
        let mut arrays: VecDeque<_> = plan(&runs, &execution, config.tasks_per_job, queue.most_jobs).into();
        while let Some(jobs) = arrays.pop_front().filter(|_| !self.options.stop.soft.is_cancelled()) {
            let minutes = time_limit::minutes(&jobs, &times, &execution, &config);
            match self.submit(queue, &jobs, minutes).await {
                Ok(job) => {
                    let text =
                        format!("submitted job array {job}: {} of at most {minutes} min", count_of_jobs(jobs.len()));
                    notify(StudyEvent::Notice { text });
                }
                Err(_) if self.options.stop.soft.is_cancelled() => break,
                Err(StudyError::Slurm(error @ (SlurmError::Refused { .. } | SlurmError::Silent(_)))) => {
                    arrays.push_front(jobs);
                    if !self.goes_on_after(error, queue, &mut arrays, notify).await? {
                        let again = now + queue.period();
                        queue.due.extend(arrays.drain(..).flatten().flatten().map(|run| (again, run)));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What follows when the site did not take the first of `arrays`: whether to go on with them, in smaller parts, or to wait (`false`).
    async fn goes_on_after(
        &self,
        error: SlurmError,
        queue: &mut Queue,
        arrays: &mut VecDeque<Vec<Vec<PlannedRun>>>,
        notify: &impl Fn(StudyEvent),
    ) -> Result<bool, StudyError> {
        let jobs: usize = arrays.iter().map(Vec::len).sum();
        let first = arrays.front().map_or(0, Vec::len);
        if !queue.arrays.is_empty() {
            // A limit on what a user may have in the queue: there is room when something of it has ended.
            queue.refused = Some((queue.open_runs(), Instant::now()));
            queue.tell_once(format!("{} waiting for room in the queue: {error}", count_of_jobs(jobs)), notify);
            return Ok(false);
        }
        let answer = unless_stopped(queue.slurm.site(), &self.options.stop.soft, GRACE).await;
        if !matches!(answer, Some(Ok(_))) {
            queue.tell_once(format!("{} waiting until SLURM answers: {error}", count_of_jobs(jobs)), notify);
            return Ok(false);
        }
        if first <= 1 || matches!(error, SlurmError::Silent(_)) {
            return Err(error.into());
        }
        // The site may have a limit below that on arrays, which it does not tell in advance.
        queue.most_jobs = first.div_ceil(2);
        queue.tell_once(format!("{error}; trying arrays of at most {} jobs", queue.most_jobs), notify);
        let left: Vec<Vec<PlannedRun>> = arrays.drain(..).flatten().collect();
        arrays.extend(left.chunks(queue.most_jobs).map(<[_]>::to_vec));
        Ok(true)
    }

    /// Stages the runs of an array and submits it; takes everything back when the batch system refuses.
    async fn submit(
        &mut self,
        queue: &mut Queue,
        jobs: &[Vec<PlannedRun>],
        time_limit_minutes: u32,
    ) -> Result<u64, StudyError> {
        let name = format!("llem-{:016x}", RandomState::new().build_hasher().finish());
        let directory = self.directory.path().join(DIRECTORY);
        fs_err::create_dir_all(&directory).map_err(StoreError::from)?;
        let plan_file = directory.join(format!("{name}.json"));
        let (plan, staged) = self.stage(queue, &name, jobs)?;
        write_private(&plan_file, &plan, true).map_err(StoreError::from)?;
        let runs = jobs.iter().map(Vec::len).sum();
        self.journal.append(&JournalEvent::ArrayPlanned { name: name.clone(), jobs: jobs.len(), runs })?;
        // The site's limit on jobs at a time is for one array: the newest has to end first, which waits for those before it.
        let newest = queue.arrays.iter().rev().find_map(|array| array.job);
        let request = ArrayRequest {
            name: name.clone(),
            jobs: jobs.len(),
            time_limit_minutes,
            directory: self.directory.path().to_owned(),
            log: directory.join(format!("{name}-%a.log")),
            command: task_command(&queue.program, &plan_file),
            after: newest.filter(|_| queue.slurm.config().max_parallel.is_some()),
        };
        let submitted = unless_stopped(queue.slurm.submit(&request), &self.options.stop.soft, GRACE).await;
        match submitted.unwrap_or_else(|| Err(SlurmError::Silent("sbatch".to_owned()))) {
            Ok(job) => {
                self.journal.append(&JournalEvent::ArraySubmitted { name: name.clone(), job })?;
                queue.arrays.push(Array { name, plan_file, job: Some(job), jobs: staged });
                Ok(job)
            }
            Err(error) => {
                for open in staged.iter().flat_map(|job| &job.open) {
                    self.take_back(open)?;
                }
                if let SlurmError::Silent(_) | SlurmError::Unreadable { .. } = error {
                    // It may have been accepted all the same: its jobs would find nothing to do.
                    let _ = unless_stopped(queue.slurm.cancel_named(&name), &self.options.stop.soft, GRACE).await;
                }
                let _ = fs_err::remove_file(&plan_file);
                Err(error.into())
            }
        }
    }

    /// Makes the directories of an array's runs, with what a node needs to carry them out.
    fn stage(
        &mut self,
        queue: &Queue,
        name: &str,
        jobs: &[Vec<PlannedRun>],
    ) -> Result<(ArrayPlan, Vec<Job>), StudyError> {
        let mut staged = Vec::with_capacity(jobs.len());
        for job in jobs {
            let open: Result<Vec<OpenRun>, StudyError> = job.iter().map(|planned| self.stage_run(*planned)).collect();
            staged.push(Job::new(open?));
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
            programs: queue.programs.clone(),
            containers: self
                .fleet
                .elsewhere()
                .map(|elsewhere| ContainerPlan { agent: self.programs.agent.clone(), images: elsewhere.images() }),
            jobs: tasks.collect(),
        };
        Ok((plan, staged))
    }

    /// The embedded backend's driver is that of an image where nodes make containers.
    pub(super) fn planned_programs(&self) -> Result<Vec<PlannedProgram>, ProgramsError> {
        let Programs { agent, candle, .. } = &self.programs;
        let mut planned = vec![PlannedProgram { path: agent.clone(), sha256: self.agent_sha256.clone() }];
        if self.fleet.elsewhere().is_none() {
            planned.push(PlannedProgram { path: candle.clone(), sha256: self.programs.candle_sha256()? });
        }
        Ok(planned)
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
        // Where nothing is open, plans may be left all the same: their runs had a result when the other controller ended.
        let open = self.ledger.open_attempts();
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
            let job =
                |runs: &Vec<PlannedTask>| Job::new(runs.iter().filter_map(|task| left.remove(&task.run_id)).collect());
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

/// What a job runs.
fn task_command(program: &Path, plan_file: &Path) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    vec![text(program), "slurm-task".to_owned(), "--plan".to_owned(), text(plan_file)]
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
