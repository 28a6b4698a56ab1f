//! Runners: where an agent lives while it measures.
//!
//! A runner starts one agent for one run, hands its events on, enforces the limits that the agent cannot enforce on itself, and
//! leaves nothing behind. It knows nothing of studies or results.

pub mod apptainer;
pub mod docker;
mod follow;
mod gpu;
mod inside;
mod left;
mod offline;
mod process;
pub mod slurm;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use llem_protocol::{DriverCommand, Event, Failure, FailureClass, Job, Phase};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

pub use apptainer::ApptainerRunner;
pub use docker::DockerRunner;
use docker::{ImageFacts, ImageVersions};
pub use gpu::{Gpu, host_gpus};
pub use left::end_left_process;
pub use process::ProcessRunner;
use slurm::SlurmRecord;

/// How long the agent may take to close a run after it was told to stop.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Silence that is allowed beyond an agent's own time-out before the agent itself counts as hung.
const AGENT_GRACE: Duration = Duration::from_secs(30);

/// Starts agents, one per run.
pub trait Runner: Send + Sync {
    /// The name in results and messages.
    fn kind(&self) -> &'static str;

    /// Whether runs live in images.
    fn has_images(&self) -> bool;

    /// Where agent and driver will find the run's files.
    fn places(&self, files: &HostFiles) -> Places;

    /// Carries out one run to its end, whatever the end is. Returns after everything that was started is gone.
    fn run<'a>(&'a self, spec: &'a RunSpec, events: &'a EventSink, stop: &'a Stop) -> BoxFuture<'a, RunOutcome>;
}

/// Receives the agent's events in order.
pub type EventSink = UnboundedSender<Event>;

/// The files of a run on this machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostFiles {
    /// Directory that the agent writes to.
    pub output_dir: PathBuf,
    /// The tokenised workload.
    pub workload: PathBuf,
    /// Directory of the model, unless the engine gets it from the hub.
    pub model_dir: Option<PathBuf>,
    /// Directory of the LoRA adapter.
    pub adapter_dir: Option<PathBuf>,
    /// Directory of the model that drafts tokens.
    pub draft_dir: Option<PathBuf>,
    /// The agent's binary.
    pub agent: PathBuf,
    /// The backend's driver.
    pub driver: DriverFiles,
    /// A compiled engine, or the place of one that is to be built.
    pub engine: Option<EngineMount>,
}

/// The directory of a compiled engine on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineMount {
    /// The directory.
    pub dir: PathBuf,
    /// Whether the run may only read it.
    pub read_only: bool,
}

/// A backend's driver on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DriverFiles {
    /// A binary.
    Program(PathBuf),
    /// Scripts of one directory.
    Scripts {
        /// The directory.
        directory: PathBuf,
        /// The files in it; the first is the one that is started.
        names: Vec<String>,
        /// What starts it: programs to try in order, as the image or, without one, this machine has them.
        interpreters: Vec<String>,
    },
}

/// The same files as agent and driver see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Directory that the agent writes to.
    pub output_dir: PathBuf,
    /// The tokenised workload.
    pub workload: PathBuf,
    /// Directory of the model.
    pub model_dir: Option<PathBuf>,
    /// Directory of the LoRA adapter.
    pub adapter_dir: Option<PathBuf>,
    /// Directory of the model that drafts tokens.
    pub draft_dir: Option<PathBuf>,
    /// Directory of the compiled engine.
    pub engine_dir: Option<PathBuf>,
    /// How the driver is started.
    pub driver: DriverCommand,
    /// The kernel's RAPL zones, where the machine has them.
    pub powercap: Option<PathBuf>,
}

/// One run, as a runner sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunSpec {
    /// Study identity for labels.
    pub study_id: String,
    /// Lock file that the controller holds while the study is alive; tells orphans from the containers of others.
    pub study_lock: PathBuf,
    /// Image to run in; ignored where there are no images.
    pub image: String,
    /// The files on this machine.
    pub files: HostFiles,
    /// What the agent is given, with the paths of [`Runner::places`].
    pub job: Job,
    /// The job's file on this machine.
    pub job_file: PathBuf,
    /// Environment variables that the machine's owner adds; never written to a result.
    pub env: BTreeMap<String, String>,
    /// What the container may use.
    pub limits: Limits,
    /// What is known about the image, where it was probed. A run with a compiled engine is for exactly this image.
    #[serde(skip)]
    pub facts: Option<Arc<ImageFacts>>,
}

/// What a container may use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Main memory in bytes; swap is not added.
    pub memory_bytes: Option<u64>,
    /// Size of `/dev/shm` in bytes.
    pub shm_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
}

/// Both stages of stopping.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Ask the agent to end the run and write what it has.
    pub soft: CancellationToken,
    /// Kill at once.
    pub hard: CancellationToken,
}

/// How a run ended, as its runner saw it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunOutcome {
    /// Digest of the report, from the agent's last event. Present only when the agent says that all went well.
    pub report_sha256: Option<String>,
    /// What failed, by the agent's or the runner's account.
    pub failure: Option<Failure>,
    /// What the agent wrote beside its events, bounded.
    #[serde(skip)]
    pub agent_log: Vec<u8>,
    /// The container, where there was one.
    pub container: Option<ContainerRecord>,
    /// Where the batch system had it carried out.
    pub slurm: Option<SlurmRecord>,
    /// The agent's process on this machine, or the one that it descends from, where llem itself started it.
    pub agent_pid: Option<u32>,
    /// Things that the user should know although the run went on.
    pub warnings: Vec<String>,
    /// Whether the run's container may still be there, because the engine did not confirm its removal.
    pub container_left: bool,
}

/// What a result says about its container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerRecord {
    /// The engine's id of the container; where Apptainer made it, the id of its first process on the host.
    pub id: String,
    /// Image reference as asked for.
    pub image: String,
    /// Content id of the image (`sha256:…`); of a SIF file or a sandbox directory, the SHA-256 of its content.
    pub image_id: String,
    /// Registry digests of the image (`repo@sha256:…`); empty for an image that never was in a registry.
    pub image_digests: Vec<String>,
    /// What a SIF file was made from, as `llem image export` recorded it; null for other images.
    #[serde(default)]
    pub image_source: Option<ImageSource>,
    /// Labels of the image.
    #[serde(default)]
    pub image_labels: BTreeMap<String, String>,
    /// Versions of what is in the image, as its files tell; null where it was not probed.
    #[serde(default)]
    pub image_versions: Option<ImageVersions>,
    /// Whether agent and driver are files of the image, the same as would have been copied into it.
    #[serde(default)]
    pub baked: bool,
    /// Version of the container engine.
    pub engine_version: String,
    /// How GPUs were handed over.
    pub gpu_access: String,
    /// Exit status of the agent.
    pub exit_code: Option<i64>,
    /// Whether the kernel killed a process of the container for lack of memory.
    pub oom_killed: bool,
}

/// What an image of another form was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ImageSource {
    /// The image reference, the archive or the definition file.
    pub reference: String,
    /// Content id of the image (`sha256:…`), as container engines give it; of a definition file, the SHA-256 of its text.
    pub id: String,
    /// Registry digests of the image.
    pub digests: Vec<String>,
}

/// A command without variables of its own.
fn driver_command(programs: Vec<String>, args: Vec<String>) -> DriverCommand {
    DriverCommand { programs, args, env: BTreeMap::new() }
}

/// A failure that the runner itself saw.
fn runner_failure(class: FailureClass, phase: Phase, message: impl Into<String>) -> Failure {
    Failure { class, phase, message: message.into(), log_tail: Vec::new() }
}

/// An agent that was stopped without the user's having asked for it was stopped by somebody else, e.g. a container engine that shuts down.
fn unasked(told: Failure, stop: &Stop) -> Failure {
    if told.class != FailureClass::Interrupted || stop.soft.is_cancelled() {
        return told;
    }
    Failure { class: FailureClass::ContainerKilled, message: format!("stopped from outside: {}", told.message), ..told }
}
