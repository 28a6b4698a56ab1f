//! One job on its node: carries out its runs, one after the other, and leaves how each ended.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use llem_protocol::{Failure, FailureClass, Phase};
use thiserror::Error;

use super::array::{ArrayPlan, PlannedProgram, PlannedTask, SCHEMA_VERSION};
use super::files::{Begun, Staged, TaskRecord};
use super::node::Node;
use super::node_gpus::{VARIABLE, node_gpus};
use crate::host::HostSnapshot;
use crate::result::{RunDirectory, StudyFiles};
use crate::runner::Stop;
use crate::runner::docker::sha256_of;
use crate::runner::slurm::SlurmRecord;
use crate::study::gpu_claim::GpuClaim;
use crate::study::run::{Attempt, start};
use crate::study::{StudyError, StudyEvent};

/// A job that cannot do its work.
#[derive(Debug, Error)]
pub enum SlurmTaskError {
    /// It was not started by SLURM.
    #[error("{0} is not set: this command is for jobs of SLURM, which `llem run --runner slurm` submits")]
    NoJob(&'static str),
    /// The plan cannot be read.
    #[error(
        "{path}: {problem}; the node must see the study's directory under the same path as the machine that submitted the job"
    )]
    Plan {
        /// The plan.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The program of a node is not that of the study.
    #[error(
        "{}: {problem}; llem was replaced, or the node has other files under this path: go on with the llem that the study began with, or start it anew",
        path.display()
    )]
    Replaced {
        /// The program.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A run could not be carried out at all.
    #[error(transparent)]
    Study(#[from] StudyError),
    /// How a run ended could not be written.
    #[error("run {run_id}: what became of it cannot be written: {source}")]
    Unwritable {
        /// The run.
        run_id: String,
        /// What is wrong.
        source: std::io::Error,
    },
}

/// Carries out the runs of this job, as the array's plan says. What another job, or an earlier start of this one, has begun is left alone.
pub async fn run_slurm_task(plan: &Path, stop: &Stop) -> Result<(), SlurmTaskError> {
    const INDEX: &str = "SLURM_ARRAY_TASK_ID";
    let index = std::env::var(INDEX).ok().and_then(|text| text.parse().ok()).ok_or(SlurmTaskError::NoJob(INDEX))?;
    let plan = read(plan, index)?;
    plan.programs.iter().try_for_each(unchanged)?;
    let place = place(index, &plan);
    let node = Node::find(&plan, &stop.soft).await;
    for task in plan.jobs.get(index).into_iter().flatten() {
        if task.rest_s > 0.0 {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs_f64(task.rest_s)) => {}
                () = stop.soft.cancelled() => {}
            }
        }
        if stop.soft.is_cancelled() {
            break;
        }
        carry_out(&plan, task, node.as_ref(), &place, stop).await?;
    }
    Ok(())
}

fn read(path: &Path, index: usize) -> Result<ArrayPlan, SlurmTaskError> {
    let failed = |problem: String| SlurmTaskError::Plan { path: path.to_owned(), problem };
    let text = fs_err::read(path).map_err(|error| failed(error.to_string()))?;
    let plan: ArrayPlan = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    if plan.schema_version != SCHEMA_VERSION {
        return Err(failed(format!("version {}, expected {SCHEMA_VERSION}", plan.schema_version)));
    }
    if index >= plan.jobs.len() {
        return Err(failed(format!("it has {} jobs, and this is number {index}", plan.jobs.len())));
    }
    Ok(plan)
}

/// Results name the agent of the controller: no other may have measured.
fn unchanged(program: &PlannedProgram) -> Result<(), SlurmTaskError> {
    let PlannedProgram { path, sha256 } = program;
    let problem = match fs_err::read(path) {
        Ok(content) if sha256_of(&content) == *sha256 => return Ok(()),
        Ok(content) => format!("SHA-256 {}, the study was submitted with {sha256}", sha256_of(&content)),
        Err(error) => error.to_string(),
    };
    Err(SlurmTaskError::Replaced { path: path.clone(), problem })
}

/// Where this job is, by its environment.
fn place(index: usize, plan: &ArrayPlan) -> SlurmRecord {
    let variable = |name: &str| std::env::var(name).ok();
    SlurmRecord {
        array_job_id: variable("SLURM_ARRAY_JOB_ID"),
        task: index as u32,
        node: variable("SLURMD_NODENAME"),
        cluster: variable("SLURM_CLUSTER_NAME"),
        partition: variable("SLURM_JOB_PARTITION"),
        node_runner: Node::name(plan).to_owned(),
    }
}

async fn carry_out(
    plan: &ArrayPlan,
    task: &PlannedTask,
    node: Result<&Node<'_>, &Failure>,
    place: &SlurmRecord,
    stop: &Stop,
) -> Result<(), SlurmTaskError> {
    let directory = StudyFiles::of(plan.study.clone()).run(&task.run_id);
    let Some(mut staged) = Staged::read(&directory) else {
        say(&format!("run {} is not asked for any more", task.run_id));
        return Ok(());
    };
    let unwritable = |source| SlurmTaskError::Unwritable { run_id: task.run_id.clone(), source };
    let (started, clock) = (Timestamp::now().to_string(), Instant::now());
    let begun = Begun { started: started.clone(), slurm: Some(place.clone()) };
    let claimed = match begun.claim(&directory) {
        Ok(claimed) => claimed,
        // The controller took it back this moment.
        Err(error) if error.kind() == ErrorKind::NotFound && !directory.path().exists() => {
            say(&format!("run {} is not asked for any more", task.run_id));
            return Ok(());
        }
        Err(error) => return Err(unwritable(error)),
    };
    let mut attempt = if claimed {
        attempt(plan, &mut staged, node, &directory, stop).await?
    } else if is_second_start(&directory, place) {
        Attempt::without_container(restarted())
    } else {
        say(&format!("run {} was begun before, or is not asked for any more", task.run_id));
        return Ok(());
    };
    attempt.outcome.slurm = Some(place.clone());
    let stopped = stop.soft.is_cancelled();
    let window = attempt.collected.report.as_ref().and_then(|report| report.window.as_ref());
    let record = TaskRecord {
        schema_version: SCHEMA_VERSION,
        run_id: task.run_id.clone(),
        nonce: staged.spec.job.nonce.clone(),
        outcome: attempt.outcome,
        stopped,
        gpus: attempt.gpus,
        verdict: attempt.verdict,
        nvidia: attempt.nvidia,
        wait: attempt.wait,
        load: window.map(|window| attempt.load.around(window)).unwrap_or_default(),
        host: HostSnapshot::read(),
        started,
        wall_s: clock.elapsed().as_secs_f64(),
    };
    record.write(&directory).map_err(unwritable)
}

/// Whether this very job began the run before, and did not come to say how it ended: SLURM has started it anew.
fn is_second_start(directory: &RunDirectory, place: &SlurmRecord) -> bool {
    let by = Begun::read(directory).and_then(|begun| begun.slurm);
    by.is_some_and(|by| by.array_job_id == place.array_job_id && by.task == place.task)
        && !TaskRecord::is_there(directory)
}

/// The failure of a run whose node was lost. What it had begun is not gone on with: its files may be of two starts.
fn restarted() -> Failure {
    let message = "its node was lost: the batch system started the job a second time".to_owned();
    Failure { class: FailureClass::NodeLost, phase: Phase::Start, message, log_tail: Vec::new() }
}

/// The run itself, on the GPUs of this job, which no other study on this node uses meanwhile.
async fn attempt(
    plan: &ArrayPlan,
    staged: &mut Staged,
    node: Result<&Node<'_>, &Failure>,
    directory: &RunDirectory,
    stop: &Stop,
) -> Result<Attempt, StudyError> {
    let node = match node {
        Ok(node) => node,
        Err(failure) => return Ok(Attempt::without_container(failure.clone())),
    };
    if let Err(failure) = node.make_ready(&mut staged.spec, &stop.soft).await {
        return Ok(Attempt::without_container(failure));
    }
    let gpus = match node_gpus(&plan.user.gpu, plan.user.slurm.exclusive, staged.gpus) {
        Ok(gpus) => gpus,
        Err(failure) => return Ok(Attempt::without_container(failure)),
    };
    let notify = |event: StudyEvent| {
        if let StudyEvent::Notice { text } = event {
            say(&text);
        }
    };
    let claim = GpuClaim::new(gpus.iter().cloned(), &plan.user.gpu, Vec::new(), &stop.soft);
    let _locks = tokio::select! {
        locks = claim.lock(&notify) => locks?,
        () = stop.soft.cancelled() => Vec::new(),
    };
    if !gpus.is_empty() {
        // Indices mean other GPUs to CUDA than to NVML.
        staged.spec.env.insert(VARIABLE.to_owned(), gpus.join(","));
    }
    staged.spec.job.gpus = gpus;
    start(node.runner(), &staged.spec, directory, plan.user.gpu.when_busy, stop, &notify).await
}

/// A line of the job's output.
pub(super) fn say(text: &str) {
    use std::io::Write;
    // A job without an output file has nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}
