//! What the engine is given to do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The work: which prompts, how many, how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkloadConfig {
    /// `synthetic`, `aienergyscore`, or the path of a JSON Lines file whose objects have a `prompt` field.
    pub dataset: String,
    /// Number of requests in one pass; absent: 8 for `synthetic`, 200 for `aienergyscore`, all lines of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub n: Option<u64>,
    /// Prompt length in tokens. `synthetic`: the exact length, or a range drawn uniformly (default 64). Text: prompts are cut
    /// to this many tokens (a range is an error); absent: not cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<Length>,
    /// Tokens to generate per request: exact, or a range drawn uniformly.
    pub output_tokens: Length,
    /// The order in which requests are fed.
    pub order: Order,
    /// Generate the full length whatever the model says. `false` lets an end-of-sequence token end a request.
    pub ignore_eos: bool,
}

impl Default for WorkloadConfig {
    fn default() -> Self {
        Self {
            dataset: "synthetic".into(),
            n: None,
            input_tokens: None,
            output_tokens: Length::Exact(64),
            order: Order::AsGiven,
            ignore_eos: true,
        }
    }
}

/// The random token ids of the `synthetic` data set.
pub const SYNTHETIC_DATASET: &str = "synthetic";
/// The prompts of the AI Energy Score project.
pub const AIENERGYSCORE_DATASET: &str = "aienergyscore";
/// Prompt length of the `synthetic` data set unless the file says otherwise, in tokens.
pub const DEFAULT_INPUT_TOKENS: u32 = 64;
/// Requests of the `synthetic` data set unless the file says otherwise.
const DEFAULT_REQUESTS: u64 = 8;
/// Requests of the `aienergyscore` data set unless the file says otherwise.
const AIENERGYSCORE_SUBSET: u64 = 200;
/// Prompts in the `aienergyscore` data set.
pub const AIENERGYSCORE_PROMPTS: u64 = 1_000;

impl WorkloadConfig {
    /// Whether prompts are random token ids rather than text.
    pub fn is_synthetic(&self) -> bool {
        self.dataset == SYNTHETIC_DATASET
    }

    /// Requests in one pass; absent for all lines of a file.
    pub fn requests(&self) -> Option<u64> {
        self.n.or(match self.dataset.as_str() {
            SYNTHETIC_DATASET => Some(DEFAULT_REQUESTS),
            AIENERGYSCORE_DATASET => Some(AIENERGYSCORE_SUBSET),
            _ => None,
        })
    }

    /// The tokens that every request has at least, with its output; absent where prompts are text, which may be as short as it likes.
    pub fn shortest_request(&self) -> Option<u64> {
        let input = self.input_tokens.map_or(DEFAULT_INPUT_TOKENS, Length::shortest);
        self.is_synthetic().then(|| u64::from(input) + u64::from(self.output_tokens.shortest()))
    }

    /// The longest prompt in tokens, where the configuration bounds it.
    pub fn longest_input(&self) -> Option<u32> {
        match self.input_tokens {
            Some(length) => Some(length.longest()),
            None => self.is_synthetic().then_some(DEFAULT_INPUT_TOKENS),
        }
    }
}

/// A number of tokens: exact, or drawn uniformly from a range with the experiment's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)] // see ModelSpec
pub enum Length {
    /// The same for every request.
    Exact(#[schemars(range(min = 1, max = 10_000_000))] u32),
    /// Uniform between both ends.
    Uniform(LengthRange),
}

impl Length {
    /// The shortest that can be drawn.
    pub const fn shortest(self) -> u32 {
        match self {
            Self::Exact(tokens) => tokens,
            Self::Uniform(range) => range.min,
        }
    }

    /// The longest that can be drawn.
    pub const fn longest(self) -> u32 {
        match self {
            Self::Exact(tokens) => tokens,
            Self::Uniform(range) => range.max,
        }
    }
}

/// Both ends of a uniform distribution of lengths, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LengthRange {
    /// Shortest.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub min: u32,
    /// Longest.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max: u32,
}

/// The order in which requests are fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As the dataset has them.
    AsGiven,
    /// Shuffled with the experiment's seed.
    Shuffled,
    /// By prompt length, shortest first.
    ShortestFirst,
    /// By prompt length, longest first.
    LongestFirst,
}
