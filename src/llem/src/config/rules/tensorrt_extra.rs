//! Rules of `tensorrt.extra`: what has a field of its own, and what TensorRT-LLM cannot do however it is written.

use super::super::backend::{TensorrtConfig, TensorrtEngine};
use super::super::check::Finding;
use super::lora::{TENSORRT_LIMIT, TENSORRT_WAY};
use super::tensorrt::{FOREIGN_LIMIT, QUANTISE};

/// Arguments of `LLM(...)` that have a field, with that field's path.
const OWN_FIELDS: [(&str, &str); 27] = [
    ("dtype", "dtype"),
    ("backend", "tensorrt.engine"),
    ("tensor_parallel_size", "tensorrt.tensor_parallel_size"),
    ("pipeline_parallel_size", "tensorrt.pipeline_parallel_size"),
    ("context_parallel_size", "tensorrt.context_parallel_size"),
    ("moe_expert_parallel_size", "tensorrt.moe_expert_parallel_size"),
    ("moe_tensor_parallel_size", "tensorrt.moe_tensor_parallel_size"),
    ("enable_attention_dp", "tensorrt.enable_attention_dp"),
    ("max_batch_size", "tensorrt.max_batch_size"),
    ("max_input_len", "tensorrt.max_input_len"),
    ("max_seq_len", "tensorrt.max_seq_len"),
    ("max_num_tokens", "tensorrt.max_num_tokens"),
    ("enable_chunked_prefill", "tensorrt.enable_chunked_prefill"),
    ("load_format", "tensorrt.load_format"),
    ("trust_remote_code", "tensorrt.trust_remote_code"),
    ("attn_backend", "tensorrt.attn_backend"),
    ("sampler_type", "tensorrt.sampler_type"),
    ("disable_overlap_scheduler", "tensorrt.disable_overlap_scheduler"),
    ("enable_autotuner", "tensorrt.enable_autotuner"),
    ("allreduce_strategy", "tensorrt.allreduce_strategy"),
    ("moe_backend", "tensorrt.moe_backend"),
    ("cuda_graph", "tensorrt.cuda_graph"),
    ("torch_compile", "tensorrt.torch_compile"),
    ("fast_build", "tensorrt.fast_build"),
    ("batching_type", "tensorrt.batching_type"),
    ("multi_block_mode", "tensorrt.multi_block_mode"),
    ("calib", "tensorrt.calib"),
];

/// Arguments that the driver needs for itself.
const DRIVERS_OWN: [&str; 6] =
    ["model", "tokenizer", "skip_tokenizer_init", "workspace", "stream_interval", "return_perf_metrics"];

/// Arguments that only compiled engines have.
const COMPILED: [&str; 6] = [
    "build_config",
    "quant_config",
    "calib_config",
    "embedding_parallel_mode",
    "normalize_log_probs",
    "extended_runtime_perf_knob_config",
];

pub(super) fn rules(section: &TensorrtConfig, findings: &mut Vec<Finding>) {
    findings.extend(section.extra.keys().filter_map(|key| finding(key, section.engine)));
}

fn finding(key: &str, engine: Option<TensorrtEngine>) -> Option<Finding> {
    let at = |message: &str| Finding::key(format!("/tensorrt/extra/{key}"), message);
    if let Some((_, field)) = OWN_FIELDS.iter().find(|(argument, _)| *argument == key) {
        return Some(at("has a field of its own").hint(format!("set `{field}`")));
    }
    if DRIVERS_OWN.contains(&key) {
        return Some(at("llem sets it itself").hint("remove it"));
    }
    if COMPILED.contains(&key) && engine != Some(TensorrtEngine::Tensorrt) {
        return Some(at("is for `tensorrt.engine: tensorrt` only").hint("set `engine: tensorrt`, or remove it"));
    }
    match key {
        "enable_lora" | "lora_config" | "peft_cache_config" => Some(at(TENSORRT_LIMIT).hint(TENSORRT_WAY)),
        "load_in_8bit" | "load_in_4bit" | "quantization" | "quantization_config" => {
            Some(at(FOREIGN_LIMIT).hint(QUANTISE))
        }
        "enable_build_cache" => {
            let message = "TensorRT-LLM's own cache of engines tells neither GPUs nor weights apart";
            Some(at(message).hint("remove it"))
        }
        _ => None,
    }
}
