use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::dataset::write_atomically;
use super::{
    DatasetProvenance, LengthSpec, OrderSpec, TokenizerSource, Workload, WorkloadError, WorkloadRequest, store,
};

/// Changes when the same question would get another answer.
const FORMAT: u32 = 1;

/// Everything that decides the content of a text workload. Its hash names the note of the answer.
#[derive(Serialize)]
struct Question<'a> {
    format: u32,
    /// Tokenizer libraries change with the program.
    llem_version: &'static str,
    dataset_sha256: Option<&'a str>,
    tokenizer_sha256: Option<&'a str>,
    requests: u64,
    input_tokens: Option<LengthSpec>,
    output_tokens: LengthSpec,
    order: OrderSpec,
    /// A string, because JSON numbers end at 2^53.
    seed: String,
    vocab_size: u32,
}

/// The answer: which workload it was.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    workload_sha256: String,
    cut_prompts: u64,
}

/// The note of one text workload that has been made before, by any study, or will be made now.
pub(super) struct Memo {
    path: PathBuf,
}

impl Memo {
    /// The note for the first `requests` prompts of a data set.
    pub(super) fn new(
        cache_root: &Path,
        request: &WorkloadRequest<'_>,
        source: &TokenizerSource,
        dataset: &DatasetProvenance,
        requests: usize,
    ) -> Result<Self, WorkloadError> {
        let question = Question {
            format: FORMAT,
            llem_version: env!("CARGO_PKG_VERSION"),
            dataset_sha256: dataset.sha256.as_deref(),
            tokenizer_sha256: dataset.tokenizer_sha256.as_deref(),
            requests: requests as u64,
            input_tokens: request.input_tokens,
            output_tokens: request.output_tokens,
            order: request.order,
            seed: request.seed.to_string(),
            vocab_size: source.vocab_size,
        };
        let bytes = serde_json_canonicalizer::to_vec(&question).map_err(std::io::Error::from)?;
        let name = format!("{}.json", hex::encode(Sha256::digest(bytes)));
        Ok(Self { path: store::folder(cache_root).join("requests").join(name) })
    }

    /// The workload, if it was made before and its file is still what it was. Anything else counts as not made.
    pub(super) fn recall(&self, cache_root: &Path, dataset: &DatasetProvenance) -> Option<Workload> {
        let answer: Answer = serde_json::from_slice(&fs_err::read(&self.path).ok()?).ok()?;
        let dataset = DatasetProvenance { cut_prompts: answer.cut_prompts, ..dataset.clone() };
        store::find(cache_root, &answer.workload_sha256, dataset)
    }

    /// Notes which workload it was.
    pub(super) fn note(&self, workload: &Workload) -> Result<(), WorkloadError> {
        let workload_sha256 = workload.sha256.clone();
        let answer = Answer { workload_sha256, cut_prompts: workload.dataset.cut_prompts };
        let bytes = serde_json::to_vec(&answer).map_err(std::io::Error::from)?;
        Ok(write_atomically(&self.path, &bytes)?)
    }
}
