use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::geometry::{Architecture, Geometry};

use super::tokenizer::MIN_VOCAB;

/// The most parameters that are made, 200 billion: 400 GB on disk.
const MAX_PARAMETERS: u64 = 200_000_000_000;

/// A model with random weights, generated locally. Without any field it is a Llama of 5 million parameters.
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

impl fmt::Display for SpecProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.field, self.message)
    }
}

impl SyntheticSpec {
    /// Everything that is wrong with the specification; empty when the model can be made.
    pub fn problems(&self) -> Vec<SpecProblem> {
        let mut problems = self.range_problems();
        if problems.is_empty() {
            problems = self.cross_field_problems();
        }
        problems
    }

    fn range_problems(&self) -> Vec<SpecProblem> {
        [
            ("layers", self.layers, 1, 512),
            ("hidden", self.hidden, 8, 65_536),
            ("intermediate", self.intermediate, 8, 524_288),
            ("heads", self.heads, 1, 1024),
            ("kv_heads", self.kv_heads, 1, 1024),
            ("head_dim", self.head_dim.unwrap_or(2), 2, 1024),
            ("vocab", self.vocab, MIN_VOCAB, 1 << 20),
            ("max_positions", self.max_positions, 2, 1 << 24),
        ]
        .into_iter()
        .filter(|(_, value, least, most)| !(least..=most).contains(&value))
        .map(|(field, value, least, most)| problem(field, format!("is {value}; it must be from {least} to {most}")))
        .collect()
    }

    fn cross_field_problems(&self) -> Vec<SpecProblem> {
        let mut problems = Vec::new();
        if !self.heads.is_multiple_of(self.kv_heads) {
            let message = format!("is {}; it must divide `heads`, which is {}", self.kv_heads, self.heads);
            problems.push(problem("kv_heads", message));
        }
        match self.head_dim {
            Some(width) if !width.is_multiple_of(2) => {
                problems.push(problem("head_dim", format!("is {width}; rotary embeddings need an even number")));
            }
            None if !self.hidden.is_multiple_of(2 * self.heads) => {
                let message = format!(
                    "is {}; it must be an even multiple of `heads`, which is {}, or `head_dim` must be given",
                    self.hidden, self.heads
                );
                problems.push(problem("hidden", message));
            }
            _ => {}
        }
        let parameters = self.geometry().parameters();
        if parameters > MAX_PARAMETERS {
            let message = format!("leads to {parameters} parameters; the most that is made is {MAX_PARAMETERS}");
            problems.push(problem("layers", message));
        }
        problems
    }

    /// The geometry of the model that is made.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            architecture: self.architecture,
            vocab: self.vocab as usize,
            hidden: self.hidden as usize,
            intermediate: self.intermediate as usize,
            layers: self.layers as usize,
            heads: self.heads as usize,
            kv_heads: self.kv_heads as usize,
            head_dim: self.head_dim.unwrap_or(self.hidden / self.heads.max(1)) as usize,
            max_positions: self.max_positions as usize,
            rope_theta: 10_000.0,
            rope_scaling: None,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: self.tie_word_embeddings,
            qkv_bias: self.architecture == Architecture::Qwen2,
            output_bias: false,
            eos_ids: vec![super::tokenizer::EOS_ID],
            dtype: Some("bfloat16".to_owned()),
            quantization: None,
        }
    }

    /// Identifies the content: the first 16 hexadecimal digits of the SHA-256 of the canonical JSON (RFC 8785).
    /// Specifications that lead to the same model have the same.
    pub fn id(&self) -> String {
        let canonical = json!({
            "architecture": self.architecture.model_type(),
            "layers": self.layers,
            "hidden": self.hidden,
            "intermediate": self.intermediate,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.geometry().head_dim,
            "vocab": self.vocab,
            "max_positions": self.max_positions,
            "tie_word_embeddings": self.tie_word_embeddings,
            "seed": self.seed.to_string(),
        });
        // Strings, whole numbers and booleans always have a canonical form.
        let bytes = serde_json_canonicalizer::to_vec(&canonical).unwrap_or_default();
        hex::encode(&Sha256::digest(bytes)[..8])
    }
}

fn problem(field: &'static str, message: String) -> SpecProblem {
    SpecProblem { field, message }
}
