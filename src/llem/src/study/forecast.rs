//! What a study will need, before anything is started: weights, memory of GPUs, time, disk. No network, nothing written.

mod disk;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

pub use disk::DiskForecast;
use disk::disks;
use llem_model::{Checkpoint, ModelConfig};
use serde::Serialize;

use super::references::{Reference, hub_of, references, without_weights};
use super::{RunOptions, StudyError, WeightsProblems};
use crate::config::{Experiment, StudyConfig, UserConfig};
use crate::host::GpuInventory;
use crate::model::{BesideKind, OfflineModel, look_up_offline};
use crate::plan::estimate::memory::{MemoryEstimate, Surroundings, Verdict, gpu_memory};
use crate::plan::estimate::time::{RunTime, StudyTime, run_time, study_time};
use crate::plan::estimate::{ModelFacts, StoredWeights};
use crate::plan::order::{PlannedRun, order};
use crate::result::{EarlierRun, earlier_runs};

/// What a study will need on this machine.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// The runs in their order.
    pub plan: Vec<PlannedRun>,
    /// The GPUs that were planned with.
    pub gpus: PlannedGpus,
    /// Each experiment's needs, in their order.
    pub experiments: Vec<ExperimentForecast>,
    /// All runs together.
    pub time: StudyTime,
    /// Every model, adapter and draft model that is named, once.
    pub weights: Vec<WeightsForecast>,
    /// What will be written where.
    pub disk: Vec<DiskForecast>,
}

/// The GPUs that a forecast was made for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PlannedGpus {
    /// Those of this machine; absent where nothing of the study computes on one, or others were asked about.
    pub present: Option<GpuInventory>,
    /// Memory of each, in bytes, that the caller asked about in place of this machine's.
    pub assumed_memory_bytes: Option<u64>,
    /// Whether runs are carried out on other machines, whose GPUs are not known here.
    pub elsewhere: bool,
}

/// What one experiment needs.
#[derive(Clone, Debug, Serialize)]
pub struct ExperimentForecast {
    /// Memory of each of its GPUs.
    pub memory: MemoryEstimate,
    /// The most memory that an earlier run of it had, by its engine's account; absent without any.
    pub measured_peak_memory_bytes: Option<u64>,
    /// Time of each of its runs.
    pub time: RunTime,
    /// Why its requests are too long for its model; absent where they are not, or may not be.
    pub too_long: Option<String>,
}

/// Weights that a study names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightsForecast {
    /// The key that names them, e.g. `model` or `lora.adapter`.
    pub key: String,
    /// As the study names them.
    pub reference: String,
    /// `here`, `without_weights` (a directory without safetensors files that can be read), `to_make` or `to_download`.
    pub state: &'static str,
    /// Bytes that will be written for them: null where that is not known before the download, 0 where they are here.
    pub to_write_bytes: Option<u64>,
}

/// For what a forecast is made.
#[derive(Clone, Debug)]
pub struct ForecastOptions<'a> {
    /// Directory that study directories are made in; earlier results are looked for there.
    pub output: &'a Path,
    /// The machine's settings.
    pub user: &'a UserConfig,
    /// Memory of each GPU to plan with, in bytes, as many as are needed; absent: the GPUs of this machine.
    pub assumed_memory_bytes: Option<u64>,
    /// Whether runs are carried out on other machines.
    pub elsewhere: bool,
}

impl Forecast {
    /// Looks at everything that is known without starting anything.
    ///
    /// # Errors
    ///
    /// Weights that cannot be had, each with its place in the study file.
    pub fn of(study: &StudyConfig, options: &ForecastOptions<'_>) -> Result<Self, StudyError> {
        let plan = order(study.experiments.len(), &study.execution);
        let known = Known::of(study, options.user)?;
        let gpus = planned_gpus(study, options);
        let smallest = gpus.present.as_ref().and_then(GpuInventory::smallest_memory_bytes);
        let machine = Machine {
            gpu_memory_bytes: gpus.assumed_memory_bytes.or(smallest),
            gpus_present: gpus.present.as_ref().map(|present| present.uuids.len() as u64),
            problem: match &gpus.present {
                Some(present) => present.problem.clone(),
                None => gpus.elsewhere.then(|| NODES_UNKNOWN.to_owned()),
            },
        };
        let ids: BTreeSet<&str> = study.experiments.iter().map(|experiment| experiment.id.as_str()).collect();
        let earlier = earlier_runs(options.output, &ids);
        let forecast = |experiment: &Experiment| {
            let runs: &[EarlierRun] = earlier.get(&experiment.id).map(Vec::as_slice).unwrap_or_default();
            let seconds: Vec<f64> = runs.iter().map(|run| run.wall_s).collect();
            let (model, beside_bytes) = known.of_experiment(experiment);
            ExperimentForecast {
                memory: machine.memory(experiment, model, beside_bytes),
                measured_peak_memory_bytes: runs.iter().filter_map(|run| run.peak_memory_bytes).max(),
                time: run_time(&experiment.config.measurement, &seconds),
                too_long: too_long(experiment, model),
            }
        };
        let experiments: Vec<ExperimentForecast> = study.experiments.iter().map(forecast).collect();
        let times: Vec<RunTime> = experiments.iter().map(|forecast| forecast.time).collect();
        let disk = disks(study, options.user, options.output, &known.weights);
        Ok(Self {
            time: study_time(&plan, &study.execution, &times),
            plan,
            gpus,
            experiments,
            weights: known.weights,
            disk,
        })
    }

    /// What cannot work on this machine, each with the numbers of the experiments, from 1.
    pub fn impossible(&self) -> Vec<(String, Vec<usize>)> {
        let mut found: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, forecast) in self.experiments.iter().enumerate() {
            if let Some(why) = forecast.memory.why.clone().filter(|_| forecast.memory.verdict == Verdict::Impossible) {
                found.entry(why).or_default().push(index + 1);
            }
            if let Some(why) = &forecast.too_long {
                found.entry(why.clone()).or_default().push(index + 1);
            }
        }
        let mut all: Vec<_> = found.into_iter().collect();
        all.extend(self.disk.iter().filter_map(|disk| Some((disk.too_full()?, Vec::new()))));
        all
    }
}

/// Why even the shortest request of an experiment does not fit into its model.
fn too_long(experiment: &Experiment, model: &ModelFacts) -> Option<String> {
    let (tokens, positions) = experiment.config.workload.shortest_request().zip(model.max_positions)?;
    let why = || format!("its requests have {tokens} tokens with their output, the model holds {positions}");
    (tokens > positions).then(why)
}

/// Why memory is not known on the machine that only submits.
const NODES_UNKNOWN: &str = "the GPUs of the nodes are not known here: `--vram-gib` plans for theirs";

/// The machine as memory is estimated for it.
struct Machine {
    gpu_memory_bytes: Option<u64>,
    gpus_present: Option<u64>,
    problem: Option<String>,
}

impl Machine {
    fn memory(&self, experiment: &Experiment, model: &ModelFacts, beside_bytes: Option<u64>) -> MemoryEstimate {
        let around = Surroundings {
            model,
            beside_bytes,
            gpu_memory_bytes: self.gpu_memory_bytes,
            gpus_present: self.gpus_present,
        };
        let mut estimate = gpu_memory(&experiment.config, around);
        if estimate.verdict == Verdict::NoGpu {
            return estimate;
        }
        match (self.gpus_present, estimate.gpus) {
            (Some(0), _) => {
                estimate.verdict = Verdict::Impossible;
                estimate.why = self.problem.as_ref().map(|problem| format!("it computes on a GPU, and {problem}"));
            }
            (Some(present), Some(needed)) if needed > present => {
                estimate.verdict = Verdict::Impossible;
                estimate.why = Some(format!("it computes on {needed} GPUs, and llem may use {present} here"));
            }
            _ if self.gpu_memory_bytes.is_none() => {
                let problem = self.problem.as_deref().unwrap_or("a GPU does not tell how much memory it has");
                estimate.unknown.push(problem.to_owned());
            }
            _ => {}
        }
        estimate
    }
}

/// What is known of the weights that a study names.
struct Known {
    weights: Vec<WeightsForecast>,
    facts: HashMap<String, ModelFacts>,
    beside: HashMap<String, Option<u64>>,
}

impl Known {
    fn of(study: &StudyConfig, user: &UserConfig) -> Result<Self, StudyError> {
        let (base_dir, cache_root, hub) = (study.base_dir(), user.cache_root(), hub_of(study)?);
        let bundled = study.bundled().map(AsRef::as_ref);
        let mut known = Self { weights: Vec::new(), facts: HashMap::new(), beside: HashMap::new() };
        let (mut seen, mut problems, mut is_config) = (HashSet::new(), Vec::new(), false);
        for reference in study.experiments.iter().flat_map(|experiment| references(&experiment.config)) {
            if !seen.insert((reference.kind, name(&reference))) {
                continue;
            }
            let source = reference.located(bundled).source;
            match look_up_offline(reference.kind, &source, &base_dir, &cache_root, &hub) {
                Ok(found) => known.keep(&reference, &found),
                Err(error) => {
                    is_config |= error.is_config();
                    problems.push(without_weights(study, &reference, &error));
                }
            }
        }
        if problems.is_empty() { Ok(known) } else { Err(StudyError::Weights(WeightsProblems { problems, is_config })) }
    }

    fn keep(&mut self, reference: &Reference, found: &OfflineModel) {
        let facts = facts(found);
        let (state, to_write_bytes) = match found {
            OfflineModel::Here { .. } => ("here", Some(0)),
            // Two bytes a value, and the header.
            OfflineModel::ToMake(spec) => ("to_make", Some(2 * spec.geometry().parameters())),
            OfflineModel::ToDownload { bytes, .. } => ("to_download", *bytes),
        };
        let state = if state == "here" && reference.kind != Some(BesideKind::Adapter) && facts.stored.is_none() {
            "without_weights"
        } else {
            state
        };
        let (key, text) = (reference.key.clone(), reference.text.clone());
        self.weights.push(WeightsForecast { key, reference: text, state, to_write_bytes });
        match reference.kind {
            None => drop(self.facts.insert(name(reference), facts)),
            Some(BesideKind::Draft) => {
                let stored = facts.stored.map(|stored| stored.layer_bytes + stored.other_bytes);
                self.beside.insert(name(reference), stored);
            }
            // An adapter has less than a hundredth of its model's weights: it is in the allowance.
            Some(BesideKind::Adapter) => {}
        }
    }

    /// The facts of an experiment's model, and the bytes of its draft model.
    fn of_experiment(&self, experiment: &Experiment) -> (&ModelFacts, Option<u64>) {
        static NOTHING: std::sync::LazyLock<ModelFacts> = std::sync::LazyLock::new(ModelFacts::default);
        let mut model: &ModelFacts = &NOTHING;
        let mut beside = Some(0);
        for reference in references(&experiment.config) {
            match reference.kind {
                None => model = self.facts.get(&name(&reference)).unwrap_or(&NOTHING),
                Some(BesideKind::Draft) => beside = self.beside.get(&name(&reference)).copied().flatten(),
                Some(BesideKind::Adapter) => {}
            }
        }
        (model, beside)
    }
}

fn name(reference: &Reference) -> String {
    format!("{:?}", reference.source)
}

fn facts(found: &OfflineModel) -> ModelFacts {
    match found {
        OfflineModel::Here { dir, .. } => {
            let stored = Checkpoint::open(dir).ok().map(|checkpoint| StoredWeights::of(&checkpoint));
            ModelFacts { stored, ..described(dir) }
        }
        OfflineModel::ToMake(spec) => ModelFacts::of_geometry(&spec.geometry()),
        OfflineModel::ToDownload { description, .. } => description.as_deref().map(described).unwrap_or_default(),
    }
}

fn described(dir: &Path) -> ModelFacts {
    ModelConfig::read(dir).map(|config| ModelFacts::of_config(&config)).unwrap_or_default()
}

fn planned_gpus(study: &StudyConfig, options: &ForecastOptions<'_>) -> PlannedGpus {
    if options.assumed_memory_bytes.is_some() || options.elsewhere {
        let assumed_memory_bytes = options.assumed_memory_bytes;
        return PlannedGpus { present: None, assumed_memory_bytes, elsewhere: options.elsewhere };
    }
    let on_gpu = study.experiments.iter().any(|experiment| experiment.config.gpu_count() != Some(0));
    PlannedGpus {
        present: on_gpu.then(|| GpuInventory::read(options.user)),
        assumed_memory_bytes: None,
        elsewhere: false,
    }
}

/// What a study will write where, before anything is downloaded.
pub(super) fn disk_forecasts(study: &StudyConfig, options: &RunOptions) -> Result<Vec<DiskForecast>, StudyError> {
    let known = Known::of(study, &options.user)?;
    // A study that goes on writes where it is.
    let output = options.resume.as_ref().unwrap_or(&options.output);
    Ok(disks(study, &options.user, output, &known.weights))
}
