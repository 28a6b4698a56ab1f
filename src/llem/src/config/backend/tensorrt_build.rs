//! Building and quantising a TensorRT engine (TensorRT-LLM up to 1.2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a TensorRT engine is built; names are those of `BuildConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BuildConfig {
    /// Requests in one step; absent: 2048.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_batch_size: Option<u32>,
    /// Longest prompt; absent: 1024.
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
    /// Beams; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_024))]
    pub max_beam_width: Option<u32>,
    /// Batch size that kernels are tuned for; absent: 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub opt_batch_size: Option<u32>,
    /// Tokens in a step that kernels are tuned for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub opt_num_tokens: Option<u32>,
    /// Layout of the key-value cache; absent: `paged`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache_type: Option<KvCacheType>,
    /// Types of the network are those of the checkpoint; absent: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strongly_typed: Option<bool>,
    /// Drafted tokens that the engine accepts at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_024))]
    pub max_draft_len: Option<u32>,
    /// Keep weights in main memory and stream them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_streaming: Option<bool>,
    /// Use 2:4 sparsity of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_sparsity: Option<bool>,
    /// Build an engine whose weights can be exchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_refit: Option<bool>,
    /// Build an engine without weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_strip_plan: Option<bool>,
    /// Plugins of the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginConfig>,
}

/// Layout of a TensorRT engine's key-value cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheType {
    /// In pages.
    Paged,
    /// One stretch for each request.
    Continuous,
    /// None.
    Disabled,
}

/// Plugins of a TensorRT engine; names are those of `PluginConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PluginConfig {
    /// Attention: `auto`, `float16`, `bfloat16`, `float32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpt_attention_plugin: Option<String>,
    /// Matrix products: `auto`, `float16`, `bfloat16`, `float32`, `fp8`, `nvfp4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gemm_plugin: Option<String>,
    /// Fused SwiGLU: `fp8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gemm_swiglu_plugin: Option<String>,
    /// Matrix products of small batches: `fp8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_latency_gemm_plugin: Option<String>,
    /// Reductions between GPUs: `auto`, `float16`, `bfloat16`, `float32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nccl_plugin: Option<String>,
    /// Mixture of experts: `auto`, `float16`, `bfloat16`, `float32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moe_plugin: Option<String>,
    /// Fused attention in prefill; absent: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_fmha: Option<bool>,
    /// Fused attention in prefill over pages; absent: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_paged_context_fmha: Option<bool>,
    /// 8-bit fused attention in prefill; absent: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_fp8_context_fmha: Option<bool>,
    /// Pack prompts without padding; absent: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove_input_padding: Option<bool>,
    /// Fuse reductions between GPUs with what follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce_fusion: Option<bool>,
    /// Registered buffers for reductions between GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_buffer: Option<bool>,
    /// Fuse the feed-forward layers; absent: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_fused_mlp: Option<bool>,
    /// Tune kernels for several shapes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiple_profiles: Option<bool>,
    /// Tokens in a block of the key-value cache; absent: 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_096))]
    pub tokens_per_block: Option<u32>,
}

/// Quantisation of a TensorRT engine; names are those of `QuantConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QuantConfig {
    /// Of weights and activations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quant_algo: Option<QuantAlgorithm>,
    /// Of keys and values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache_quant_algo: Option<KvCacheQuantAlgorithm>,
    /// Weights that share a scale; absent: 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub group_size: Option<u32>,
    /// Strength of SmoothQuant; absent: 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub smoothquant_val: Option<f64>,
    /// Modules that are not quantised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Vec<String>>,
}

/// Quantisation algorithms by their names in TensorRT-LLM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum QuantAlgorithm {
    /// 8-bit weights.
    #[serde(rename = "W8A16")]
    W8a16,
    /// 4-bit weights.
    #[serde(rename = "W4A16")]
    W4a16,
    /// 4-bit weights, AWQ.
    #[serde(rename = "W4A16_AWQ")]
    W4a16Awq,
    /// 4-bit weights, GPTQ.
    #[serde(rename = "W4A16_GPTQ")]
    W4a16Gptq,
    /// 4-bit weights, 8-bit activations, AWQ.
    #[serde(rename = "W4A8_AWQ")]
    W4a8Awq,
    /// 8-bit weights and activations, per channel and token.
    #[serde(rename = "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN")]
    SmoothQuant,
    /// 8-bit weights and activations, per channel.
    #[serde(rename = "W8A8_SQ_PER_CHANNEL")]
    SmoothQuantPerChannel,
    /// 8-bit floating point.
    #[serde(rename = "FP8")]
    Fp8,
    /// 8-bit floating point, scales per channel and token.
    #[serde(rename = "FP8_PER_CHANNEL_PER_TOKEN")]
    Fp8Rowwise,
    /// 8-bit floating point, scales per block.
    #[serde(rename = "FP8_BLOCK_SCALES")]
    Fp8BlockScales,
    /// 4-bit floating point of NVIDIA.
    #[serde(rename = "NVFP4")]
    Nvfp4,
    /// 8-bit integers.
    #[serde(rename = "INT8")]
    Int8,
}

/// Quantisation of keys and values in a TensorRT engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum KvCacheQuantAlgorithm {
    /// 8-bit integers.
    Int8,
    /// 8-bit floating point.
    Fp8,
}

/// Calibration of a TensorRT engine's quantisation; names are those of `CalibConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CalibConfig {
    /// Where calibration runs; absent: `cuda`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<CalibDevice>,
    /// Data set: Hugging Face id or directory; absent: `cnn_dailymail`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calib_dataset: Option<String>,
    /// Batches; absent: 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub calib_batches: Option<u32>,
    /// Samples in a batch; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub calib_batch_size: Option<u32>,
    /// Longest sample in tokens; absent: 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub calib_max_seq_length: Option<u32>,
    /// Seed of the choice of samples; absent: 1234.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_seed: Option<u32>,
    /// Longest sample that the tokenizer accepts, in tokens; absent: 2048.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub tokenizer_max_seq_length: Option<u32>,
}

/// Where calibration runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CalibDevice {
    /// On the GPU.
    Cuda,
    /// On the processor.
    Cpu,
}
