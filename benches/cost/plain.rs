//! The same container without llem: its settings and files are read back from one that llem itself made.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, InspectContainerOptions,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    UploadToContainerOptionsBuilder, WaitContainerOptions,
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use llem::runner::docker::LABEL_RUN;
use llem_protocol::{Job, files};

use crate::Outcome;

/// How often the engine is asked for llem's container.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What llem injects into a container, beside the job.
const INJECTED: [&str; 2] = ["/llem/agent", "/llem/workload.jsonl"];

/// The job.
const JOB: &str = "/llem/job.json";

/// Where the agent writes, inside.
const OUT: &str = "/llem/out";

/// Everything that is needed to make a container of llem again.
pub(crate) struct PlainContainer {
    body: ContainerCreateBody,
    archive: Bytes,
    nonce: String,
    scratch: PathBuf,
}

/// The calls for one container, in their order.
pub(crate) const STEPS: [&str; 5] = ["create", "upload of agent, job and workload", "start", "wait", "remove"];

/// Seconds of each of [`STEPS`].
pub(crate) type Steps = [f64; STEPS.len()];

impl PlainContainer {
    /// Waits for a container of the study that llem runs with results below `scratch`'s parent, and reads it. Gives up when
    /// the study has `ended`. The job's window is shortened to `window_s`: that of the study is long, to leave time for this.
    pub(crate) async fn capture(
        docker: &Docker,
        scratch: &Path,
        window_s: f64,
        ended: impl Fn() -> bool,
    ) -> Outcome<Self> {
        let home = scratch.parent().unwrap_or(scratch).display().to_string();
        while !ended() {
            let running = ListContainersOptionsBuilder::default().filters(&[("label", vec![LABEL_RUN])].into()).build();
            for container in docker.list_containers(Some(running)).await? {
                let is_ours = |source: &Option<String>| source.as_ref().is_some_and(|path| path.starts_with(&home));
                if container.mounts.iter().flatten().any(|mount| is_ours(&mount.source)) {
                    return Self::read(docker, container.id.as_deref().unwrap_or_default(), scratch, window_s).await;
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Err("the first study ended without a container; does llem use another engine or the process runner?".into())
    }

    async fn read(docker: &Docker, id: &str, scratch: &Path, window_s: f64) -> Outcome<Self> {
        let found = docker.inspect_container(id, None::<InspectContainerOptions>).await?;
        // The engine describes a container by the fields with which it is made.
        let mut body: ContainerCreateBody = serde_json::from_value(serde_json::to_value(found.config)?)?;
        body.host_config = found.host_config;
        body.hostname = None;
        body.labels = Some([("io.llem.bench".to_owned(), "cost".to_owned())].into());
        let mut archive = tar::Builder::new(Vec::new());
        for path in INJECTED {
            let (mut header, content) = download(docker, id, path).await?;
            archive.append_data(&mut header, path.trim_start_matches('/'), content.as_slice())?;
        }
        let (mut header, content) = download(docker, id, JOB).await?;
        let mut job: Job = serde_json::from_slice(&content)?;
        job.measurement.window_min_s = window_s;
        let content = serde_json::to_vec(&job)?;
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, JOB.trim_start_matches('/'), content.as_slice())?;
        Ok(Self { body, archive: archive.into_inner()?.into(), nonce: job.nonce, scratch: scratch.to_owned() })
    }

    /// Makes, fills, starts, awaits and removes the container once, with an empty directory for its results.
    pub(crate) async fn run(&self, docker: &Docker) -> Outcome<Steps> {
        let _ = fs_err::remove_dir_all(&self.scratch);
        fs_err::create_dir_all(&self.scratch)?;
        fs_err::write(self.scratch.join(files::NONCE), &self.nonce)?;
        let mut body = self.body.clone();
        mount_results(body.host_config.as_mut(), &self.scratch)?;
        let name = format!("llem-bench-{}", std::process::id());
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let clock = Instant::now();
        let id = docker.create_container(Some(options), body).await?.id;
        let create_s = clock.elapsed().as_secs_f64();
        let lived = self.live(docker, &id).await;
        let clock = Instant::now();
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        docker.remove_container(&id, Some(options)).await?;
        let [upload_s, start_s, wait_s] = lived?;
        let steps = [create_s, upload_s, start_s, wait_s, clock.elapsed().as_secs_f64()];
        if self.scratch.join(files::REPORT).is_file() {
            Ok(steps)
        } else {
            Err(format!("the plain container left no `{}`", files::REPORT).into())
        }
    }

    /// Seconds of upload, start and wait. An exit status other than 0 is an error of the last.
    async fn live(&self, docker: &Docker, id: &str) -> Outcome<[f64; 3]> {
        let clock = Instant::now();
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        docker.upload_to_container(id, Some(options), bollard::body_full(self.archive.clone())).await?;
        let uploaded_s = clock.elapsed().as_secs_f64();
        docker.start_container(id, None::<StartContainerOptions>).await?;
        let started_s = clock.elapsed().as_secs_f64();
        docker.wait_container(id, None::<WaitContainerOptions>).try_collect::<Vec<_>>().await?;
        Ok([uploaded_s, started_s - uploaded_s, clock.elapsed().as_secs_f64() - started_s])
    }
}

/// A file of a container with what its archive says of it.
async fn download(docker: &Docker, id: &str, path: &str) -> Outcome<(tar::Header, Vec<u8>)> {
    let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
    let pieces: Vec<Bytes> = docker.download_from_container(id, Some(options)).try_collect().await?;
    let pieces = pieces.concat();
    let mut archive = tar::Archive::new(pieces.as_slice());
    let mut entry = archive.entries()?.next().ok_or_else(|| format!("the container has no {path}"))??;
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    Ok((entry.header().clone(), content))
}

fn mount_results(host: Option<&mut HostConfig>, source: &Path) -> Outcome<()> {
    let mounts = host.and_then(|host| host.mounts.as_mut()).into_iter().flatten();
    let mut results = mounts.filter(|mount| mount.target.as_deref() == Some(OUT));
    let mount = results.next().ok_or_else(|| format!("the container has no mount at {OUT}"))?;
    mount.source = Some(source.display().to_string());
    Ok(())
}
