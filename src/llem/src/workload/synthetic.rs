use std::collections::HashSet;
use std::path::Path;

use llem_protocol::WorkloadLine;
use rand::RngExt;

use super::lengths::{Draw, generator};
use super::{
    DEFAULT_SYNTHETIC_REQUESTS, DEFAULT_SYNTHETIC_TOKENS, DatasetProvenance, LengthSpec, MAX_PROMPT_TOKENS,
    TokenizerSource, Workload, WorkloadError, WorkloadRequest, store,
};

/// Makes the workload of the synthetic data set.
pub(super) fn prepare(
    request: &WorkloadRequest<'_>,
    tokenizer: &TokenizerSource,
    cache_root: &Path,
) -> Result<Workload, WorkloadError> {
    let mut lines = lines(request, tokenizer)?;
    request.order.apply(&mut lines, request.seed);
    let dataset = DatasetProvenance { name: request.dataset.to_owned(), ..Default::default() };
    store::keep(cache_root, &lines, dataset)
}

/// Prompts of random token ids with exact lengths. The prompt at a position depends on the seed, the position and the
/// vocabulary only: 8 requests are the first 8 of 16.
fn lines(request: &WorkloadRequest<'_>, tokenizer: &TokenizerSource) -> Result<Vec<WorkloadLine>, WorkloadError> {
    let ids = drawable_ids(tokenizer)?;
    let input = request.input_tokens.unwrap_or(LengthSpec::Exact(DEFAULT_SYNTHETIC_TOKENS));
    let n = request.n.unwrap_or(DEFAULT_SYNTHETIC_REQUESTS);
    if n.saturating_mul(u64::from(input.longest())) > MAX_PROMPT_TOKENS {
        return Err(WorkloadError::TooLarge { limit: MAX_PROMPT_TOKENS });
    }
    let draw_line = |index| {
        let length = input.draw(request.seed, Draw::InputLength, index);
        let prompt_ids = draw_ids(&ids, length, request.seed, index);
        let output_tokens = request.output_tokens.draw(request.seed, Draw::OutputLength, index);
        WorkloadLine { index, prompt_ids, output_tokens }
    };
    Ok((0..n).map(draw_line).collect())
}

fn drawable_ids(tokenizer: &TokenizerSource) -> Result<Vec<u32>, WorkloadError> {
    let excluded: HashSet<u32> = tokenizer.excluded_ids.iter().copied().collect();
    let ids: Vec<u32> = (0..tokenizer.vocab_size).filter(|id| !excluded.contains(id)).collect();
    if ids.is_empty() { Err(WorkloadError::EmptyVocabulary { vocab_size: tokenizer.vocab_size }) } else { Ok(ids) }
}

fn draw_ids(ids: &[u32], length: u32, seed: u64, index: u64) -> Vec<u32> {
    let mut generator = generator(seed, Draw::Ids, index);
    // u32 and not usize: a 32-bit and a 64-bit machine draw the same.
    let count = ids.len() as u32;
    (0..length).filter_map(|_| ids.get(generator.random_range(0..count) as usize).copied()).collect()
}
