//! The `apptainer` runner: one container per run, by the program `apptainer`, without a daemon.
//!
//! To the operating system a run is a process of this machine, whose descendants are in namespaces of their own: it is started, followed
//! and ended as the `process` runner does it. Images are files; see [`Image`].

mod archive;
mod command;
mod contents;
mod elsewhere;
mod error;
mod export;
mod image;
mod look;
mod program;
mod room;
mod sif;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use llem_protocol::{Failure, FailureClass, Phase, VisibleGpus};
use tokio_util::sync::CancellationToken;

pub use elsewhere::{ApptainerElsewhere, HandedImage};
pub use error::ApptainerError;
pub use export::{ExportError, ExportSource, ExportSpec, Exported, export};
pub use image::Image;
pub use look::{glance, look};

use super::docker::{BindMount, CandleImage, ImageError, ImageFacts, host_powercap};
use super::left::remove_left_scratch;
use super::offline::OFFLINE;
use super::process::{Supervised, supervise, unlimited, visible_gpus};
use super::{
    ContainerRecord, DriverFiles, EventSink, HostFiles, Places, RunOutcome, RunSpec, Runner, Stop, inside,
    runner_failure,
};
use crate::config::UserConfig;
use command::{Bind, Exec};
use look::identify;
use program::{Apptainer, complaint, scratch};
use room::Room;

/// Runs agents in containers of Apptainer.
#[derive(Debug)]
pub struct ApptainerRunner {
    apptainer: Apptainer,
    agent: PathBuf,
    cache_root: PathBuf,
    /// Additional mounts, by the machine's owner.
    mounts: Vec<BindMount>,
    /// Additional variables, likewise.
    env: BTreeMap<String, String>,
    powercap: Option<PathBuf>,
    /// The images of the study by what it calls them.
    images: Mutex<BTreeMap<String, Arc<Image>>>,
}

/// What the machine's owner set, and where things are.
#[derive(Clone, Debug)]
pub struct ApptainerMachine {
    /// llem's cache.
    pub cache_root: PathBuf,
    /// Additional mounts.
    pub mounts: Vec<BindMount>,
    /// Additional variables.
    pub env: BTreeMap<String, String>,
    /// The kernel's RAPL zones, which containers may read.
    pub powercap: Option<PathBuf>,
    /// The agent.
    pub agent: PathBuf,
}

impl ApptainerMachine {
    /// By the user config.
    pub fn of(user: &UserConfig, agent: &Path) -> Self {
        Self {
            cache_root: user.cache_root(),
            mounts: BindMount::all_of(user),
            env: user.env.clone(),
            powercap: host_powercap(),
            agent: agent.to_owned(),
        }
    }
}

impl ApptainerRunner {
    /// Finds Apptainer, and out with which flags it works here: by starting the agent in the embedded backend's minimal root, which is laid
    /// into the cache.
    ///
    /// # Errors
    ///
    /// It is not there, or starts nothing.
    pub async fn find(
        machine: ApptainerMachine,
        embedded: &CandleImage,
        stop: &CancellationToken,
    ) -> Result<Self, ApptainerError> {
        // Before anything is written.
        program::version(stop).await?;
        let image = Image::embedded(embedded, &machine.cache_root)?;
        Self::find_with(machine, image, stop).await
    }

    /// As [`Self::find`] with the embedded backend's minimal root as it is there.
    ///
    /// # Errors
    ///
    /// Apptainer is not there, or starts nothing.
    pub async fn find_with(
        machine: ApptainerMachine,
        image: Image,
        stop: &CancellationToken,
    ) -> Result<Self, ApptainerError> {
        let ApptainerMachine { cache_root, mounts, env, powercap, agent } = machine;
        remove_left_scratch(&std::env::temp_dir());
        remove_left_scratch(&image::directory(&cache_root));
        let apptainer = Apptainer::find(&image.root, &agent, stop).await?;
        let images = Mutex::new(BTreeMap::from([(image.reference.clone(), Arc::new(image))]));
        Ok(Self { apptainer, agent, cache_root, mounts, env, powercap, images })
    }

    /// Only looks whether the program is there.
    ///
    /// # Errors
    ///
    /// It is not.
    pub async fn find_version() -> Result<String, ApptainerError> {
        program::version(&CancellationToken::new()).await
    }

    /// What it calls itself.
    pub fn version(&self) -> &str {
        &self.apptainer.version
    }

    /// The flags that are used, with the reason for them.
    pub fn reason(&self) -> String {
        self.apptainer.reason()
    }

    /// What containers cannot be kept from on this machine.
    pub fn caveats(&self) -> Vec<String> {
        let network =
            (!self.apptainer.mode.offline).then(|| format!("engines can reach the network: {}", self.reason()));
        let processes = (!self.apptainer.has_pid_namespace).then(|| {
            "what an engine detaches from itself may outlive its run: Apptainer is not allowed to give containers processes of their own here \
             (`allow pid ns` in apptainer.conf)"
                .to_owned()
        });
        network.into_iter().chain(processes).collect()
    }

    /// Makes the image at `path` ready, which the study calls `reference`. Why a SIF file had to be unpacked, if it was now.
    ///
    /// # Errors
    ///
    /// It is not there, is no image for this machine, or can neither be mounted nor unpacked.
    pub async fn open(
        &self,
        reference: &str,
        path: &Path,
        stop: &CancellationToken,
    ) -> Result<(Arc<Image>, Option<String>), ApptainerError> {
        if let Some(image) = self.opened(reference) {
            return Ok((image, None));
        }
        self.make_startable(identify(reference, path, &self.cache_root).await?, stop).await
    }

    /// Makes an image ready that was looked at. Why a SIF file had to be unpacked, if it was now.
    ///
    /// # Errors
    ///
    /// It can be neither mounted nor unpacked.
    pub async fn make_startable(
        &self,
        mut image: Image,
        stop: &CancellationToken,
    ) -> Result<(Arc<Image>, Option<String>), ApptainerError> {
        let unpacked = image.make_startable(&self.apptainer, &self.agent, &self.cache_root, stop).await?;
        let image = Arc::new(image);
        self.lock().insert(image.reference.clone(), image.clone());
        Ok((image, unpacked))
    }

    /// What is in an image.
    ///
    /// # Errors
    ///
    /// `stop` was given.
    pub async fn probe(
        &self,
        image: &Image,
        interpreters: &[String],
        stop: &CancellationToken,
    ) -> Result<ImageFacts, ImageError> {
        let file = |problem: String| ImageError::File { path: image.path.clone(), problem };
        let room = self.room(image, stop).map_err(|error| file(error.to_string()))?;
        super::docker::probe::look_around(&room, image.facts(), interpreters).await
    }

    /// The GPUs that the agent sees in a container of an image that is given those of a run.
    ///
    /// # Errors
    ///
    /// `stop` was given.
    pub async fn probe_gpus(
        &self,
        reference: &str,
        stop: &CancellationToken,
    ) -> Result<Result<VisibleGpus, String>, ApptainerError> {
        let Some(image) = self.image(reference) else { return Err(ApptainerError::NoPath(reference.to_owned())) };
        self.room(&image, stop)?.visible_gpus().await
    }

    /// Where an image is looked into: with everything that runs have beside it.
    fn room<'a>(&'a self, image: &'a Image, stop: &'a CancellationToken) -> Result<Room<'a>, ApptainerError> {
        Room::new(&self.apptainer, image, &self.agent, (self.machine_binds(), &self.env), stop)
    }

    /// An image that was made ready and is as it was then.
    pub fn opened(&self, reference: &str) -> Option<Arc<Image>> {
        self.image(reference).filter(|image| image.is_unchanged())
    }

    fn image(&self, reference: &str) -> Option<Arc<Image>> {
        self.lock().get(reference).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Image>>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image of a run, if it is still the one that was looked at.
    fn image_of(&self, spec: &RunSpec) -> Result<Arc<Image>, Failure> {
        let failure = |class, text| runner_failure(class, Phase::Start, text);
        let Some(image) = self.image(&spec.image) else {
            return Err(failure(FailureClass::ImageMissing, format!("`{}` was not made ready", spec.image)));
        };
        if !image.path.exists() {
            let text = format!("image {} is not there any more", image.path.display());
            return Err(failure(FailureClass::ImageMissing, text));
        }
        if !image.is_unchanged() {
            let text =
                format!("image {} is another one than when the study began; run the study again", image.path.display());
            return Err(failure(FailureClass::ContainerRefused, text));
        }
        Ok(image)
    }

    fn binds(&self, files: &HostFiles, job_file: &Path) -> Vec<Bind> {
        let mut binds = vec![
            Bind { source: files.output_dir.clone(), target: inside::OUT.into(), read_only: false },
            Bind::read_only(&files.agent, inside::AGENT),
            Bind::read_only(job_file, inside::JOB),
            Bind::read_only(&files.workload, inside::WORKLOAD),
            match &files.driver {
                DriverFiles::Program(path) => Bind::read_only(path, inside::CANDLE),
                DriverFiles::Scripts { directory, .. } => Bind::read_only(directory, inside::SCRIPTS),
            },
        ];
        let weights = [
            (&files.model_dir, inside::MODEL),
            (&files.adapter_dir, inside::ADAPTER),
            (&files.draft_dir, inside::DRAFT),
            (&self.powercap, inside::POWERCAP),
        ];
        binds.extend(weights.into_iter().filter_map(|(dir, target)| Some(Bind::read_only(dir.as_ref()?, target))));
        binds.extend(files.engine.as_ref().map(|engine| Bind {
            source: engine.dir.clone(),
            target: inside::ENGINE.into(),
            read_only: engine.read_only,
        }));
        binds.extend(self.machine_binds());
        binds
    }

    /// What the machine's owner adds to every container.
    fn machine_binds(&self) -> Vec<Bind> {
        let bind = |mount: &BindMount| {
            let BindMount { source, target, read_only } = mount.clone();
            Bind { source, target, read_only }
        };
        self.mounts.iter().map(bind).collect()
    }

    async fn run_to_end(&self, spec: &RunSpec, events: &EventSink, stop: &Stop) -> RunOutcome {
        let failed = |failure| RunOutcome { failure: Some(failure), ..RunOutcome::default() };
        let image = match self.image_of(spec) {
            Ok(image) => image,
            Err(failure) => return failed(failure),
        };
        let scratch = match scratch() {
            Ok(scratch) => scratch,
            Err(error) => {
                return failed(runner_failure(FailureClass::ContainerRefused, Phase::Start, error.to_string()));
            }
        };
        let offline = OFFLINE.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let (name, gpus) = visible_gpus(&spec.job);
        let env = offline.chain([(name.to_owned(), gpus)]).chain(spec.env.clone()).collect();
        let exec = Exec {
            root: &image.root,
            scratch: scratch.path(),
            binds: self.binds(&spec.files, &spec.job_file),
            env,
            gpus: !spec.job.gpus.is_empty(),
            directory: "/llem",
            command: vec![inside::AGENT.to_owned(), inside::JOB.to_owned()],
        };
        let supervised = supervise(self.apptainer.command(&exec), Some(scratch.path()), spec, events, stop).await;
        drop(scratch);
        self.conclude(supervised, &image, spec)
    }

    /// Adds to a run's outcome what only this runner knows.
    fn conclude(&self, supervised: Supervised, image: &Image, spec: &RunSpec) -> RunOutcome {
        let Supervised { mut outcome, heard, status } = supervised;
        outcome.warnings.extend(unlimited(spec, self.kind()));
        if !heard {
            outcome.failure = outcome.failure.map(|failure| refusal(failure, &outcome.agent_log));
        }
        if outcome.failure.is_none() && image.was_written() {
            let text =
                format!("image {} was written to while the run lasted; run the study again", image.path.display());
            outcome.failure = Some(runner_failure(FailureClass::ContainerRefused, Phase::Start, text));
        }
        let facts = spec.facts.as_deref().filter(|facts| facts.id == image.id);
        outcome.container = Some(ContainerRecord {
            id: outcome.agent_pid.map(|pid| pid.to_string()).unwrap_or_default(),
            image: spec.image.clone(),
            image_id: image.id.clone(),
            image_digests: image.facts().digests,
            image_source: image.source.clone(),
            image_versions: facts.map(|facts| facts.versions.clone()),
            engine_version: self.apptainer.version.clone(),
            gpu_access: if spec.job.gpus.is_empty() { "none" } else { "nv" }.to_owned(),
            exit_code: status.and_then(|status| status.code()).map(i64::from),
            ..ContainerRecord::default()
        });
        outcome
    }
}

/// What it means that no agent came to life.
fn refusal(failure: Failure, log: &[u8]) -> Failure {
    if failure.class != FailureClass::ContainerKilled {
        return failure;
    }
    let said = complaint(&String::from_utf8_lossy(log));
    let lower = said.to_lowercase();
    let class = if lower.contains(inside::AGENT) || lower.contains("exec format error") || lower.contains("glibc") {
        FailureClass::AgentMissing
    } else {
        FailureClass::ContainerRefused
    };
    Failure { class, message: format!("apptainer started no agent: {said} ({})", failure.message), ..failure }
}

impl Runner for ApptainerRunner {
    fn kind(&self) -> &'static str {
        "apptainer"
    }

    fn has_images(&self) -> bool {
        true
    }

    fn places(&self, files: &HostFiles) -> Places {
        inside::places(files, self.powercap.is_some())
    }

    fn run<'a>(&'a self, spec: &'a RunSpec, events: &'a EventSink, stop: &'a Stop) -> BoxFuture<'a, RunOutcome> {
        Box::pin(self.run_to_end(spec, events, stop))
    }
}

#[cfg(test)]
mod tests {
    use llem_protocol::{FailureClass, Phase};

    use super::{refusal, runner_failure};

    #[test]
    fn refusals_have_classes() {
        let of = |log: &str| {
            let ended =
                runner_failure(FailureClass::ContainerKilled, Phase::Start, "the agent ended with exit status: 255");
            refusal(ended, log.as_bytes())
        };
        assert_eq!(of("FATAL:   \"/llem/agent\": exec format error\n").class, FailureClass::AgentMissing);
        assert_eq!(of("/llem/agent: version `GLIBC_2.34' not found\n").class, FailureClass::AgentMissing);
        let refused = of("INFO: x\nFATAL:   while mounting: no space left on device\n");
        assert_eq!(refused.class, FailureClass::ContainerRefused);
        assert!(refused.message.contains("no agent: while mounting: no space left"), "{}", refused.message);
        let timeout = runner_failure(FailureClass::Timeout, Phase::Start, "silent");
        assert_eq!(refusal(timeout, b"FATAL: x").class, FailureClass::Timeout);
    }
}
