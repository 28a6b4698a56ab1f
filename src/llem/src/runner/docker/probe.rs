//! Starts an image once to see what runs in it.

use std::path::Path;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{ContainerCreateBody, HostConfig};
use futures_util::StreamExt;
use llem_protocol::Message;

use super::archive::Archive;
use super::client::{Engine, EngineError};
use super::image::{CANDLE_DRIVER, ImageError};
use super::spec::inside;
use super::{LABEL_RUN, LABEL_STUDY};

/// Output of a probe that is read, in bytes.
const OUTPUT_BYTES: usize = 64 * 1024;

/// How long a probe may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What an image is and can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// Content id (`sha256:…`).
    pub id: String,
    /// Registry digests.
    pub digests: Vec<String>,
    /// `os/architecture`.
    pub platform: String,
    /// What the agent says of itself when it is started in the image.
    pub agent: Option<String>,
    /// Why the agent does not start.
    pub problem: String,
    /// Name and version of the engine, when the image has a driver of its own.
    pub engine: Option<(String, String)>,
}

/// Starts the agent, and the driver that the image brings, each in a container of its own.
pub async fn probe(engine: &Engine, reference: &str, agent: &Path) -> Result<Probe, ImageError> {
    let Some(image) = engine.image(reference).await? else {
        let message = "no such image; `llem image pull` fetches one".to_owned();
        let operation = format!("describe the image `{reference}`");
        return Err(EngineError::Refused { operation, status: 404, message }.into());
    };
    let version = once(engine, reference, agent, &[inside::AGENT, "--version"]).await;
    let driver = once(engine, reference, agent, &[CANDLE_DRIVER]).await.unwrap_or_default();
    let (agent, problem) = match version {
        Ok(text) => (Some(text.trim().to_owned()).filter(|t| !t.is_empty()), "it wrote nothing".to_owned()),
        Err(error) => (None, error.to_string()),
    };
    Ok(Probe {
        id: image.id.unwrap_or_default(),
        digests: image.repo_digests.unwrap_or_default(),
        platform: [image.os, image.architecture].into_iter().flatten().collect::<Vec<_>>().join("/"),
        agent,
        problem,
        engine: driver.lines().find_map(hello),
    })
}

/// A driver introduces itself before it is asked anything, and leaves when nobody asks.
fn hello(line: &str) -> Option<(String, String)> {
    match serde_json::from_str(line).ok()? {
        Message::Hello { engine, engine_version, .. } => Some((engine, engine_version)),
        _ => None,
    }
}

/// Runs one command in a container of the image and gives its stdout. Always removes the container.
async fn once(engine: &Engine, image: &str, agent: &Path, command: &[&str]) -> Result<String, ImageError> {
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(command.iter().map(|&part| part.to_owned()).collect()),
        cmd: Some(Vec::new()),
        labels: Some([(LABEL_RUN.to_owned(), "probe".to_owned()), (LABEL_STUDY.to_owned(), "probe".to_owned())].into()),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let name = format!("llem-probe-{}-{}", std::process::id(), command.len());
    let (id, _) = engine.create(&name, body).await?;
    let output = tokio::time::timeout(TIMEOUT, output(engine, &id, agent)).await;
    engine.remove(&id).await?;
    output.unwrap_or_else(|_| {
        let problem = format!("it did not end within {} s", TIMEOUT.as_secs());
        Err(ImageError::File { path: command.first().unwrap_or(&"").into(), problem })
    })
}

async fn output(engine: &Engine, id: &str, agent: &Path) -> Result<String, ImageError> {
    let problem = |error: std::io::Error| ImageError::File { path: agent.to_owned(), problem: error.to_string() };
    let mut archive = Archive::new();
    let content = fs_err::read(agent).map_err(problem)?;
    archive.file(Path::new(inside::AGENT.trim_start_matches('/')), 0o755, &content).map_err(problem)?;
    engine.upload(id, archive.finish().map_err(problem)?).await?;
    engine.start(id).await?;
    let mut text = Vec::new();
    let mut stream = Box::pin(engine.output(id));
    while let Some(piece) = stream.next().await {
        if let LogOutput::StdOut { message } = piece? {
            text.extend_from_slice(&message);
        }
        if text.len() > OUTPUT_BYTES {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
