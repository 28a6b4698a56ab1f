//! Looks into images: the same questions as in containers of an engine, each in a container of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llem_protocol::VisibleGpus;
use tokio_util::sync::CancellationToken;

use super::command::{Bind, Exec};
use super::error::ApptainerError;
use super::image::Image;
use super::program::{Apptainer, Output, complaint, scratch};
use crate::runner::docker::probe::{AGENT_PLACE, OUTPUT_BYTES, ProbeRoom, SCRIPT, SCRIPT_PLACE};
use crate::runner::docker::{ImageError, ImageFacts};
use crate::runner::left::Scratch;

/// Where commands of one probe are run.
pub(super) struct Room<'a> {
    apptainer: &'a Apptainer,
    image: &'a Image,
    agent: &'a Path,
    script: PathBuf,
    /// What the machine's owner adds to every container.
    mounts: Vec<Bind>,
    env: &'a BTreeMap<String, String>,
    /// Whether containers are given GPUs.
    gpus: bool,
    stop: &'a CancellationToken,
    _files: Scratch,
}

impl<'a> Room<'a> {
    pub(super) fn new(
        apptainer: &'a Apptainer,
        image: &'a Image,
        agent: &'a Path,
        (mounts, env): (Vec<Bind>, &'a BTreeMap<String, String>),
        stop: &'a CancellationToken,
    ) -> Result<Self, ApptainerError> {
        let files = scratch()?;
        let script = files.path().join("llem_probe.py");
        fs_err::write(&script, SCRIPT).map_err(ApptainerError::files("the probe's script"))?;
        Ok(Self { apptainer, image, agent, script, mounts, env, gpus: false, stop, _files: files })
    }

    /// The GPUs that the agent sees in a container that is given those of a run; the inner error is why none could be started.
    pub(super) async fn visible_gpus(mut self) -> Result<Result<VisibleGpus, String>, ApptainerError> {
        self.gpus = true;
        let output = self.output(&[AGENT_PLACE, "--gpus"]).await?;
        if !output.succeeded {
            return Ok(Err(complaint(&output.stderr)));
        }
        let line = output.stdout.lines().last().unwrap_or_default();
        Ok(serde_json::from_str(line)
            .map_err(|error| format!("the agent's answer is not what llem asked for: {error}")))
    }

    async fn output(&self, command: &[&str]) -> Result<Output, ApptainerError> {
        let scratch = scratch()?;
        let mut binds = vec![Bind::read_only(self.agent, AGENT_PLACE), Bind::read_only(&self.script, SCRIPT_PLACE)];
        binds.extend(self.mounts.iter().cloned());
        let exec = Exec {
            root: &self.image.root,
            scratch: scratch.path(),
            binds,
            env: self.env.clone(),
            gpus: self.gpus,
            directory: "/tmp",
            command: command.iter().map(|&part| part.to_owned()).collect(),
        };
        self.apptainer.output(&exec, self.stop).await
    }
}

impl ProbeRoom for Room<'_> {
    async fn command(&self, command: &[&str]) -> Result<Result<String, String>, ImageError> {
        let output = match self.output(command).await {
            Err(ApptainerError::Stopped) => return Err(ImageError::Stopped),
            Err(error) => return Ok(Err(error.to_string())),
            Ok(output) => output,
        };
        Ok(if output.stdout.len() >= OUTPUT_BYTES {
            Err(format!("it wrote more than {OUTPUT_BYTES} bytes"))
        } else if output.succeeded {
            Ok(output.stdout)
        } else {
            Err(complaint(&output.stderr))
        })
    }
}

impl Image {
    /// What is known of an image without starting it.
    pub fn facts(&self) -> ImageFacts {
        ImageFacts {
            id: self.id.clone(),
            digests: self.source.iter().flat_map(|source| source.digests.clone()).collect(),
            source: self.source.clone(),
            os: "linux".to_owned(),
            architecture: self.architecture.clone(),
            size_bytes: self.size_bytes,
            ..ImageFacts::default()
        }
    }
}
