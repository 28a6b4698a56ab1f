//! What decides the content of a compiled engine: one type for what all kinds share, one for what each adds.
//!
//! What is not known is null, never a guess. Some inputs must be known ([`KeyInputs::unknown`]): without them two different engines
//! could get one key, so there is no key at all. The version of the GPU's driver is not among them: engines survive its updates, and
//! the manifest keeps it so that a difference can be said ([`super::Lease::driver_note`]).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::model_content::ModelIdentity;
use super::{CacheKind, Target, compile_variables};
use crate::config::{Backend, ExperimentConfig};

/// Changes when the same inputs would be written in another way: every key changes with it.
const INPUTS_SCHEMA_VERSION: u32 = 1;

/// Settings of `tensorrt` that act when an engine runs, not when it is built. What is not listed here is part of the key: a field that
/// is forgotten costs a build, never a wrong engine.
const TENSORRT_RUNTIME: [&str; 12] = [
    "attn_backend",
    "batching_type",
    "cuda_graph",
    "disable_overlap_scheduler",
    "enable_autotuner",
    "engine",
    "image",
    "kv_cache",
    "moe_backend",
    "multi_block_mode",
    "sampler_type",
    "scheduler",
];

/// Everything that decides the content of an entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyInputs {
    /// Version of this record's form.
    pub schema_version: u32,
    /// What is cached.
    pub kind: CacheKind,
    /// What compiles.
    pub software: Software,
    /// What it is compiled for.
    pub target: Target,
    /// The weights.
    pub model: ModelIdentity,
    /// Weights of the model that drafts tokens, where the experiment has one.
    pub draft_model: Option<ModelIdentity>,
    /// Weights of the LoRA adapter, where the experiment has one.
    pub adapter: Option<ModelIdentity>,
    /// Data type that the engine computes in, as the experiment says it.
    pub dtype: String,
    /// Environment variables that can change what is compiled: [`compile_variables`].
    pub variables: BTreeMap<String, String>,
    /// What this kind adds.
    pub settings: KindSettings,
}

/// Versions of what compiles. Null: not known, or not there (CUDA on a machine without a GPU).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Software {
    /// Content id of the image (`sha256:…`), which implies every version in it.
    pub image_digest: Option<String>,
    /// SHA-256 over the installed packages, for an engine that runs without an image.
    pub packages_sha256: Option<String>,
    /// The engine: TensorRT-LLM, vLLM, or transformers.
    pub engine: Option<String>,
    /// TensorRT; null for the compile caches.
    pub tensorrt: Option<String>,
    /// CUDA as PyTorch was built with.
    pub cuda: Option<String>,
    /// PyTorch.
    pub torch: Option<String>,
    /// Triton, where it is installed.
    pub triton: Option<String>,
    /// Python.
    pub python: Option<String>,
}

/// What a kind of cache adds to the inputs that all share. Settings are as the experiment gives them; what it leaves open is the
/// engine's own default, which the versions and the image imply.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum KindSettings {
    /// A TensorRT engine.
    Tensorrt(Box<TensorrtSettings>),
    /// A compile cache.
    Compile(CompileSettings),
}

/// How a TensorRT engine is built.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TensorrtSettings {
    /// GPUs that share every layer.
    pub tp_size: u32,
    /// GPUs that hold different layers.
    pub pp_size: u32,
    /// GPUs that share a long prompt.
    pub cp_size: u32,
    /// GPUs of one machine; null: all of them.
    pub gpus_per_node: Option<u32>,
    /// `build` without `plugin`: sizes, weight streaming, refit, strip plan, …
    pub build: Value,
    /// `build.plugin`.
    pub plugin: Value,
    /// `quant`.
    pub quant: Value,
    /// `calib`.
    pub calib: Value,
    /// Content of the calibration's data set where that is a directory of this machine; null for one of the hub.
    pub calibration_data_sha256: Option<String>,
    /// Build quickly; null: the engine's default.
    pub fast_build: Option<bool>,
    /// `extra.embedding_parallel_mode`.
    pub embedding_parallel_mode: Value,
    /// `extra.builder_optimization_level`: null where the version has none, as all of TensorRT-LLM's LLM API.
    pub builder_optimization_level: Value,
    /// Every other setting that is not known to act at run time only.
    pub other: Value,
}

/// What decides the content of a compile cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CompileSettings {
    /// The backend's section without the image's name.
    pub options: Value,
    /// `lora` of the experiment.
    pub lora: Value,
    /// The workload, where shapes of its requests decide what is compiled (torch.compile with static shapes); null: they do not.
    pub workload_sha256: Option<String>,
}

/// What surrounds an experiment: everything about the machine, the image and the weights that an engine's key depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Surroundings {
    /// What compiles.
    pub software: Software,
    /// What it is compiled for.
    pub target: Target,
    /// The weights.
    pub model: ModelIdentity,
    /// The model that drafts tokens, where the experiment names one.
    pub draft_model: Option<ModelIdentity>,
    /// The LoRA adapter, where the experiment names one.
    pub adapter: Option<ModelIdentity>,
    /// The engine's environment, of which [`compile_variables`] are taken.
    pub variables: BTreeMap<String, String>,
    /// GPUs of one machine, where the engine is told.
    pub gpus_per_node: Option<u32>,
    /// Content of the calibration's data set, where that is a directory: [`super::content_sha256`].
    pub calibration_data_sha256: Option<String>,
    /// SHA-256 of the workload, where shapes are compiled in.
    pub workload_sha256: Option<String>,
}

impl KeyInputs {
    /// Inputs of the engine that `backend: tensorrt` with `engine: tensorrt` builds.
    pub fn tensorrt_engine(config: &ExperimentConfig, around: Surroundings) -> Self {
        let mut section = section(config, Backend::Tensorrt);
        section.retain(|key, _| !TENSORRT_RUNTIME.contains(&key.as_str()));
        let mut take = |key: &str| section.remove(key).unwrap_or_default();
        let size = |value: Value| value.as_u64().map_or(1, |size| size as u32);
        let mut build = take("build");
        let mut extra = take("extra");
        let settings = TensorrtSettings {
            tp_size: size(take("tensor_parallel_size")),
            pp_size: size(take("pipeline_parallel_size")),
            cp_size: size(take("context_parallel_size")),
            gpus_per_node: around.gpus_per_node,
            plugin: take_from(&mut build, "plugin"),
            build,
            quant: take("quant"),
            calib: take("calib"),
            calibration_data_sha256: around.calibration_data_sha256.clone(),
            fast_build: take("fast_build").as_bool(),
            embedding_parallel_mode: take_from(&mut extra, "embedding_parallel_mode"),
            builder_optimization_level: take_from(&mut extra, "builder_optimization_level"),
            other: {
                section.insert("extra".to_owned(), extra);
                Value::Object(section)
            },
        };
        Self::of(CacheKind::TensorrtEngine, config, around, KindSettings::Tensorrt(Box::new(settings)))
    }

    /// Inputs of what vLLM compiles: all of its options.
    pub fn vllm_compile(config: &ExperimentConfig, around: Surroundings) -> Self {
        let settings = compile_settings(config, Backend::Vllm, &around);
        Self::of(CacheKind::VllmCompile, config, around, settings)
    }

    /// Inputs of what `torch.compile` makes for `backend: pytorch`: all of its options.
    pub fn torch_compile(config: &ExperimentConfig, around: Surroundings) -> Self {
        let settings = compile_settings(config, Backend::Pytorch, &around);
        Self::of(CacheKind::TorchCompile, config, around, settings)
    }

    fn of(kind: CacheKind, config: &ExperimentConfig, around: Surroundings, settings: KindSettings) -> Self {
        Self {
            schema_version: INPUTS_SCHEMA_VERSION,
            kind,
            software: around.software,
            target: around.target,
            model: around.model,
            draft_model: around.draft_model,
            adapter: around.adapter,
            dtype: config.dtype.name().to_owned(),
            variables: compile_variables(&around.variables),
            settings,
        }
    }

    /// Dotted names of the inputs that must be known and are not.
    pub fn unknown(&self) -> Vec<String> {
        let software = &self.software;
        let on_gpu = matches!(self.target, Target::Gpus(_));
        let is_engine = self.kind == CacheKind::TensorrtEngine;
        let has_base = software.image_digest.is_some() || software.packages_sha256.is_some();
        let mut checks = vec![
            ("software.image_digest", has_base),
            ("software.engine", software.engine.is_some()),
            ("software.tensorrt", !is_engine || software.tensorrt.is_some()),
            ("software.cuda", !on_gpu || software.cuda.is_some()),
            ("software.torch", software.torch.is_some()),
            ("model", self.model.is_known()),
            ("draft_model", self.draft_model.as_ref().is_none_or(ModelIdentity::is_known)),
            ("draft_model", self.draft_model.is_some() || !self.settings.names_draft_model()),
            ("adapter", self.adapter.as_ref().is_none_or(ModelIdentity::is_known)),
            ("adapter", self.adapter.is_some() || !self.settings.names_adapter()),
            ("settings.calibration_data_sha256", self.settings.calibration_data_is_known()),
        ];
        checks.extend(self.target.checks());
        let mut missing: Vec<String> =
            checks.into_iter().filter(|(_, known)| !known).map(|(name, _)| name.to_owned()).collect();
        missing.dedup();
        missing
    }
}

impl KindSettings {
    fn names_draft_model(&self) -> bool {
        let speculative = match self {
            Self::Tensorrt(settings) => settings.other.get("speculative"),
            Self::Compile(settings) => settings.options.get("speculative"),
        };
        let named = |key| speculative.and_then(|section| section.get(key)).is_some_and(|model| !model.is_null());
        ["assistant_model", "model", "speculative_model_dir"].into_iter().any(named)
    }

    fn names_adapter(&self) -> bool {
        matches!(self, Self::Compile(settings) if !settings.lora.is_null())
    }

    fn calibration_data_is_known(&self) -> bool {
        let Self::Tensorrt(settings) = self else { return true };
        let dataset = settings.calib.get("calib_dataset").and_then(Value::as_str).unwrap_or_default();
        let is_directory = dataset.starts_with(['/', '.', '~']);
        !is_directory || settings.calibration_data_sha256.is_some()
    }
}

fn compile_settings(config: &ExperimentConfig, backend: Backend, around: &Surroundings) -> KindSettings {
    let mut options = section(config, backend);
    options.remove("image");
    KindSettings::Compile(CompileSettings {
        options: Value::Object(options),
        lora: serde_json::to_value(&config.lora).unwrap_or_default(),
        workload_sha256: around.workload_sha256.clone(),
    })
}

/// The backend's section as the experiment gives it; empty when it gives none.
fn section(config: &ExperimentConfig, backend: Backend) -> Map<String, Value> {
    let config = serde_json::to_value(config).unwrap_or_default();
    config.get(backend.name()).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn take_from(section: &mut Value, key: &str) -> Value {
    section.as_object_mut().and_then(|fields| fields.remove(key)).unwrap_or_default()
}
