//! Rules of `lora`.

use super::super::backend::Backend;
use super::super::check::Finding;
use super::super::experiment::ExperimentConfig;
use super::super::model::LoraConfig;
use super::model::reference;

/// What TensorRT-LLM cannot do.
pub(super) const TENSORRT_LIMIT: &str = "the TensorRT-LLM backend runs one set of weights and takes no adapter";
/// How to get the same work done, and where to point the config.
pub(super) const TENSORRT_WAY: &str = "merge the adapter once with PEFT: `model = PeftModel.from_pretrained(base, adapter)`, \
     `model.merge_and_unload().save_pretrained(\"./merged\")`, and save the tokenizer beside it;\n\
     then remove `lora:` and point `model:` to that directory, `model: ./merged`";

pub(super) fn rules(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    let Some(lora) = &config.lora else {
        without_adapter(config, findings);
        return;
    };
    findings.extend(reference("/lora/adapter", &lora.adapter, &[]));
    match config.backend {
        Backend::Tensorrt => findings.push(Finding::key("/lora", TENSORRT_LIMIT).hint(TENSORRT_WAY)),
        Backend::Candle => {
            let finding = Finding::key("/lora", "the embedded engine has no adapters");
            findings.push(finding.hint(
                "use `backend: pytorch` or `vllm`, or merge the adapter beforehand with PEFT (`merge_and_unload`)",
            ));
        }
        Backend::Vllm => vllm(lora, findings),
        Backend::Pytorch => {}
    }
}

fn vllm(lora: &LoraConfig, findings: &mut Vec<Finding>) {
    if lora.merge_weights {
        let message = "vLLM applies adapters at run time and cannot merge them";
        let hint = "remove it, or merge the adapter beforehand with PEFT (`merge_and_unload`) and point `model:` to the result";
        findings.push(Finding::value("/lora/merge_weights", message).hint(hint));
    }
}

fn without_adapter(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    if config.vllm.as_ref().is_some_and(|section| section.lora.is_some()) {
        findings.push(super::no_effect("/vllm/lora", "the experiment has no `lora:` section with an adapter"));
    }
}
