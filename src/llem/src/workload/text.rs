use std::path::{Path, PathBuf};

use llem_protocol::WorkloadLine;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::dataset::{Prompt, Prompts};
use super::lengths::Draw;
use super::memo::Memo;
use super::{LengthSpec, MAX_PROMPT_TOKENS, TokenizerSource, Workload, WorkloadError, WorkloadRequest, store};

/// Makes the workload of a text data set, or finds it made before: a text is tokenised once for all studies.
pub(super) fn prepare(
    request: &WorkloadRequest<'_>,
    source: &TokenizerSource,
    cache_root: &Path,
    Prompts { prompts, mut provenance }: Prompts,
) -> Result<Workload, WorkloadError> {
    let limit = cut_length(request)?;
    let file = TokenizerFile::read(request.dataset, source)?;
    provenance.tokenizer_sha256 = Some(hex::encode(Sha256::digest(&file.bytes)));
    let memo = Memo::new(cache_root, request, source, &provenance, prompts.len())?;
    if let Some(workload) = memo.recall(cache_root, &provenance) {
        return Ok(workload);
    }
    let tokenizer = TextTokenizer::new(file, source.vocab_size)?;
    let mut lines = lines(request, &tokenizer, &prompts)?;
    if let Some(limit) = limit {
        provenance.cut_prompts = cut(&mut lines, limit);
    }
    request.order.apply(&mut lines, request.seed);
    let workload = store::keep(cache_root, &lines, provenance)?;
    memo.note(&workload)?;
    Ok(workload)
}

/// Turns prompts into requests, with the special tokens that the model's tokenizer adds.
fn lines(
    request: &WorkloadRequest<'_>,
    tokenizer: &TextTokenizer,
    prompts: &[Prompt],
) -> Result<Vec<WorkloadLine>, WorkloadError> {
    let mut total_tokens: u64 = 0;
    let mut lines = Vec::with_capacity(prompts.len());
    for (index, prompt) in (0..).zip(prompts) {
        let prompt_ids = tokenizer.encode(request.dataset, prompt)?;
        total_tokens += prompt_ids.len() as u64;
        if total_tokens > MAX_PROMPT_TOKENS {
            return Err(WorkloadError::TooLarge { limit: MAX_PROMPT_TOKENS });
        }
        let drawn = || request.output_tokens.draw(request.seed, Draw::OutputLength, index);
        let output_tokens = prompt.output_tokens.unwrap_or_else(drawn);
        lines.push(WorkloadLine { index, prompt_ids, output_tokens });
    }
    Ok(lines)
}

/// Cuts the tails of prompts above `limit` tokens and returns how many there were.
fn cut(lines: &mut [WorkloadLine], limit: usize) -> u64 {
    let long = lines.iter_mut().filter(|line| line.prompt_ids.len() > limit);
    long.map(|line| line.prompt_ids.truncate(limit)).count() as u64
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

/// A model's `tokenizer.json` as it is on disk.
struct TokenizerFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl TokenizerFile {
    fn read(dataset: &str, source: &TokenizerSource) -> Result<Self, WorkloadError> {
        let path = source.tokenizer_json.clone();
        let path = path.ok_or_else(|| WorkloadError::NoTokenizer { dataset: dataset.to_owned() })?;
        let bytes = fs_err::read(&path)?;
        Ok(Self { path, bytes })
    }
}

/// A model's tokenizer, checked against the model's vocabulary.
struct TextTokenizer {
    tokenizer: Tokenizer,
    path: PathBuf,
    vocab_size: u32,
}

impl TextTokenizer {
    fn new(TokenizerFile { path, bytes }: TokenizerFile, vocab_size: u32) -> Result<Self, WorkloadError> {
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| unusable(&path, &error))?;
        // Cutting and padding are the experiment's business, not the tokenizer file's.
        tokenizer.with_truncation(None).map_err(|error| unusable(&path, &error))?;
        tokenizer.with_padding(None);
        // Added tokens may lie outside as long as no prompt has them: some published models are like that.
        let highest = tokenizer.get_vocab(false).into_values().max();
        let loaded = Self { tokenizer, path, vocab_size };
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
