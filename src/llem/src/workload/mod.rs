//! Workloads: data sets turned into token ids once, in a file that every experiment with the same work shares.
//!
//! ```text
//! CACHE/
//! ├── workloads-v1/
//! │   ├── SHA256.jsonl                       one `WorkloadLine` a line, named by its content
//! │   └── requests/SHA256.json               which workload a request for text was, so that it is tokenised once
//! └── datasets-v1/NAME/
//!     ├── *.jsonl, *.parquet                 local copies that the user put there
//!     └── REVISION/prompts.jsonl             the built-in data set in canonical form, checked at every use
//! ```

mod canonical;
mod dataset;
mod error;
mod json_lines;
mod lengths;
mod list;
mod manifest;
mod memo;
mod parquet_file;
mod store;
mod synthetic;
mod text;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hub::Hub;

pub(crate) use dataset::cached_dataset;
pub use error::{BadLine, BadLines, WorkloadError};
pub use lengths::{LengthSpec, OrderSpec};
pub(crate) use list::{file_name, read_list, write_list};
pub use manifest::DatasetManifest;
pub(crate) use parquet_file::check_declared_sizes;

/// Requests in one pass of the synthetic data set when the experiment does not say.
const DEFAULT_SYNTHETIC_REQUESTS: u64 = 8;

/// Prompt length of the synthetic data set when the experiment does not say.
const DEFAULT_SYNTHETIC_TOKENS: u32 = 64;

/// The largest workload that is made: it is held in memory here and by every driver.
const MAX_PROMPT_TOKENS: u64 = 1 << 28;

/// The work that an experiment asks for.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadRequest<'a> {
    /// `synthetic`, the name of a built-in data set, or the path of a JSON Lines file.
    pub dataset: &'a str,
    /// Number of requests in one pass: the first of the data set. Absent: 8 for `synthetic`, the manifest's default for a
    /// built-in data set, all of a file.
    pub n: Option<u64>,
    /// Prompt length in tokens. Synthetic prompts have it exactly (64 when absent); text is cut to it.
    pub input_tokens: Option<LengthSpec>,
    /// Tokens to generate per request, unless the data set's line says otherwise.
    pub output_tokens: LengthSpec,
    /// Order of the requests.
    pub order: OrderSpec,
    /// Seed of synthetic prompts, drawn lengths and shuffling.
    pub seed: u64,
    /// What relative paths are relative to: the directory of the study file.
    pub base_dir: &'a Path,
}

/// How the model turns text into token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerSource {
    /// The model's `tokenizer.json`. Synthetic prompts need none.
    pub tokenizer_json: Option<PathBuf>,
    /// Number of token ids that the model knows, from its `config.json`.
    pub vocab_size: u32,
    /// Special and end-of-sequence ids, never drawn for synthetic prompts.
    pub excluded_ids: Vec<u32>,
}

/// A workload on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// The file of [`llem_protocol::WorkloadLine`]s.
    pub path: PathBuf,
    /// SHA-256 of the file, hexadecimal: equal hashes are equal work, to the token.
    pub sha256: String,
    /// Requests in one pass.
    pub requests: u64,
    /// Prompt tokens in one pass.
    pub prompt_tokens: u64,
    /// Tokens to generate in one pass.
    pub output_tokens: u64,
    /// Prompt and output of the longest request together: the context that the engine must hold.
    pub max_total_tokens: u64,
    /// Where the prompts come from.
    pub dataset: DatasetProvenance,
}

impl Workload {
    /// What its file asks of each request: prompt and output tokens, in the order of the workload.
    pub(crate) fn lengths(&self) -> std::io::Result<Vec<(u32, u32)>> {
        store::lengths(&self.path)
    }
}

/// Where a workload's prompts come from and what was done to them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DatasetProvenance {
    /// As the experiment names it.
    pub name: String,
    /// Repository or file.
    pub source: Option<String>,
    /// Commit of the repository.
    pub revision: Option<String>,
    /// SHA-256 of the data set: of the file for the user's own, of the canonical form for a built-in one.
    pub sha256: Option<String>,
    /// Licence as the source states it.
    pub licence: Option<String>,
    /// Prompts that the data set has; absent for synthetic ones, of which there is no end.
    pub available: Option<u64>,
    /// SHA-256 of the `tokenizer.json`; absent for synthetic prompts.
    pub tokenizer_sha256: Option<String>,
    /// Prompts that were longer than `input_tokens` and lost their tail.
    pub cut_prompts: u64,
}

/// Makes the workload that `request` asks for, or finds it already made: the same request gives the same file, byte by
/// byte, on every machine. Built-in data sets come from their cache, a local copy, or the hub.
pub fn prepare(
    request: &WorkloadRequest<'_>,
    tokenizer: &TokenizerSource,
    cache_root: &Path,
    hub: &Hub,
) -> Result<Workload, WorkloadError> {
    prepare_from(&DatasetManifest::built_in()?, request, tokenizer, cache_root, hub)
}

/// [`prepare`] with another list of built-in data sets.
pub fn prepare_from(
    manifests: &[DatasetManifest],
    request: &WorkloadRequest<'_>,
    tokenizer: &TokenizerSource,
    cache_root: &Path,
    hub: &Hub,
) -> Result<Workload, WorkloadError> {
    check(request)?;
    if request.dataset == dataset::SYNTHETIC {
        synthetic::prepare(request, tokenizer, cache_root)
    } else {
        text::prepare(request, tokenizer, cache_root, dataset::load(manifests, request, cache_root, hub)?)
    }
}

fn check(request: &WorkloadRequest<'_>) -> Result<(), WorkloadError> {
    if request.n == Some(0) {
        return Err(WorkloadError::Number { what: "n", reason: "is 0: a workload has at least one request" });
    }
    request.output_tokens.check("output_tokens")?;
    request.input_tokens.map_or(Ok(()), |length| length.check("input_tokens"))
}
