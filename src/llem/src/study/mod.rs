//! Carries out a study: prepares everything, runs the plan, keeps what it measured.

mod attempt;
mod bundle;
mod conclude;
mod cpus;
mod difference;
mod drivers;
mod engine;
mod error;
mod event;
mod fleet;
mod forecast;
mod gpu_claim;
mod gpus;
mod images;
mod job;
mod judge;
mod ledger;
mod links;
mod lock;
mod machine;
mod policy;
mod prepare;
mod programs;
mod references;
mod resume;
mod run;
#[cfg(test)]
mod scale;
mod session;
mod slurm;

use std::path::PathBuf;

use tokio::sync::mpsc::UnboundedSender;

pub use bundle::*;
pub use difference::{ChangedValue, Differences};
pub use engine::{Effort, EngineLookup, look_up_engines};
pub use error::StudyError;
pub use event::StudyEvent;
pub use forecast::{DiskForecast, ExperimentForecast, Forecast, ForecastOptions, PlannedGpus, WeightsForecast};
pub use images::look_at_file;
pub use lock::{Drift, LOCK_SCHEMA_VERSION, LockError, LockedImage, LockedPrograms, LockedWeights, StudyLock};
pub use machine::OtherMachine;
pub use programs::{Programs, ProgramsError};
pub use references::WeightsProblems;
pub use resume::{ResumeError, find_resumable, study_of};
pub use session::run_study;
pub use slurm::{SlurmPlan, SlurmTaskError, run_slurm_task, slurm_plan};

use crate::config::{ExecutionConfig, ExperimentConfig, RunnerKind, StudyConfig, UserConfig};
use crate::result::ExperimentResult;
use crate::runner::Stop;

/// How a study is carried out on this machine.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Directory that study directories are made in.
    pub output: PathBuf,
    /// Directory of a study to go on with, instead of a new one.
    pub resume: Option<PathBuf>,
    /// Runner for all backends, whatever the user config says.
    pub runner: Option<RunnerKind>,
    /// The machine's settings.
    pub user: UserConfig,
    /// The agent and the embedded driver; absent: beside the running program.
    pub programs: Option<Programs>,
    /// Lock file that the study must be as; absent: whatever is found is run.
    pub locked: Option<PathBuf>,
    /// Receives what happens.
    pub events: Option<UnboundedSender<StudyEvent>>,
    /// Stops the study.
    pub stop: Stop,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            output: PathBuf::from("results"),
            resume: None,
            runner: None,
            user: UserConfig::default(),
            programs: None,
            locked: None,
            events: None,
            stop: Stop::default(),
        }
    }
}

/// Measures one experiment: all its cycles, in a study directory of its own.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use llem::config::{Profile, StudyConfig};
/// use llem::study::{RunOptions, run_experiment};
///
/// let study = StudyConfig::from_file("examples/quickstart.yaml".as_ref(), &[], Profile::Standard)?;
/// let experiment = study.experiments[0].config.clone();
/// let result = run_experiment("one", experiment, study.execution, RunOptions::default()).await?;
/// println!("{:?} tokens/s", result.summary.output_tokens_per_s);
/// # Ok(())
/// # }
/// ```
pub async fn run_experiment(
    name: &str,
    experiment: ExperimentConfig,
    execution: ExecutionConfig,
    options: RunOptions,
) -> Result<ExperimentResult, StudyError> {
    let study = StudyConfig::single(name, experiment, execution)?;
    let mut result = run_study(study, options).await?;
    result.experiments.pop().ok_or_else(|| StudyError::Task("the study has no experiment".to_owned()))
}
