//! What is known about a model without loading it.

use llem_model::{Checkpoint, Geometry, ModelConfig};

/// A model's shape, as far as its description tells. What it does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelFacts {
    /// Decoder layers.
    pub layers: Option<u64>,
    /// Width of the residual stream.
    pub hidden: Option<u64>,
    /// Width of the feed-forward layer; of one expert's where there are several.
    pub intermediate: Option<u64>,
    /// Attention heads of the queries.
    pub heads: Option<u64>,
    /// Attention heads of keys and values.
    pub kv_heads: Option<u64>,
    /// Width of one head.
    pub head_dim: Option<u64>,
    /// Rows of the embedding table.
    pub vocab: Option<u64>,
    /// Tokens that a request may have with its output.
    pub max_positions: Option<u64>,
    /// Feed-forward networks in each layer; 1 for a dense model.
    pub experts: Option<u64>,
    /// Of these, how many a token passes through.
    pub experts_per_token: Option<u64>,
    /// Matrices of one feed-forward network: 3 with a gate, 2 without.
    pub feed_forward_matrices: Option<u64>,
    /// Whether the output layer shares the embedding table.
    pub tied: Option<bool>,
    /// Whether keys and values are kept in a compressed form of the model's own (multi-head latent attention).
    pub compressed_kv: bool,
    /// Data type that the description names.
    pub dtype: Option<String>,
    /// `quant_method` of a quantised checkpoint.
    pub quantization: Option<String>,
    /// What the headers of the weights say, where the weights are on this machine.
    pub stored: Option<StoredWeights>,
}

/// What every model of a family has, whatever its `config.json` says.
struct Family {
    model_type: &'static str,
    feed_forward_matrices: u64,
    /// Whether the output layer shares the embedding table where the file does not say.
    tied: bool,
}

const fn family(model_type: &'static str, feed_forward_matrices: u64, tied: bool) -> Family {
    Family { model_type, feed_forward_matrices, tied }
}

/// Families whose weights are what the formula of [`ModelFacts::values`] counts: by their classes in transformers 5.
const FAMILIES: [Family; 13] = [
    family("llama", 3, false),
    family("mistral", 3, false),
    family("mixtral", 3, false),
    family("qwen2", 3, false),
    family("qwen3", 3, false),
    family("qwen3_moe", 3, false),
    family("gemma", 3, true),
    family("gemma2", 3, true),
    family("gemma3_text", 3, true),
    family("phi3", 3, false),
    family("olmo2", 3, false),
    family("gpt2", 2, true),
    family("gpt_neox", 2, false),
];

/// The sums of a checkpoint's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredWeights {
    /// Values in tensors of the decoder layers.
    pub layer_values: u64,
    /// Bytes of these.
    pub layer_bytes: u64,
    /// Values in all other tensors: embedding table, output layer, last normalisation.
    pub other_values: u64,
    /// Bytes of these.
    pub other_bytes: u64,
    /// The type that most bytes have, by the format's name.
    pub dtype: Option<String>,
}

impl StoredWeights {
    /// Sums the headers of a checkpoint. A tensor belongs to a layer when a part of its name is a number.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let mut sums = Self { dtype: checkpoint.dtype().map(str::to_owned), ..Self::default() };
        for (name, tensor) in &checkpoint.tensors {
            let in_layer =
                name.split('.').any(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
            let (values, bytes) = if in_layer {
                (&mut sums.layer_values, &mut sums.layer_bytes)
            } else {
                (&mut sums.other_values, &mut sums.other_bytes)
            };
            *values = values.saturating_add(tensor.elements());
            *bytes = bytes.saturating_add(tensor.bytes);
        }
        sums
    }
}

/// Values of a model: those of its layers, and all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Values {
    pub(super) layers: u64,
    pub(super) others: u64,
}

impl ModelFacts {
    /// The facts of a model whose weights are made from its geometry.
    pub fn of_geometry(geometry: &Geometry) -> Self {
        let number = |value: usize| Some(value as u64);
        Self {
            layers: number(geometry.layers),
            hidden: number(geometry.hidden),
            intermediate: number(geometry.intermediate),
            heads: number(geometry.heads),
            kv_heads: number(geometry.kv_heads),
            head_dim: number(geometry.head_dim),
            vocab: number(geometry.vocab),
            max_positions: number(geometry.max_positions),
            experts: Some(1),
            experts_per_token: Some(1),
            feed_forward_matrices: Some(3),
            tied: Some(geometry.tie_word_embeddings),
            compressed_kv: false,
            dtype: geometry.dtype.clone(),
            quantization: geometry.quantization.clone(),
            stored: None,
        }
    }

    /// The facts in a model's description. What its family alone tells is known for the families of `FAMILIES`.
    pub fn of_config(config: &ModelConfig) -> Self {
        let family = FAMILIES.iter().find(|family| Some(family.model_type) == config.model_type.as_deref());
        let experts = config.num_experts.or(family.map(|_| 1));
        let dense = || (experts == Some(1)).then_some(1);
        // GPT-2's class has this where the file has none.
        let four_times =
            || config.hidden_size.filter(|_| family.is_some_and(|family| family.model_type == "gpt2")).map(|h| 4 * h);
        let own = config.moe_intermediate_size.filter(|_| experts.is_some_and(|experts| experts > 1));
        Self {
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            intermediate: own.or(config.intermediate_size).or_else(four_times),
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            vocab: config.vocab_size,
            max_positions: config.max_positions,
            experts,
            experts_per_token: config.num_experts_per_tok.or_else(dense),
            feed_forward_matrices: family.map(|family| family.feed_forward_matrices),
            tied: config.tie_word_embeddings.or(family.map(|family| family.tied)),
            compressed_kv: config.kv_lora_rank.is_some(),
            dtype: config.dtype.clone(),
            quantization: config.quantization.clone(),
            stored: None,
        }
    }

    /// How many values the weights have: by the headers, else by the matrices of the geometry (attention, feed-forward, router, tables).
    /// Normalisations, biases and learned positions are not in the latter: less than 1 % of any model here.
    pub(super) fn values(&self) -> Option<Values> {
        if let Some(stored) = &self.stored {
            return Some(Values { layers: stored.layer_values, others: stored.other_values });
        }
        let (hidden, head_dim) = (self.hidden?, self.head_dim?);
        let attention = product(&[2, hidden, head_dim, self.heads?.checked_add(self.kv_heads?)?])?;
        let experts = self.experts?;
        let feed_forward = product(&[experts, self.feed_forward_matrices?, hidden, self.intermediate?])?;
        let router = if experts > 1 { product(&[experts, hidden])? } else { 0 };
        let layer = attention.checked_add(feed_forward)?.checked_add(router)?;
        let tables = if self.tied? { 1 } else { 2 };
        Some(Values { layers: product(&[self.layers?, layer])?, others: product(&[tables, self.vocab?, hidden])? })
    }
}

fn product(factors: &[u64]) -> Option<u64> {
    factors.iter().try_fold(1_u64, |product, factor| product.checked_mul(*factor))
}
