//! One experiment: everything that decides what is computed and how it is measured.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use llem_model::SyntheticSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backend::{CandleConfig, PytorchConfig, TensorrtConfig, VllmConfig};

/// One experiment, complete: defaults filled in, no sweep left. Equal configs are the same experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentConfig {
    /// The weights to run.
    pub model: ModelSpec,
    /// The engine.
    pub backend: Backend,
    /// Data type that the engine computes in.
    #[serde(default)]
    pub dtype: Dtype,
    /// Seed of everything random: synthetic prompts, order of requests, sampling.
    #[serde(default = "default_random_seed")]
    pub random_seed: u64,
    /// What the engine is given to do.
    #[serde(default)]
    pub workload: WorkloadConfig,
    /// How tokens are chosen; greedy when absent.
    #[serde(default)]
    pub sampling: SamplingConfig,
    /// A LoRA adapter on top of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// How it is measured.
    pub measurement: MeasurementConfig,
    /// Settings of the embedded backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candle: Option<CandleConfig>,
    /// Settings of PyTorch with transformers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pytorch: Option<PytorchConfig>,
    /// Settings of vLLM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vllm: Option<VllmConfig>,
    /// Settings of TensorRT-LLM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensorrt: Option<TensorrtConfig>,
}

const fn default_random_seed() -> u64 {
    42
}

/// An inference engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The embedded engine: Rust, on the processor, no Python.
    Candle,
    /// PyTorch with Hugging Face transformers.
    Pytorch,
    /// vLLM.
    Vllm,
    /// NVIDIA TensorRT-LLM.
    Tensorrt,
}

impl Backend {
    /// All backends.
    pub const ALL: [Self; 4] = [Self::Candle, Self::Pytorch, Self::Vllm, Self::Tensorrt];

    /// The name in files and on the command line; also the key of the backend's section.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::Pytorch => "pytorch",
            Self::Vllm => "vllm",
            Self::Tensorrt => "tensorrt",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Data type that an engine computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// The type that the checkpoint declares.
    #[default]
    Auto,
    /// IEEE 754 single precision.
    Float32,
    /// IEEE 754 half precision.
    Float16,
    /// Brain floating point.
    Bfloat16,
}

impl Dtype {
    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

/// Where the weights come from: a Hugging Face id (`organisation/name`, optionally `@revision`), a local directory
/// (starts with `/`, `./`, `../` or `~/`), `synthetic`, or `{synthetic: {…}}` for random weights of a given geometry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)] // two shapes that no message depends on: the schema check reports errors before serde sees the file
pub enum ModelSpec {
    /// `synthetic`, a hub id or a directory.
    Named(String),
    /// Random weights of a given geometry.
    Synthetic(SyntheticModel),
}

/// Random weights of a given geometry, generated on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyntheticModel {
    /// The geometry; absent fields are those of the built-in small Llama.
    pub synthetic: SyntheticSpec,
}

/// What a [`ModelSpec`] means.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// Random weights, generated on this machine.
    Synthetic(SyntheticSpec),
    /// A directory on this machine.
    Directory(PathBuf),
    /// A Hugging Face repository.
    Hub {
        /// `organisation/name`.
        id: String,
        /// Branch, tag or commit.
        revision: Option<String>,
    },
}

/// The work: which prompts, how many, how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkloadConfig {
    /// `synthetic`, `aienergyscore`, or the path of a JSON Lines file whose objects have a `prompt` field.
    pub dataset: String,
    /// Number of requests in one pass; absent: 8 for `synthetic`, 200 for `aienergyscore`, all lines of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Prompt length in tokens. `synthetic`: the exact length, or a range drawn uniformly (default 64). Text: prompts are cut
    /// to this many tokens (a range is an error); absent: not cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<Length>,
    /// Tokens to generate per request: exact, or a range drawn uniformly.
    pub output_tokens: Length,
    /// The order in which requests are fed.
    pub order: Order,
    /// Generate the full length whatever the model says. `false` lets an end-of-sequence token end a request.
    pub ignore_eos: bool,
}

impl Default for WorkloadConfig {
    fn default() -> Self {
        Self {
            dataset: "synthetic".into(),
            n: None,
            input_tokens: None,
            output_tokens: Length::Exact(64),
            order: Order::AsGiven,
            ignore_eos: true,
        }
    }
}

/// A number of tokens: exact, or drawn uniformly from a range with the experiment's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)] // see ModelSpec
pub enum Length {
    /// The same for every request.
    Exact(#[schemars(range(min = 1, max = 10_000_000))] u32),
    /// Uniform between both ends.
    Uniform(LengthRange),
}

/// Both ends of a uniform distribution of lengths, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LengthRange {
    /// Shortest.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub min: u32,
    /// Longest.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max: u32,
}

/// The order in which requests are fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As the dataset has them.
    AsGiven,
    /// Shuffled with the experiment's seed.
    Shuffled,
    /// By prompt length, shortest first.
    ShortestFirst,
    /// By prompt length, longest first.
    LongestFirst,
}

/// How tokens are chosen. All absent, or temperature 0: greedy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// Softmax temperature; 0 is greedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub temperature: Option<f64>,
    /// Sample among this many most likely tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub top_k: Option<u32>,
    /// Sample among the most likely tokens whose probabilities sum to this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: Option<f64>,
}

/// A LoRA adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Hugging Face id or local directory of the adapter.
    pub adapter: String,
    /// Merge the adapter into the weights before the run. Changes what is measured.
    #[serde(default)]
    pub merge_weights: bool,
}

/// How an experiment is measured. Defaults come from the profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeasurementConfig {
    /// Full passes of the workload before the window.
    #[schemars(range(max = 10_000))]
    pub warmup_passes: u32,
    /// Warm-up goes on in whole passes until this many seconds have passed.
    #[schemars(range(min = 0.0, max = 86_400.0))]
    pub warmup_min_seconds: f64,
    /// The window goes on in whole passes until this many seconds have passed.
    #[schemars(range(min = 0.0, max = 86_400.0))]
    pub min_seconds: f64,
    /// Whole passes that the window has at least.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_passes: u32,
    /// Seconds of idle power before the engine starts; not done where no sensor is readable.
    #[schemars(range(min = 0.0, max = 3_600.0))]
    pub baseline_seconds: f64,
    /// Power samples per second.
    #[schemars(range(min = 0.1, max = 1_000.0))]
    pub sample_hz: f64,
}

/// Engine options that llem has no field for, passed to the engine verbatim.
pub type Extra = BTreeMap<String, serde_json::Value>;
