//! The machine's configuration: what belongs to a computer, not to a study.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use etcetera::{BaseStrategy, choose_base_strategy};
use llem_protocol::{CpuList, CpuPinning};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backend::Backend;
use super::check::Finding;
use super::energy::{Calibration, Carbon};
use super::problem::{ConfigError, Problem};
use super::rules;
use super::schema::USER;
use super::slurm::{NodeRunner, SlurmConfig};
use super::source::Source;
use super::study::{prune, read_bounded};

/// Where tools look for an access token. llem alone downloads, so that an engine needs none and gets none.
pub(crate) const TOKEN_VARIABLES: [&str; 3] = ["HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"];

/// Names a user configuration in place of the usual file.
const PATH_VARIABLE: &str = "LLEM_CONFIG";

/// How this machine runs experiments. Absent fields are found out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "llem user configuration")]
pub struct UserConfig {
    /// Where engines run.
    pub runner: RunnerKind,
    /// The same for single backends.
    #[schemars(with = "RunnersShape")]
    pub runners: BTreeMap<Backend, RunnerKind>,
    /// Images for experiments that name none: references for container engines, absolute paths of SIF files or sandbox directories for
    /// Apptainer. llem makes an image for `candle` only.
    #[schemars(with = "ImagesShape")]
    pub images: BTreeMap<Backend, String>,
    /// Python that starts a backend's driver, where engines are installed beside the usual one: an absolute path (in the image, or on this
    /// machine for the `process` runner), or a name that is looked up in `PATH`; absent: `python3`, then `python`.
    #[schemars(with = "PythonShape")]
    pub python: BTreeMap<Backend, String>,
    /// How containers get at graphics processors.
    pub gpu: GpuConfig,
    /// Processors that runs are kept to; absent: wherever the kernel puts them.
    pub cpus: CpuConfig,
    /// Directories of this machine that every container sees.
    pub mounts: Vec<Mount>,
    /// Variables for every engine, over those that llem sets (offline mode of the hub's tools, no telemetry). They are written to no
    /// result; `docker inspect` shows them while a run lasts, which is why an access token cannot be one.
    pub env: BTreeMap<String, String>,
    /// Device nodes of this machine that every container may use, e.g. `/dev/infiniband/uverbs0`.
    pub devices: Vec<String>,
    /// Linux capabilities added to every container, e.g. `SYS_NICE`.
    pub cap_add: Vec<String>,
    /// Directory for models and other things that are made or fetched once; absent: the XDG cache directory.
    pub cache_dir: Option<PathBuf>,
    /// Directory of compiled engines; several machines may share it. Absent: `engine-cache` of a checkout when llem runs from one, else
    /// of the cache directory.
    pub engine_cache_dir: Option<PathBuf>,
    /// Gigabytes (10^9 bytes) that it may hold; entries that were not used for longest go first. Absent: no limit.
    #[schemars(range(min = 0.001, max = 1_000_000.0))]
    pub engine_cache_max_gb: Option<f64>,
    /// How long a run waits for another that builds the same engine before it builds its own; absent: 3600.
    #[schemars(range(max = 604_800))]
    pub engine_cache_wait_seconds: Option<u32>,
    /// The site's batch system, for the `slurm` runner.
    pub slurm: SlurmConfig,
    /// Address of the Docker daemon, e.g. `unix:///run/user/1000/docker.sock`; absent: `DOCKER_HOST`, then the usual socket.
    pub docker_host: Option<String>,
    /// Corrections of power sensors against an external meter; sensors without one count as sure to ±5 %.
    pub calibration: Vec<Calibration>,
    /// Carbon intensity of the electricity and the site's overhead; absent: CO2 is null.
    pub carbon: Option<Carbon>,
}

/// Where an engine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunnerKind {
    /// In a container when a daemon answers, else as a process.
    #[default]
    Auto,
    /// In a container of its own for each run.
    Docker,
    /// As a process on this machine.
    Process,
    /// As jobs of the site's batch system, SLURM: a whole study or nothing of it.
    Slurm,
    /// In a container of Apptainer's for each run, without a daemon.
    Apptainer,
}

impl RunnerKind {
    /// The name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Docker => "docker",
            Self::Process => "process",
            Self::Slurm => "slurm",
            Self::Apptainer => "apptainer",
        }
    }

    /// Whether it is, or may become, a container engine that answers on a socket.
    pub const fn may_use_engine(self) -> bool {
        matches!(self, Self::Auto | Self::Docker)
    }
}

/// How containers get at graphics processors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GpuConfig {
    /// The mechanism.
    pub access: GpuAccess,
    /// UUIDs of the processors that llem may use; empty: all.
    pub devices: Vec<String>,
    /// What a study does whose processors somebody else is using: another study by its lock, any other process by computing there, before
    /// the first run or before a later one.
    pub when_busy: WhenBusy,
    /// Directory of the locks by which studies keep each other off a processor, the same for all users of the machine; absent:
    /// `/run/lock/llem` where everybody may write to `/run/lock`, else `/tmp/llem-locks`.
    pub lock_dir: Option<PathBuf>,
}

/// The processors of this machine that runs are kept to, as lists such as `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CpuConfig {
    /// Those of the engine and everything that it starts.
    pub engine: Option<String>,
    /// Those of the agent; absent: those of the engine.
    pub agent: Option<String>,
}

impl CpuConfig {
    /// What runs are told; `None` where nothing is asked for.
    pub fn pinning(&self) -> Option<CpuPinning> {
        let list = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<CpuList>().ok());
        let engine = list(&self.engine)?;
        let agent = list(&self.agent).unwrap_or_else(|| engine.clone());
        Some(CpuPinning { engine, agent })
    }
}

/// What a study does whose graphics processors somebody else is using.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenBusy {
    /// It waits and says for whom.
    #[default]
    Wait,
    /// It ends before it has begun; a later run fails (`gpu_busy`) and is tried again as `execution.max_retries` says.
    Refuse,
}

/// The mechanism by which containers get at graphics processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GpuAccess {
    /// The first that the machine offers.
    #[default]
    Auto,
    /// Docker's device request for the `nvidia` driver.
    Nvidia,
    /// The Container Device Interface.
    Cdi,
    /// Device nodes and driver libraries, mounted by llem.
    Devices,
    /// No graphics processors.
    None,
}

impl GpuAccess {
    /// The name in files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Nvidia => "nvidia",
            Self::Cdi => "cdi",
            Self::Devices => "devices",
            Self::None => "none",
        }
    }
}

/// A directory of this machine that containers see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Absolute path on this machine.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Whether the container may not write; absent: `true`.
    #[serde(default = "read_only")]
    pub read_only: bool,
}

const fn read_only() -> bool {
    true
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, transform = super::schema::all_optional)]
#[expect(dead_code, reason = "names the keys of a map in the JSON Schema; never constructed")]
struct RunnersShape {
    candle: RunnerKind,
    pytorch: RunnerKind,
    vllm: RunnerKind,
    tensorrt: RunnerKind,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, transform = super::schema::all_optional)]
#[expect(dead_code, reason = "names the keys of a map in the JSON Schema; never constructed")]
struct ImagesShape {
    candle: String,
    pytorch: String,
    vllm: String,
    tensorrt: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, transform = super::schema::all_optional)]
#[expect(dead_code, reason = "names the keys of a map in the JSON Schema; never constructed")]
struct PythonShape {
    pytorch: String,
    vllm: String,
    tensorrt: String,
}

/// Where Python is looked for unless the user config says.
const INTERPRETERS: [&str; 2] = ["python3", "python"];

impl UserConfig {
    /// What may be the Python of a backend: programs, in the order in which they are tried.
    pub fn interpreters(&self, backend: Option<Backend>) -> Vec<String> {
        let named = backend.and_then(|backend| self.python.get(&backend)).cloned();
        named.map_or_else(|| INTERPRETERS.map(str::to_owned).to_vec(), |python| vec![python])
    }

    /// Where a backend's engine runs, unless `asked` says so for all.
    pub fn runner_of(&self, backend: Backend, asked: Option<RunnerKind>) -> RunnerKind {
        asked.or_else(|| self.runners.get(&backend).copied()).unwrap_or(self.runner)
    }

    /// Whether runs of that kind are in containers of Apptainer, here or on nodes: their images are files.
    pub fn takes_files(&self, kind: RunnerKind) -> bool {
        match kind {
            RunnerKind::Apptainer => true,
            RunnerKind::Slurm => self.slurm.node_runner == NodeRunner::Apptainer,
            RunnerKind::Auto | RunnerKind::Docker | RunnerKind::Process => false,
        }
    }

    /// Where llem keeps what is made or fetched once: `cache_dir`, else `llem` in the XDG cache directory, else, for a user without
    /// a home, a directory of that user under the temporary one.
    pub fn cache_root(&self) -> PathBuf {
        self.cache_dir.clone().unwrap_or_else(|| match choose_base_strategy() {
            Ok(dirs) => dirs.cache_dir().join("llem"),
            Err(_) => std::env::temp_dir().join(format!("llem-cache-{}", rustix::process::getuid().as_raw())),
        })
    }

    /// Reads the file at [`Self::location`]. Without one: the defaults. A file that is named must exist.
    pub fn load() -> Result<Self, ConfigError> {
        Self::location().map_or_else(|| Ok(Self::default()), |path| Self::from_file(&path))
    }

    /// The file that `LLEM_CONFIG` names, else `llem/config.yaml` in the XDG configuration directory when it is there.
    pub fn location() -> Option<PathBuf> {
        let usual = || {
            let path = choose_base_strategy().ok()?.config_dir().join("llem/config.yaml");
            path.exists().then_some(path)
        };
        std::env::var_os(PATH_VARIABLE).map(PathBuf::from).or_else(usual)
    }

    /// Reads one file.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = read_bounded(path).map_err(|error| ConfigError { problems: vec![Problem::new("", error)] })?;
        Self::from_text(path, &text)
    }

    /// Reads a file's text; `path_for_messages` is not read.
    pub fn from_text(path_for_messages: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut source = Source::read(path_for_messages, text, &[]);
        let mut problems = std::mem::take(&mut source.problems);
        problems.extend(prune(&mut source, &USER));
        match Self::deserialize(&source.value) {
            Ok(config) => {
                problems.extend(rules::user(&config).into_iter().map(|finding| source.problem(finding)));
                if problems.is_empty() { Ok(config) } else { Err(ConfigError::new(problems)) }
            }
            Err(_) if !problems.is_empty() => Err(ConfigError::new(problems)),
            Err(error) => Err(ConfigError::new(vec![source.problem(Finding::value("", error.to_string()))])),
        }
    }
}
