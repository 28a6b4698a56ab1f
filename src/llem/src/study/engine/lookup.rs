//! What the cache has for a study that is not run. Nothing is started, nothing is downloaded.

use std::sync::Arc;

use super::inputs::{KeySource, compiled_kind};
use super::not_asked;
use crate::config::{Backend, Experiment, RunnerKind, StudyConfig};
use crate::engine_cache::{CacheKind, Key};
use crate::host::HostSnapshot;
use crate::hub::{Hub, HubSettings};
use crate::preflight::{Images, KnownImage};
use crate::runner::docker::{Engine, ImageFacts};
use crate::study::fleet::choice;
use crate::study::images::asked_image;
use crate::study::job::gpus;
use crate::study::prepare::{Kitchen, blocking};
use crate::study::references::{Weights, hub_of, weights_here};
use crate::study::slurm::ON_NODES;
use crate::study::{Programs, ProgramsError, RunOptions, StudyError, look_at_file};

/// Weights that are read to know what they are, where only little is to be done: bytes.
const LITTLE_BYTES: u64 = 1 << 28;

/// What may be done to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Nothing that takes more than a moment.
    Little,
    /// Weights without a commit are read, workloads are tokenised.
    Whatever,
}

/// What an experiment has to do with the cache.
#[derive(Clone, Debug)]
pub struct EngineLookup {
    /// The experiment.
    pub experiment_id: String,
    /// What distinguishes it in its study; empty where it is the only one.
    pub label: String,
    /// What is compiled for it.
    pub kind: CacheKind,
    /// The key of its engine, or why there is none.
    pub key: Result<Key, String>,
}

/// The keys of all experiments of a study that compile something, in the study's order.
///
/// # Errors
///
/// llem's own binaries or the hub's settings; whatever concerns one experiment is in its entry.
pub async fn look_up_engines(
    study: &StudyConfig,
    options: &RunOptions,
    effort: Effort,
) -> Result<Vec<EngineLookup>, StudyError> {
    let compiled = |e: &Experiment| compiled_kind(&e.config, &options.user);
    let wanted: Vec<_> = study.experiments.iter().filter_map(|e| Some((e, compiled(e)?))).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut desk = Desk::open(study, options, effort).await?;
    let mut found = Vec::with_capacity(wanted.len());
    for (experiment, kind) in wanted {
        let key = desk.key(experiment, kind).await;
        let (experiment_id, label) = (experiment.id.clone(), experiment.label.clone());
        found.push(EngineLookup { experiment_id, label, kind, key });
    }
    Ok(found)
}

/// What keys are looked up with.
struct Desk<'a> {
    options: &'a RunOptions,
    effort: Effort,
    study: &'a StudyConfig,
    hub: Hub,
    engine: Option<Engine>,
    images: Images,
    kitchen: Kitchen,
    processors: Option<u32>,
}

impl<'a> Desk<'a> {
    async fn open(study: &'a StudyConfig, options: &'a RunOptions, effort: Effort) -> Result<Self, StudyError> {
        let hub = Hub::new(HubSettings { offline: true, ..hub_of(study)?.settings().clone() });
        let programs = options.programs.clone().map_or_else(Programs::locate, Ok)?;
        let unreadable = |_| ProgramsError(programs.agent.clone());
        Ok(Self {
            options,
            effort,
            engine: Engine::connect(options.user.docker_host.as_deref()).await.ok(),
            images: Images::new(&options.user, &programs.agent).map_err(unreadable)?,
            kitchen: Kitchen::new(study, options.user.cache_root(), hub.clone()),
            study,
            hub,
            processors: HostSnapshot::read().cpus,
        })
    }

    async fn key(&mut self, experiment: &Experiment, kind: CacheKind) -> Result<Key, String> {
        let (config, user) = (&experiment.config, &self.options.user);
        let runner = match choice(config.backend, self.options) {
            RunnerKind::Slurm => return Err(ON_NODES.to_owned()),
            RunnerKind::Apptainer => "apptainer",
            RunnerKind::Auto | RunnerKind::Docker if self.engine.is_some() => "docker",
            _ => "process",
        };
        if let Some(why) = not_asked(kind, runner, matches!(runner, "docker" | "apptainer"), user) {
            return Err(why);
        }
        let facts = Some(self.facts(experiment).await?);
        let weights = self.weights(experiment).await?;
        let workload_sha256 = match kind {
            CacheKind::TorchCompile if self.effort == Effort::Little => {
                return Err("it depends on the workload, which is not tokenised here".to_owned());
            }
            CacheKind::TorchCompile => {
                let workload = self.kitchen.workload(experiment, &weights.model, &|_| {}).await;
                workload.map_err(|error| error.to_string())?.sha256.clone()
            }
            CacheKind::TensorrtEngine | CacheKind::VllmCompile => String::new(),
        };
        let (config, user, processors) = (config.clone(), user.clone(), self.processors);
        let gpus = gpus(&config, &user);
        let source = KeySource { kind, config, weights, workload_sha256, facts, gpus, processors, user };
        in_thread(move || source.key()).await?
    }

    async fn facts(&self, experiment: &Experiment) -> Result<Arc<ImageFacts>, String> {
        let backend = experiment.config.backend;
        let Some(image) = asked_image(&experiment.config, self.options) else {
            return Err(StudyError::NoImage(backend).to_string());
        };
        if choice(backend, self.options) == RunnerKind::Apptainer {
            return self.facts_of_file(image, backend).await;
        }
        let Some(engine) = &self.engine else { return Err("no container engine answers".to_owned()) };
        match self.images.known(engine, image, Some(backend)).await.map_err(|error| error.to_string())? {
            KnownImage::Probed(facts) => Ok(Arc::new(facts)),
            KnownImage::Missing => Err(format!("image {image} is missing; `llem image pull {image}` fetches it")),
            KnownImage::Unprobed(_) => {
                let remedy = format!("`llem image probe {image} --backend {backend}`");
                Err(format!("image {image} was not looked into yet; {remedy} does, and so does a run"))
            }
        }
    }

    async fn facts_of_file(&self, image: &str, backend: Backend) -> Result<Arc<ImageFacts>, String> {
        let looked = look_at_file(self.study, image, &self.options.user.cache_root()).await;
        match self.images.known_file(looked.map_err(|error| error.to_string())?, Some(backend)) {
            KnownImage::Probed(facts) => Ok(Arc::new(facts)),
            _ => Err(format!(
                "image {image} was not looked into yet; `llem image probe {image} --backend {backend}` does, and so does a run"
            )),
        }
    }

    async fn weights(&self, experiment: &Experiment) -> Result<Weights, String> {
        let (config, base_dir) = (experiment.config.clone(), self.study.base_dir());
        let bundled = self.study.bundled().cloned();
        let (cache_root, hub) = (self.options.user.cache_root(), self.hub.clone());
        let found = in_thread(move || weights_here(&config, bundled.as_deref(), &base_dir, &cache_root, &hub)).await?;
        let weights = found.map_err(|error| error.to_string())?;
        let bytes: u64 = weights.directories().iter().map(|dir| directory_bytes(dir)).sum();
        if self.effort == Effort::Little && bytes > LITTLE_BYTES {
            return Err("its weights are not read here".to_owned());
        }
        Ok(weights)
    }
}

async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    blocking(String::new(), &|_| {}, work).await.map_err(|error| error.to_string())
}

/// Bytes of the files of a directory, links followed, as far as they can be told.
fn directory_bytes(dir: &std::path::Path) -> u64 {
    let entries = fs_err::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| fs_err::metadata(entry.path()).ok())
        .filter(std::fs::Metadata::is_file)
        .map(|m| m.len())
        .sum()
}
