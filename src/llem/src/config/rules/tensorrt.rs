//! Rules of TensorRT-LLM: its two ways to execute have different settings.

use super::super::backend::{TensorrtConfig, TensorrtEngine};
use super::super::check::Finding;
use super::super::experiment::ExperimentConfig;
use super::super::model::Dtype;
use super::no_effect;

pub(super) fn rules(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    let Some(section) = &config.tensorrt else { return };
    match section.engine.unwrap_or(TensorrtEngine::Pytorch) {
        TensorrtEngine::Pytorch => only_compiled(section, findings),
        TensorrtEngine::Tensorrt => {
            only_pytorch(section, findings);
            limits_of_build(section, findings);
            quantisation(config, section, findings);
        }
    }
    if section.speculative.as_ref().is_some_and(|speculative| speculative.decoding_type.is_none()) {
        findings.push(Finding::key("/tensorrt/speculative", "missing field `decoding_type`"));
    }
}

fn only_compiled(section: &TensorrtConfig, findings: &mut Vec<Finding>) {
    let fields = [
        ("build", section.build.is_some()),
        ("fast_build", section.fast_build.is_some()),
        ("quant", section.quant.is_some()),
        ("calib", section.calib.is_some()),
        ("batching_type", section.batching_type.is_some()),
        ("multi_block_mode", section.multi_block_mode.is_some()),
    ];
    for (field, _) in fields.iter().filter(|(_, given)| *given) {
        let finding = Finding::key(format!("/tensorrt/{field}"), "is for `tensorrt.engine: tensorrt` only");
        findings.push(finding.hint(match *field {
            "quant" => {
                "`engine: pytorch` takes quantisation from the checkpoint; use a quantised one, or `engine: tensorrt`"
            }
            _ => "set `engine: tensorrt`, or remove it",
        }));
    }
}

fn only_pytorch(section: &TensorrtConfig, findings: &mut Vec<Finding>) {
    let fields = [
        ("cuda_graph", section.cuda_graph.is_some()),
        ("attn_backend", section.attn_backend.is_some()),
        ("sampler_type", section.sampler_type.is_some()),
        ("disable_overlap_scheduler", section.disable_overlap_scheduler.is_some()),
        ("torch_compile", section.torch_compile.is_some()),
        ("enable_autotuner", section.enable_autotuner.is_some()),
        ("moe_backend", section.moe_backend.is_some()),
        ("allreduce_strategy", section.allreduce_strategy.is_some()),
    ];
    for (field, _) in fields.iter().filter(|(_, given)| *given) {
        let finding = Finding::key(format!("/tensorrt/{field}"), "is for `tensorrt.engine: pytorch` only");
        findings.push(finding.hint("set `engine: pytorch`, or remove it"));
    }
    let dtype = section.kv_cache.as_ref().and_then(|cache| cache.dtype.as_deref());
    if dtype.is_some_and(|dtype| dtype != "auto") {
        let finding = Finding::value("/tensorrt/kv_cache/dtype", "must be `auto` with `tensorrt.engine: tensorrt`");
        findings.push(finding.hint("set `tensorrt.quant.kv_cache_quant_algo` instead"));
    }
}

fn limits_of_build(section: &TensorrtConfig, findings: &mut Vec<Finding>) {
    let fields = [
        ("max_batch_size", section.max_batch_size.is_some()),
        ("max_input_len", section.max_input_len.is_some()),
        ("max_seq_len", section.max_seq_len.is_some()),
        ("max_num_tokens", section.max_num_tokens.is_some()),
    ];
    for (field, _) in fields.iter().filter(|(_, given)| *given) {
        let finding = Finding::key(format!("/tensorrt/{field}"), "a compiled engine has its limits from the build");
        findings.push(finding.hint(format!("set `tensorrt.build.{field}`")));
    }
}

fn quantisation(config: &ExperimentConfig, section: &TensorrtConfig, findings: &mut Vec<Finding>) {
    let algorithm = section.quant.as_ref().and_then(|quant| quant.quant_algo);
    if algorithm.is_some() && config.dtype == Dtype::Float32 {
        let message = "quantised engines compute in 16 bits, and `dtype` is float32";
        let finding = Finding::value("/tensorrt/quant/quant_algo", message);
        findings.push(finding.hint("set `dtype: bfloat16`, `float16` or `auto`"));
    }
    if section.calib.is_some() && section.quant.is_none() {
        findings.push(no_effect("/tensorrt/calib", "nothing is quantised; set `tensorrt.quant.quant_algo`"));
    }
}
