//! Everything that can be made ready, and can go wrong, before the first container.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tracing::debug;

use super::cpus::refuse_absent_cpus;
use super::drivers::driver;
use super::engine::compiled_kind;
use super::fleet::Fleet;
use super::forecast::disk_forecasts;
use super::gpus::prove_access;
use super::references::{Larder, Weights, refuse_writable};
use super::{Programs, ProgramsError, RunOptions, StudyError, StudyEvent};
use crate::config::{
    Backend, ConfigError, Experiment, ExperimentConfig, Length, Order, StudyConfig, is_image_path, tensorrt_checkpoint,
};
use crate::engine_cache::CacheSettings;
use crate::hub::Hub;
use crate::model::LocalModel;
use crate::preflight::{self, Images, KnownFacts, KnownImage};
use crate::runner::DriverFiles;
use crate::runner::apptainer::{ApptainerElsewhere, ApptainerError};
use crate::runner::docker::{CandleImage, ImageError, ImageFacts, build_candle};
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
    open_files(study, options, fleet, notify).await?;
    for shared in [&options.output, &options.user.cache_root()] {
        fleet.paths().on_host(shared)?;
    }
    let cache_root = options.user.cache_root();
    refuse_full_disks(study, options)?;
    let base_dir = study.base_dir();
    let hub = Hub::from_env()?;
    let stocked = Larder::new(study, &base_dir, &cache_root, &hub).stock(notify).await?;
    if fleet.has_containers() {
        refuse_writable(&stocked, &options.user.mounts)?;
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
    let mut kitchen = Kitchen::new(base_dir, cache_root, hub);
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

/// Weights that the engine does not read, of models that only the hub could tell of.
fn refuse_unread_weights(experiment: &Experiment, model: &LocalModel) -> Result<(), StudyError> {
    let method = model.config.quantization.as_deref().filter(|_| experiment.config.backend == Backend::Tensorrt);
    match method.and_then(tensorrt_checkpoint) {
        Some(finding) => Err(ConfigError { problems: vec![finding.without_file()] }.into()),
        None => Ok(()),
    }
}

/// What is known of the images of a study.
#[derive(Default)]
struct Known {
    /// Of those that were looked into.
    probed: KnownFacts,
    /// Of those that nodes will look into: what they are, and not what is in them.
    unprobed: KnownFacts,
}

impl Known {
    fn of(&self, backend: Backend, image: &str) -> Option<Arc<ImageFacts>> {
        let key = (backend, image.to_owned());
        self.probed.get(&key).or_else(|| self.unprobed.get(&key)).cloned()
    }
}

/// Looks into the images that the study's containers are made from, each once.
async fn known_images(
    study: &StudyConfig,
    options: &RunOptions,
    programs: &Programs,
    fleet: &Fleet,
    probing: &Mutex<()>,
    notify: &impl Fn(StudyEvent),
) -> Result<Known, StudyError> {
    if !fleet.has_containers() {
        return Ok(Known::default());
    }
    let images = Images::new(&options.user, &programs.agent).map_err(|_| ProgramsError(programs.agent.clone()))?;
    // Whoever ends the study waits for this until the probe's container is gone.
    let _busy = probing.lock().await;
    if let Some(elsewhere) = fleet.elsewhere() {
        return known_elsewhere(study, options, elsewhere, &images, notify).await;
    }
    let mut known = known_files(study, options, fleet, &images, notify).await?;
    let Some(engine) = fleet.engine() else { return Ok(Known { probed: known, ..Known::default() }) };
    for (backend, reference) in preflight::images_of(study, &options.user) {
        if !fleet.uses_engine(backend) {
            continue;
        }
        if let KnownImage::Unprobed(_) = images.known(engine, &reference, Some(backend)).await? {
            notify(StudyEvent::Preparing { what: format!("probe of image {reference}") });
        }
        match images.probe(engine, &reference, Some(backend), false, &options.stop.soft).await {
            Ok(Some(facts)) => drop(known.insert((backend, reference), Arc::new(facts))),
            // It went since it was looked for: its runs fail and say so.
            Ok(None) => {}
            Err(ImageError::Stopped) => return Err(StudyError::Stopped),
            Err(ImageError::Engine(error)) if error.is_lost() => return Err(error.into()),
            Err(error) => {
                let text = format!("image {reference} could not be looked into: {error}; its runs go on without that");
                notify(StudyEvent::Notice { text });
            }
        }
    }
    note_same_images(&known, notify);
    Ok(Known { probed: known, ..Known::default() })
}

/// The files that nodes make containers of. Nothing is started here: what is in a file is known where llem looked into it before.
async fn known_elsewhere(
    study: &StudyConfig,
    options: &RunOptions,
    elsewhere: &ApptainerElsewhere,
    images: &Images,
    notify: &impl Fn(StudyEvent),
) -> Result<Known, StudyError> {
    let mut known = Known::default();
    for (backend, reference) in preflight::named_images(study, &options.user) {
        let image = elsewhere.open(&reference, &study.base_dir()).await?;
        let (place, facts) = match images.known_file(image.facts(), Some(backend)) {
            KnownImage::Probed(facts) => (&mut known.probed, facts),
            KnownImage::Missing | KnownImage::Unprobed(_) => (&mut known.unprobed, image.facts()),
        };
        place.insert((backend, reference), Arc::new(facts));
    }
    for (_, reference) in known.unprobed.keys().filter(|(backend, _)| *backend != Backend::Candle) {
        let text = format!("image {reference} was not looked into yet: the first job does that on its node");
        notify(StudyEvent::Detail { text });
    }
    let all: KnownFacts = known.probed.iter().chain(&known.unprobed).map(|(k, v)| (k.clone(), v.clone())).collect();
    note_same_images(&all, notify);
    Ok(known)
}

/// Looks into the SIF files and sandbox directories of the study, each once.
async fn known_files(
    study: &StudyConfig,
    options: &RunOptions,
    fleet: &Fleet,
    images: &Images,
    notify: &impl Fn(StudyEvent),
) -> Result<KnownFacts, StudyError> {
    let mut known = KnownFacts::new();
    let Some(apptainer) = fleet.apptainer() else { return Ok(known) };
    for (backend, reference) in preflight::named_images(study, &options.user) {
        if !fleet.uses_apptainer(backend) {
            continue;
        }
        let (image, _) = apptainer.open(&reference, &study.base_dir(), &options.stop.soft).await?;
        if backend == Backend::Candle {
            // Nothing in Python to be looked into, but it has a content.
            known.insert((backend, reference), Arc::new(image.facts()));
            continue;
        }
        let probe = images.probe_file(apptainer, &image, Some(backend), false, &options.stop.soft);
        let facts =
            patiently(format!("probe of image {reference}"), notify, probe).await.map_err(|error| match error {
                ImageError::Stopped => StudyError::Stopped,
                other => other.into(),
            })?;
        known.insert((backend, reference), Arc::new(facts));
    }
    Ok(known)
}

/// Two tags of one image are no comparison.
fn note_same_images(known: &KnownFacts, notify: &impl Fn(StudyEvent)) {
    for ((backend, reference), facts) in known {
        let same = |((other, name), theirs): &(&(Backend, String), &Arc<ImageFacts>)| {
            other == backend && name > reference && theirs.id == facts.id
        };
        for ((_, name), _) in known.iter().filter(same) {
            let text =
                format!("`{reference}` and `{name}` are the same image ({}): nothing differs between them", facts.id);
            notify(StudyEvent::Notice { text });
        }
    }
}

/// A comparison of images that were never started would be a comparison of nothing.
fn refuse_images_without_containers(study: &StudyConfig, fleet: &Fleet) -> Result<(), StudyError> {
    let asks = |e: &&Experiment| e.config.image().is_some() && !fleet.runner(e.config.backend).has_images();
    match study.experiments.iter().find(asks) {
        Some(experiment) => Err(StudyError::ImageWithoutContainer(experiment.config.backend)),
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

/// llem makes an image for the embedded backend only; to guess another's would be to measure something that nobody chose.
fn refuse_containers_without_images(
    study: &StudyConfig,
    options: &RunOptions,
    fleet: &Fleet,
) -> Result<(), StudyError> {
    let lacks = |config: &ExperimentConfig| {
        config.backend != Backend::Candle
            && fleet.runner(config.backend).has_images()
            && asked_image(config, options).is_none()
    };
    match study.experiments.iter().map(|experiment| &experiment.config).find(|config| lacks(config)) {
        Some(config) => Err(StudyError::NoImage(config.backend)),
        None => Ok(()),
    }
}

/// Before anything is downloaded, and at once for all images.
async fn refuse_missing_images(study: &StudyConfig, options: &RunOptions, fleet: &Fleet) -> Result<(), StudyError> {
    let Some(engine) = fleet.engine() else { return Ok(()) };
    let mut wanted = preflight::named_images(study, &options.user);
    wanted.retain(|(backend, _)| fleet.uses_engine(*backend));
    match preflight::MissingImages::of(engine, wanted).await? {
        Some(missing) => Err(missing.into()),
        None => Ok(()),
    }
}

/// The engine would look for an image of that name.
fn refuse_files_in_engines(study: &StudyConfig, options: &RunOptions, fleet: &Fleet) -> Result<(), StudyError> {
    let is_file = |(backend, image): &(Backend, String)| fleet.uses_engine(*backend) && is_image_path(image);
    match preflight::named_images(study, &options.user).into_iter().find(is_file) {
        Some((backend, image)) => Err(StudyError::FileInEngine { backend, image }),
        None => Ok(()),
    }
}

/// Makes the SIF files and sandbox directories of the study ready, before anything is downloaded.
async fn open_files(
    study: &StudyConfig,
    options: &RunOptions,
    fleet: &Fleet,
    notify: &impl Fn(StudyEvent),
) -> Result<(), StudyError> {
    let base_dir = study.base_dir();
    for (backend, reference) in preflight::named_images(study, &options.user) {
        if !fleet.uses_apptainer(backend) {
            continue;
        }
        let open = fleet.open_file(&reference, &base_dir, &options.stop.soft);
        let unpacked = patiently(format!("image {reference}"), notify, open).await.map_err(|error| match error {
            ApptainerError::Stopped => StudyError::Stopped,
            other => other.into(),
        })?;
        if let Some(why) = unpacked {
            let text =
                format!("image {reference} was unpacked into the cache, because it cannot be mounted here: {why}");
            notify(StudyEvent::Notice { text });
        }
    }
    Ok(())
}

fn image(config: &ExperimentConfig, options: &RunOptions, candle_image: Option<&str>) -> String {
    asked_image(config, options).or(candle_image).unwrap_or_default().to_owned()
}

/// The image that the study or the machine names.
pub(super) fn asked_image<'a>(config: &'a ExperimentConfig, options: &'a RunOptions) -> Option<&'a str> {
    config.image().or_else(|| options.user.images.get(&config.backend).map(String::as_str))
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
    let image = CandleImage::from_host(&programs.candle, &programs.agent)?;
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
}

impl Kitchen {
    pub(super) fn new(base_dir: PathBuf, cache_root: PathBuf, hub: Hub) -> Self {
        Self { base_dir, cache_root, hub, workloads: HashMap::new() }
    }

    pub(super) async fn workload(
        &mut self,
        experiment: &Experiment,
        model: &Arc<LocalModel>,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Arc<Workload>, StudyError> {
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
async fn patiently<T>(what: String, notify: &impl Fn(StudyEvent), work: impl Future<Output = T>) -> T {
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
