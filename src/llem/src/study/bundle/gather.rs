//! From a study to the files that a bundle of it has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::drivers::driver;
use super::super::fleet::choice;
use super::super::lock::StudyLock;
use super::super::prepare::{Kitchen, Prepared, blocking, refuse_unread_weights};
use super::super::references::{Larder, Weights};
use super::super::{Programs, RunOptions, StudyError, StudyEvent};
use super::images::{self, Images};
use super::manifest::is_clean;
use super::{
    AGENT, BUNDLE_FORMAT, BundleError, BundleEvent, BundleOptions, CANDLE, CANDLE_ROOT, CONTROLLER, ImageForm, LOCK,
    Manifest, PackedFile, PackedStudy, WORKLOADS, plain, weights,
};
use crate::config::{AIENERGYSCORE_DATASET, Backend, NodeRunner, RunnerKind, StudyConfig, StudySource, study_path};
use crate::host::LLEM_COMMIT;
use crate::hub::{Hub, Token};
use crate::runner::docker::Engine;
use crate::workload::{self, Workload};

/// A file that is to be packed.
pub(super) struct Item {
    pub(super) name: String,
    pub(super) executable: bool,
    pub(super) source: Source,
    /// Exact, but for images of an engine.
    pub(super) size_bytes: u64,
    /// Its hash, where that is known before.
    pub(super) sha256: Option<String>,
}

/// Where a file's content comes from.
pub(super) enum Source {
    Bytes(Vec<u8>),
    File(PathBuf),
    /// An image of the container engine, by its reference.
    Image(String),
}

impl Item {
    fn bytes(name: impl Into<String>, content: Vec<u8>) -> Self {
        let size_bytes = content.len() as u64;
        Self { name: name.into(), executable: false, source: Source::Bytes(content), size_bytes, sha256: None }
    }

    fn file(name: impl Into<String>, path: PathBuf) -> Result<Self, BundleError> {
        let size_bytes = fs_err::metadata(&path).map_err(BundleError::Files)?.len();
        Ok(Self { name: name.into(), executable: false, source: Source::File(path), size_bytes, sha256: None })
    }

    fn program(name: &str, path: &Path) -> Result<Self, BundleError> {
        Ok(Self { executable: true, ..Self::file(name, path.to_owned())? })
    }
}

/// A bundle before it is written: sizes and hashes in the manifest are not known yet.
pub(super) struct Gathered {
    pub(super) manifest: Manifest,
    pub(super) items: Vec<Item>,
    pub(super) engine: Option<Engine>,
    /// What must not be in any of them.
    pub(super) token: Option<Token>,
}

/// Makes everything of a study ready: downloads weights, tokenises requests, makes SIF files, and locks it all.
pub(super) async fn gather(
    study: &StudyConfig,
    options: &BundleOptions,
    workshop: &dyn Fn(&str) -> PathBuf,
    notify: &impl Fn(BundleEvent),
) -> Result<Gathered, BundleError> {
    let tell = |event: StudyEvent| notify(BundleEvent::Study(event));
    let source = study.source.as_ref().ok_or_else(|| StudyError::Task("the study came from no file".to_owned()))?;
    let run = RunOptions {
        user: options.user.clone(),
        runner: options.runner,
        stop: options.stop.clone(),
        ..RunOptions::default()
    };
    let programs = options.programs.clone().map_or_else(Programs::locate, Ok).map_err(StudyError::from)?;
    let (cache_root, base_dir) = (run.user.cache_root(), study.base_dir());
    let hub = Hub::from_env().map_err(StudyError::from)?;
    refuse_token(source, &hub)?;
    let token = hub.token().cloned();
    let (runners, engine) = runners(study, &run, options.images).await?;
    let stocked = Larder::new(study, &base_dir, &cache_root, &hub).stock(&tell).await?;
    let workloads = cook(study, &stocked, Kitchen::new(study, cache_root.clone(), hub), &tell).await?;
    let carriers: BTreeMap<Backend, RunnerKind> =
        runners.iter().map(|(backend, kind)| (*backend, carrier(*kind, run.user.slurm.node_runner))).collect();
    let images = images::gather(study, &run, &carriers, engine.as_ref(), workshop, notify).await?;
    let lock = lock(study, &run, &programs, &carriers, &stocked, &workloads, &images, &tell).await?;

    let file = source.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let study_file = format!("study/{file}");
    let lock = serde_json::to_vec_pretty(&lock).map_err(|error| BundleError::Files(error.into()))?;
    let mut items = vec![Item::bytes(&study_file, source.text.clone().into_bytes()), Item::bytes(LOCK, lock)];
    items.extend(workload_items(study, &workloads)?);
    let (datasets, dataset_items) = datasets(study, &workloads, &cache_root)?;
    items.extend(dataset_items);
    items.extend(program_items(&programs)?);
    let models = options.models;
    let (packed_weights, weight_items) = {
        let (study, cache_root) = (study.clone(), cache_root.clone());
        blocking("hashes of the weights".to_owned(), &tell, move || {
            weights::gather(&study, &stocked, models, &cache_root)
        })
        .await??
    };
    items.extend(weight_items);
    items.extend(images.items);
    if let Some(item) = items.iter().find(|item| !is_clean(&item.name)) {
        let problem =
            "its name cannot be that of a file in a bundle: no control characters, no `\\`, at most 255 bytes"
                .to_owned();
        return Err(BundleError::Unpackable { path: item.name.clone().into(), problem });
    }
    let manifest = Manifest {
        format: BUNDLE_FORMAT,
        llem_version: env!("CARGO_PKG_VERSION").to_owned(),
        llem_commit: LLEM_COMMIT.map(str::to_owned),
        architecture: std::env::consts::ARCH.to_owned(),
        study: PackedStudy {
            name: study.name.clone(),
            file: study_file,
            profile: study.profile,
            overrides: source.overrides.clone(),
            experiments: study.experiments.len(),
        },
        node_runner: runners.values().any(|kind| *kind == RunnerKind::Slurm).then_some(run.user.slurm.node_runner),
        runners,
        default_images: images.defaults,
        images: images.packed,
        weights: packed_weights,
        datasets,
        files: items.iter().map(|item| PackedFile::unknown(item.name.clone())).collect(),
    };
    Ok(Gathered { manifest, items, engine, token })
}

/// A bundle is given to others.
fn refuse_token(source: &StudySource, hub: &Hub) -> Result<(), BundleError> {
    let Some(token) = hub.token() else { return Ok(()) };
    let is_said = |text: &String| text.contains(token.expose());
    if is_said(&source.text) || source.overrides.iter().any(is_said) {
        return Err(BundleError::Token(source.path.clone()));
    }
    Ok(())
}

/// Where each backend will run, and the container engine where images come from one.
async fn runners(
    study: &StudyConfig,
    options: &RunOptions,
    form: Option<ImageForm>,
) -> Result<(BTreeMap<Backend, RunnerKind>, Option<Engine>), BundleError> {
    let backends: BTreeSet<Backend> = study.experiments.iter().map(|experiment| experiment.config.backend).collect();
    let mut wanted: BTreeMap<Backend, RunnerKind> =
        backends.into_iter().map(|backend| (backend, choice(backend, options))).collect();
    if let Some(form) = form {
        let kind = if form == ImageForm::Sif { RunnerKind::Apptainer } else { RunnerKind::Docker };
        for wanted in wanted.values_mut() {
            *wanted = kind;
        }
    }
    let address = options.user.docker_host.as_deref();
    let engine = match Engine::connect(address).await {
        Ok(engine) => Some(engine),
        Err(error) if wanted.values().any(|kind| *kind == RunnerKind::Docker) => return Err(error.into()),
        Err(_) => None,
    };
    let auto = if engine.is_some() { RunnerKind::Docker } else { RunnerKind::Process };
    for kind in wanted.values_mut().filter(|kind| **kind == RunnerKind::Auto) {
        *kind = auto;
    }
    Ok((wanted, engine))
}

/// What carries out runs in the end: on a cluster its nodes do.
pub(super) fn carrier(kind: RunnerKind, node_runner: NodeRunner) -> RunnerKind {
    match (kind, node_runner) {
        (RunnerKind::Slurm, NodeRunner::Apptainer) => RunnerKind::Apptainer,
        (RunnerKind::Slurm, NodeRunner::Process) => RunnerKind::Process,
        _ => kind,
    }
}

/// The workloads of all experiments, in their order. What no model can hold is said here, not on the other machine.
async fn cook(
    study: &StudyConfig,
    stocked: &[Weights],
    mut kitchen: Kitchen,
    tell: &impl Fn(StudyEvent),
) -> Result<Vec<Arc<Workload>>, BundleError> {
    let mut workloads = Vec::with_capacity(stocked.len());
    for (experiment, weights) in study.experiments.iter().zip(stocked) {
        refuse_unread_weights(experiment, &weights.model)?;
        let workload = kitchen.workload(experiment, &weights.model, tell).await?;
        let tokens = workload.max_total_tokens;
        if let Some(positions) = weights.model.config.max_positions.filter(|positions| tokens > *positions) {
            return Err(StudyError::TooLong { experiment: experiment.id.clone(), tokens, positions }.into());
        }
        workloads.push(workload);
    }
    Ok(workloads)
}

/// What the study must find where it is run: made by the same code as the lock of a run.
#[expect(clippy::too_many_arguments, reason = "a lock is of everything")]
async fn lock(
    study: &StudyConfig,
    options: &RunOptions,
    programs: &Programs,
    runners: &BTreeMap<Backend, RunnerKind>,
    stocked: &[Weights],
    workloads: &[Arc<Workload>],
    images: &Images,
    tell: &impl Fn(StudyEvent),
) -> Result<StudyLock, BundleError> {
    let embedded = programs.candle_image()?.reference;
    let mut prepared = Vec::with_capacity(stocked.len());
    for ((experiment, weights), workload) in study.experiments.iter().zip(stocked).zip(workloads) {
        let config = &experiment.config;
        let kind = runners.get(&config.backend).copied().unwrap_or_default();
        let named = config.image().or_else(|| images.defaults.get(&config.backend).map(String::as_str));
        let image = match kind {
            RunnerKind::Docker | RunnerKind::Apptainer => named.unwrap_or(&embedded).to_owned(),
            _ => String::new(),
        };
        // Of images of the embedded backend, runs look at files only.
        let is_looked_at = config.backend != Backend::Candle || kind == RunnerKind::Apptainer;
        let facts = images.facts.get(&image).filter(|_| is_looked_at).cloned().map(Arc::new);
        let (weights, workload) = (weights.clone(), workload.clone());
        let driver = driver(config.backend, programs, &options.user)?;
        prepared.push(Prepared { weights, workload, driver, image, facts });
    }
    let (study, programs, cache_root) = (study.clone(), programs.clone(), options.user.cache_root());
    let what = "hashes of the weights".to_owned();
    Ok(blocking(what, tell, move || StudyLock::of(&study, &prepared, &programs, &cache_root)).await??)
}

fn workload_items(study: &StudyConfig, workloads: &[Arc<Workload>]) -> Result<Vec<Item>, BundleError> {
    let ids = study.experiments.iter().map(|experiment| experiment.id.as_str());
    let list = workload::write_list(ids.zip(workloads.iter().map(AsRef::as_ref))).map_err(BundleError::Files)?;
    let (mut items, mut seen) = (vec![Item::bytes(WORKLOADS, list)], BTreeSet::new());
    for workload in workloads.iter().filter(|workload| seen.insert(workload.sha256.clone())) {
        let item = Item::file(format!("workloads/{}", workload::file_name(workload)), workload.path.clone())?;
        items.push(Item { sha256: Some(workload.sha256.clone()), ..item });
    }
    Ok(items)
}

/// The files that prompts came from. A built-in data set is in the form that `LLEM_DATASETS_DIR` takes.
fn datasets(
    study: &StudyConfig,
    workloads: &[Arc<Workload>],
    cache_root: &Path,
) -> Result<(BTreeMap<String, String>, Vec<Item>), BundleError> {
    let (mut named, mut items, mut built_in) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    for (experiment, workload) in study.experiments.iter().zip(workloads) {
        let config = &experiment.config.workload;
        let dataset = config.dataset.as_str();
        if config.is_synthetic() || named.contains_key(dataset) || built_in.contains(dataset) {
            continue;
        }
        if dataset == AIENERGYSCORE_DATASET {
            built_in.insert(dataset);
            let path = workload::cached_dataset(&workload.dataset, cache_root);
            items.extend(path.map(|path| Item::file(format!("datasets/{dataset}.jsonl"), path)).transpose()?);
            continue;
        }
        let path = study_path(&study.base_dir(), dataset);
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = format!("datasets/{}-{}", named.len(), plain(&file));
        // What was tokenised is what must be packed.
        items.push(Item { sha256: workload.dataset.sha256.clone(), ..Item::file(&name, path)? });
        named.insert(dataset.to_owned(), name);
    }
    Ok((named, items))
}

/// llem, its agent, and the embedded backend's driver with all that it loads.
fn program_items(programs: &Programs) -> Result<Vec<Item>, BundleError> {
    let mut items = vec![Item::program(AGENT, &programs.agent)?, Item::program(CANDLE, &programs.candle)?];
    let controller = programs.agent.with_file_name("llem");
    if controller.is_file() {
        items.push(Item::program(CONTROLLER, &controller)?);
    }
    for (path, content, executable) in programs.candle_image()?.files() {
        let name = format!("{CANDLE_ROOT}/{}", path.strip_prefix("/").unwrap_or(path).display());
        items.push(Item { executable, ..Item::bytes(name, content.to_vec()) });
    }
    Ok(items)
}
