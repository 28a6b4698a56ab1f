//! SLURM, by its own commands: submits arrays of jobs, asks for their states, cancels them. It knows nothing of studies or results.
//!
//! Only `sbatch`, `squeue`, `scancel` and `scontrol show config` are needed; where accounting is kept, `sacct` tells of jobs that the
//! controller has forgotten. Nothing here waits in a loop: who asks decides how often.

mod command;
mod queue;
mod submit;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::SlurmConfig;
pub use command::SlurmError;
use command::run;
pub use queue::{End, Listed, Stage};

/// The last index of an array on sites that do not tell their own limit, plus one: SLURM's default.
const MAX_ARRAY_SIZE: u32 = 1001;

/// The site's SLURM.
#[derive(Clone, Debug)]
pub struct Slurm {
    config: SlurmConfig,
}

/// Jobs that are submitted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayRequest {
    /// Name of its jobs; no other array has it.
    pub name: String,
    /// Number of jobs.
    pub jobs: usize,
    /// Minutes that each may take.
    pub time_limit_minutes: u32,
    /// Working directory.
    pub directory: PathBuf,
    /// Where each job's output goes; `%a` in the name of the file is its index.
    pub log: PathBuf,
    /// What each job runs, after the site's prologue.
    pub command: Vec<String>,
    /// The job id of an array that has to end first.
    pub after: Option<u64>,
}

/// Where a run was carried out, by the batch system's account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SlurmRecord {
    /// Id of the job array.
    pub array_job_id: Option<String>,
    /// Index of the job in its array.
    pub task: u32,
    /// Name of the node.
    pub node: Option<String>,
    /// Name of the cluster.
    pub cluster: Option<String>,
    /// Partition of the job.
    pub partition: Option<String>,
    /// What carried out the run on the node.
    pub node_runner: String,
}

impl Slurm {
    /// The site as its user describes it.
    pub fn new(config: SlurmConfig) -> Self {
        Self { config }
    }

    /// What the user says of the site.
    pub fn config(&self) -> &SlurmConfig {
        &self.config
    }

    /// Version of SLURM, e.g. `slurm-wlm 22.05.8`, and the most jobs that an array may have. An error where the controller does not answer.
    pub async fn site(&self) -> Result<(String, usize), SlurmError> {
        let text = run("scontrol", &["show", "config"], None).await?;
        let value = |name: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
        };
        let size = value("MaxArraySize").and_then(|text| text.parse().ok()).unwrap_or(MAX_ARRAY_SIZE);
        if size == 0 {
            return Err(SlurmError::NoArrays);
        }
        let version = value("SLURM_VERSION").unwrap_or_else(|| "of unknown version".to_owned());
        // The highest index is one less than the size, and the first is 0.
        Ok((version, size as usize))
    }

    /// Submits an array and gives its job id.
    pub async fn submit(&self, array: &ArrayRequest) -> Result<u64, SlurmError> {
        if array.log.as_os_str().as_encoded_bytes().contains(&b'\\') {
            return Err(SlurmError::Backslash(array.directory.clone()));
        }
        let arguments = submit::arguments(&self.config, array);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let text = run("sbatch", &arguments, Some(submit::script(&self.config, array))).await?;
        submit::job_id(&text).ok_or_else(|| SlurmError::Unreadable { command: "sbatch".to_owned(), text })
    }

    /// How an array of so many jobs would be submitted, for people to read.
    pub fn describe(&self, jobs: usize, time_limit_minutes: u32) -> String {
        let array = ArrayRequest {
            name: "llem-…".to_owned(),
            jobs,
            time_limit_minutes,
            directory: "…".into(),
            log: "…".into(),
            command: Vec::new(),
            after: None,
        };
        let prologue = match self.config.prologue.len() {
            0 => String::new(),
            _ => format!(", after `{}`", self.config.prologue.join("; ")),
        };
        let runs = self.config.tasks_per_job;
        format!(
            "sbatch {}{prologue}; at most {runs} {} a job, carried out by `{}`; one squeue every {} s",
            submit::arguments(&self.config, &array).join(" "),
            if runs == 1 { "run" } else { "runs" },
            self.config.node_runner.name(),
            self.config.poll_seconds
        )
    }

    /// The states of all jobs of arrays with these names that SLURM remembers; one call, whatever their number.
    pub async fn jobs(&self, names: &[&str]) -> Result<Vec<Listed>, SlurmError> {
        let names = format!("--name={}", names.join(","));
        let format = format!("--format={}", queue::FORMAT);
        let text = run("squeue", &["--noheader", "--array", "--states=all", &names, &format], None).await?;
        Ok(queue::parse(&text))
    }

    /// How jobs of an array ended that `squeue` has forgotten, by `sacct`; empty where no accounts are kept.
    pub async fn remembered(&self, job: u64) -> Vec<Listed> {
        let job = format!("--jobs={job}");
        let arguments = ["--noheader", "--parsable2", "--allocations", "--array", &job, queue::ACCOUNT_FORMAT];
        run("sacct", &arguments, None).await.map(|text| queue::parse_accounts(&text)).unwrap_or_default()
    }

    /// Cancels whatever is left of these arrays.
    pub async fn cancel(&self, jobs: &[u64]) -> Result<(), SlurmError> {
        let jobs: Vec<String> = jobs.iter().map(u64::to_string).collect();
        let mut arguments = vec!["--quiet"];
        arguments.extend(jobs.iter().map(String::as_str));
        run("scancel", &arguments, None).await.map(drop)
    }

    /// Cancels jobs of an array.
    pub async fn cancel_some(&self, array: u64, indices: &[usize]) -> Result<(), SlurmError> {
        let jobs: Vec<String> = indices.iter().map(|index| format!("{array}_{index}")).collect();
        let mut arguments = vec!["--quiet"];
        arguments.extend(jobs.iter().map(String::as_str));
        run("scancel", &arguments, None).await.map(drop)
    }

    /// Cancels the jobs of an array whose id is not known.
    pub async fn cancel_named(&self, name: &str) -> Result<(), SlurmError> {
        run("scancel", &["--quiet", &format!("--name={name}")], None).await.map(drop)
    }
}
