//! Everything that can be made ready, and can go wrong, before the first container.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, access};
use tokio::sync::Mutex;
use tracing::debug;

use super::bundle::PackedWorkloads;
use super::cpus::refuse_absent_cpus;
use super::drivers::driver;
use super::engine::compiled_kind;
use super::fleet::Fleet;
use super::forecast::disk_forecasts;
use super::gpus::prove_access;
use super::images::{
    asked_image, known_images, open_files, refuse_containers_without_images, refuse_files_in_engines,
    refuse_images_without_containers, refuse_missing_images,
};
use super::links::refuse_links_outside;
use super::references::{Larder, Weights, hub_of, refuse_writable};
use super::{Programs, RunOptions, StudyError, StudyEvent};
use crate::config::{
    Backend, ConfigError, Experiment, ExperimentConfig, Length, Order, StudyConfig, UserConfig, tensorrt_checkpoint,
};
use crate::engine_cache::CacheSettings;
use crate::host::free_bytes;
use crate::hub::Hub;
use crate::model::LocalModel;
use crate::preflight;
use crate::runner::DriverFiles;
use crate::runner::docker::{HostPaths, ImageFacts, build_candle};
use crate::workload::{self, LengthSpec, OrderSpec, Workload, WorkloadRequest};

/// Work that is over sooner is not worth a line.
const MOMENT: Duration = Duration::from_secs(1);

/// What an experiment needs, on this machine.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) weights: Weights,
    pub(super) workload: Arc<Workload>,
    pub(super) driver: DriverFiles,
    /// Empty where there are no images.
    pub(super) image: String,
    /// What the image is, where it was probed.
    pub(super) facts: Option<Arc<ImageFacts>>,
}

/// Makes weights, workloads and images of all experiments ready; what several experiments share is made once.
pub(super) async fn prepare(
    study: &StudyConfig,
    options: &RunOptions,
    programs: &Programs,
    fleet: &Fleet,
    probing: &Mutex<()>,
    notify: &impl Fn(StudyEvent),
) -> Result<Vec<Prepared>, StudyError> {
    let drivers = drivers(study, options, programs)?;
    refuse_images_without_containers(study, fleet)?;
    refuse_containers_without_images(study, options, fleet)?;
    refuse_files_in_engines(study, options, fleet)?;
    refuse_missing_images(study, options, fleet).await?;
    refuse_absent_cpus(study, &options.user, fleet)?;
    refuse_absent_sources(&options.user, fleet)?;
    refuse_unwritable_output(options)?;
    open_files(study, options, fleet, notify).await?;
    for shared in [&options.output, &options.user.cache_root()] {
        fleet.paths().on_host(shared)?;
    }
    let cache_root = options.user.cache_root();
    refuse_full_disks(study, options)?;
    let base_dir = study.base_dir();
    let hub = hub_of(study)?;
    let stocked = Larder::new(study, &base_dir, &cache_root, &hub).stock(notify).await?;
    if fleet.has_containers() {
        refuse_writable(&stocked, &options.user.mounts)?;
        refuse_links_outside(&stocked, &options.user.mounts)?;
    }
    let known = known_images(study, options, programs, fleet, probing, notify).await?;
    preflight::check(study, &options.user, &known.probed, &programs.agent)?;
    {
        // As with the probes of images: whoever ends the study waits until the container is gone.
        let _busy = probing.lock().await;
        prove_access(study, options, programs, fleet, &known.probed, notify).await?;
    }
    let candle_image =
        if drivers.contains_key(&Backend::Candle) { candle_image(programs, fleet, notify).await? } else { None };
    let mut kitchen = Kitchen::new(study, cache_root, hub);
    let mut prepared = Vec::with_capacity(study.experiments.len());
    for (experiment, weights) in study.experiments.iter().zip(stocked) {
        refuse_unread_weights(experiment, &weights.model)?;
        let workload = kitchen.workload(experiment, &weights.model, notify).await?;
        let tokens = workload.max_total_tokens;
        if let Some(positions) = weights.model.config.max_positions.filter(|positions| tokens > *positions) {
            return Err(StudyError::TooLong { experiment: experiment.id.clone(), tokens, positions });
        }
        let image = image(&experiment.config, options, candle_image.as_deref());
        for root in weights.roots() {
            fleet.paths().on_host(root)?;
        }
        if compiled_kind(&experiment.config, &options.user).is_some() {
            fleet.paths().on_host(&CacheSettings::of(&options.user).dir)?;
        }
        let driver = drivers[&experiment.config.backend].clone();
        let facts = known.of(experiment.config.backend, &image);
        debug!(experiment = experiment.id, model = %weights.model.dir().display(), workload = workload.sha256, image, "ready");
        prepared.push(Prepared { weights, workload, driver, image, facts });
    }
    Ok(prepared)
}

/// Room for the first results, and for the weights whose size is known before they are there.
fn refuse_full_disks(study: &StudyConfig, options: &RunOptions) -> Result<(), StudyError> {
    for mut disk in disk_forecasts(study, options)? {
        disk.known_bytes = disk.known_bytes.max(preflight::LEAST_FREE_BYTES);
        if let Some(why) = disk.too_full() {
            return Err(StudyError::NoSpace(why));
        }
    }
    Ok(())
}

/// Hours of downloads are lost when it turns out only after them that no result can be written.
fn refuse_unwritable_output(options: &RunOptions) -> Result<(), StudyError> {
    let output = &options.output;
    let Some((_, existing)) = free_bytes(output).filter(|_| options.resume.is_none()) else { return Ok(()) };
    access(&existing, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| StudyError::ReadOnlyOutput {
        output: output.clone(),
        existing,
        source: error.into(),
    })
}

/// Directories and device nodes of the user config that no container can be given, because they are not there.
fn refuse_absent_sources(user: &UserConfig, fleet: &Fleet) -> Result<(), StudyError> {
    // In a container beside the engine, they are the engine's machine's.
    if (fleet.engine().is_none() && fleet.apptainer().is_none()) || *fleet.paths() != HostPaths::Same {
        return Ok(());
    }
    let mounts = user.mounts.iter().map(|mount| ("mounts", mount.source.clone()));
    let devices = user.devices.iter().map(|device| ("devices", PathBuf::from(device)));
    // What may not be looked at may be there.
    let is_absent = |path: &PathBuf| matches!(path.try_exists(), Ok(false));
    match mounts.chain(devices).find(|(_, path)| is_absent(path)) {
        Some((key, path)) => Err(StudyError::AbsentSource { key, path }),
        None => Ok(()),
    }
}

/// Weights that the engine does not read, of models that only the hub could tell of.
pub(super) fn refuse_unread_weights(experiment: &Experiment, model: &LocalModel) -> Result<(), StudyError> {
    let method = model.config.quantization.as_deref().filter(|_| experiment.config.backend == Backend::Tensorrt);
    match method.and_then(tensorrt_checkpoint) {
        Some(finding) => Err(ConfigError { problems: vec![finding.without_file()] }.into()),
        None => Ok(()),
    }
}

/// The drivers of all backends of the study.
fn drivers(
    study: &StudyConfig,
    options: &RunOptions,
    programs: &Programs,
) -> Result<BTreeMap<Backend, DriverFiles>, StudyError> {
    let backends: BTreeSet<_> = study.experiments.iter().map(|experiment| experiment.config.backend).collect();
    backends.into_iter().map(|backend| Ok((backend, driver(backend, programs, &options.user)?))).collect()
}

fn image(config: &ExperimentConfig, options: &RunOptions, candle_image: Option<&str>) -> String {
    asked_image(config, options).or(candle_image).unwrap_or_default().to_owned()
}

/// The embedded backend's image for the binaries at hand, made when the engine does not have it.
async fn candle_image(
    programs: &Programs,
    fleet: &Fleet,
    notify: &impl Fn(StudyEvent),
) -> Result<Option<String>, StudyError> {
    if !fleet.runner(Backend::Candle).has_images() {
        return Ok(None);
    }
    let image = programs.candle_image()?;
    // Apptainer's runner laid it out to try itself.
    let Some(engine) = fleet.engine().filter(|_| fleet.uses_engine(Backend::Candle)) else {
        return Ok(Some(image.reference));
    };
    if engine.image(&image.reference).await?.is_none() {
        notify(StudyEvent::Preparing { what: format!("image {}", image.reference) });
        build_candle(engine, &image).await?;
    }
    Ok(Some(image.reference))
}

/// Makes workloads, each once.
pub(super) struct Kitchen {
    base_dir: PathBuf,
    cache_root: PathBuf,
    hub: Hub,
    workloads: HashMap<String, Arc<Workload>>,
    packed: PackedWorkloads,
}

impl Kitchen {
    pub(super) fn new(study: &StudyConfig, cache_root: PathBuf, hub: Hub) -> Self {
        Self {
            base_dir: study.base_dir(),
            cache_root,
            hub,
            workloads: HashMap::new(),
            packed: PackedWorkloads::of(study),
        }
    }

    pub(super) async fn workload(
        &mut self,
        experiment: &Experiment,
        model: &Arc<LocalModel>,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Arc<Workload>, StudyError> {
        if let Some(packed) = self.packed.find(&experiment.id)? {
            return Ok(packed);
        }
        let config = experiment.config.workload.clone();
        let seed = experiment.config.random_seed;
        let key = format!("{config:?} {seed} {}", model.dir().display());
        if let Some(workload) = self.workloads.get(&key) {
            return Ok(workload.clone());
        }
        let (base_dir, cache_root, hub) = (self.base_dir.clone(), self.cache_root.clone(), self.hub.clone());
        let tokenizer = model.tokenizer();
        let what = format!("workload {}", config.dataset);
        let made = blocking(what, notify, move || {
            let request = WorkloadRequest {
                dataset: &config.dataset,
                n: config.n,
                input_tokens: config.input_tokens.map(length),
                output_tokens: length(config.output_tokens),
                order: order(config.order),
                seed,
                base_dir: &base_dir,
            };
            workload::prepare(&request, &tokenizer, &cache_root, &hub)
        })
        .await?;
        let workload =
            Arc::new(made.map_err(|source| StudyError::Workload {
                experiment: experiment.id.clone(),
                source: Box::new(source),
            })?);
        self.workloads.insert(key, workload.clone());
        Ok(workload)
    }
}

/// Runs file and network work beside the event loop, on a thread that nobody waits for when the study is stopped: an event loop waits
/// at its end for the blocking threads of its own. The user hears of work that takes longer than a moment.
pub(super) async fn blocking<T: Send + 'static>(
    what: String,
    notify: &impl Fn(StudyEvent),
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StudyError> {
    let (sender, done) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("prepare".to_owned())
        .spawn(move || sender.send(work()))
        .map_err(|error| StudyError::Task(error.to_string()))?;
    let result = patiently(what, notify, done).await;
    result.map_err(|_| StudyError::Task("the preparation died".to_owned()))
}

/// Waits; the user hears of what takes longer than a moment.
pub(super) async fn patiently<T>(what: String, notify: &impl Fn(StudyEvent), work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => result,
        () = tokio::time::sleep(MOMENT) => {
            notify(StudyEvent::Preparing { what });
            work.await
        }
    }
}

fn length(length: Length) -> LengthSpec {
    match length {
        Length::Exact(tokens) => LengthSpec::Exact(tokens),
        Length::Uniform(range) => LengthSpec::Uniform { min: range.min, max: range.max },
    }
}

fn order(order: Order) -> OrderSpec {
    match order {
        Order::AsGiven => OrderSpec::AsGiven,
        Order::Shuffled => OrderSpec::Shuffled,
        Order::ShortestFirst => OrderSpec::ShortestFirst,
        Order::LongestFirst => OrderSpec::LongestFirst,
    }
}
