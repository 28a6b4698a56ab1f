use std::path::{Path, PathBuf};

use llem_protocol::WorkloadLine;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::dataset::{Prompt, Prompts};
use super::lengths::Draw;
use super::{DatasetProvenance, LengthSpec, MAX_PROMPT_TOKENS, TokenizerSource, WorkloadError, WorkloadRequest, line};

/// Turns text prompts into requests, with the special tokens that the model's tokenizer adds.
pub(super) fn lines(
    request: &WorkloadRequest<'_>,
    source: &TokenizerSource,
    prompts: Prompts,
) -> Result<(Vec<WorkloadLine>, DatasetProvenance), WorkloadError> {
    let limit = cut_length(request)?;
    let tokenizer = TextTokenizer::load(request.dataset, source)?;
    let mut provenance = prompts.provenance;
    provenance.tokenizer_sha256 = Some(tokenizer.sha256.clone());
    let mut total_tokens: u64 = 0;
    let mut lines = Vec::with_capacity(prompts.prompts.len());
    for (index, prompt) in (0..).zip(&prompts.prompts) {
        let mut ids = tokenizer.encode(request.dataset, prompt)?;
        if limit.is_some_and(|limit| ids.len() > limit) {
            ids.truncate(limit.unwrap_or(ids.len()));
            provenance.cut_prompts += 1;
        }
        total_tokens += ids.len() as u64;
        if total_tokens > MAX_PROMPT_TOKENS {
            return Err(WorkloadError::TooLarge { limit: MAX_PROMPT_TOKENS });
        }
        let drawn = || request.output_tokens.draw(request.seed, Draw::OutputLength, index);
        lines.push(line(index, ids, prompt.output_tokens.unwrap_or_else(drawn)));
    }
    Ok((lines, provenance))
}

fn cut_length(request: &WorkloadRequest<'_>) -> Result<Option<usize>, WorkloadError> {
    match request.input_tokens {
        None => Ok(None),
        Some(LengthSpec::Exact(tokens)) => Ok(Some(tokens as usize)),
        Some(LengthSpec::Uniform { .. }) => Err(WorkloadError::Number {
            what: "input_tokens",
            reason: "is a range: text has the length that it has and can only be cut to an exact one",
        }),
    }
}

/// A model's tokenizer, checked against the model's vocabulary.
struct TextTokenizer {
    tokenizer: Tokenizer,
    path: PathBuf,
    sha256: String,
    vocab_size: u32,
}

impl TextTokenizer {
    fn load(dataset: &str, source: &TokenizerSource) -> Result<Self, WorkloadError> {
        let path = source.tokenizer_json.clone();
        let path = path.ok_or_else(|| WorkloadError::NoTokenizer { dataset: dataset.to_owned() })?;
        let bytes = fs_err::read(&path)?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| unusable(&path, &error))?;
        // Cutting and padding are the experiment's business, not the tokenizer file's.
        tokenizer.with_truncation(None).map_err(|error| unusable(&path, &error))?;
        tokenizer.with_padding(None);
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let loaded = Self { tokenizer, path, sha256, vocab_size: source.vocab_size };
        // Added tokens may lie outside as long as no prompt has them: some published models are like that.
        let highest = loaded.tokenizer.get_vocab(false).into_values().max();
        highest.map_or(Ok(()), |id| loaded.check_id(id, None))?;
        Ok(loaded)
    }

    fn encode(&self, dataset: &str, prompt: &Prompt) -> Result<Vec<u32>, WorkloadError> {
        let encoding = self.tokenizer.encode_fast(prompt.text.as_str(), true);
        let ids = encoding.map_err(|error| unusable(&self.path, &error))?.get_ids().to_vec();
        let Some(&highest) = ids.iter().max() else {
            return Err(WorkloadError::EmptyPrompt { dataset: dataset.to_owned(), position: prompt.position });
        };
        self.check_id(highest, Some(prompt.position))?;
        Ok(ids)
    }

    fn check_id(&self, id: u32, position: Option<u64>) -> Result<(), WorkloadError> {
        if id < self.vocab_size {
            return Ok(());
        }
        let (path, vocab_size) = (self.path.clone(), self.vocab_size);
        Err(WorkloadError::TokenOutsideVocabulary { path, id, position, vocab_size })
    }
}

fn unusable(path: &Path, error: &tokenizers::Error) -> WorkloadError {
    WorkloadError::Tokenizer { path: path.to_owned(), reason: error.to_string() }
}
