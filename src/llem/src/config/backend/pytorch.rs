//! PyTorch with Hugging Face transformers (`AutoModelForCausalLM`, `generate`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Extra, PytorchQuantization};

/// Settings of PyTorch with transformers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PytorchConfig {
    /// Image to run in, with Python, PyTorch and transformers; absent: the one of the user configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Requests generated together, left-padded to the longest; absent: 1. The slowest request decides the batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub batch_size: Option<u32>,
    /// `cuda:0`, `cpu`, or `auto` (layers spread over all devices, one after the other); absent: the first GPU. A run on the processor must be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_map: Option<String>,
    /// GPUs that share every layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub tensor_parallel_size: Option<u32>,
    /// The attention kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attn: Option<PytorchAttention>,
    /// `torch.compile` of the forward pass; absent: what `generate` does by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compile: Option<PytorchCompile>,
    /// The key-value cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PytorchCache>,
    /// Quantisation of the weights at load time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<PytorchQuantization>,
    /// Speculative decoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculative: Option<PytorchSpeculative>,
    /// Kernels of mixture-of-experts layers: `eager`, `batched_mm`, `grouped_mm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts_implementation: Option<String>,
    /// Replace layers by kernels from the Hugging Face hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_kernels: Option<bool>,
    /// Load weights without a second copy in main memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_cpu_mem_usage: Option<bool>,
    /// Run Python code from the model's repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_remote_code: Option<bool>,
    /// TensorFloat-32 in matrix products of float32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_tf32: Option<bool>,
    /// cuDNN tries kernels and keeps the fastest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cudnn_benchmark: Option<bool>,
    /// cuDNN uses only deterministic kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cudnn_deterministic: Option<bool>,
    /// `torch.use_deterministic_algorithms`: an error where PyTorch has no deterministic kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deterministic_algorithms: Option<bool>,
    /// Threads of operators on the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_096))]
    pub num_threads: Option<u32>,
    /// Passed to the engine verbatim, for options without a field of their own.
    #[serde(skip_serializing_if = "Extra::is_empty")]
    pub extra: Extra,
}

impl PytorchConfig {
    /// GPUs that the model is spread over; `None` for `device_map: auto`, which takes what there is.
    pub(crate) fn gpu_count(&self) -> Option<usize> {
        let sharing = self.tensor_parallel_size.unwrap_or(1) as usize;
        (self.device_map.as_deref() != Some("auto")).then_some(sharing)
    }
}

/// The attention kernels of transformers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PytorchAttention {
    /// Which kernels; absent: `sdpa` where the model supports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub implementation: Option<AttentionImplementation>,
}

/// Attention kernels by their names in transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttentionImplementation {
    /// Plain matrix products.
    Eager,
    /// PyTorch's scaled dot product attention.
    Sdpa,
    /// FlashAttention 2; the package must be in the image.
    #[serde(rename = "flash_attention_2")]
    FlashAttention2,
    /// FlashAttention 3; the package must be in the image.
    #[serde(rename = "flash_attention_3")]
    FlashAttention3,
    /// FlashAttention 4; the package must be in the image.
    #[serde(rename = "flash_attention_4")]
    FlashAttention4,
    /// PyTorch's flex attention.
    FlexAttention,
}

/// `torch.compile` of the forward pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PytorchCompile {
    /// `false` switches off what `generate` would compile by itself; absent or `true`: compile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// What the compiler optimises for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<TorchCompileMode>,
    /// Compiler, e.g. `inductor` (default), `cudagraphs`, `eager`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Fail when the model does not compile as one graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fullgraph: Option<bool>,
    /// Compile for changing shapes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<bool>,
}

/// Modes of `torch.compile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TorchCompileMode {
    /// A balance.
    Default,
    /// CUDA graphs take the overhead of Python away.
    ReduceOverhead,
    /// Try many kernels.
    MaxAutotune,
    /// Try many kernels, without CUDA graphs.
    MaxAutotuneNoCudagraphs,
}

/// The key-value cache of transformers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PytorchCache {
    /// Which cache; absent: `dynamic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub implementation: Option<CacheImplementation>,
    /// Tokens that a static cache holds for each request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_cache_len: Option<u32>,
    /// `false` computes all positions anew for every token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_cache: Option<bool>,
}

/// Key-value caches by their names in transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheImplementation {
    /// Grows with the sequence.
    Dynamic,
    /// Allocated once; on CUDA, decoding is compiled by itself.
    Static,
    /// Grows; layers wait in main memory.
    Offloaded,
    /// Allocated once; layers wait in main memory.
    OffloadedStatic,
    /// Grows; keys and values in few bits.
    Quantized,
    /// In pages, as servers do.
    Paged,
}

/// Speculative decoding of transformers: one of prompt lookup and an assistant model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PytorchSpeculative {
    /// Tokens guessed from earlier occurrences in the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub prompt_lookup_num_tokens: Option<u32>,
    /// Hugging Face id or directory of the model that drafts tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assistant_model: Option<String>,
    /// Tokens that the assistant drafts at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub num_assistant_tokens: Option<u32>,
}
