//! Synthetic models.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Family of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Llama.
    Llama,
    /// Qwen2.
    Qwen2,
}

/// A model with random weights, generated locally.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SyntheticSpec {
    /// Family of the model: `llama` or `qwen2`.
    pub architecture: Architecture,
    /// Number of decoder layers.
    #[schemars(range(min = 1, max = 512))]
    pub layers: u32,
    /// Width of the residual stream.
    #[schemars(range(min = 8, max = 65_536))]
    pub hidden: u32,
    /// Width of the gated feed-forward layer.
    #[schemars(range(min = 8, max = 524_288))]
    pub intermediate: u32,
    /// Attention heads of the queries.
    #[schemars(range(min = 1, max = 1024))]
    pub heads: u32,
    /// Attention heads of keys and values; must divide `heads`.
    #[schemars(range(min = 1, max = 1024))]
    pub kv_heads: u32,
    /// Width of one head; even. Without it `hidden / heads`.
    #[schemars(range(min = 2, max = 1024))]
    pub head_dim: Option<u32>,
    /// Size of the vocabulary in tokens.
    #[schemars(range(min = 259, max = 1_048_576))]
    pub vocab: u32,
    /// Longest context in tokens, prompt and output together.
    #[schemars(range(min = 2, max = 16_777_216))]
    pub max_positions: u32,
    /// Whether the output layer shares the embedding table.
    pub tie_word_embeddings: bool,
    /// Seed of the weights.
    pub seed: u64,
}

impl Default for SyntheticSpec {
    fn default() -> Self {
        Self {
            architecture: Architecture::Llama,
            layers: 4,
            hidden: 256,
            intermediate: 688,
            heads: 8,
            kv_heads: 4,
            head_dim: None,
            vocab: 4096,
            max_positions: 4096,
            tie_word_embeddings: false,
            seed: 42,
        }
    }
}

/// A field whose value cannot be, alone or together with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecProblem {
    /// Name of the field in [`SyntheticSpec`].
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

impl SyntheticSpec {
    /// Everything that is wrong with the specification; empty when the model can be made.
    pub fn problems(&self) -> Vec<SpecProblem> {
        if self.heads.is_multiple_of(self.kv_heads) {
            return Vec::new();
        }
        let message = format!("is {}; it must divide `heads`, which is {}", self.kv_heads, self.heads);
        vec![SpecProblem { field: "kv_heads", message }]
    }
}
