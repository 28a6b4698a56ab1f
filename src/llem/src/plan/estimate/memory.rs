//! Memory of one GPU that an experiment needs.
//!
//! ```text
//! needed = weights + beside + key-value cache + activations + overhead
//!
//! weights      (layers · ⌈L / PP⌉ / L + tables) / TP       values × bytes of the type or of the quantisation; the headers' bytes
//!                                                          where a checkpoint is loaded as it is stored
//! beside       a draft model, as its files have it         not divided: it runs whole on each GPU unless its own settings say otherwise
//! key-value    2 · ⌈L / PP⌉ · ⌈H_kv / TP⌉ · d_head · b_kv · requests · tokens
//!                                                          requests that run at once, each with its whole prompt and output, in whole
//!                                                          blocks of the engine; a sliding window is not subtracted
//! activations  T · (2 · d + 3 · d_ff · k / TP) · b  +  R · V · (b + 8)
//!                                                          T tokens of the largest step: residual and normed stream, gate, up and
//!                                                          their product (k experts a token); R rows of logits, and twice in float32
//! overhead     0.75 GiB, + 0.5 GiB where GPUs work together, + 1 GiB for CUDA graphs of vLLM and TensorRT-LLM
//!                                                          context and kernels, NCCL's buffers, graphs: llem's allowance, not a sum
//! ```
//!
//! Sources: attention caches keys and values of every token in every layer (Pope et al., *Efficiently Scaling Transformer Inference*, 2022,
//! section 2); Megatron-style tensor parallelism divides heads, feed-forward and vocabulary (Shoeybi et al., 2019); the engines' defaults
//! are those of vLLM 0.33 and TensorRT-LLM 1.2.
//!
//! What an engine *takes* is another number. vLLM takes `gpu_memory_utilization` of the whole GPU and makes a cache of what weights and
//! activations leave of it; TensorRT-LLM takes `free_gpu_memory_fraction` of what is free after loading.

use serde::Serialize;

use super::ModelFacts;
use super::precision::{WeightForm, activation, key_value, layer_weights};
use super::work::{Work, work};
use crate::config::{Backend, ExperimentConfig};

const GIB: f64 = (1_u64 << 30) as f64;

/// Context, kernels and fragments on every GPU. On an H100, NVML counted 0.69 GiB more for PyTorch's process than its allocator had.
const CONTEXT_BYTES: u64 = 768 << 20;
/// Buffers for communication, where more than one GPU computes.
const COMMUNICATION_BYTES: u64 = 512 << 20;
/// CUDA graphs of engines that capture them.
const GRAPHS_BYTES: u64 = 1 << 30;
/// vLLM's share of a GPU (0.33), and TensorRT-LLM's share of what is free (1.2).
const VLLM_UTILIZATION: f64 = 0.92;
const TENSORRT_FRACTION: f64 = 0.9;
/// Above this share of the memory, fragments and allocation peaks may break what fits by the sum.
const TIGHT: f64 = 0.92;

/// Memory that an experiment needs on each GPU. Absent figures have their reason in `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryEstimate {
    /// GPUs that the model is spread over; 0 for a run on the processor; absent where that depends on the machine.
    pub gpus: Option<u64>,
    /// The model's weights.
    pub weights_bytes: Option<u64>,
    /// Weights of a draft model.
    pub beside_bytes: Option<u64>,
    /// Keys and values of the requests that run at once.
    pub kv_cache_bytes: Option<u64>,
    /// Intermediate results of the largest step.
    pub activations_bytes: Option<u64>,
    /// Allowance for what the sum does not have.
    pub overhead_bytes: u64,
    /// The sum.
    pub needed_bytes: Option<u64>,
    /// The key-value cache that the engine makes by its own settings; absent where it makes none beforehand, or no GPU is known.
    pub kv_pool_bytes: Option<u64>,
    /// What the engine takes in all; absent where it takes what it needs, or no GPU is known.
    pub taken_bytes: Option<u64>,
    /// The GPU's memory.
    pub gpu_memory_bytes: Option<u64>,
    /// Whether it fits.
    pub verdict: Verdict,
    /// Why, where it does not, or not for sure.
    pub why: Option<String>,
    /// Reasons of absent figures, each once.
    pub unknown: Vec<String>,
}

/// Whether an experiment fits into a GPU's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The experiment runs on the processor.
    NoGpu,
    /// By the sum, with room.
    Fits,
    /// By the sum, with less than 8 % of room.
    Tight,
    /// Not by the sum. The sum is an estimate: a warning.
    TooLarge,
    /// The weights alone do not: it cannot work.
    Impossible,
    /// A figure or the GPU is not known.
    #[default]
    Unknown,
}

/// What is known around an experiment.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The model.
    pub model: &'a ModelFacts,
    /// Bytes of the draft model's weights: 0 without one, absent where not known.
    pub beside_bytes: Option<u64>,
    /// Memory of the smallest GPU that the experiment may get.
    pub gpu_memory_bytes: Option<u64>,
    /// GPUs that there are.
    pub gpus_present: Option<u64>,
}

/// How a model is divided.
#[derive(Clone, Copy)]
struct Division {
    tensor: u64,
    pipeline: u64,
    context: u64,
}

/// Estimates the memory that an experiment needs on each of its GPUs.
pub fn gpu_memory(config: &ExperimentConfig, around: Surroundings<'_>) -> MemoryEstimate {
    let mut estimate = MemoryEstimate { gpu_memory_bytes: around.gpu_memory_bytes, ..MemoryEstimate::default() };
    if config.gpu_count() == Some(0) {
        estimate.gpus = Some(0);
        estimate.verdict = Verdict::NoGpu;
        estimate.gpu_memory_bytes = None;
        return estimate;
    }
    let Some(division) = division(config, around.gpus_present) else {
        estimate.unknown.push("the model is spread over all GPUs of the machine, and none is known here".to_owned());
        return estimate;
    };
    let gpus = division.tensor * division.pipeline * division.context;
    estimate.gpus = Some(gpus);
    estimate.overhead_bytes = overhead(config, gpus);
    estimate.beside_bytes = around.beside_bytes;
    if around.beside_bytes.is_none() {
        estimate.unknown.push("the draft model's weights are not on this machine".to_owned());
    }
    if *around.model == ModelFacts::default() {
        estimate.unknown.push("the model's description is not on this machine yet".to_owned());
        return estimate;
    }
    let mut take = |figure: Result<f64, String>| match figure {
        Ok(bytes) => Some(bytes.round() as u64),
        Err(reason) => {
            if !estimate.unknown.contains(&reason) {
                estimate.unknown.push(reason);
            }
            None
        }
    };
    let work = work(config, around.gpu_memory_bytes);
    estimate.weights_bytes = take(weights(config, around.model, division));
    estimate.kv_cache_bytes = take(work.clone().and_then(|work| {
        Ok(kv_bytes_per_token(config, around.model, division, work)? * (work.requests * work.tokens_per_request) as f64)
    }));
    estimate.activations_bytes = take(work.clone().and_then(|work| activations(config, around.model, division, work)));
    let parts = [
        estimate.weights_bytes,
        estimate.beside_bytes,
        estimate.kv_cache_bytes,
        estimate.activations_bytes,
        Some(estimate.overhead_bytes),
    ];
    estimate.needed_bytes = parts.into_iter().sum();
    pool(config, &mut estimate);
    judge(config, &mut estimate, work.ok());
    estimate
}

fn division(config: &ExperimentConfig, gpus_present: Option<u64>) -> Option<Division> {
    let size = |size: Option<u32>| size.map_or(1, u64::from);
    Some(match config.backend {
        Backend::Vllm => {
            let section = config.vllm.as_ref();
            Division {
                tensor: size(section.and_then(|s| s.tensor_parallel_size)),
                pipeline: size(section.and_then(|s| s.pipeline_parallel_size)),
                context: 1,
            }
        }
        Backend::Tensorrt => {
            let section = config.tensorrt.as_ref();
            Division {
                tensor: size(section.and_then(|s| s.tensor_parallel_size)),
                pipeline: size(section.and_then(|s| s.pipeline_parallel_size)),
                context: size(section.and_then(|s| s.context_parallel_size)),
            }
        }
        // `device_map: auto` gives whole layers to each GPU, one after the other.
        Backend::Pytorch | Backend::Candle => Division {
            tensor: 1,
            pipeline: config.gpu_count().map(|count| count as u64).or(gpus_present).filter(|gpus| *gpus > 0)?,
            context: 1,
        },
    })
}

fn overhead(config: &ExperimentConfig, gpus: u64) -> u64 {
    let graphs = match config.backend {
        Backend::Vllm => config.vllm.as_ref().and_then(|section| section.enforce_eager) != Some(true),
        Backend::Tensorrt => {
            let graphs = config.tensorrt.as_ref().and_then(|section| section.cuda_graph.as_ref());
            graphs.and_then(|graphs| graphs.enabled) != Some(false)
        }
        Backend::Pytorch | Backend::Candle => false,
    };
    CONTEXT_BYTES + if gpus > 1 { COMMUNICATION_BYTES } else { 0 } + if graphs { GRAPHS_BYTES } else { 0 }
}

/// The stage of a pipeline that has most layers, as a share of all.
fn layer_share(model: &ModelFacts, division: Division) -> Result<f64, String> {
    if division.pipeline == 1 {
        return Ok(1.0);
    }
    let layers = model.layers.ok_or_else(|| no_shape("num_hidden_layers"))?;
    Ok(layers.div_ceil(division.pipeline) as f64 / layers as f64)
}

fn no_shape(key: &str) -> String {
    format!("the model's description does not tell `{key}`, or its family is not one whose rule is known")
}

fn weights(config: &ExperimentConfig, model: &ModelFacts, division: Division) -> Result<f64, String> {
    let (layers, tables) = match (layer_weights(config, model)?, &model.stored) {
        (WeightForm::AsStored, Some(stored)) => (stored.layer_bytes as f64, stored.other_bytes as f64),
        (WeightForm::AsStored, None) => {
            return Err("only the headers of a quantised checkpoint tell how large it is".to_owned());
        }
        (WeightForm::Each(bytes), _) => {
            let values = model.values().ok_or_else(|| no_shape("geometry"))?;
            (values.layers as f64 * bytes, values.others as f64 * activation(config, model)?)
        }
    };
    let whole = (layers * layer_share(model, division)? + tables) / division.tensor as f64;
    let offloaded = config.vllm.as_ref().and_then(|section| section.cpu_offload_gb).unwrap_or(0.0) * GIB;
    Ok((whole - offloaded).max(0.0))
}

/// Bytes that one token of one request takes on each GPU.
fn kv_bytes_per_token(
    config: &ExperimentConfig,
    model: &ModelFacts,
    division: Division,
    work: Work,
) -> Result<f64, String> {
    if model.compressed_kv {
        return Err("no rule for keys and values that the model compresses (multi-head latent attention)".to_owned());
    }
    let layers = model.layers.ok_or_else(|| no_shape("num_hidden_layers"))?.div_ceil(division.pipeline);
    let layers = work.layers_kept.map_or(layers, |kept| layers.min(kept));
    let heads = model.kv_heads.ok_or_else(|| no_shape("num_key_value_heads"))?.div_ceil(division.tensor);
    let head_dim = model.head_dim.ok_or_else(|| no_shape("head_dim"))?;
    let values = 2.0 * layers as f64 * heads as f64 * head_dim as f64;
    Ok(values * key_value(config, model)? / division.context as f64)
}

fn activations(config: &ExperimentConfig, model: &ModelFacts, division: Division, work: Work) -> Result<f64, String> {
    let bytes = activation(config, model)?;
    let hidden = model.hidden.ok_or_else(|| no_shape("hidden_size"))? as f64;
    let intermediate = model.intermediate.ok_or_else(|| no_shape("intermediate_size"))? as f64;
    let active = model.experts_per_token.ok_or_else(|| no_shape("num_experts_per_tok"))? as f64;
    let vocab = model.vocab.ok_or_else(|| no_shape("vocab_size"))? as f64;
    let stream =
        work.step_tokens as f64 * (2.0 * hidden + 3.0 * intermediate * active / division.tensor as f64) * bytes;
    Ok(stream + work.step_requests as f64 * vocab * (bytes + 8.0))
}

/// What vLLM and TensorRT-LLM take by their own settings.
fn pool(config: &ExperimentConfig, estimate: &mut MemoryEstimate) {
    let (Some(gpu), Some(needed), Some(kv)) =
        (estimate.gpu_memory_bytes, estimate.needed_bytes, estimate.kv_cache_bytes)
    else {
        return;
    };
    let (gpu, rest) = (gpu as f64, needed.saturating_sub(kv) as f64);
    let pool = match config.backend {
        Backend::Candle | Backend::Pytorch => return,
        Backend::Vllm => {
            let section = config.vllm.as_ref();
            let share = section.and_then(|section| section.gpu_memory_utilization).unwrap_or(VLLM_UTILIZATION);
            let fixed = section.and_then(|section| section.kv_cache_memory_bytes);
            fixed.map_or(share * gpu - rest, |bytes| bytes as f64)
        }
        Backend::Tensorrt => {
            let cache = config.tensorrt.as_ref().and_then(|section| section.kv_cache.as_ref());
            let share = cache.and_then(|cache| cache.free_gpu_memory_fraction).unwrap_or(TENSORRT_FRACTION);
            share * (gpu - rest)
        }
    };
    let pool = pool.max(0.0);
    estimate.kv_pool_bytes = Some(pool as u64);
    estimate.taken_bytes = Some((rest + pool) as u64);
}

fn judge(config: &ExperimentConfig, estimate: &mut MemoryEstimate, work: Option<Work>) {
    let Some(gpu) = estimate.gpu_memory_bytes else { return };
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / GIB);
    let limit = config.vllm.as_ref().filter(|_| config.backend == Backend::Vllm).and_then(|s| s.gpu_memory_utilization);
    if let Some(weights) = estimate.weights_bytes.filter(|weights| *weights > gpu) {
        estimate.verdict = Verdict::Impossible;
        estimate.why = Some(format!("the weights alone take {} of a GPU with {}", gib(weights), gib(gpu)));
        return;
    }
    if let Some((weights, share)) =
        estimate.weights_bytes.zip(limit).filter(|(w, share)| *w as f64 > share * gpu as f64)
    {
        let allowed = gib((share * gpu as f64) as u64);
        estimate.verdict = Verdict::Impossible;
        estimate.why =
            Some(format!("the weights take {}, `vllm.gpu_memory_utilization: {share}` allows {allowed}", gib(weights)));
        return;
    }
    let Some(needed) = estimate.needed_bytes else { return };
    let one = estimate.kv_cache_bytes.zip(work).map(|(all, work)| all / work.requests.max(1));
    (estimate.verdict, estimate.why) = match (estimate.kv_pool_bytes, one) {
        (Some(pool), Some(one)) if pool < one => {
            let why = format!("its key-value cache of {} does not hold one request ({})", gib(pool), gib(one));
            (Verdict::TooLarge, Some(why))
        }
        (Some(pool), Some(one)) if estimate.kv_cache_bytes.is_some_and(|all| pool < all) => {
            let held = pool.checked_div(one).unwrap_or_default();
            let why = format!("its key-value cache of {} holds {held} requests at once; others wait", gib(pool));
            (Verdict::Tight, Some(why))
        }
        _ if needed > gpu => {
            (Verdict::TooLarge, Some(format!("it needs about {} of a GPU with {}", gib(needed), gib(gpu))))
        }
        (None, _) if needed as f64 > TIGHT * gpu as f64 => {
            (Verdict::Tight, Some(format!("it needs about {} of a GPU with {}", gib(needed), gib(gpu))))
        }
        _ => (Verdict::Fits, None),
    };
}

#[cfg(test)]
mod tests;
