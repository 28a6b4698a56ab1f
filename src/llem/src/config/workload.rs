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

/// A number of tokens: exact, or drawn uniformly from a range with the experiment's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)] // see ModelSpec
pub enum Length {
    /// The same for every request.
    Exact(#[schemars(range(min = 1, max = 10_000_000))] u32),
    /// Uniform between both ends.
    Uniform(LengthRange),
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
