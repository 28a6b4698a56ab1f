//! The `docker` runner: one ephemeral container per run, through the engine's API.

mod adopt;
mod archive;
mod client;
mod facts;
mod image;
mod machine;
mod neighbour;
pub(super) mod probe;
mod reaper;
mod spec;
mod supervise;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use llem_protocol::{Failure, FailureClass, Job, Phase};

pub use adopt::Survivor;
pub use client::{Engine, EngineError};
pub use facts::{AgentStart, Baked, ImageFacts, ImageVersions};
pub use image::{CandleImage, ImageError, ImageRow, build_candle, images};
pub use machine::{BindMount, MachineConfig, host_powercap};
pub use neighbour::{HostPaths, NotShared, OwnMount};
pub use probe::{GpuProbeSpec, ProbeSpec, probe, probe_gpus};
pub use reaper::{Reaped, remove_all, remove_orphans};

use super::{
    ContainerRecord, DriverFiles, EventSink, HostFiles, Places, RunOutcome, RunSpec, Runner, Stop, host_gpus, inside,
    runner_failure,
};
use crate::config::GpuAccess;
use archive::Archive;
pub(crate) use facts::sha256_of;
pub(crate) use probe::SCRIPT as PROBE_SCRIPT;
use spec::GpuPlan;

/// How long the engine has to clear up after the second signal.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// Label with the study's id.
pub const LABEL_STUDY: &str = "io.llem.study";
/// Label with the run's id.
pub const LABEL_RUN: &str = "io.llem.run";
/// Label with the lock file that the controller holds.
pub const LABEL_LOCK: &str = "io.llem.lock";
/// Label with the controller's version.
pub const LABEL_VERSION: &str = "io.llem.version";
/// Label on images that llem made, with the backend's name.
pub const LABEL_IMAGE: &str = "io.llem.image";

/// Runs agents in containers.
#[derive(Clone, Debug)]
pub struct DockerRunner {
    engine: Engine,
    machine: MachineConfig,
    user: String,
    /// The agent as it was when the first run began: all runs of a study have the same, whatever is built meanwhile.
    agent: OnceLock<Bytes>,
}

impl DockerRunner {
    /// A runner on a connected engine.
    pub fn new(engine: Engine, machine: MachineConfig) -> Self {
        let user = container_user(&engine);
        Self { engine, machine, user, agent: OnceLock::new() }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Creates the container of a run with everything in it, not started.
    async fn create(&self, spec: &RunSpec) -> Result<Created, Failure> {
        let image = self.image(&spec.image).await?;
        let labels = image.config.as_ref().and_then(|config| config.labels.as_ref());
        let embedded = labels.and_then(|labels| labels.get(LABEL_IMAGE)).is_some_and(|backend| backend == "candle");
        let gpus = self.gpu_plan(&spec.job)?;
        let refused = |text: String| runner_failure(FailureClass::ContainerRefused, Phase::Start, text);
        let mut body =
            spec::container(spec, &self.machine, &gpus, &self.user).map_err(|error| refused(error.to_string()))?;
        if spec.files.engine.is_some() {
            let seen = ImageFacts::of_image(&image);
            if spec.facts.as_deref().is_none_or(|facts| facts.id != seen.id) {
                let happened = format!("image {} is another one than when the study began", spec.image);
                return Err(refused(format!(
                    "{happened}, and the run's compiled engine is for that; run the study again"
                )));
            }
            body.image = Some(seen.id);
        }
        let name = container_name(&spec.job);
        let (id, warnings) = self.engine.create(&name, body).await.map_err(|e| engine_failure(&e))?;
        let (record, baked) = self.describe(&id, spec, &image, gpus.access.name());
        Ok(Created { brings: Brings { embedded, baked }, record, warnings })
    }

    /// What a result says about a container, and whether its image has agent and driver.
    fn describe(
        &self,
        id: &str,
        spec: &RunSpec,
        image: &bollard::models::ImageInspect,
        gpu_access: &str,
    ) -> (ContainerRecord, bool) {
        let seen = ImageFacts::of_image(image);
        // A tag may have moved since the image was probed.
        let facts = spec.facts.as_deref().filter(|facts| facts.id == seen.id);
        let baked = facts.is_some_and(|facts| self.is_baked(facts, &spec.files));
        let record = ContainerRecord {
            id: id.to_owned(),
            image: spec.image.clone(),
            image_id: seen.id,
            image_digests: seen.digests,
            image_labels: seen.labels,
            image_versions: facts.map(|facts| facts.versions.clone()),
            baked,
            engine_version: self.engine.version().to_owned(),
            gpu_access: gpu_access.to_owned(),
            ..ContainerRecord::default()
        };
        (record, baked)
    }

    /// Whether an image has the very agent and driver that would be copied into it.
    fn is_baked(&self, facts: &ImageFacts, files: &HostFiles) -> bool {
        let DriverFiles::Scripts { directory, names, .. } = &files.driver else { return false };
        let contents: Result<Vec<_>, _> = names.iter().map(|name| fs_err::read(directory.join(name))).collect();
        let (Ok(contents), Ok(agent)) = (contents, self.agent(files)) else { return false };
        let scripts = names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice));
        facts.baked.agent == Some(sha256_of(&agent)) && facts.baked.has_driver(scripts)
    }

    /// The agent's binary.
    fn agent(&self, files: &HostFiles) -> std::io::Result<Bytes> {
        if self.agent.get().is_none() {
            let content = Bytes::from(fs_err::read(&files.agent)?);
            let _ = self.agent.set(content);
        }
        Ok(self.agent.get().cloned().unwrap_or_default())
    }

    /// Copies agent, driver, job and workload into a created container, so that any image runs unmodified; not those that the image
    /// brings.
    async fn inject(&self, id: &str, spec: &RunSpec, brings: Brings) -> Result<(), Failure> {
        let archive = self.injection(spec, brings).map_err(|error| {
            runner_failure(FailureClass::Unknown, Phase::Start, format!("files for the container: {error}"))
        })?;
        self.engine.upload(id, archive).await.map_err(|e| engine_failure(&e))
    }

    /// The files of a run as a tar archive for the container's root.
    fn injection(&self, spec: &RunSpec, brings: Brings) -> std::io::Result<Bytes> {
        let mut archive = Archive::new();
        let mut add = |target: &str, mode: u32, content: &[u8]| {
            archive.file(Path::new(target.trim_start_matches('/')), mode, content)
        };
        if !brings.baked {
            add(inside::AGENT, 0o755, &self.agent(&spec.files)?)?;
        }
        add(inside::JOB, 0o644, &fs_err::read(&spec.job_file)?)?;
        add(inside::WORKLOAD, 0o644, &fs_err::read(&spec.files.workload)?)?;
        match &spec.files.driver {
            DriverFiles::Program(_) if brings.embedded => {}
            DriverFiles::Program(path) => add(inside::CANDLE, 0o755, &fs_err::read(path)?)?,
            DriverFiles::Scripts { .. } if brings.baked => {}
            DriverFiles::Scripts { directory, names, .. } => {
                for name in names {
                    add(&format!("{}/{name}", inside::SCRIPTS), 0o644, &fs_err::read(directory.join(name))?)?;
                }
            }
        }
        archive.finish()
    }

    async fn image(&self, reference: &str) -> Result<bollard::models::ImageInspect, Failure> {
        match self.engine.image(reference).await {
            Ok(Some(image)) => Ok(image),
            Ok(None) => {
                let message = format!("the engine at {} has no image `{reference}`", self.engine.address());
                Err(runner_failure(FailureClass::ImageMissing, Phase::Start, message))
            }
            Err(error) => Err(engine_failure(&error)),
        }
    }

    /// Decides how the job's GPUs get into the container.
    fn gpu_plan(&self, job: &Job) -> Result<GpuPlan, Failure> {
        if job.gpus.is_empty() {
            return Ok(GpuPlan { access: GpuAccess::None, gpus: Vec::new() });
        }
        let present = host_gpus();
        let chosen = job.gpus.iter().map(|uuid| {
            present.iter().find(|gpu| gpu.uuid == *uuid).cloned().ok_or_else(|| {
                let known: Vec<_> = present.iter().map(|gpu| gpu.uuid.as_str()).collect();
                let message = format!("no GPU `{uuid}` on this machine (GPUs present: {})", known.join(", "));
                runner_failure(FailureClass::NoGpu, Phase::Start, message)
            })
        });
        let gpus = chosen.collect::<Result<Vec<_>, _>>()?;
        Ok(GpuPlan { access: self.gpu_access(), gpus })
    }

    /// How GPUs get into containers: as the machine's owner says, else by the first way that the engine offers.
    pub fn gpu_access(&self) -> GpuAccess {
        match self.machine.gpu_access {
            GpuAccess::Auto => self.detect_access(),
            set => set,
        }
    }

    fn detect_access(&self) -> GpuAccess {
        let info = self.engine.info();
        let has_runtime = info.runtimes.as_ref().is_some_and(|runtimes| runtimes.contains_key("nvidia"));
        let has_cdi = info.discovered_devices.as_ref().is_some_and(|devices| {
            devices.iter().any(|device| device.id.as_deref().is_some_and(|id| id.starts_with("nvidia.com/gpu")))
        });
        match (has_runtime, has_cdi) {
            (true, _) => GpuAccess::Nvidia,
            (false, true) => GpuAccess::Cdi,
            (false, false) => GpuAccess::Devices,
        }
    }
}

/// What need not be copied into a container because its image has it.
#[derive(Clone, Copy, Debug)]
struct Brings {
    /// The embedded backend's driver, in the image that llem made for it.
    embedded: bool,
    /// Agent and scripts, the same as at hand.
    baked: bool,
}

/// A container that exists.
struct Created {
    brings: Brings,
    record: ContainerRecord,
    warnings: Vec<String>,
}

impl Runner for DockerRunner {
    fn kind(&self) -> &'static str {
        "docker"
    }

    fn has_images(&self) -> bool {
        true
    }

    fn places(&self, files: &HostFiles) -> Places {
        inside::places(files, self.machine.powercap.is_some())
    }

    fn run<'a>(&'a self, spec: &'a RunSpec, events: &'a EventSink, stop: &'a Stop) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move {
            tokio::select! {
                outcome = self.run_to_end(spec, events, stop) => outcome,
                () = after_kill_grace(stop) => abandoned(),
            }
        })
    }
}

impl DockerRunner {
    /// One run from the creation of its container to its removal.
    async fn run_to_end(&self, spec: &RunSpec, events: &EventSink, stop: &Stop) -> RunOutcome {
        let created = match self.create(spec).await {
            Ok(created) => created,
            Err(failure) => {
                // An engine that was lost may have created the container and not said so.
                let container_left = failure.class == FailureClass::ContainerEngineLost;
                return RunOutcome { failure: Some(failure), container_left, ..RunOutcome::default() };
            }
        };
        let Created { brings, record, warnings } = created;
        let id = record.id.clone();
        let mut outcome = match self.inject(&id, spec, brings).await {
            Ok(()) => supervise::supervise(&self.engine, record, spec, events, stop).await,
            Err(failure) => RunOutcome { failure: Some(failure), container: Some(record), ..RunOutcome::default() },
        };
        outcome.warnings.extend(warnings);
        self.remove(&id, &mut outcome).await;
        outcome
    }

    /// Removes the container of a run that has ended.
    async fn remove(&self, id: &str, outcome: &mut RunOutcome) {
        if let Err(error) = self.engine.remove(id).await {
            let short = id.get(..12).unwrap_or(id);
            outcome.warnings.push(format!("container {short} may be left: {error}; the next start removes it"));
            outcome.container_left = true;
        }
    }
}

/// Waits for the second signal and the time that the engine has after it.
async fn after_kill_grace(stop: &Stop) {
    stop.hard.cancelled().await;
    tokio::time::sleep(KILL_GRACE).await;
}

/// The outcome of a run whose engine did not answer when the user wanted to leave.
fn abandoned() -> RunOutcome {
    let seconds = KILL_GRACE.as_secs();
    let message = format!("killed at the second signal; the container engine did not answer for {seconds} s after it");
    RunOutcome {
        failure: Some(runner_failure(FailureClass::Interrupted, Phase::Shutdown, message)),
        warnings: vec!["its container may be left; the next start removes it".to_owned()],
        container_left: true,
        ..RunOutcome::default()
    }
}

/// Readable in `docker ps`, unique between studies that run at once.
pub fn container_name(job: &Job) -> String {
    let nonce = job.nonce.get(..8).unwrap_or(&job.nonce);
    format!("llem-{}-{nonce}", job.run_id)
}

/// Result files belong to the calling user. In a rootless engine, root inside is the calling user outside.
fn container_user(engine: &Engine) -> String {
    if engine.is_rootless() {
        return "0:0".to_owned();
    }
    format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
}

/// The class of an engine's refusal.
fn engine_failure(error: &EngineError) -> Failure {
    let text = error.to_string();
    let lower = text.to_lowercase();
    let class = if error.is_lost() {
        FailureClass::ContainerEngineLost
    } else if lower.contains("could not select device driver") || lower.contains("runtime specified nvidia") {
        FailureClass::NoGpu
    } else if lower.contains(inside::AGENT) || lower.contains("exec format error") {
        FailureClass::AgentMissing
    } else {
        FailureClass::ContainerRefused
    };
    runner_failure(class, Phase::Start, text)
}

#[cfg(test)]
mod tests;
