//! Starts an image once to see what is in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{ContainerCreateBody, Mount};
use bytes::Bytes;
use fs_err::File;
use futures_util::StreamExt;
use llem_protocol::{Message, VisibleGpus};
use tokio_util::sync::CancellationToken;

use super::archive::Archive;
use super::client::{Engine, EngineError};
use super::facts::{AgentStart, Answer, ImageFacts};
use super::image::ImageError;
use super::neighbour::HostPaths;
use super::spec::{GpuPlan, confinement, device_requests, gpu_devices, machine_mounts, on_host, visible_devices};
use super::{BindMount, LABEL_IMAGE, LABEL_LOCK, LABEL_RUN, LABEL_STUDY, container_user};
use crate::runner::inside::CANDLE_DRIVER;
use crate::runner::{Gpu, Limits};

/// The script that looks around.
pub(crate) const SCRIPT: &str = include_str!("../../../../../images/common/llem_probe.py");

/// What precedes its answer.
const MARK: &str = "llem-probe ";

/// Where the script and the agent are put: not where an image that was made for llem has its own.
pub(in crate::runner) const SCRIPT_PLACE: &str = "/llem-probe/llem_probe.py";
pub(in crate::runner) const AGENT_PLACE: &str = "/llem-probe/agent";

/// Output of a probe that is read, in bytes.
pub(in crate::runner) const OUTPUT_BYTES: usize = 1024 * 1024;

/// How long a probe may take. Images of tens of gigabytes start slowly.
pub(in crate::runner) const TIMEOUT: Duration = Duration::from_secs(120);

/// What a probe's container may use.
const LIMITS: Limits = Limits { memory_bytes: Some(1 << 30), shm_bytes: 1 << 20, pids: 64 };

/// How an image is probed.
#[derive(Clone, Debug)]
pub struct ProbeSpec<'a> {
    /// Image reference.
    pub reference: &'a str,
    /// Programs that may be its Python, in the order in which they are tried.
    pub interpreters: &'a [String],
    /// llem's agent on this machine.
    pub agent: &'a Path,
    /// Directories that the machine's owner adds to every container: the engine may be in one.
    pub mounts: &'a [BindMount],
    /// Variables that the machine's owner sets for engines: they may say where an engine is.
    pub env: &'a BTreeMap<String, String>,
}

/// Adds to what the engine tells of an image what is in it: in a container as confined as that of a run, with what the machine's owner
/// adds to every container, without network or graphics processors. Whatever happens, the container is removed; `stop` cuts it short.
///
/// # Errors
///
/// The engine cannot do it, or the image does not answer in time. An image without Python is no error: [`ImageFacts::problem`] says so.
pub async fn probe(
    engine: &Engine,
    image: ImageFacts,
    spec: &ProbeSpec<'_>,
    stop: &CancellationToken,
) -> Result<ImageFacts, ImageError> {
    look_around(&Room::new(engine, spec, stop).await?, image, spec.interpreters).await
}

/// Where the commands of a probe are run: in containers, each in one of its own.
pub(in crate::runner) trait ProbeRoom {
    /// The stdout of a command, or why the image cannot run it.
    async fn command(&self, command: &[&str]) -> Result<Result<String, String>, ImageError>;

    /// How the agent starts.
    async fn agent(&self) -> Result<AgentStart, ImageError> {
        Ok(match self.command(&[AGENT_PLACE, "--version"]).await? {
            Ok(text) if text.trim().is_empty() => {
                AgentStart { version: None, problem: Some("it wrote nothing".to_owned()) }
            }
            Ok(text) => AgentStart { version: Some(text.trim().to_owned()), problem: None },
            Err(problem) => AgentStart { version: None, problem: Some(problem) },
        })
    }
}

/// Adds to `facts` what is in an image, with the script and the agent at their places in `room`.
pub(in crate::runner) async fn look_around(
    room: &impl ProbeRoom,
    mut facts: ImageFacts,
    interpreters: &[String],
) -> Result<ImageFacts, ImageError> {
    if facts.labels.get(LABEL_IMAGE).is_some_and(|backend| backend == "candle") {
        facts.agent = room.agent().await?;
        facts.embedded = room.command(&[CANDLE_DRIVER]).await?.ok().and_then(|text| text.lines().find_map(hello));
        return Ok(facts);
    }
    let mut problems = Vec::new();
    for interpreter in interpreters {
        match room.command(&[interpreter, SCRIPT_PLACE, AGENT_PLACE]).await?.and_then(|text| answer(&text)) {
            Ok(answer) => {
                facts.add(answer);
                return Ok(facts);
            }
            Err(problem) => problems.push(format!("`{interpreter}`: {problem}")),
        }
    }
    facts.problem = Some(problems.join("; "));
    facts.agent = room.agent().await?;
    Ok(facts)
}

/// How GPUs are handed over to a container, to see whether they arrive.
#[derive(Clone, Debug)]
pub struct GpuProbeSpec<'a> {
    /// Image, Python and agent.
    pub image: ProbeSpec<'a>,
    /// The mechanism; never [`crate::config::GpuAccess::Auto`].
    pub access: crate::config::GpuAccess,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
}

/// Starts a container that is given GPUs as a run's would be, and asks NVML inside which are there. The inner error is why the engine
/// or the image could not start it.
///
/// # Errors
///
/// The engine cannot do it, or `stop` was given.
pub async fn probe_gpus(
    engine: &Engine,
    spec: &GpuProbeSpec<'_>,
    stop: &CancellationToken,
) -> Result<Result<VisibleGpus, String>, ImageError> {
    let mut room = Room::new(engine, &spec.image, stop).await?;
    room.gpus = Some(GpuPlan { access: spec.access, gpus: spec.gpus.clone() });
    let said = room.command(&[AGENT_PLACE, "--gpus"]).await?;
    Ok(said.and_then(|text| {
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line).map_err(|error| format!("the agent's answer is not what llem asked for: {error}"))
    }))
}

/// The script's answer is its last line; what start-up files of the image print is before it.
fn answer(text: &str) -> Result<Answer, String> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix(MARK));
    let line = line.ok_or_else(|| "it wrote no answer".to_owned())?;
    serde_json::from_str(line).map_err(|error| format!("its answer is not what llem asked for: {error}"))
}

/// A driver introduces itself before it is asked anything, and leaves when nobody asks.
fn hello(line: &str) -> Option<(String, String)> {
    match serde_json::from_str(line).ok()? {
        Message::Hello { engine, engine_version, .. } => Some((engine, engine_version)),
        _ => None,
    }
}

/// Where commands of one probe are run, each in a container of its own.
struct Room<'a> {
    engine: &'a Engine,
    reference: &'a str,
    files: Bytes,
    stop: &'a CancellationToken,
    /// What the machine's owner adds, by the names that the engine has for it.
    mounts: Vec<Mount>,
    env: &'a BTreeMap<String, String>,
    /// GPUs that its containers get.
    gpus: Option<GpuPlan>,
    /// Held until the probe is over: tells other controllers that its containers are looked after.
    lock: (tempfile::TempPath, File),
}

impl<'a> Room<'a> {
    async fn new(engine: &'a Engine, spec: &ProbeSpec<'a>, stop: &'a CancellationToken) -> Result<Self, ImageError> {
        let problem =
            |error: std::io::Error| ImageError::File { path: spec.agent.to_owned(), problem: error.to_string() };
        let mut archive = Archive::new();
        let agent = fs_err::read(spec.agent).map_err(problem)?;
        archive.file(Path::new(AGENT_PLACE.trim_start_matches('/')), 0o755, &agent).map_err(problem)?;
        archive.file(Path::new(SCRIPT_PLACE.trim_start_matches('/')), 0o644, SCRIPT.as_bytes()).map_err(problem)?;
        let files = archive.finish().map_err(problem)?;
        let path = tempfile::Builder::new().prefix("llem-probe-").tempfile().map_err(problem)?.into_temp_path();
        let file = File::open(&path).map_err(problem)?;
        file.file().lock().map_err(problem)?;
        let mounts = match spec.mounts {
            [] => Vec::new(),
            own => on_host(machine_mounts(own).collect(), &HostPaths::find(engine).await?)?,
        };
        Ok(Self {
            engine,
            reference: spec.reference,
            files,
            stop,
            mounts,
            env: spec.env,
            gpus: None,
            lock: (path, file),
        })
    }

    fn body(&self, command: &[&str]) -> ContainerCreateBody {
        let lock = self.lock.0.display().to_string();
        let labels = [(LABEL_RUN, "probe".to_owned()), (LABEL_STUDY, "probe".to_owned()), (LABEL_LOCK, lock)];
        let mut env = vec!["HOME=/tmp".to_owned()];
        let mut host = confinement(&LIMITS);
        host.mounts = Some(self.mounts.clone());
        if let Some(plan) = &self.gpus {
            env.extend(visible_devices(plan));
            host.devices = Some(gpu_devices(plan));
            host.device_requests = device_requests(plan);
        }
        env.extend(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        ContainerCreateBody {
            image: Some(self.reference.to_owned()),
            entrypoint: Some(command.iter().map(|&part| part.to_owned()).collect()),
            cmd: Some(Vec::new()),
            env: Some(env),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
            user: Some(container_user(self.engine)),
            working_dir: Some("/tmp".to_owned()),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }

    async fn output(&self, id: &str) -> Result<Result<String, String>, ImageError> {
        self.engine.upload(id, self.files.clone()).await?;
        match self.engine.start(id).await {
            Ok(()) => {}
            Err(EngineError::Refused { message, .. }) => return Ok(Err(message)),
            Err(error) => return Err(error.into()),
        }
        let (mut text, mut complaints) = (Vec::new(), Vec::new());
        let mut stream = Box::pin(self.engine.output(id));
        while let Some(piece) = stream.next().await {
            match piece? {
                LogOutput::StdErr { message } => complaints.extend_from_slice(&message),
                other => text.extend_from_slice(&other.into_bytes()),
            }
            if text.len().max(complaints.len()) > OUTPUT_BYTES {
                return Ok(Err(format!("it wrote more than {OUTPUT_BYTES} bytes")));
            }
        }
        let state = self.engine.inspect(id).await?.state.unwrap_or_default();
        match state.exit_code {
            Some(0) | None => Ok(Ok(String::from_utf8_lossy(&text).into_owned())),
            Some(code) => Ok(Err(complaint(code, &complaints))),
        }
    }
}

impl ProbeRoom for Room<'_> {
    /// Always removes the container.
    async fn command(&self, command: &[&str]) -> Result<Result<String, String>, ImageError> {
        let nonce = self.lock.0.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // The reaper knows its containers by the run's name in theirs.
        let name = format!("{nonce}-{}", command.len());
        let (id, _) = self.engine.create(&name, self.body(command)).await?;
        let outcome = tokio::select! {
            output = tokio::time::timeout(TIMEOUT, self.output(&id)) => Ok(output),
            () = self.stop.cancelled() => Err(ImageError::Stopped),
        };
        self.engine.remove(&id).await?;
        outcome?.unwrap_or_else(|_| Ok(Err(format!("it did not end within {} s", TIMEOUT.as_secs()))))
    }
}

/// The last line that a program wrote to stderr says what was wrong.
fn complaint(code: i64, stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    last.map_or_else(|| format!("exit status {code}"), |line| format!("exit status {code}: {line}"))
}

#[cfg(test)]
mod tests {
    use super::{answer, complaint};

    #[test]
    fn the_answer_is_found_among_what_an_image_prints() {
        let text = "== NVIDIA ==\nllem-probe {\"versions\": {\"torch\": \"1\"}}\nllem-probe {\"versions\": {}}\n";
        assert!(answer(text).is_ok());
        assert_eq!(answer("== NVIDIA ==").unwrap_err(), "it wrote no answer");
        assert!(answer("llem-probe {\"versions\": 3}").unwrap_err().starts_with("its answer is not"));
    }

    #[test]
    fn the_last_complaint_is_the_reason() {
        assert_eq!(complaint(2, b"a\nno such file\n\n"), "exit status 2: no such file");
        assert_eq!(complaint(2, b""), "exit status 2");
    }
}
