//! Whether the longest request fits into what it runs on.

use super::super::backend::{Backend, TensorrtConfig, TensorrtEngine, VllmConfig};
use super::super::check::Finding;
use super::super::experiment::ExperimentConfig;
use super::super::model::ModelSource;

/// `BuildConfig.max_input_len` of TensorRT-LLM 1.2 when it is not given.
const TENSORRT_DEFAULT_MAX_INPUT: u32 = 1_024;

/// The longest request of a workload, in tokens.
#[derive(Clone, Copy)]
struct Longest {
    /// Absent for text that is not cut.
    input: Option<u32>,
    output: u32,
}

impl Longest {
    /// At least this long; a prompt has a token.
    fn total(self) -> u64 {
        u64::from(self.input.unwrap_or(1)) + u64::from(self.output)
    }

    fn described(self) -> String {
        match self.input {
            Some(input) => format!("{} tokens ({input} in, {} out)", self.total(), self.output),
            None => format!("more than {} tokens", self.output),
        }
    }
}

pub(super) fn rules(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    let workload = &config.workload;
    let longest = Longest { input: workload.longest_input(), output: workload.output_tokens.longest() };
    if let ModelSource::Synthetic(spec) = config.model_source() {
        whole_request("/model/synthetic/max_positions", Some(spec.max_positions), longest, findings);
    }
    match config.backend {
        Backend::Vllm => vllm(config.vllm.as_ref(), longest, findings),
        Backend::Tensorrt => tensorrt(config.tensorrt.as_ref(), longest, findings),
        Backend::Pytorch => {
            let cache = config.pytorch.as_ref().and_then(|section| section.cache.as_ref());
            let limit = cache.and_then(|cache| cache.max_cache_len);
            whole_request("/pytorch/cache/max_cache_len", limit, longest, findings);
        }
        Backend::Candle => {}
    }
}

fn whole_request(pointer: &str, limit: Option<u32>, longest: Longest, findings: &mut Vec<Finding>) {
    if let Some(limit) = limit.filter(|limit| u64::from(*limit) < longest.total()) {
        let message = format!("{limit} is too small for the longest request, {}", longest.described());
        findings.push(Finding::value(pointer, message).hint("raise it, or shorten the workload"));
    }
}

fn prompt(pointer: &str, limit: Option<u32>, longest: Longest, findings: &mut Vec<Finding>) {
    if let (Some(limit), Some(input)) = (limit, longest.input)
        && limit < input
    {
        let message = format!("{limit} is too small for the longest prompt, {input} tokens");
        findings.push(Finding::value(pointer, message).hint("raise it, or shorten `workload.input_tokens`"));
    }
}

fn vllm(section: Option<&VllmConfig>, longest: Longest, findings: &mut Vec<Finding>) {
    let Some(section) = section else { return };
    whole_request("/vllm/max_model_len", section.max_model_len, longest, findings);
    if section.enable_chunked_prefill == Some(false) {
        prompt("/vllm/max_num_batched_tokens", section.max_num_batched_tokens, longest, findings);
    }
}

fn tensorrt(section: Option<&TensorrtConfig>, longest: Longest, findings: &mut Vec<Finding>) {
    let Some(section) = section else { return };
    whole_request("/tensorrt/max_seq_len", section.max_seq_len, longest, findings);
    prompt("/tensorrt/max_input_len", section.max_input_len, longest, findings);
    let whole_prompts = section.enable_chunked_prefill != Some(true);
    if whole_prompts {
        prompt("/tensorrt/max_num_tokens", section.max_num_tokens, longest, findings);
    }
    if section.engine != Some(TensorrtEngine::Tensorrt) {
        return;
    }
    let build = section.build.clone().unwrap_or_default();
    whole_request("/tensorrt/build/max_seq_len", build.max_seq_len, longest, findings);
    let max_input = build.max_input_len.unwrap_or(TENSORRT_DEFAULT_MAX_INPUT);
    prompt("/tensorrt/build/max_input_len", Some(max_input), longest, findings);
    if whole_prompts {
        prompt("/tensorrt/build/max_num_tokens", build.max_num_tokens, longest, findings);
    }
}
