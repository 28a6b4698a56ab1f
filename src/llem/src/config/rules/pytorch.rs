//! Rules of PyTorch with transformers.

use super::super::backend::{
    AttentionImplementation, CacheImplementation, PytorchCache, PytorchCompile, PytorchConfig, PytorchQuantization,
    PytorchQuantizationMethod, PytorchSpeculative,
};
use super::super::check::Finding;
use super::super::experiment::ExperimentConfig;
use super::super::model::Dtype;
use super::model::reference;
use super::no_effect;

pub(super) fn rules(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    let Some(section) = &config.pytorch else { return };
    attention(config, section, findings);
    section.compile.iter().for_each(|compile| compilation(compile, section, findings));
    section.cache.iter().for_each(|cache| cache_rules(cache, config.on_processor(), findings));
    not_done(section, findings);
    section.quantization.iter().for_each(|quantization| quantisation(quantization, findings));
    section.speculative.iter().for_each(|speculative| speculation(speculative, section, findings));
    if section.device_map.as_deref().is_some_and(|map| map.starts_with("cuda:") && map != "cuda:0") {
        let message = "the GPUs before it would idle in the run, and their energy would be counted";
        let finding = Finding::value("/pytorch/device_map", message);
        findings.push(finding.hint("set `cuda:0` or nothing, and name the GPU under `gpu.devices` in the user config"));
    }
    if section.device_map.is_some() && section.tensor_parallel_size.is_some_and(|size| size > 1) {
        let message = "cannot be combined with `pytorch.tensor_parallel_size`, which places the layers itself";
        findings.push(Finding::value("/pytorch/device_map", message));
    }
}

/// What transformers does with other programs or not at all.
fn not_done(section: &PytorchConfig, findings: &mut Vec<Finding>) {
    if let Some(size) = section.tensor_parallel_size.filter(|size| *size > 1) {
        let message = format!(
            "{size} GPUs that share layers are {size} processes to transformers (torchrun), and llem starts one engine"
        );
        let finding = Finding::value("/pytorch/tensor_parallel_size", message);
        let hint = "remove it and set `pytorch.device_map: auto` (layers one after the other), or use `backend: vllm` for tensor parallelism";
        findings.push(finding.hint(hint));
    }
    if section.low_cpu_mem_usage.is_some() {
        let because = "transformers loads weights without a second copy, from 4.57 on always";
        findings.push(no_effect("/pytorch/low_cpu_mem_usage", because));
    }
}

fn attention(config: &ExperimentConfig, section: &PytorchConfig, findings: &mut Vec<Finding>) {
    use AttentionImplementation::{FlashAttention2, FlashAttention3, FlashAttention4};
    let implementation = section.attn.as_ref().and_then(|attn| attn.implementation);
    let is_flash = matches!(implementation, Some(FlashAttention2 | FlashAttention3 | FlashAttention4));
    if is_flash && config.dtype == Dtype::Float32 {
        let message = "FlashAttention computes in float16 and bfloat16 only, and `dtype` is float32";
        let finding = Finding::value("/pytorch/attn/implementation", message);
        findings.push(finding.hint("set `dtype: bfloat16`, or use `sdpa`"));
    }
}

fn compilation(compile: &PytorchCompile, section: &PytorchConfig, findings: &mut Vec<Finding>) {
    if compile.enabled != Some(false) {
        compiled(compile, section, findings);
        return;
    }
    let fields = [
        ("mode", compile.mode.is_some()),
        ("backend", compile.backend.is_some()),
        ("fullgraph", compile.fullgraph.is_some()),
        ("dynamic", compile.dynamic.is_some()),
    ];
    for (field, _) in fields.iter().filter(|(_, given)| *given) {
        findings.push(no_effect(&format!("/pytorch/compile/{field}"), "`pytorch.compile.enabled` is false"));
    }
}

/// What cannot be compiled, or not so.
fn compiled(compile: &PytorchCompile, section: &PytorchConfig, findings: &mut Vec<Finding>) {
    use CacheImplementation::{Dynamic, Static};
    if let (Some(_), Some(backend)) = (compile.mode, compile.backend.as_deref().filter(|name| *name != "inductor")) {
        let because = format!("only the compiler `inductor` has modes, and `pytorch.compile.backend` is {backend}");
        findings.push(no_effect("/pytorch/compile/mode", &because));
    }
    let cache = section.cache.as_ref().and_then(|cache| cache.implementation);
    if cache.is_some_and(|cache| !matches!(cache, Dynamic | Static)) {
        let finding = Finding::key("/pytorch/compile", "transformers compiles with a dynamic or static cache only");
        findings.push(finding.hint("set `pytorch.cache.implementation: static`, or remove one of the two"));
    }
    if section.speculative.is_some() {
        let message = "cannot be combined with `pytorch.speculative`: every step would have another shape";
        findings.push(Finding::key("/pytorch/compile", message));
    }
}

fn cache_rules(cache: &PytorchCache, on_processor: bool, findings: &mut Vec<Finding>) {
    use CacheImplementation::{Offloaded, OffloadedStatic, Paged};
    if cache.implementation == Some(Paged) {
        let message =
            "the paged cache belongs to transformers' continuous batching, which does not tell when a token came";
        let finding = Finding::value("/pytorch/cache/implementation", message);
        findings.push(finding.hint("use `dynamic` or `static`, or `backend: vllm` for paged attention"));
    }
    if on_processor && matches!(cache.implementation, Some(Offloaded | OffloadedStatic)) {
        let because = "the model computes on the processor, so that its cache is in main memory anyway";
        findings.push(no_effect("/pytorch/cache/implementation", because));
    }
    let is_static =
        matches!(cache.implementation, Some(CacheImplementation::Static | CacheImplementation::OffloadedStatic));
    if cache.max_cache_len.is_some() && !is_static {
        let finding = no_effect("/pytorch/cache/max_cache_len", "only static caches have a fixed length");
        findings.push(finding.hint("set `pytorch.cache.implementation: static`, or remove it"));
    }
    if cache.use_cache == Some(false) && cache.implementation.is_some() {
        findings.push(no_effect("/pytorch/cache/implementation", "`pytorch.cache.use_cache` is false"));
    }
}

fn quantisation(quantization: &PytorchQuantization, findings: &mut Vec<Finding>) {
    match quantization.method {
        None | Some(PytorchQuantizationMethod::Bitsandbytes) => bitsandbytes(quantization, findings),
        Some(_) => other_method(quantization, findings),
    }
}

fn bitsandbytes(quantization: &PytorchQuantization, findings: &mut Vec<Finding>) {
    let (eight, four) = (quantization.load_in_8bit == Some(true), quantization.load_in_4bit == Some(true));
    if eight && four {
        let message = "cannot be combined with `load_in_8bit`";
        findings.push(Finding::value("/pytorch/quantization/load_in_4bit", message));
    }
    if !eight && !four {
        let finding = Finding::value("/pytorch/quantization", "bitsandbytes needs a number of bits");
        findings.push(finding.hint("set `load_in_8bit: true` or `load_in_4bit: true`, or another `method`"));
    }
    let fields = [
        ("bnb_4bit_quant_type", quantization.bnb_4bit_quant_type.is_some() && !four, "needs `load_in_4bit: true`"),
        (
            "bnb_4bit_compute_dtype",
            quantization.bnb_4bit_compute_dtype.is_some() && !four,
            "needs `load_in_4bit: true`",
        ),
        (
            "bnb_4bit_use_double_quant",
            quantization.bnb_4bit_use_double_quant.is_some() && !four,
            "needs `load_in_4bit: true`",
        ),
        ("llm_int8_threshold", quantization.llm_int8_threshold.is_some() && !eight, "needs `load_in_8bit: true`"),
        ("bits", quantization.bits.is_some(), "is not for bitsandbytes; use `load_in_8bit` or `load_in_4bit`"),
        ("group_size", quantization.group_size.is_some(), "is not for bitsandbytes"),
    ];
    for (field, _, message) in fields.iter().filter(|(_, wrong, _)| *wrong) {
        findings.push(Finding::value(format!("/pytorch/quantization/{field}"), *message));
    }
}

fn other_method(quantization: &PytorchQuantization, findings: &mut Vec<Finding>) {
    let fields = [
        ("load_in_8bit", quantization.load_in_8bit.is_some()),
        ("load_in_4bit", quantization.load_in_4bit.is_some()),
        ("bnb_4bit_quant_type", quantization.bnb_4bit_quant_type.is_some()),
        ("bnb_4bit_compute_dtype", quantization.bnb_4bit_compute_dtype.is_some()),
        ("bnb_4bit_use_double_quant", quantization.bnb_4bit_use_double_quant.is_some()),
        ("llm_int8_threshold", quantization.llm_int8_threshold.is_some()),
    ];
    for (field, _) in fields.iter().filter(|(_, given)| *given) {
        let pointer = format!("/pytorch/quantization/{field}");
        findings.push(no_effect(&pointer, "it is for `method: bitsandbytes`"));
    }
}

fn speculation(speculative: &PytorchSpeculative, section: &PytorchConfig, findings: &mut Vec<Finding>) {
    if speculative.assistant_model.is_some() && speculative.prompt_lookup_num_tokens.is_some() {
        let message = "cannot be combined with `assistant_model`; choose one";
        findings.push(Finding::value("/pytorch/speculative/prompt_lookup_num_tokens", message));
    }
    if speculative.assistant_model.is_none() && speculative.prompt_lookup_num_tokens.is_none() {
        let finding = Finding::key("/pytorch/speculative", "says nothing of where guesses come from");
        findings.push(finding.hint("set `prompt_lookup_num_tokens` or `assistant_model`"));
    }
    if let Some(model) = &speculative.assistant_model {
        findings.extend(reference("/pytorch/speculative/assistant_model", model, &[]));
    }
    let cache = section.cache.as_ref().and_then(|cache| cache.implementation);
    if matches!(cache, Some(CacheImplementation::Static | CacheImplementation::OffloadedStatic)) {
        let finding = Finding::key("/pytorch/speculative", "transformers does not speculate with a static cache");
        findings.push(finding.hint("set `pytorch.cache.implementation: dynamic`, or remove it"));
    }
    if section.cache.as_ref().is_some_and(|cache| cache.use_cache == Some(false)) {
        let message = "transformers speculates with a key-value cache only, and `pytorch.cache.use_cache` is false";
        findings.push(Finding::key("/pytorch/speculative", message));
    }
    if speculative.num_assistant_tokens.is_some() && speculative.assistant_model.is_none() {
        findings.push(no_effect("/pytorch/speculative/num_assistant_tokens", "there is no `assistant_model`"));
    }
    if let Some(size) = section.batch_size.filter(|size| *size > 1) {
        let message = format!("transformers speculates for one request at a time, and `pytorch.batch_size` is {size}");
        findings.push(Finding::key("/pytorch/speculative", message).hint("set `pytorch.batch_size: 1`"));
    }
}
