//! NVIDIA TensorRT-LLM (LLM API of version 1.2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BuildConfig, CalibConfig, Extra, QuantConfig};

/// Settings of TensorRT-LLM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TensorrtConfig {
    /// Image to run in; absent: the one of the user configuration, else llem's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Which of its two ways to execute; absent: `pytorch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<TensorrtEngine>,
    /// GPUs that share every layer; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub tensor_parallel_size: Option<u32>,
    /// GPUs that hold different layers; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub pipeline_parallel_size: Option<u32>,
    /// GPUs that share a long prompt; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub context_parallel_size: Option<u32>,
    /// GPUs that whole experts are spread over.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub moe_expert_parallel_size: Option<u32>,
    /// GPUs that share every expert.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub moe_tensor_parallel_size: Option<u32>,
    /// Data parallelism in attention layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_attention_dp: Option<bool>,
    /// Requests in one step; absent: 2048. `engine: tensorrt` takes it from `build`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_batch_size: Option<u32>,
    /// Longest prompt; absent: 1024. `engine: tensorrt` takes it from `build`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub max_input_len: Option<u32>,
    /// Longest request, prompt and output together; absent: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub max_seq_len: Option<u32>,
    /// Tokens in one step; absent: 8192.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub max_num_tokens: Option<u32>,
    /// Split long prompts over several steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_chunked_prefill: Option<bool>,
    /// How weights are read: `auto` or `dummy` (random weights).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_format: Option<String>,
    /// The key-value cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<KvCacheConfig>,
    /// The scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<SchedulerConfig>,
    /// Speculative decoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculative: Option<TensorrtSpeculative>,
    /// CUDA graphs; `engine: pytorch` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_graph: Option<CudaGraphConfig>,
    /// Attention kernels: `TRTLLM`, `FLASHINFER`, `VANILLA`; `engine: pytorch` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attn_backend: Option<String>,
    /// `auto`, `TorchSampler` or `TRTLLMSampler`; `engine: pytorch` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler_type: Option<String>,
    /// Do not schedule while the GPU works; `engine: pytorch` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_overlap_scheduler: Option<bool>,
    /// `torch.compile` of the model; `engine: pytorch` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torch_compile: Option<bool>,
    /// Try kernels at the start; `engine: pytorch` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_autotuner: Option<bool>,
    /// Kernels of mixture-of-experts layers: `CUTLASS`, `CUTEDSL`, `TRTLLM`, …; `engine: pytorch` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moe_backend: Option<String>,
    /// Reductions between GPUs: `AUTO`, `NCCL`, `ONESHOT`, `TWOSHOT`, …; `engine: pytorch` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allreduce_strategy: Option<String>,
    /// How the engine is built; `engine: tensorrt` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildConfig>,
    /// Build quickly, run somewhat slower; `engine: tensorrt` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_build: Option<bool>,
    /// Quantisation at build time; `engine: tensorrt` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quant: Option<QuantConfig>,
    /// Calibration of the quantisation; `engine: tensorrt` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calib: Option<CalibConfig>,
    /// How requests are batched; `engine: tensorrt` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batching_type: Option<BatchingType>,
    /// Split attention over blocks of a GPU; `engine: tensorrt` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multi_block_mode: Option<bool>,
    /// Run Python code from the model's repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_remote_code: Option<bool>,
    /// Passed to the engine verbatim, for options without a field of their own.
    #[serde(skip_serializing_if = "Extra::is_empty")]
    pub extra: Extra,
}

/// The two ways in which TensorRT-LLM executes a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TensorrtEngine {
    /// PyTorch with TensorRT-LLM's kernels.
    Pytorch,
    /// A compiled TensorRT engine; versions up to 1.2.
    Tensorrt,
}

/// How a TensorRT engine batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchingType {
    /// Requests join and leave between steps.
    Inflight,
    /// A batch starts and ends together.
    Static,
}

/// The key-value cache of TensorRT-LLM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KvCacheConfig {
    /// Keep blocks of earlier prompts; absent: `false`, other than the engine's own default. Passes repeat the same prompts: with
    /// `true`, their prefill is not computed again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_block_reuse: Option<bool>,
    /// Reuse blocks that match in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_partial_reuse: Option<bool>,
    /// Share of the memory that is free after the model is loaded; absent: 0.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 1.0))]
    pub free_gpu_memory_fraction: Option<f64>,
    /// Tokens that the cache holds at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub max_tokens: Option<u32>,
    /// Attention window of each layer, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attention_window: Option<Vec<u32>>,
    /// Bytes of main memory for blocks that were moved out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_cache_size: Option<u64>,
    /// Type of keys and values: `auto`, `fp8`, `nvfp4`; other than `auto` with `engine: pytorch` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Tokens in a block; absent: 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_096))]
    pub tokens_per_block: Option<u32>,
}

/// The scheduler of TensorRT-LLM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// When a waiting request may start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_scheduler_policy: Option<CapacityPolicy>,
    /// Whose prompt is processed first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_chunking_policy: Option<ChunkingPolicy>,
}

/// When TensorRT-LLM starts a waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CapacityPolicy {
    /// When it can certainly finish.
    GuaranteedNoEvict,
    /// As soon as it fits; may be paused later.
    MaxUtilization,
    /// When the batch before has finished.
    StaticBatch,
}

/// Whose prompt TensorRT-LLM processes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ChunkingPolicy {
    /// The oldest.
    FirstComeFirstServed,
    /// All alike.
    EqualProgress,
}

/// Speculative decoding of TensorRT-LLM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TensorrtSpeculative {
    /// Who drafts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoding_type: Option<SpeculativeType>,
    /// Hugging Face id or directory of the draft model or head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculative_model_dir: Option<String>,
    /// Tokens drafted at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub max_draft_len: Option<u32>,
    /// Longest match of `NGram`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub max_matching_ngram_size: Option<u32>,
}

/// Who drafts tokens in TensorRT-LLM, by its own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub enum SpeculativeType {
    /// A smaller model.
    #[serde(rename = "Draft_Target")]
    DraftTarget,
    /// An EAGLE head.
    Eagle,
    /// Medusa heads.
    Medusa,
    /// Lookahead decoding.
    Lookahead,
    /// The model's own prediction heads.
    #[serde(rename = "MTP")]
    Mtp,
    /// Earlier occurrences in the text.
    #[serde(rename = "NGram")]
    NGram,
}

/// CUDA graphs of TensorRT-LLM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CudaGraphConfig {
    /// `false` switches them off; absent: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Batch sizes that graphs are captured for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_sizes: Option<Vec<u32>>,
    /// Largest batch size that a graph is captured for; absent: 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_batch_size: Option<u32>,
    /// Pad batches to the next size that has a graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_padding: Option<bool>,
}
