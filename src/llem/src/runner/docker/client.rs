//! The only code that speaks to a container engine: bollard behind one method per operation.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary, ImageInspect, ImageSummary, SystemInfo,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, ImportImageOptionsBuilder, InspectContainerOptions,
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use thiserror::Error;
use tracing::debug;

/// How long an engine may take to answer one request. Removing a large container can take long.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How long it may take until it answers a request that moves an image of tens of gigabytes.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// What went wrong between llem and the container engine.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The engine's address cannot be used.
    #[error("{address}: {problem}; set DOCKER_HOST to a unix socket of a container engine on this machine")]
    Address {
        /// The address.
        address: String,
        /// Why not.
        problem: String,
    },
    /// Nothing answers.
    #[error("no container engine answers at {address}: {}", causes(source))]
    Unreachable {
        /// The address.
        address: String,
        /// bollard's account.
        source: Box<bollard::errors::Error>,
    },
    /// The engine refused an operation.
    #[error("the container engine could not {operation}: {message}")]
    Refused {
        /// What was asked.
        operation: String,
        /// HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The connection broke or the answer made no sense.
    #[error("the container engine did not {operation}: {}", causes(source))]
    Broken {
        /// What was asked.
        operation: String,
        /// bollard's account.
        source: Box<bollard::errors::Error>,
    },
}

/// The last cause is the one that helps (`Permission denied`); the HTTP client's own words in between do not.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(inner) = root.source() {
        root = inner;
    }
    root.to_string()
}

impl EngineError {
    /// Whether the engine answered that the thing does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether the engine itself did not answer, or said that it cannot now: what 500 says holds the next time, too.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Broken { .. } | Self::Refused { status: 429 | 502..=504, .. })
    }

    fn of(operation: impl Into<String>, error: bollard::errors::Error) -> Self {
        let operation = operation.into();
        match error {
            bollard::errors::Error::DockerResponseServerError { status_code, message } => {
                Self::Refused { operation, status: status_code, message: message.trim().to_owned() }
            }
            bollard::errors::Error::DockerStreamError { error } => {
                Self::Refused { operation, status: 0, message: error.trim().to_owned() }
            }
            other => Self::Broken { operation, source: Box::new(other) },
        }
    }
}

/// Docker says so among its options. podman says so in a field that Docker's API does not have; its socket belongs to whom it runs as.
async fn is_rootless(docker: &Docker, info: &SystemInfo, address: &str) -> bool {
    if info.security_options.iter().flatten().any(|option| option.contains("rootless")) {
        return true;
    }
    let components = docker.version().await.ok().and_then(|version| version.components).unwrap_or_default();
    let socket = fs_err::metadata(address.trim_start_matches("unix://"));
    components.iter().any(|component| component.name.contains("Podman")) && socket.is_ok_and(|socket| socket.uid() != 0)
}

/// A container engine on this machine.
#[derive(Clone, Debug)]
pub struct Engine {
    docker: Docker,
    address: String,
    info: SystemInfo,
    is_rootless: bool,
}

impl Engine {
    /// Connects to `address`, or to `DOCKER_HOST`, or to the usual socket, and asks who is there.
    pub async fn connect(address: Option<&str>) -> Result<Self, EngineError> {
        let address = address
            .map(str::to_owned)
            .or_else(|| std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()))
            .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
        if !address.starts_with("unix://") {
            let problem = "results come back over a directory that both sides share".to_owned();
            return Err(EngineError::Address { address, problem });
        }
        let unreachable = |address: &str, source| EngineError::Unreachable { address: address.to_owned(), source };
        let docker = Docker::connect_with_host(&address)
            .map_err(|e| unreachable(&address, Box::new(e)))?
            .with_timeout(TIMEOUT)
            .negotiate_version()
            .await
            .map_err(|e| unreachable(&address, Box::new(e)))?;
        let info = docker.info().await.map_err(|e| unreachable(&address, Box::new(e)))?;
        let is_rootless = is_rootless(&docker, &info, &address).await;
        debug!(address, version = info.server_version.as_deref(), is_rootless, "container engine");
        Ok(Self { docker, address, info, is_rootless })
    }

    /// Whether it runs as an ordinary user, who is root in its containers.
    pub fn is_rootless(&self) -> bool {
        self.is_rootless
    }

    /// Where the engine was found.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the engine said about itself when it was connected to.
    pub fn info(&self) -> &SystemInfo {
        &self.info
    }

    /// The engine's version.
    pub fn version(&self) -> &str {
        self.info.server_version.as_deref().unwrap_or("unknown")
    }

    /// Creates a container and gives its id and the engine's warnings.
    pub async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<(String, Vec<String>), EngineError> {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        debug!(name, image = body.image.as_deref(), "create container");
        let created = self.docker.create_container(Some(options), body).await;
        created.map(|c| (c.id, c.warnings)).map_err(|e| EngineError::of("create a container", e))
    }

    /// Unpacks a tar archive at the root of a container's file system.
    pub async fn upload(&self, id: &str, archive: Bytes) -> Result<(), EngineError> {
        debug!(id, bytes = archive.len(), "copy files into container");
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        let done = self.docker.upload_to_container(id, Some(options), bollard::body_full(archive)).await;
        done.map_err(|e| EngineError::of("copy files into the container", e))
    }

    /// Starts a container.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        debug!(id, "start container");
        let started = self.docker.start_container(id, None::<StartContainerOptions>).await;
        started.map_err(|e| EngineError::of("start the container", e))
    }

    /// Everything that a container has written and will write, until it ends.
    pub fn output(&self, id: &str) -> impl Stream<Item = Result<LogOutput, EngineError>> + use<> {
        let options = LogsOptionsBuilder::default().follow(true).stdout(true).stderr(true).build();
        self.docker
            .logs(id, Some(options))
            .map(|item| item.map_err(|e| EngineError::of("hand over the container's output", e)))
    }

    /// State and configuration of a container.
    pub async fn inspect(&self, id: &str) -> Result<ContainerInspectResponse, EngineError> {
        let state = self.docker.inspect_container(id, None::<InspectContainerOptions>).await;
        state.map_err(|e| EngineError::of("describe the container", e))
    }

    /// Sends a signal to a container's first process.
    pub async fn kill(&self, id: &str, signal: &str) -> Result<(), EngineError> {
        debug!(id, signal, "signal container");
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        let killed = self.docker.kill_container(id, Some(options)).await;
        killed.map_err(|e| EngineError::of("signal the container", e))
    }

    /// Removes a container with its anonymous volumes, running or not. One that is gone already is fine.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        debug!(id, "remove container");
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self
            .docker
            .remove_container(id, Some(options))
            .await
            .map_err(|e| EngineError::of("remove the container", e))
        {
            // 409: another removal of the same container is under way.
            Err(error) if error.is_missing() || matches!(error, EngineError::Refused { status: 409, .. }) => Ok(()),
            other => other,
        }
    }

    /// All containers with a label, running or not.
    pub async fn containers(&self, label: &str) -> Result<Vec<ContainerSummary>, EngineError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        self.docker.list_containers(Some(options)).await.map_err(|e| EngineError::of("list containers", e))
    }

    /// All images with a label.
    pub async fn images(&self, label: &str) -> Result<Vec<ImageSummary>, EngineError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        self.docker.list_images(Some(options)).await.map_err(|e| EngineError::of("list images", e))
    }

    /// An image, or `None` when the engine does not have it.
    pub async fn image(&self, reference: &str) -> Result<Option<ImageInspect>, EngineError> {
        match self.docker.inspect_image(reference).await {
            Ok(image) => Ok(Some(image)),
            Err(error) => match EngineError::of(format!("describe the image `{reference}`"), error) {
                missing if missing.is_missing() => Ok(None),
                other => Err(other),
            },
        }
    }

    /// Makes an image `reference` (`repo:tag`) from a root file system in a tar archive, with one Dockerfile instruction: engines
    /// do not agree on how several are separated, nor on whether a tag may be given apart.
    pub async fn import(&self, archive: Bytes, reference: &str, change: &str) -> Result<(), EngineError> {
        debug!(reference, bytes = archive.len(), "import image");
        let changes = vec![change.to_owned()];
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(reference).changes(changes).build();
        let mut steps = self.docker.create_image(Some(options), Some(bollard::body_full(archive)), None);
        while let Some(step) = steps.next().await {
            step.map_err(|e| EngineError::of(format!("import the image `{reference}`"), e))?;
        }
        Ok(())
    }

    /// Writes an image as an archive in Docker's format.
    pub async fn save(&self, reference: &str, archive: &Path) -> Result<(), EngineError> {
        debug!(reference, archive = %archive.display(), "save image");
        let local = |error: std::io::Error| EngineError::Broken {
            operation: format!("save the image `{reference}`"),
            source: Box::new(error.into()),
        };
        let mut file = fs_err::File::create(archive).map_err(local)?;
        let mut pieces = self.saved(reference);
        while let Some(piece) = pieces.next().await {
            file.write_all(&piece?).map_err(local)?;
        }
        Ok(())
    }

    /// The archive of an image, piece by piece. Engines may lay it out whole on their disk before the first.
    pub fn saved(&self, reference: &str) -> impl Stream<Item = Result<Bytes, EngineError>> + Unpin + use<> {
        let docker = self.docker.clone().with_timeout(TRANSFER_TIMEOUT);
        let operation = format!("save the image `{reference}`");
        let pieces = docker.export_image(reference);
        Box::pin(pieces.map(move |piece| piece.map_err(|e| EngineError::of(operation.clone(), e))))
    }

    /// Takes in what [`Self::saved`] gave; `name` is what messages call it.
    pub async fn load(
        &self,
        name: &str,
        pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), EngineError> {
        debug!(name, "load image");
        let docker = self.docker.clone().with_timeout(TRANSFER_TIMEOUT);
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        let mut steps = docker.import_image_stream(options, pieces, None);
        while let Some(step) = steps.next().await {
            step.map_err(|e| EngineError::of(format!("load {name}"), e))?;
        }
        Ok(())
    }

    /// Fetches an image from its registry; `progress` gets the engine's status lines.
    pub async fn pull(&self, reference: &str, mut progress: impl FnMut(&str)) -> Result<(), EngineError> {
        let options = CreateImageOptionsBuilder::default().from_image(reference).build();
        let mut steps = self.docker.create_image(Some(options), None, None);
        while let Some(step) = steps.next().await {
            let step = step.map_err(|e| EngineError::of(format!("pull the image `{reference}`"), e))?;
            if let Some(status) = step.status {
                progress(&status);
            }
        }
        Ok(())
    }
}
