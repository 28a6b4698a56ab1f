//! Everything that can be made ready, and can go wrong, before the first container.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::drivers::driver;
use super::fleet::Fleet;
use super::{Programs, RunOptions, StudyError, StudyEvent};
use crate::config::{Backend, Experiment, ExperimentConfig, Length, Order, StudyConfig};
use crate::hub::Hub;
use crate::model::LocalModel;
use crate::runner::DriverFiles;
use crate::runner::docker::{CandleImage, build_candle};
use crate::workload::{self, LengthSpec, OrderSpec, Workload, WorkloadRequest};

/// Work that is over sooner is not worth a line.
const MOMENT: Duration = Duration::from_secs(1);

/// What an experiment needs, on this machine.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) model: Arc<LocalModel>,
    pub(super) workload: Arc<Workload>,
    pub(super) driver: DriverFiles,
    /// Empty where there are no images.
    pub(super) image: String,
}

/// Makes models, workloads and images of all experiments ready; what several experiments share is made once.
pub(super) async fn prepare(
    study: &StudyConfig,
    options: &RunOptions,
    programs: &Programs,
    fleet: &Fleet,
    notify: &impl Fn(StudyEvent),
) -> Result<Vec<Prepared>, StudyError> {
    let drivers = drivers(study, options, programs)?;
    refuse_images_without_containers(study, fleet)?;
    refuse_containers_without_images(study, options, fleet)?;
    let candle_image =
        if drivers.contains_key(&Backend::Candle) { candle_image(programs, fleet, notify).await? } else { None };
    let cache_root = options.user.cache_root();
    let base_dir = base_dir(study);
    let hub = Hub::from_env()?;
    let mut kitchen = Kitchen { base_dir, cache_root, hub, models: HashMap::new(), workloads: HashMap::new() };
    let mut prepared = Vec::with_capacity(study.experiments.len());
    for experiment in &study.experiments {
        let model = kitchen.model(experiment, notify).await?;
        let workload = kitchen.workload(experiment, &model, notify).await?;
        let (tokens, positions) = (workload.max_total_tokens, model.geometry.max_positions as u64);
        if tokens > positions {
            return Err(StudyError::TooLong { experiment: experiment.id.clone(), tokens, positions });
        }
        let image = image(&experiment.config, options, candle_image.as_deref());
        let driver = drivers[&experiment.config.backend].clone();
        debug!(experiment = experiment.id, model = %model.dir().display(), workload = workload.sha256, image, "ready");
        prepared.push(Prepared { model, workload, driver, image });
    }
    Ok(prepared)
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

/// Relative paths in a study are relative to its file.
fn base_dir(study: &StudyConfig) -> PathBuf {
    let parent = study.source.as_ref().and_then(|source| source.path.parent());
    parent.filter(|dir| !dir.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn image(config: &ExperimentConfig, options: &RunOptions, candle_image: Option<&str>) -> String {
    asked_image(config, options).or(candle_image).unwrap_or_default().to_owned()
}

fn asked_image<'a>(config: &'a ExperimentConfig, options: &'a RunOptions) -> Option<&'a str> {
    config.image().or_else(|| options.user.images.get(&config.backend).map(String::as_str))
}

/// The embedded backend's image for the binaries at hand, made when the engine does not have it.
async fn candle_image(
    programs: &Programs,
    fleet: &Fleet,
    notify: &impl Fn(StudyEvent),
) -> Result<Option<String>, StudyError> {
    let Some(engine) = fleet.engine() else { return Ok(None) };
    let image = CandleImage::from_host(&programs.candle, &programs.agent)?;
    if engine.image(&image.reference).await?.is_none() {
        notify(StudyEvent::Preparing { what: format!("image {}", image.reference) });
        build_candle(engine, &image).await?;
    }
    Ok(Some(image.reference))
}

/// Makes models and workloads, each once.
struct Kitchen {
    base_dir: PathBuf,
    cache_root: PathBuf,
    hub: Hub,
    models: HashMap<String, Arc<LocalModel>>,
    workloads: HashMap<String, Arc<Workload>>,
}

impl Kitchen {
    async fn model(
        &mut self,
        experiment: &Experiment,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Arc<LocalModel>, StudyError> {
        let source = experiment.config.model_source();
        let key = format!("{source:?}");
        if let Some(model) = self.models.get(&key) {
            return Ok(model.clone());
        }
        let (base_dir, cache_root, hub) = (self.base_dir.clone(), self.cache_root.clone(), self.hub.clone());
        let what = format!("model of experiment {}", experiment.id);
        let work = move || LocalModel::resolve(&source, &base_dir, &cache_root, &hub);
        let model = blocking(what, notify, work).await?;
        let model = Arc::new(
            model
                .map_err(|source| StudyError::Model { experiment: experiment.id.clone(), source: Box::new(source) })?,
        );
        self.models.insert(key, model.clone());
        Ok(model)
    }

    async fn workload(
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
async fn blocking<T: Send + 'static>(
    what: String,
    notify: &impl Fn(StudyEvent),
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StudyError> {
    let (sender, mut done) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("prepare".to_owned())
        .spawn(move || sender.send(work()))
        .map_err(|error| StudyError::Task(error.to_string()))?;
    let result = tokio::select! {
        result = &mut done => result,
        () = tokio::time::sleep(MOMENT) => {
            notify(StudyEvent::Preparing { what });
            done.await
        }
    };
    result.map_err(|_| StudyError::Task("the preparation died".to_owned()))
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
