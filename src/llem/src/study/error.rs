//! Why a study could not be carried out.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Differences, LockError, OtherMachine, ProgramsError, WeightsProblems};
use crate::config::Backend;
use crate::host::gpu_lock::{GpuLockError, Holder};
use crate::hub::HubError;
use crate::result::{StoreError, StudyResult};
use crate::runner::apptainer::ApptainerError;
use crate::runner::docker::{EngineError, ImageError, NotShared};
use crate::runner::slurm::SlurmError;
use crate::workload::WorkloadError;

/// Why a study could not be carried out. A run that fails is not an error of the study but part of its result.
#[derive(Debug, Error)]
pub enum StudyError {
    /// The config.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// An image is asked for where there are no containers.
    #[error(
        "`{0}.image` is set, but the `process` runner runs no image: the result would not be about it; remove the key, or start a \
         container engine"
    )]
    ImageWithoutContainer(Backend),
    /// The batch system for a part of a study.
    #[error(
        "backend `{0}` of this study has another runner than `slurm`: the batch system carries out whole studies; use `--runner slurm`, or \
         split the study"
    )]
    HalfOnSlurm(Backend),
    /// The batch system.
    #[error("{0}; finished runs are kept, and `llem run --resume` goes on with jobs that are left")]
    Slurm(#[from] SlurmError),
    /// No image is named for a backend that llem makes none for.
    #[error(
        "backend `{0}` runs in an image, and none is named: set `{0}.image` in the study, or `images: {{{0}: NAME}}` in the user config; \
         or use the `process` runner (`--runner process`), which takes the engine that is installed on this machine"
    )]
    NoImage(Backend),
    /// An image of Apptainer where containers are an engine's.
    #[error(
        "the image of backend `{backend}`, `{image}`, is a file for Apptainer, and its runner is `docker`: name an image of the engine, or use \
         `--runner apptainer`"
    )]
    FileInEngine {
        /// The backend.
        backend: Backend,
        /// The path.
        image: String,
    },
    /// Apptainer or one of its images.
    #[error(transparent)]
    Apptainer(#[from] ApptainerError),
    /// The container engine lacks images.
    #[error(transparent)]
    MissingImages(#[from] crate::preflight::MissingImages),
    /// The files of a driver cannot be laid into the cache.
    #[error("the driver's files cannot be written to {}: {source}; set `cache_dir` in the user config", directory.display())]
    DriverUnwritable {
        /// Where they should be.
        directory: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
    /// Requests that the model cannot hold.
    #[error(
        "workload of experiment {experiment}: its longest request has {tokens} tokens with its output, the model holds \
         {positions}; shorten `workload.input_tokens` or `workload.output_tokens`"
    )]
    TooLong {
        /// The experiment.
        experiment: String,
        /// Prompt and output of the longest request.
        tokens: u64,
        /// Positions of the model.
        positions: u64,
    },
    /// Weights that a container would not see.
    #[error(
        "{} is a link to {}, which containers do not see; copy the files (`cp -rL`), or mount the directory with the files at the same \
         place (`mounts` in the user config)", link.display(), target.display()
    )]
    LinkOutside {
        /// The link.
        link: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A directory that no container can be given.
    #[error(transparent)]
    NotShared(#[from] NotShared),
    /// llem's own binaries.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// Weights that have no commit and cannot be read to the end.
    #[error("the weights cannot be identified: {0}")]
    UnreadableWeights(std::io::Error),
    /// The list of workloads of a bundle.
    #[error("the workloads of the bundle cannot be read: {0}")]
    PackedWorkloads(std::io::Error),
    /// The lock file.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The container engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The hub's settings.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Models, adapters or draft models.
    #[error(transparent)]
    Weights(WeightsProblems),
    /// A mount of the user config would let containers write to weights.
    #[error(
        "`mounts` of the user config lets containers write to {}, where the study's weights are ({}): set `read_only: true` there",
        mount.display(),
        weights.display()
    )]
    WritableWeights {
        /// The directory of the weights.
        weights: PathBuf,
        /// The mount's directory on this machine.
        mount: PathBuf,
    },
    /// Runs cannot be kept to the processors that the user config names.
    #[error("{0}; correct `cpus` of the user config; nothing was started")]
    Cpus(String),
    /// GPUs do not get into containers.
    #[error("{0}")]
    Gpus(String),
    /// A directory or device node that containers are to see.
    #[error("`{key}` of the user config has {}, which is not on this machine; correct it; nothing was started", path.display())]
    AbsentSource {
        /// The setting.
        key: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Where no study directory can be made.
    #[error(
        "results go to {}, and {} cannot be written: {source}; allow it, or name another directory with --output; nothing was started",
        output.display(), existing.display()
    )]
    ReadOnlyOutput {
        /// Where study directories would be made.
        output: PathBuf,
        /// The part of its path that is there.
        existing: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A disk without room.
    #[error("{0}; make room, or name another directory, then run the study again")]
    NoSpace(String),
    /// A workload.
    #[error("workload of experiment {experiment}: {source}")]
    Workload {
        /// The experiment.
        experiment: String,
        /// What is wrong.
        source: Box<WorkloadError>,
    },
    /// Results cannot be written. What was finished before is on disk.
    #[error("results cannot be written: {0}; fix that, then go on with --resume")]
    Store(StoreError),
    /// The disk is full, or a run could not write to it. What was finished before is kept.
    #[error(
        "results cannot be written: {problem}; {} free on the file system of {}: free space or fix the permissions, then go on with \
         `llem run --resume {}`",
        bytes(*free_bytes), directory.display(), directory.display()
    )]
    Unwritable {
        /// What could not be written, and why.
        problem: String,
        /// Bytes that this user may still write there, where that is known.
        free_bytes: Option<u64>,
        /// The study's directory.
        directory: PathBuf,
    },
    /// A study that cannot be opened.
    #[error("the study cannot go on: {0}")]
    NotOpened(StoreError),
    /// The config is not that of the study that it shall go on with.
    #[error("{0}")]
    Changed(Box<Differences>),
    /// A study cannot go on with another runner.
    #[error(
        "the study in {} ran with runner {had}, here it would be {has}, and its figures could not be compared: make runner {had} \
         available, or run it as a new study", directory.display()
    )]
    OtherRunner {
        /// The study's directory.
        directory: PathBuf,
        /// What it ran with.
        had: String,
        /// What there is now.
        has: String,
    },
    /// Further runs of a study would be of another machine, or with other corrections, than those that it has.
    #[error(
        "the study in {} was measured with what is not there now, and figures of further runs could not be compared with those that it \
         has; nothing was started:\n{}\nput it back (machine, user config), or run it as a new study", directory.display(),
        differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    )]
    OtherMachine {
        /// The study's directory.
        directory: PathBuf,
        /// Every difference.
        differences: Vec<OtherMachine>,
    },
    /// Another study has a GPU, and the user config says not to wait.
    #[error(
        "GPU {gpu} is in use by {holder}, and `gpu.when_busy` of the user config says not to wait; nothing was started"
    )]
    GpuInUse {
        /// UUID of the GPU.
        gpu: String,
        /// Who has it.
        holder: Holder,
    },
    /// Somebody computes on the study's GPUs, and the user config says not to wait.
    #[error(
        "the GPUs of the study are not free: {processes}; `gpu.when_busy` of the user config says not to wait; nothing was started; end \
         these processes (`nvidia-smi` lists them), or set `gpu.when_busy: wait`"
    )]
    GpuBusy {
        /// The processes, in words.
        processes: String,
    },
    /// GPUs cannot be locked.
    #[error("{0}; set `gpu.lock_dir` in the user config to a directory that all users of the machine may write to")]
    GpuLock(#[from] GpuLockError),
    /// Nothing works any more.
    #[error(
        "the last {runs} runs failed one after the other, so that the study was stopped (`execution.max_consecutive_failures`); the logs \
         are in {}: mend what they name, then go on with `llem run --resume {}`", directory.join("runs").display(), directory.display()
    )]
    TooManyFailures {
        /// Failed runs in a row.
        runs: u32,
        /// The study's directory.
        directory: PathBuf,
    },
    /// The study ended before its plan did.
    #[error("{cause}")]
    Halted {
        /// Why.
        cause: Box<Self>,
        /// What was measured until then; it is on disk.
        result: Box<StudyResult>,
    },
    /// The study was stopped before its first run.
    #[error("stopped before the first run")]
    Stopped,
    /// The container engine went away; further runs have no place.
    #[error(
        "the container engine stopped answering during run {run_id}; finished runs are in {directory}; \
         containers that may be left are removed at the next start of llem; `llem run --resume {directory}` goes on"
    )]
    EngineLost {
        /// The run.
        run_id: String,
        /// The study's directory.
        directory: PathBuf,
    },
    /// A thread of llem itself died.
    #[error("an internal task ended early: {0}")]
    Task(String),
}

impl StudyError {
    /// Whether the study file or the user config has to change before another try can help.
    pub fn is_config(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::ImageWithoutContainer(_)
            | Self::NoImage(_)
            | Self::HalfOnSlurm(_)
            | Self::FileInEngine { .. }
            | Self::NotShared(_)
            | Self::WritableWeights { .. }
            | Self::LinkOutside { .. }
            | Self::Changed(_)
            | Self::NotOpened(StoreError::NoStudy(_))
            | Self::TooLong { .. } => true,

            Self::Apptainer(error) => error.is_config(),
            Self::Weights(problems) => problems.is_config,
            Self::Workload { source, .. } => source.is_config(),
            _ => false,
        }
    }
}

impl From<StoreError> for StudyError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Held { .. } | StoreError::NoStudy(_) => Self::NotOpened(error),
            other => Self::Store(other),
        }
    }
}

impl StudyError {
    /// Says how much space is left, where there was too little.
    pub(super) fn with_space(self, directory: &Path) -> Self {
        match self {
            Self::Store(error) if error.is_full() => Self::full(error.to_string(), directory.to_owned()),
            other => other,
        }
    }

    /// A run could not write its results.
    pub(super) fn unwritable(run_id: &str, directory: PathBuf) -> Self {
        Self::full(format!("run {run_id} could not write its own"), directory)
    }

    pub(super) fn full(problem: String, directory: PathBuf) -> Self {
        let space = rustix::fs::statvfs(&directory).ok();
        let free_bytes = space.map(|space| space.f_bavail.saturating_mul(space.f_frsize));
        Self::Unwritable { problem, free_bytes, directory }
    }
}

fn bytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "an unknown number of bytes is".to_owned(), |bytes| format!("{bytes} bytes are"))
}
