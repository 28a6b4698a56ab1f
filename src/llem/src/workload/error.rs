use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::hub::HubError;

/// Bad lines that are shown one by one; the rest are counted.
const SHOWN_BAD_LINES: usize = 20;

/// Why a workload could not be made.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// A number of the request cannot be.
    #[error("workload.{what} {reason}")]
    Number {
        /// Name of the field.
        what: &'static str,
        /// What is wrong, as a predicate.
        reason: &'static str,
    },
    /// The workload would not fit into memory.
    #[error("the workload has more than {limit} prompt tokens: lower workload.n or workload.input_tokens")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// One request is longer than a line may be.
    #[error(
        "request {index} has {tokens} prompt tokens, too many for one line of the workload file: lower input_tokens"
    )]
    RequestTooLong {
        /// Position in the workload.
        index: u64,
        /// Its prompt tokens.
        tokens: usize,
    },
    /// Neither a known name nor a file.
    #[error("data set `{name}` is not built in ({known}) and there is no file {}", path.display())]
    UnknownDataset {
        /// As given.
        name: String,
        /// The names that are built in.
        known: String,
        /// The file that it would be.
        path: PathBuf,
    },
    /// Fewer prompts than asked for.
    #[error("data set `{name}` has {available} prompts, and workload.n asks for {wanted}")]
    TooFewPrompts {
        /// The data set.
        name: String,
        /// Prompts that it has.
        available: u64,
        /// Prompts asked for.
        wanted: u64,
    },
    /// No prompt at all.
    #[error("{} has no prompts: write one object with a `prompt` a line", path.display())]
    NoPrompts {
        /// The file.
        path: PathBuf,
    },
    /// Lines that are not prompts.
    #[error(transparent)]
    BadLines(#[from] BadLines),
    /// A built-in data set is not on this machine and could not be fetched.
    #[error(
        "data set `{name}` is not on this machine and could not be fetched: without network, put a copy at {place} \
         (datasets/README.md says how to make one)"
    )]
    Unavailable {
        /// The data set.
        name: String,
        /// Where a local copy is looked for.
        place: String,
        /// Why it could not be fetched.
        source: Box<HubError>,
    },
    /// A copy of a built-in data set holds something else.
    #[error(
        "{origin} is not data set `{name}`: it holds {found_prompts} prompts with hash {found}, expected \
         {expected_prompts} with {expected}; nothing of it was used: replace it with the pinned version"
    )]
    WrongContent {
        /// The data set.
        name: String,
        /// The copy: a file, or where it was downloaded from.
        origin: String,
        /// Hash of what it holds, in canonical form.
        found: String,
        /// Prompts that it holds.
        found_prompts: u64,
        /// Hash that the manifest pins.
        expected: String,
        /// Prompts that the manifest names.
        expected_prompts: u64,
    },
    /// A Parquet file that cannot be read as a column of text.
    #[error("{} cannot be read as a Parquet file with a text column `{column}`: {reason}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// What is wrong.
        reason: String,
    },
    /// A manifest that cannot be used: a fault of this build.
    #[error("the manifest of a built-in data set cannot be read")]
    Manifest(#[source] serde_yaml::Error),
    /// Text without a tokenizer.
    #[error(
        "data set `{dataset}` is text and the model has no tokenizer.json: use `dataset: synthetic`, or put the model's \
         tokenizer.json beside its config.json (models with only a tokenizer.model: save them once with transformers' \
         fast tokenizer)"
    )]
    NoTokenizer {
        /// The data set.
        dataset: String,
    },
    /// A tokenizer that cannot be used.
    #[error("{} is not a usable tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tokenizer that belongs to another model.
    #[error(
        "{} produces token id {id}{}, and the model knows only ids below {vocab_size}: it belongs to another model",
        path.display(), position.map(|line| format!(" for prompt {line}")).unwrap_or_default()
    )]
    TokenOutsideVocabulary {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// The id.
        id: u32,
        /// Number of the prompt in its data set, from 1; absent when the tokenizer's own vocabulary is too large.
        position: Option<u64>,
        /// Number of ids that the model knows.
        vocab_size: u32,
    },
    /// A prompt of which nothing is left.
    #[error("prompt {position} of data set `{dataset}` has no tokens")]
    EmptyPrompt {
        /// The data set.
        dataset: String,
        /// Line of its file, or number of the prompt, from 1.
        position: u64,
    },
    /// No ids left to draw from.
    #[error(
        "the model's vocabulary of {vocab_size} ids has none that is not special: synthetic prompts cannot be drawn"
    )]
    EmptyVocabulary {
        /// Number of ids that the model knows.
        vocab_size: u32,
    },
    /// A file could not be read or written; the message names it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl WorkloadError {
    /// Whether study or data set must change; else network or disk are at fault.
    pub(crate) fn is_config(&self) -> bool {
        !matches!(self, Self::Unavailable { .. } | Self::Io(_) | Self::Manifest(_))
    }
}

/// The lines of a file that are not prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLines {
    /// The file.
    pub path: PathBuf,
    /// The first of them.
    pub shown: Vec<BadLine>,
    /// All of them.
    pub count: u64,
}

/// One line that is not a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}

impl BadLines {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, shown: Vec::new(), count: 0 }
    }

    pub(super) fn add(&mut self, line: u64, reason: String) {
        self.count += 1;
        if self.shown.len() < SHOWN_BAD_LINES {
            self.shown.push(BadLine { line, reason });
        }
    }
}

impl std::error::Error for BadLines {}

impl fmt::Display for BadLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.count == 1 { "line that is" } else { "lines that are" };
        write!(f, "{} has {} {noun} not a prompt:", self.path.display(), self.count)?;
        for BadLine { line, reason } in &self.shown {
            write!(f, "\n  line {line}: {reason}")?;
        }
        let hidden = self.count - self.shown.len() as u64;
        if hidden > 0 {
            write!(f, "\n  and {hidden} more")?;
        }
        Ok(())
    }
}
