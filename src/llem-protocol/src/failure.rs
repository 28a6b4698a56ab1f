use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Phase;

/// Why a run did not finish. Decides what the user is told to do and whether a retry can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The engine asked for more device memory than there is.
    OutOfMemory,
    /// Somebody else computes on the GPU or holds its memory.
    GpuBusy,
    /// The container or machine ran out of main memory and the kernel killed a process.
    HostOutOfMemory,
    /// The model is not where the experiment says, or what is there is damaged.
    ModelMissing,
    /// The model's repository wants an access token or an accepted licence.
    ModelGated,
    /// The engine does not know the model's architecture.
    UnsupportedArchitecture,
    /// The device or engine cannot do the data type, quantisation or feature.
    Unsupported,
    /// The engine refused its settings.
    InvalidConfig,
    /// A Python module or shared library of the engine is missing.
    EngineMissing,
    /// No usable GPU or GPU driver.
    NoGpu,
    /// Communication between devices failed.
    Communication,
    /// A compiled engine does not fit this device or version.
    EngineStale,
    /// The driver program does not exist in the image.
    DriverMissing,
    /// The driver ended before it had said that its engine is imported.
    DiedAtImport,
    /// The driver ended at any later moment.
    DriverCrashed,
    /// A phase took longer than its time-out.
    Timeout,
    /// The driver or agent broke the protocol.
    Protocol,
    /// The driver generated other tokens than asked.
    WrongWork,
    /// The workload file is missing or is not the one that was sent.
    WorkloadCorrupt,
    /// No space or no right to write on the results volume.
    OutputUnwritable,
    /// The agent could not be started in the image.
    AgentMissing,
    /// Something outside llem ended the container, or it ended before the agent had said that it was done or had failed.
    ContainerKilled,
    /// The image does not exist.
    ImageMissing,
    /// The container engine refused the container.
    ContainerRefused,
    /// The container engine stopped answering.
    ContainerEngineLost,
    /// The batch system took the run's node or job away.
    NodeLost,
    /// The run's job reached the batch system's time limit.
    TimeLimit,
    /// The run's job ended and left nothing to say how.
    JobDied,
    /// The run was measured and is not valid, and `execution.strict` does not let that pass.
    NotValid,
    /// The user stopped the run.
    Interrupted,
    /// Nothing of the above.
    Unknown,
}

impl FailureClass {
    /// The name in files and events.
    pub fn code(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(code)) => code,
            _ => format!("{self:?}"),
        }
    }

    /// What happened, as a fragment that fits after "the run failed: ".
    pub const fn what(self) -> &'static str {
        match self {
            Self::OutOfMemory => "the engine ran out of device memory",
            Self::GpuBusy => "another process uses the GPU",
            Self::HostOutOfMemory => "main memory ran out",
            Self::ModelMissing => "the model was not found or is damaged",
            Self::ModelGated => "the model's repository refused access",
            Self::UnsupportedArchitecture => "the engine does not know the model's architecture",
            Self::Unsupported => "the device or engine does not support a setting",
            Self::InvalidConfig => "the engine refused its settings",
            Self::EngineMissing => "a module or library of the engine is missing",
            Self::NoGpu => "the engine found no usable GPU",
            Self::Communication => "communication between devices failed",
            Self::EngineStale => "the compiled engine does not fit this device or version",
            Self::DriverMissing => "the driver program was not found",
            Self::DiedAtImport => "the driver died while importing its engine",
            Self::DriverCrashed => "the driver died",
            Self::Timeout => "a phase took longer than its time-out",
            Self::Protocol => "the driver broke the protocol",
            Self::WrongWork => "the engine did other work than asked",
            Self::WorkloadCorrupt => "the workload file is not the one that was sent",
            Self::OutputUnwritable => "the results volume could not be written",
            Self::AgentMissing => "the agent could not be started",
            Self::ContainerKilled => "the container ended before the agent was done",
            Self::ImageMissing => "the image does not exist",
            Self::ContainerRefused => "the container engine refused the container",
            Self::ContainerEngineLost => "the container engine stopped answering",
            Self::NodeLost => "the batch system took the node or the job away",
            Self::TimeLimit => "the job reached its time limit",
            Self::JobDied => "the job ended without a word",
            Self::NotValid => "the run is not valid",
            Self::Interrupted => "the run was interrupted",
            Self::Unknown => "the run failed for a reason that llem does not know",
        }
    }

    /// What the user can do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::OutOfMemory => {
                "lower the batch size, the sequence length or the precision, or use a device with more memory"
            }
            Self::GpuBusy => "free the GPU (`nvidia-smi` lists its processes) and run the study again",
            Self::HostOutOfMemory => "raise `execution.memory_gib` or use a smaller model",
            Self::ModelMissing => {
                "check `model:`; without network the model must be in the Hugging Face cache or a local directory"
            }
            Self::ModelGated => "accept the licence on the model's page and set HF_TOKEN or run `hf auth login`",
            Self::UnsupportedArchitecture => "use a newer image of this backend or another backend",
            Self::Unsupported => "choose a data type or quantisation that this device and engine version support",
            Self::InvalidConfig => "compare the settings with the engine's version in this image",
            Self::EngineMissing => {
                "use an image that has the engine and, where it compiles, a C and C++ compiler with Python's headers; or install what is missing"
            }
            Self::NoGpu => "check the GPU driver, the container toolkit and `gpu:` in the user config",
            Self::Communication => "check shared memory (`execution.shm_gib`) and the links between the GPUs",
            Self::EngineStale => {
                "llem builds an engine anew that does not load, once; where that does not help, driver.log has the engine's words"
            }
            Self::DriverMissing => {
                "check the image: it must hold the backend's interpreter or driver program; `python` in the user config names an interpreter"
            }
            Self::DiedAtImport => "read the last lines of driver.log below; a module or library is often missing",
            Self::DriverCrashed => "read the last lines of driver.log below",
            Self::Timeout => {
                "raise the phase's limit under `execution.timeouts_s`, or read driver.log for what it was doing"
            }
            Self::Protocol => {
                "the driver and llem are of different versions, or the engine wrote into the driver's channel"
            }
            Self::WrongWork => "the engine's length settings did not hold; the numbers of this run are not used",
            Self::WorkloadCorrupt => "run the study again; the workload is made anew when its file is damaged",
            Self::OutputUnwritable => "free space or fix the permissions of the study directory",
            Self::AgentMissing => "the image must be x86-64 Linux with glibc 2.34 or later",
            Self::ContainerKilled => {
                "somebody or something outside llem killed the container; where retries did not help, run the study again"
            }
            Self::ImageMissing => "get it with `llem image pull`, or build it",
            Self::ContainerRefused => "read the engine's message; GPU access and limits are set in the user config",
            Self::ContainerEngineLost => {
                "restart the container engine, then run the study again; leftovers are removed at the next start"
            }
            Self::NodeLost => {
                "llem tries again as often as `execution.max_retries` says; where that does not help, ask the site what became of the node"
            }
            Self::TimeLimit => {
                "raise `slurm.time_limit_minutes` in the user config, or lower `slurm.tasks_per_job`; then go on with --resume"
            }
            Self::JobDied => {
                "read the job's output in `slurm/` of the study's directory; nodes must see llem, its cache and the study's directory under the same paths"
            }
            Self::NotValid => {
                "do what its reasons say and run it again; without `execution.strict`, it counts as measured"
            }
            Self::Interrupted => "run the study again",
            Self::Unknown => "read agent.log and driver.log of the run",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what())
    }
}

/// A failed run: what happened, where, and what the driver said last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failure {
    /// The class.
    pub class: FailureClass,
    /// The phase in which it happened.
    pub phase: Phase,
    /// One or two sentences with the particulars: exit status, signal, exception and message.
    pub message: String,
    /// The last lines that the driver and its children wrote, at most 200.
    #[serde(default)]
    pub log_tail: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in phase `{}`: {}", self.class, self.phase, self.message)
    }
}
