//! The weights that a study names: looked up all together before anything large is downloaded, each made ready once.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::prepare::blocking;
use super::{StudyError, StudyEvent};
use crate::config::{
    Backend, Bundled, Experiment, ExperimentConfig, ModelSource, Mount, Problem, StudyConfig, weights_source,
};
use crate::hub::{Hub, HubError, HubSettings};
use crate::model::{BesideKind, BesideWeights, LocalModel, ModelError, look_up};

/// The weights of one experiment, on this machine.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    pub(super) model: Arc<LocalModel>,
    pub(super) adapter: Option<Arc<BesideWeights>>,
    pub(super) draft: Option<Arc<BesideWeights>>,
}

impl Weights {
    /// The directories that an engine is given, with what they are.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Path> {
        let beside = [&self.adapter, &self.draft].into_iter().flatten().map(|weights| weights.root.as_path());
        std::iter::once(self.model.root.as_path()).chain(beside)
    }

    /// The directories of the weights themselves.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        let beside = [&self.adapter, &self.draft].into_iter().flatten();
        let beside = beside.map(|weights| weights.root.join(&weights.subdirectory));
        std::iter::once(self.model.dir()).chain(beside).collect()
    }
}

/// The weights of an experiment as far as `hub` gives them without asking: made, or on this machine.
pub(super) fn weights_here(
    config: &ExperimentConfig,
    bundled: Option<&Bundled>,
    base_dir: &Path,
    cache_root: &Path,
    hub: &Hub,
) -> Result<Weights, ModelError> {
    let (adapter, draft) = (BesideKind::Adapter, BesideKind::Draft);
    let beside = |wanted: BesideKind| {
        let found = references(config).into_iter().find(|reference| reference.kind == Some(wanted));
        let make = |r: Reference| r.located(bundled).beside(wanted, base_dir, cache_root, hub).map(Arc::new);
        found.map(make).transpose()
    };
    let named = references(config).into_iter().find(|reference| reference.kind.is_none());
    let unlocated = || Located::of(config.model_source());
    let model = named.map_or_else(unlocated, |reference| reference.located(bundled));
    let model = model.model(base_dir, cache_root, hub)?;
    Ok(Weights { model: Arc::new(model), adapter: beside(adapter)?, draft: beside(draft)? })
}

/// What is wrong with the weights that a study names, each with its place in the file.
#[derive(Debug)]
pub struct WeightsProblems {
    /// In the order of the experiments.
    pub problems: Vec<Problem>,
    /// Whether the study must change before another try can help; else rights, network or disk must.
    pub is_config: bool,
}

impl std::error::Error for WeightsProblems {}

impl fmt::Display for WeightsProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the study names weights that cannot be had")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n\n{problem}"))
    }
}

/// One thing that an experiment names: what for, its dotted key, the text, what it means.
pub(super) struct Reference {
    pub(super) kind: Option<BesideKind>,
    pub(super) key: String,
    pub(super) text: String,
    pub(super) source: ModelSource,
}

impl Reference {
    /// Where it is, and what results call it.
    pub(super) fn located(&self, bundled: Option<&Bundled>) -> Located {
        match bundled.and_then(|bundled| bundled.weights.get(&self.text)) {
            Some(packed) => Located { source: packed.source.clone(), called: Some(packed.called.clone()) },
            None => Located::of(self.source.clone()),
        }
    }
}

/// Where something that an experiment names is.
pub(super) struct Located {
    pub(super) source: ModelSource,
    /// What results call it, where that is not what its place is called: it came in a bundle.
    called: Option<String>,
}

impl Located {
    fn of(source: ModelSource) -> Self {
        Self { source, called: None }
    }

    fn model(self, base_dir: &Path, cache_root: &Path, hub: &Hub) -> Result<LocalModel, ModelError> {
        let mut model = LocalModel::resolve(&self.source, base_dir, cache_root, hub)?;
        model.source = self.called.unwrap_or(model.source);
        Ok(model)
    }

    fn beside(
        self,
        kind: BesideKind,
        base_dir: &Path,
        cache_root: &Path,
        hub: &Hub,
    ) -> Result<BesideWeights, ModelError> {
        let mut weights = BesideWeights::resolve(kind, &self.source, base_dir, cache_root, hub)?;
        weights.source = self.called.unwrap_or(weights.source);
        Ok(weights)
    }
}

/// What is known by kind and meaning.
type Key = (Option<BesideKind>, String);

/// Makes weights ready, each once.
pub(super) struct Larder<'a> {
    pub(super) study: &'a StudyConfig,
    pub(super) base_dir: &'a Path,
    pub(super) cache_root: &'a Path,
    pub(super) hub: &'a Hub,
    models: HashMap<Key, Arc<LocalModel>>,
    beside: HashMap<Key, Arc<BesideWeights>>,
}

impl<'a> Larder<'a> {
    pub(super) fn new(study: &'a StudyConfig, base_dir: &'a Path, cache_root: &'a Path, hub: &'a Hub) -> Self {
        Self { study, base_dir, cache_root, hub, models: HashMap::new(), beside: HashMap::new() }
    }

    /// The weights of all experiments, in their order.
    pub(super) async fn stock(&mut self, notify: &impl Fn(StudyEvent)) -> Result<Vec<Weights>, StudyError> {
        self.look_up_all(notify).await?;
        let mut stocked = Vec::with_capacity(self.study.experiments.len());
        for experiment in &self.study.experiments {
            stocked.push(self.weights(experiment, notify).await?);
        }
        Ok(stocked)
    }

    fn bundled(&self) -> Option<&Bundled> {
        self.study.bundled().map(AsRef::as_ref)
    }

    async fn look_up_all(&self, notify: &impl Fn(StudyEvent)) -> Result<(), StudyError> {
        let (mut seen, mut problems, mut is_config) = (HashSet::new(), Vec::new(), false);
        let configs = self.study.experiments.iter().map(|experiment| &experiment.config);
        for (backend, reference) in
            configs.flat_map(|config| references(config).into_iter().map(|r| (config.backend, r)))
        {
            let is_candle = backend == Backend::Candle;
            if !matches!(reference.source, ModelSource::Hub { .. }) || !seen.insert((is_candle, known_as(&reference))) {
                continue;
            }
            let (kind, source) = (reference.kind, reference.located(self.bundled()).source);
            let (cache_root, hub) = (self.cache_root.to_owned(), self.hub.clone());
            let found =
                blocking(reference.text.clone(), notify, move || look_up(kind, &source, backend, &cache_root, &hub));
            if let Err(error) = found.await? {
                is_config |= error.is_config();
                problems.push(self.problem(&reference, &error));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(StudyError::Weights(WeightsProblems { problems, is_config })) }
    }

    async fn weights(&mut self, experiment: &Experiment, notify: &impl Fn(StudyEvent)) -> Result<Weights, StudyError> {
        let (mut model, mut adapter, mut draft) = (None, None, None);
        for reference in references(&experiment.config) {
            match reference.kind {
                None => {
                    let found = self.model(&reference, notify).await?;
                    let fits = found.check_for(experiment.config.backend);
                    fits.map_err(|error| self.refusal(&reference, &error))?;
                    model = Some(found);
                }
                Some(BesideKind::Adapter) => {
                    adapter = Some(self.beside(BesideKind::Adapter, &reference, notify).await?);
                }
                Some(BesideKind::Draft) => draft = Some(self.beside(BesideKind::Draft, &reference, notify).await?),
            }
        }
        let model = model.ok_or_else(|| StudyError::Task("an experiment names no model".to_owned()))?;
        Ok(Weights { model, adapter, draft })
    }

    async fn model(
        &mut self,
        reference: &Reference,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Arc<LocalModel>, StudyError> {
        let key = known_as(reference);
        if let Some(model) = self.models.get(&key) {
            return Ok(model.clone());
        }
        let located = reference.located(self.bundled());
        let (base_dir, cache_root, hub) = (self.base_dir.to_owned(), self.cache_root.to_owned(), self.hub.clone());
        let work = move || located.model(&base_dir, &cache_root, &hub);
        let made = blocking(what(reference), notify, work).await?;
        let model = Arc::new(made.map_err(|error| self.refusal(reference, &error))?);
        self.models.insert(key, model.clone());
        Ok(model)
    }

    async fn beside(
        &mut self,
        kind: BesideKind,
        reference: &Reference,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Arc<BesideWeights>, StudyError> {
        let key = known_as(reference);
        if let Some(weights) = self.beside.get(&key) {
            return Ok(weights.clone());
        }
        let located = reference.located(self.bundled());
        let (base_dir, cache_root, hub) = (self.base_dir.to_owned(), self.cache_root.to_owned(), self.hub.clone());
        let work = move || located.beside(kind, &base_dir, &cache_root, &hub);
        let made = blocking(what(reference), notify, work).await?;
        let weights = Arc::new(made.map_err(|error| self.refusal(reference, &error))?);
        self.beside.insert(key, weights.clone());
        Ok(weights)
    }

    fn refusal(&self, reference: &Reference, error: &ModelError) -> StudyError {
        let problems = vec![self.problem(reference, error)];
        StudyError::Weights(WeightsProblems { problems, is_config: error.is_config() })
    }

    fn problem(&self, reference: &Reference, error: &ModelError) -> Problem {
        without_weights(self.study, reference, error)
    }
}

/// The hub as a study reaches it: one that came in a bundle asks nobody, and takes its weights from there where the bundle has them.
pub(super) fn hub_of(study: &StudyConfig) -> Result<Hub, HubError> {
    let Some(bundled) = study.bundled() else { return Hub::from_env() };
    let mut settings = HubSettings { offline: true, token: None, ..HubSettings::from_env()? };
    settings.cache_dir = bundled.hub.clone().unwrap_or(settings.cache_dir);
    Ok(Hub::new(settings))
}

/// Why what a study names cannot be had, with its place.
pub(super) fn without_weights(study: &StudyConfig, reference: &Reference, error: &ModelError) -> Problem {
    study.problem_with(&reference.key, &reference.text, error.to_string())
}

/// Everything that an experiment names, its model first.
pub(super) fn references(config: &ExperimentConfig) -> Vec<Reference> {
    let text = serde_json::to_value(&config.model).ok().and_then(|model| model.as_str().map(str::to_owned));
    let source = config.model_source();
    let mut references =
        vec![Reference { kind: None, key: "model".to_owned(), text: text.unwrap_or_default(), source }];
    let mut beside = |kind, key: String, text: &str| {
        let source = weights_source(text);
        references.push(Reference { kind: Some(kind), key, text: text.to_owned(), source });
    };
    if let Some(lora) = &config.lora {
        beside(BesideKind::Adapter, "lora.adapter".to_owned(), &lora.adapter);
    }
    if let Some((field, draft)) = config.draft_model() {
        beside(BesideKind::Draft, format!("{}.speculative.{field}", config.backend), draft);
    }
    references
}

fn known_as(reference: &Reference) -> Key {
    (reference.kind, format!("{:?}", reference.source))
}

fn what(reference: &Reference) -> String {
    if reference.text.is_empty() { reference.key.clone() } else { format!("{} {}", reference.key, reference.text) }
}

/// A container that can write to weights changes them for everything that comes after. llem's own mounts are read-only; this is about
/// those of the user config.
pub(super) fn refuse_writable(weights: &[Weights], mounts: &[Mount]) -> Result<(), StudyError> {
    let writable: Vec<_> = mounts
        .iter()
        .filter(|mount| !mount.read_only)
        .map(|mount| (mount, fs_err::canonicalize(&mount.source).unwrap_or_else(|_| mount.source.clone())))
        .collect();
    for root in weights.iter().flat_map(Weights::roots) {
        let real = fs_err::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        if let Some((mount, _)) = writable.iter().find(|(_, dir)| real.starts_with(dir) || dir.starts_with(&real)) {
            let (weights, mount) = (root.to_owned(), mount.source.clone());
            return Err(StudyError::WritableWeights { weights, mount });
        }
    }
    Ok(())
}
