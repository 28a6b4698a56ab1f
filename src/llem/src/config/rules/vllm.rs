//! Rules of vLLM.

use super::super::backend::{VllmConfig, VllmDevice, VllmSpeculative};
use super::super::check::Finding;
use super::super::experiment::ExperimentConfig;
use super::super::model::Dtype;
use super::no_effect;

/// Ranks that vLLM 0.33 accepts for `max_lora_rank`.
const LORA_RANKS: [u32; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];

/// Families of quantisation whose kernels compute in 16 bits.
const SIXTEEN_BIT: [&str; 5] = ["fp8", "awq", "gptq", "modelopt", "compressed-tensors"];

pub(super) fn rules(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    let Some(section) = &config.vllm else { return };
    quantisation(config, section, findings);
    memory(section, findings);
    processor(section, findings);
    section.speculative.iter().for_each(|speculative| speculation(speculative, findings));
    let rank = section.lora.as_ref().and_then(|lora| lora.max_lora_rank);
    if let Some(rank) = rank.filter(|rank| !LORA_RANKS.contains(rank)) {
        let message = format!("vLLM has no rank {rank}; known ranks: 1, 8, 16, 32, 64, 128, 256, 320, 512");
        findings.push(Finding::value("/vllm/lora/max_lora_rank", message));
    }
    if section.enforce_eager == Some(true) && section.compilation.is_some() {
        findings.push(no_effect("/vllm/compilation", "`vllm.enforce_eager` neither compiles nor captures graphs"));
    }
}

fn quantisation(config: &ExperimentConfig, section: &VllmConfig, findings: &mut Vec<Finding>) {
    let Some(method) = section.quantization.as_deref() else { return };
    if config.dtype == Dtype::Float32 && SIXTEEN_BIT.iter().any(|family| method.starts_with(family)) {
        let message = format!("the kernels of `{method}` compute in 16 bits, and `dtype` is float32");
        findings.push(Finding::value("/vllm/quantization", message).hint("set `dtype: bfloat16`, `float16` or `auto`"));
    }
}

fn memory(section: &VllmConfig, findings: &mut Vec<Finding>) {
    if section.kv_cache_memory_bytes.is_some() && section.gpu_memory_utilization.is_some() {
        let because = "`vllm.kv_cache_memory_bytes` sets the size of the cache";
        findings.push(no_effect("/vllm/gpu_memory_utilization", because));
    }
    if let (Some(tokens), Some(seqs)) = (section.max_num_batched_tokens, section.max_num_seqs)
        && tokens < seqs
    {
        let message =
            format!("{tokens} is smaller than `vllm.max_num_seqs`, {seqs}: every request needs a token in a step");
        findings.push(Finding::value("/vllm/max_num_batched_tokens", message));
    }
}

/// vLLM takes its share of the whole machine's main memory, whatever the container may use.
fn processor(section: &VllmConfig, findings: &mut Vec<Finding>) {
    if section.device != Some(VllmDevice::Cpu) {
        return;
    }
    let ignored = "vLLM on processors has one kernel of attention and does not look at it";
    if section.attention_backend.as_deref().is_some_and(|name| name != "CPU_ATTN") {
        findings.push(no_effect("/vllm/attention_backend", ignored));
    }
    if section.async_scheduling == Some(true) {
        findings.push(no_effect("/vllm/async_scheduling", "vLLM switches it off on processors"));
    }
    if section.kv_cache_memory_bytes.is_none() && section.gpu_memory_utilization.is_none() {
        let message = "without a size of the key-value cache, vLLM takes 92 % of the machine's main memory";
        let finding = Finding::value("/vllm/device", message);
        findings.push(finding.hint("set `vllm.kv_cache_memory_bytes`, e.g. 1073741824"));
    }
}

fn speculation(speculative: &VllmSpeculative, findings: &mut Vec<Finding>) {
    if speculative.method.is_none() && speculative.model.is_none() {
        let finding = Finding::key("/vllm/speculative", "needs `method`, `model` or both");
        findings.push(finding.hint("for example `{method: ngram, num_speculative_tokens: 4}`"));
    }
    if let (Some(least), Some(most)) = (speculative.prompt_lookup_min, speculative.prompt_lookup_max)
        && least > most
    {
        let message = format!("{least} is greater than `prompt_lookup_max`, {most}");
        findings.push(Finding::value("/vllm/speculative/prompt_lookup_min", message));
    }
}
