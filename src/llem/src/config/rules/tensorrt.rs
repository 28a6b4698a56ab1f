//! Rules of TensorRT-LLM: its two ways to execute have different settings.

use std::path::Path;

use llem_model::ModelConfig;

use super::super::backend::{
    CudaGraphConfig, KvCacheConfig, SchedulerConfig, SpeculativeType, TensorrtConfig, TensorrtEngine,
};
use super::super::check::Finding;
use super::super::experiment::ExperimentConfig;
use super::super::model::{Dtype, ModelSource};
use super::{no_effect, tensorrt_extra};

/// What other tools quantised: none of it is read by TensorRT-LLM 1.2.
pub(super) const FOREIGN_LIMIT: &str = "TensorRT-LLM reads no weights of bitsandbytes, AutoAWQ, AutoGPTQ or their like";

/// How to get quantised weights that it does read, and where to point the config.
pub(super) const QUANTISE: &str = "quantise the original model once with NVIDIA ModelOpt, for example \
     `hf_ptq.py --pyt_ckpt_path ORIGINAL --qformat fp8 --export_path ./quantised`;\n\
     then point `model:` to that directory, `model: ./quantised`; or point it to the original and set \
     `tensorrt.engine: tensorrt` with `tensorrt.quant`";

/// Names of such quantisations in `config.json`.
const FOREIGN: [&str; 7] = ["bitsandbytes", "awq", "gptq", "hqq", "quanto", "aqlm", "gguf"];

pub(super) fn rules(config: &ExperimentConfig, study_dir: &Path, findings: &mut Vec<Finding>) {
    if let ModelSource::Directory(directory) = config.model_source() {
        let method = ModelConfig::read(&study_dir.join(directory)).ok().and_then(|model| model.quantization);
        findings.extend(method.as_deref().and_then(checkpoint));
    }
    let Some(section) = &config.tensorrt else { return };
    match section.engine.unwrap_or(TensorrtEngine::Pytorch) {
        TensorrtEngine::Pytorch => only_compiled(section, findings),
        TensorrtEngine::Tensorrt => {
            only_pytorch(section, findings);
            limits_of_build(section, findings);
            quantisation(config, section, findings);
        }
    }
    speculation(section, findings);
    section.kv_cache.iter().for_each(|cache| kept_blocks(cache, findings));
    section.scheduler.iter().for_each(|scheduler| chunking(scheduler, section, findings));
    section.cuda_graph.iter().for_each(|graph| cuda_graph(graph, findings));
    tensorrt_extra::rules(section, findings);
}

/// Weights that neither path reads, by the name of their quantisation in `config.json`.
pub(crate) fn checkpoint(method: &str) -> Option<Finding> {
    FOREIGN
        .contains(&method)
        .then(|| Finding::value("/model", format!("is quantised by `{method}`, and {FOREIGN_LIMIT}")).hint(QUANTISE))
}

/// Each path of the engine speculates in ways of its own.
fn speculation(section: &TensorrtConfig, findings: &mut Vec<Finding>) {
    use SpeculativeType::{DraftTarget, Eagle, Lookahead, Medusa, Mtp, NGram};
    let Some(speculative) = &section.speculative else { return };
    let engine = section.engine.unwrap_or(TensorrtEngine::Pytorch);
    let wanted = match speculative.decoding_type {
        None => {
            findings.push(Finding::key("/tensorrt/speculative", "missing field `decoding_type`"));
            return;
        }
        Some(Eagle) => return,
        Some(DraftTarget | Mtp | NGram) => TensorrtEngine::Pytorch,
        Some(Medusa | Lookahead) => TensorrtEngine::Tensorrt,
    };
    if wanted != engine {
        let (name, others) = match wanted {
            TensorrtEngine::Pytorch => ("pytorch", "`Eagle`, `Medusa` or `Lookahead`"),
            TensorrtEngine::Tensorrt => ("tensorrt", "`Eagle`, `Draft_Target`, `MTP` or `NGram`"),
        };
        let message = format!("is for `tensorrt.engine: {name}` only");
        let finding = Finding::value("/tensorrt/speculative/decoding_type", message);
        findings.push(finding.hint(format!("set `engine: {name}`, or use {others}")));
    }
}

fn kept_blocks(cache: &KvCacheConfig, findings: &mut Vec<Finding>) {
    if cache.enable_partial_reuse.is_some() && cache.enable_block_reuse != Some(true) {
        let because = "no blocks are kept unless `tensorrt.kv_cache.enable_block_reuse` is true";
        findings.push(no_effect("/tensorrt/kv_cache/enable_partial_reuse", because));
    }
}

fn chunking(scheduler: &SchedulerConfig, section: &TensorrtConfig, findings: &mut Vec<Finding>) {
    if scheduler.context_chunking_policy.is_some() && section.enable_chunked_prefill != Some(true) {
        let because = "prompts are not split unless `tensorrt.enable_chunked_prefill` is true";
        findings.push(no_effect("/tensorrt/scheduler/context_chunking_policy", because));
    }
}

fn cuda_graph(graph: &CudaGraphConfig, findings: &mut Vec<Finding>) {
    let fields = [
        ("batch_sizes", graph.batch_sizes.is_some()),
        ("max_batch_size", graph.max_batch_size.is_some()),
        ("enable_padding", graph.enable_padding.is_some()),
    ];
    if graph.enabled == Some(false) {
        for (field, _) in fields.iter().filter(|(_, given)| *given) {
            findings
                .push(no_effect(&format!("/tensorrt/cuda_graph/{field}"), "`tensorrt.cuda_graph.enabled` is false"));
        }
    }
    let largest = graph.batch_sizes.as_ref().and_then(|sizes| sizes.iter().max());
    if let (Some(largest), Some(most)) = (largest, graph.max_batch_size)
        && *largest != most
    {
        let message = format!("{most} is not the largest of `batch_sizes`, {largest}");
        findings.push(Finding::value("/tensorrt/cuda_graph/max_batch_size", message).hint("remove it"));
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
        let (message, hint) = match *field {
            "quant" => ("the PyTorch path takes quantisation from the checkpoint and has no setting for it", QUANTISE),
            _ => ("is for `tensorrt.engine: tensorrt` only", "set `engine: tensorrt`, or remove it"),
        };
        findings.push(Finding::key(format!("/tensorrt/{field}"), message).hint(hint));
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
        let finding =
            Finding::value("/tensorrt/kv_cache/dtype", "a compiled engine has the type of its cache from the build");
        findings.push(finding.hint("remove it, and set `tensorrt.quant.kv_cache_quant_algo: FP8` or `INT8`"));
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
