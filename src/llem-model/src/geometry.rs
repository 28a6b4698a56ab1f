use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A family of decoder-only transformers with one set of tensor names and one forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Llama 2 and 3, and what shares their layout.
    #[default]
    Llama,
    /// Qwen2 and Qwen2.5: Llama with biases on queries, keys and values.
    Qwen2,
}

impl Architecture {
    /// Every family.
    pub const ALL: [Self; 2] = [Self::Llama, Self::Qwen2];

    /// Their names for messages.
    pub const NAMES: &str = "LlamaForCausalLM and Qwen2ForCausalLM";

    /// `model_type` in `config.json`.
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
        }
    }

    /// The entry in `architectures` of `config.json`.
    pub const fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
        }
    }
}

/// How rotary frequencies are stretched for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeScaling {
    /// The piecewise rule of Llama 3.1 (`rope_type: llama3`): high frequencies stay, low ones are divided by `factor`,
    /// those between are blended. Source: `modeling_rope_utils.py` of transformers.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` stay.
        high_freq_factor: f64,
        /// Context length of the unscaled model in tokens.
        original_max_positions: f64,
    },
}

impl RopeScaling {
    fn apply(self, frequency: f64) -> f64 {
        let Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } = self;
        let wavelength = 2.0 * PI / frequency;
        if wavelength < original_max_positions / high_freq_factor {
            return frequency;
        }
        if wavelength > original_max_positions / low_freq_factor {
            return frequency / factor;
        }
        let blend = (original_max_positions / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
        (1.0 - blend) * frequency / factor + blend * frequency
    }
}

/// The numbers that fix a model's tensors and its forward pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Geometry {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding table: token ids are below it.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Attention heads of the queries.
    pub heads: usize,
    /// Attention heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Longest context in tokens, prompt and output together.
    pub max_positions: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
    /// Added to the mean square in each normalisation.
    pub rms_norm_eps: f64,
    /// Whether the output layer shares the embedding table.
    pub tie_word_embeddings: bool,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Tokens that end a sequence; `generation_config.json` goes before `config.json`, as in transformers.
    pub eos_ids: Vec<u32>,
    /// Data type that the configuration names for the weights, e.g. `bfloat16`.
    pub dtype: Option<String>,
    /// `quant_method` of a quantised checkpoint; its tensors then differ from [`Geometry::tensors`].
    pub quantization: Option<String>,
}

/// Name and shape of a tensor in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Name in the checkpoint, e.g. `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Dimensions, outermost first; a projection has `[output, input]`.
    pub shape: Vec<usize>,
}

impl Geometry {
    /// Width of all query heads together.
    pub const fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together; the values have the same.
    pub const fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Number of parameters; a shared embedding table counts once.
    pub const fn parameters(&self) -> u64 {
        let (hidden, query, kv) = (self.hidden as u64, self.query_width() as u64, self.kv_width() as u64);
        let attention = 2 * hidden * query + 2 * hidden * kv;
        let qkv_bias = if self.qkv_bias { query + 2 * kv } else { 0 };
        let output_bias = if self.output_bias { hidden } else { 0 };
        let feed_forward = 3 * hidden * self.intermediate as u64;
        let layer = attention + qkv_bias + output_bias + feed_forward + 2 * hidden;
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        self.layers as u64 * layer + hidden + tables * self.vocab as u64 * hidden
    }

    /// Bytes that one token of one request occupies in the key-value cache.
    pub const fn kv_bytes_per_token(&self, bytes_per_value: u64) -> u64 {
        2 * self.layers as u64 * self.kv_width() as u64 * bytes_per_value
    }

    /// Every tensor of an unquantised checkpoint, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let mut tensors = vec![tensor("model.embed_tokens.weight", &[self.vocab, self.hidden])];
        for layer in 0..self.layers {
            self.push_layer(&mut tensors, layer);
        }
        tensors.push(tensor("model.norm.weight", &[self.hidden]));
        if !self.tie_word_embeddings {
            tensors.push(tensor("lm_head.weight", &[self.vocab, self.hidden]));
        }
        tensors
    }

    fn push_layer(&self, tensors: &mut Vec<TensorShape>, layer: usize) {
        let (hidden, query, kv) = (self.hidden, self.query_width(), self.kv_width());
        let mut push =
            |name: &str, shape: &[usize]| tensors.push(tensor(&format!("model.layers.{layer}.{name}"), shape));
        push("input_layernorm.weight", &[hidden]);
        for (name, width) in [("q_proj", query), ("k_proj", kv), ("v_proj", kv)] {
            push(&format!("self_attn.{name}.weight"), &[width, hidden]);
            if self.qkv_bias {
                push(&format!("self_attn.{name}.bias"), &[width]);
            }
        }
        push("self_attn.o_proj.weight", &[hidden, query]);
        if self.output_bias {
            push("self_attn.o_proj.bias", &[hidden]);
        }
        push("post_attention_layernorm.weight", &[hidden]);
        push("mlp.gate_proj.weight", &[self.intermediate, hidden]);
        push("mlp.up_proj.weight", &[self.intermediate, hidden]);
        push("mlp.down_proj.weight", &[hidden, self.intermediate]);
    }

    /// Rotary frequencies in radians per position, `head_dim / 2` of them, scaling applied.
    pub fn rotary_frequencies(&self) -> Vec<f64> {
        (0..self.head_dim / 2)
            .map(|pair| self.rope_theta.powf(-2.0 * pair as f64 / self.head_dim as f64))
            .map(|frequency| self.rope_scaling.map_or(frequency, |scaling| scaling.apply(frequency)))
            .collect()
    }
}

fn tensor(name: &str, shape: &[usize]) -> TensorShape {
    TensorShape { name: name.to_owned(), shape: shape.to_vec() }
}
