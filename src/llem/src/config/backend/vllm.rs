//! vLLM (`vllm.LLM` and its engine arguments).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Extra;

/// Settings of vLLM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VllmConfig {
    /// Image to run in; absent: the one of the user configuration, else llem's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Where to compute; absent: the run's GPUs. A run on the processor must be asked for, and needs an image of vLLM for processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<VllmDevice>,
    /// GPUs that share every layer; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub tensor_parallel_size: Option<u32>,
    /// GPUs that hold different layers; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub pipeline_parallel_size: Option<u32>,
    /// Spread whole experts over the GPUs instead of slices of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_expert_parallel: Option<bool>,
    /// How workers are started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distributed_executor_backend: Option<ExecutorBackend>,
    /// Share of a GPU's memory that the engine takes; absent: 0.92.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 1.0))]
    pub gpu_memory_utilization: Option<f64>,
    /// Bytes of key-value cache on each GPU, instead of `gpu_memory_utilization`; makes its size repeatable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub kv_cache_memory_bytes: Option<u64>,
    /// Type of the key-value cache, e.g. `auto`, `fp8`, `fp8_e5m2`, `nvfp4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache_dtype: Option<String>,
    /// Tokens in a block of the key-value cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_096))]
    pub block_size: Option<u32>,
    /// GiB of weights kept in main memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub cpu_offload_gb: Option<f64>,
    /// Requests in one step; absent: depends on the GPU's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_num_seqs: Option<u32>,
    /// Tokens in one step; absent: depends on the GPU's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub max_num_batched_tokens: Option<u32>,
    /// Longest request, prompt and output together; absent: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub max_model_len: Option<u32>,
    /// Neither compile nor use CUDA graphs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforce_eager: Option<bool>,
    /// Split long prompts over several steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_chunked_prefill: Option<bool>,
    /// Keep prefixes of earlier prompts; absent: no. Passes repeat the same prompts: with it, most prefills are not real.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_prefix_caching: Option<bool>,
    /// Schedule the next step while the GPU works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_scheduling: Option<bool>,
    /// Which waiting request is next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduling_policy: Option<SchedulingPolicy>,
    /// Attention kernels, e.g. `FLASH_ATTN`, `FLASHINFER`, `TRITON_ATTN`, `FLEX_ATTENTION`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_backend: Option<String>,
    /// Method, e.g. `fp8`, `awq_marlin`, `gptq_marlin`, `modelopt`, `compressed-tensors`; absent: what the checkpoint declares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// How weights are read: `auto`, `safetensors`, `dummy` (random weights), …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_format: Option<String>,
    /// 0 (start quickly) to 3 (run quickly); absent: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 3))]
    pub optimization_level: Option<u32>,
    /// Which defaults are chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub performance_mode: Option<PerformanceMode>,
    /// Compilation and CUDA graphs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compilation: Option<VllmCompilation>,
    /// Speculative decoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculative: Option<VllmSpeculative>,
    /// Limits of adapters; used with the experiment's `lora`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<VllmLora>,
    /// Use NCCL for all reductions between GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_custom_all_reduce: Option<bool>,
    /// Run Python code from the model's repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_remote_code: Option<bool>,
    /// Passed to the engine verbatim, for options without a field of their own.
    #[serde(skip_serializing_if = "Extra::is_empty")]
    pub extra: Extra,
}

/// Where vLLM computes. Which of them it can is decided when it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VllmDevice {
    /// On GPUs.
    Cuda,
    /// On the processor.
    Cpu,
}

/// How vLLM starts its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecutorBackend {
    /// In the engine's process; one GPU.
    Uni,
    /// One process for each GPU.
    Mp,
    /// Through Ray.
    Ray,
}

/// Which waiting request vLLM takes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchedulingPolicy {
    /// First come, first served.
    Fcfs,
    /// By priority.
    Priority,
}

/// What vLLM's defaults aim at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PerformanceMode {
    /// Between both.
    Balanced,
    /// Short waits.
    Interactivity,
    /// Large batches.
    Throughput,
}

/// Compilation and CUDA graphs of vLLM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VllmCompilation {
    /// 0: none, 1: stock `torch.compile`, 2: traced once, 3: vLLM's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 3))]
    pub mode: Option<u32>,
    /// What CUDA graphs cover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cudagraph_mode: Option<CudagraphMode>,
    /// Batch sizes that graphs are captured for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cudagraph_capture_sizes: Option<Vec<u32>>,
}

/// What vLLM's CUDA graphs cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CudagraphMode {
    /// Nothing.
    None,
    /// All but attention.
    Piecewise,
    /// Whole steps.
    Full,
    /// Whole steps that only decode.
    FullDecodeOnly,
    /// Whole steps that only decode; the rest in pieces.
    FullAndPiecewise,
}

/// Speculative decoding of vLLM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VllmSpeculative {
    /// `ngram`, `draft_model`, `eagle`, `eagle3`, `mtp`, `suffix`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Hugging Face id or directory of the draft model or head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Tokens drafted at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub num_speculative_tokens: Option<u32>,
    /// GPUs that share every layer of the draft model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub draft_tensor_parallel_size: Option<u32>,
    /// Shortest match of `ngram`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub prompt_lookup_min: Option<u32>,
    /// Longest match of `ngram`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub prompt_lookup_max: Option<u32>,
}

/// Limits of adapters in vLLM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VllmLora {
    /// Largest rank of an adapter; absent: 16. One of 1, 8, 16, 32, 64, 128, 256, 320, 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub max_lora_rank: Option<u32>,
    /// Adapters in one batch; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub max_loras: Option<u32>,
}
