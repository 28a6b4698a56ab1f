//! What carries out the runs of a job on its node: found out there, because nodes differ from the machine that submitted the job.

use std::path::PathBuf;
use std::sync::Arc;

use llem_protocol::{Failure, FailureClass, Phase};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::array::ArrayPlan;
use crate::config::{Backend, NodeRunner, UserConfig};
use crate::preflight::Images;
use crate::runner::apptainer::{ApptainerError, ApptainerMachine, HandedImage, Image};
use crate::runner::docker::ImageError;
use crate::runner::{ApptainerRunner, ProcessRunner, RunSpec, Runner};

/// What a node needs to make containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContainerPlan {
    /// The agent, which looks into images, too.
    pub(super) agent: PathBuf,
    /// The images of the study, with the embedded backend's.
    pub(super) images: Vec<HandedImage>,
}

/// The runner of a job.
pub(super) enum Node<'a> {
    /// Runs are processes of the job.
    Process,
    /// Runs are in containers of Apptainer.
    Apptainer(Box<Containers<'a>>),
}

/// Apptainer on this node.
pub(super) struct Containers<'a> {
    runner: ApptainerRunner,
    user: &'a UserConfig,
    plan: &'a ContainerPlan,
}

impl<'a> Node<'a> {
    /// Finds what the plan asks for. A failure is that of every run of the job.
    pub(super) async fn find(plan: &'a ArrayPlan, stop: &CancellationToken) -> Result<Self, Failure> {
        let Some(containers) = plan.containers.as_ref() else { return Ok(Self::Process) };
        let found = Containers::find(&plan.user, containers, stop).await;
        found.map(|found| Self::Apptainer(Box::new(found))).map_err(|error| failure(&error))
    }

    /// What a plan asks for, in results.
    pub(super) fn name(plan: &ArrayPlan) -> &'static str {
        if plan.containers.is_some() { NodeRunner::Apptainer.name() } else { NodeRunner::Process.name() }
    }

    /// The runner.
    pub(super) fn runner(&self) -> &dyn Runner {
        match self {
            Self::Process => &ProcessRunner,
            Self::Apptainer(containers) => &containers.runner,
        }
    }

    /// Makes a run's image ready, and puts into its job what only this node knows.
    pub(super) async fn make_ready(&self, spec: &mut RunSpec, stop: &CancellationToken) -> Result<(), Failure> {
        spec.job.powercap = self.runner().places(&spec.files).powercap;
        match self {
            Self::Process => Ok(()),
            Self::Apptainer(containers) => containers.make_ready(spec, stop).await.map_err(|error| failure(&error)),
        }
    }
}

impl<'a> Containers<'a> {
    async fn find(
        user: &'a UserConfig,
        plan: &'a ContainerPlan,
        stop: &CancellationToken,
    ) -> Result<Self, ApptainerError> {
        let cache_root = user.cache_root();
        let embedded = plan.images.iter().find(|image| image.is_embedded());
        let embedded = embedded.ok_or_else(|| ApptainerError::NoPath("the embedded backend's image".to_owned()))?;
        let root = embedded.take(&cache_root).await?;
        let runner = ApptainerRunner::find_with(ApptainerMachine::of(user, &plan.agent), root, stop).await?;
        super::task::say(&runner.reason());
        for caveat in runner.caveats() {
            super::task::say(&caveat);
        }
        Ok(Self { runner, user, plan })
    }

    /// Opens a run's image and looks into it, once for each.
    async fn make_ready(&self, spec: &mut RunSpec, stop: &CancellationToken) -> Result<(), ApptainerError> {
        let handed = self.plan.images.iter().find(|image| image.reference() == spec.image);
        let handed = handed.ok_or_else(|| ApptainerError::NoPath(spec.image.clone()))?;
        let image = self.open(handed, stop).await?;
        let backend = Backend::ALL.into_iter().find(|backend| backend.name() == spec.job.engine.backend);
        if handed.is_embedded() || backend == Some(Backend::Candle) {
            return Ok(());
        }
        let unreadable = |source| ApptainerError::Files { doing: "the agent".to_owned(), source };
        let images = Images::new(self.user, &self.plan.agent).map_err(unreadable)?;
        match images.probe_file(&self.runner, &image, backend, false, stop).await {
            Ok(facts) => spec.facts = Some(Arc::new(facts)),
            Err(ImageError::Stopped) => return Err(ApptainerError::Stopped),
            Err(error) => {
                super::task::say(&format!("image {} could not be looked into: {error}", spec.image));
            }
        }
        Ok(())
    }

    /// The image, opened by the first run that needs it, and again when the file has changed since.
    async fn open(&self, handed: &HandedImage, stop: &CancellationToken) -> Result<Arc<Image>, ApptainerError> {
        if let Some(image) = self.runner.opened(handed.reference()) {
            return Ok(image);
        }
        let image = handed.take(&self.user.cache_root()).await?;
        let (image, unpacked) = self.runner.make_startable(image, stop).await?;
        if let Some(why) = unpacked {
            super::task::say(&format!("image {} was unpacked into the cache: {why}", handed.reference()));
        }
        Ok(image)
    }
}

/// Why a run has no container.
fn failure(error: &ApptainerError) -> Failure {
    let class = match error {
        ApptainerError::Missing { .. } => FailureClass::ImageMissing,
        ApptainerError::Stopped => FailureClass::Interrupted,
        _ => FailureClass::ContainerRefused,
    };
    let message = match error {
        ApptainerError::Absent => {
            "there is no `apptainer` in PATH of the job: load it in `slurm.prologue` of the user config, e.g. `module load apptainer`"
                .to_owned()
        }
        other => other.to_string(),
    };
    Failure { class, phase: Phase::Start, message, log_tail: Vec::new() }
}
