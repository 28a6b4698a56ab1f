//! One experiment: everything that decides what is computed and how it is measured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::backend::{Backend, CandleConfig, PytorchConfig, TensorrtConfig, VllmConfig, VllmDevice};
use super::model::{Dtype, LoraConfig, ModelSource, ModelSpec};
use super::workload::WorkloadConfig;

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

impl ExperimentConfig {
    /// What `model` means.
    pub fn model_source(&self) -> ModelSource {
        self.model.source()
    }

    /// Whether the engine is told to compute on the processor and no graphics processor is the experiment's.
    pub fn on_processor(&self) -> bool {
        match self.backend {
            Backend::Candle => true,
            Backend::Pytorch => self.pytorch.as_ref().and_then(|section| section.device_map.as_deref()) == Some("cpu"),
            Backend::Vllm => self.vllm.as_ref().and_then(|section| section.device) == Some(VllmDevice::Cpu),
            Backend::Tensorrt => false,
        }
    }

    /// The image that the experiment asks for; absent: the user configuration decides, then, for the embedded backend, llem's own.
    pub fn image(&self) -> Option<&str> {
        match self.backend {
            Backend::Candle => self.candle.as_ref()?.image.as_deref(),
            Backend::Pytorch => self.pytorch.as_ref()?.image.as_deref(),
            Backend::Vllm => self.vllm.as_ref()?.image.as_deref(),
            Backend::Tensorrt => self.tensorrt.as_ref()?.image.as_deref(),
        }
    }

    /// How many graphics processors the engine computes on; `None`: as many as it gets. More than these are not the experiment's, and
    /// their energy is not either.
    pub fn gpu_count(&self) -> Option<usize> {
        let product = |sizes: &[Option<u32>]| sizes.iter().map(|size| size.unwrap_or(1) as usize).product();
        match self.backend {
            _ if self.on_processor() => Some(0),
            Backend::Candle => Some(0),
            Backend::Pytorch => self.pytorch.as_ref().map_or(Some(1), PytorchConfig::gpu_count),
            Backend::Vllm => Some(
                self.vllm
                    .as_ref()
                    .map_or(1, |section| product(&[section.tensor_parallel_size, section.pipeline_parallel_size])),
            ),
            Backend::Tensorrt => Some(self.tensorrt.as_ref().map_or(1, |section| {
                product(&[section.tensor_parallel_size, section.pipeline_parallel_size, section.context_parallel_size])
            })),
        }
    }

    /// The model that drafts tokens, where the experiment names one: its key in the backend's section `speculative`, and the reference.
    pub fn draft_model(&self) -> Option<(&'static str, &str)> {
        match self.backend {
            Backend::Candle => None,
            Backend::Pytorch => {
                let speculative = self.pytorch.as_ref()?.speculative.as_ref()?;
                Some(("assistant_model", speculative.assistant_model.as_deref()?))
            }
            Backend::Vllm => Some(("model", self.vllm.as_ref()?.speculative.as_ref()?.model.as_deref()?)),
            Backend::Tensorrt => {
                let speculative = self.tensorrt.as_ref()?.speculative.as_ref()?;
                Some(("speculative_model_dir", speculative.speculative_model_dir.as_deref()?))
            }
        }
    }

    /// What the experiment quantises, in short; absent where weights and key-value cache keep the data type of the checkpoint.
    pub fn quantization(&self) -> Option<String> {
        let options = self.engine_options();
        let asked = ["quantization", "quant", "kv_cache_dtype"].into_iter().filter_map(|key| {
            let value = options.get(key).filter(|value| !value.is_null() && value.as_str() != Some("auto"))?;
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some(format!("{key} {text}"))
        });
        let cache =
            options.get("kv_cache").and_then(|cache| cache.get("dtype")?.as_str()).filter(|dtype| *dtype != "auto");
        let all: Vec<_> = asked.chain(cache.map(|dtype| format!("kv_cache.dtype {dtype}"))).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        let SamplingConfig { temperature, top_k, top_p } = self.sampling;
        temperature.map_or(top_k.is_none() && top_p.is_none(), |temperature| temperature <= 0.0)
    }

    /// Options that are passed to the engine verbatim.
    pub fn extra(&self) -> Map<String, Value> {
        let extra = match self.backend {
            Backend::Candle => None,
            Backend::Pytorch => self.pytorch.as_ref().map(|section| &section.extra),
            Backend::Vllm => self.vllm.as_ref().map(|section| &section.extra),
            Backend::Tensorrt => self.tensorrt.as_ref().map(|section| &section.extra),
        };
        extra.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The backend's own section without `image` and `extra`. Absent fields are the engine's default.
    pub fn engine_options(&self) -> Map<String, Value> {
        let section = match self.backend {
            Backend::Candle => to_map(self.candle.as_ref()),
            Backend::Pytorch => to_map(self.pytorch.as_ref()),
            Backend::Vllm => to_map(self.vllm.as_ref()),
            Backend::Tensorrt => to_map(self.tensorrt.as_ref()),
        };
        section.into_iter().filter(|(key, _)| key != "image" && key != "extra").collect()
    }
}

fn to_map<T: Serialize>(section: Option<&T>) -> Map<String, Value> {
    match section.map(serde_json::to_value) {
        Some(Ok(Value::Object(map))) => map,
        _ => Map::new(),
    }
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
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub top_k: Option<u32>,
    /// Sample among the most likely tokens whose probabilities sum to this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: Option<f64>,
}

/// How an experiment is measured. Defaults come from the profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = super::schema::all_optional)]
pub struct MeasurementConfig {
    /// Full passes of the workload before the window.
    #[schemars(range(max = 10_000))]
    pub warmup_passes: u32,
    /// The thermal floor: where a power source is readable, warm-up goes on in whole passes until this many seconds have passed. At
    /// least 30; less only with the profile `quick`.
    #[schemars(range(min = 0.0, max = 86_400.0))]
    pub thermal_floor_seconds: f64,
    /// After warm-up, whole passes go on until clocks and temperatures have settled, at most this many seconds; 0 switches that off.
    #[schemars(range(min = 0.0, max = 86_400.0))]
    pub thermal_gate_timeout_seconds: f64,
    /// The window goes on in whole passes until this many seconds have passed.
    #[schemars(range(min = 0.0, max = 86_400.0))]
    pub min_seconds: f64,
    /// Whole passes that the window has at least.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_passes: u32,
    /// Seconds of idle power before the engine starts; not done where no sensor is readable.
    #[schemars(range(min = 0.0, max = 3_600.0))]
    pub baseline_seconds: f64,
    /// After the window, passes that generate one token per request go on for this many seconds, to measure prefill alone; 0 switches
    /// that off; not done where no sensor is readable.
    #[schemars(range(min = 0.0, max = 86_400.0))]
    pub prefill_min_seconds: f64,
    /// Power samples per second of sensors without a buffer of their own; 0 takes no samples at all, only counters at the edges.
    #[schemars(range(min = 0.0, max = 1_000.0))]
    pub sample_hz: f64,
    /// Whether a GPU in MIG mode is measured, and the run marked as not valid, instead of refused.
    pub allow_mig: bool,
}
