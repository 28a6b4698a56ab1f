//! What an engine has in memory at one time: requests, their tokens, the tokens of one step.

use crate::config::{Backend, CacheImplementation, ExperimentConfig};

/// Tokens in one step of vLLM on a GPU of at least 70 GiB, and on a smaller one, where the experiment does not say (vLLM 0.33,
/// `EngineArgs`; an A100 counts as a smaller one).
const VLLM_BATCHED_TOKENS: (u64, u64) = (16_384, 8_192);
/// Requests in one step of vLLM on either.
const VLLM_SEQUENCES: (u64, u64) = (1_024, 256);
/// Memory from which on vLLM takes the larger defaults.
const VLLM_LARGE_GPU_BYTES: u64 = 70 << 30;
/// Tokens in a block of vLLM's key-value cache.
const VLLM_BLOCK: u64 = 16;
/// Requests and tokens in one step of TensorRT-LLM, and tokens in a block of its key-value cache (1.2).
const TENSORRT_BATCH: u64 = 2_048;
const TENSORRT_TOKENS: u64 = 8_192;
const TENSORRT_BLOCK: u64 = 32;

/// The most that is in memory at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// Requests whose keys and values are kept.
    pub(super) requests: u64,
    /// Tokens that each of them takes in the key-value cache, whole blocks.
    pub(super) tokens_per_request: u64,
    /// Tokens in the largest step.
    pub(super) step_tokens: u64,
    /// Requests in the largest step: rows of logits.
    pub(super) step_requests: u64,
    /// Layers that are kept on the GPU at a time, where not all.
    pub(super) layers_kept: Option<u64>,
}

/// The work of an experiment; absent where its prompts have no bound before they are tokenised.
pub(super) fn work(config: &ExperimentConfig, gpu_bytes: Option<u64>) -> Result<Work, String> {
    let unbounded =
        "the prompts are text without `workload.input_tokens`: their length is known when they are tokenised";
    let prompt = u64::from(config.workload.longest_input().ok_or(unbounded)?);
    let tokens = prompt + u64::from(config.workload.output_tokens.longest());
    let requests = config.workload.requests().unwrap_or(u64::MAX);
    let large = gpu_bytes.is_some_and(|bytes| bytes >= VLLM_LARGE_GPU_BYTES);
    let by_size = |(on_large, on_small): (u64, u64)| if large { on_large } else { on_small };
    let blocks = |block: u64| tokens.div_ceil(block) * block;
    match config.backend {
        Backend::Candle => {
            let batch = config.candle.as_ref().and_then(|section| section.batch_size).map_or(1, u64::from);
            Ok(static_batch(batch.min(requests), prompt, tokens))
        }
        Backend::Pytorch => {
            let section = config.pytorch.as_ref();
            let batch = section.and_then(|section| section.batch_size).map_or(1, u64::from).min(requests);
            let cache = section.and_then(|section| section.cache.as_ref());
            let implementation = cache.and_then(|cache| cache.implementation);
            let is_static =
                matches!(implementation, Some(CacheImplementation::Static | CacheImplementation::OffloadedStatic));
            let held = cache.and_then(|cache| cache.max_cache_len).filter(|_| is_static).map_or(tokens, u64::from);
            let is_offloaded =
                matches!(implementation, Some(CacheImplementation::Offloaded | CacheImplementation::OffloadedStatic));
            let mut work = static_batch(batch, prompt, held.max(tokens));
            // The layer at work and the next one, which is fetched meanwhile.
            work.layers_kept = is_offloaded.then_some(2);
            if cache.and_then(|cache| cache.use_cache) == Some(false) {
                work = Work { tokens_per_request: 0, step_tokens: batch * tokens, ..work };
            }
            Ok(work)
        }
        Backend::Vllm => {
            let section = config.vllm.as_ref();
            let sequences = section.and_then(|section| section.max_num_seqs).map(u64::from);
            let step = section.and_then(|section| section.max_num_batched_tokens).map(u64::from);
            let block = section.and_then(|section| section.block_size).map_or(VLLM_BLOCK, u64::from);
            Ok(Work {
                requests: sequences.unwrap_or_else(|| by_size(VLLM_SEQUENCES)).min(requests),
                tokens_per_request: blocks(block),
                step_tokens: step.unwrap_or_else(|| by_size(VLLM_BATCHED_TOKENS)),
                // It tries the largest step that its settings allow before it sizes the cache, whatever the workload.
                step_requests: sequences.unwrap_or_else(|| by_size(VLLM_SEQUENCES)),
                layers_kept: None,
            })
        }
        Backend::Tensorrt => {
            let section = config.tensorrt.as_ref();
            let build = section.and_then(|section| section.build.as_ref());
            let batch = section.and_then(|s| s.max_batch_size).or_else(|| build.and_then(|b| b.max_batch_size));
            let step = section.and_then(|s| s.max_num_tokens).or_else(|| build.and_then(|b| b.max_num_tokens));
            let block = section.and_then(|s| s.kv_cache.as_ref()?.tokens_per_block).map_or(TENSORRT_BLOCK, u64::from);
            let requests = batch.map_or(TENSORRT_BATCH, u64::from).min(requests);
            Ok(Work {
                requests,
                tokens_per_request: blocks(block),
                step_tokens: step.map_or(TENSORRT_TOKENS, u64::from),
                step_requests: requests,
                layers_kept: None,
            })
        }
    }
}

/// A batch that is prefilled at once, padded to its longest prompt.
fn static_batch(requests: u64, prompt: u64, tokens: u64) -> Work {
    Work {
        requests,
        tokens_per_request: tokens,
        step_tokens: requests * prompt,
        step_requests: requests,
        layers_kept: None,
    }
}
