use std::path::Path;

use serde_json::{Map, Value};

use crate::GeometryError;
use crate::config::{quantization_method, read_json};

/// Where models with more than text keep the part that generates it.
const NESTED: [&str; 3] = ["text_config", "llm_config", "language_config"];

/// Parts of a model that read something else than text.
const OTHER_PARTS: [&str; 3] = ["vision_config", "audio_config", "speech_config"];

/// Beginnings of keys of tokens that stand for something else than text.
const OTHER_TOKENS: [&str; 5] = ["image_", "video_", "audio_", "vision_", "speech_"];

/// Kinds of rotary scaling whose factor stretches the longest context; those of the others are in it already.
const STRETCHING: [&str; 3] = ["linear", "dynamic", "yarn"];

/// What `config.json` of any model says, as far as it says it. Unlike [`crate::Geometry`], nothing follows from it about tensors and
/// forward pass, and what is absent or has an unexpected form is `None`: whether a model can be run is its engine's to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelConfig {
    /// First of `architectures`, e.g. `MistralForCausalLM`.
    pub architecture: Option<String>,
    /// `model_type`, e.g. `mistral`.
    pub model_type: Option<String>,
    /// Rows of the embedding table: token ids are below it.
    pub vocab_size: Option<u64>,
    /// Width of the residual stream.
    pub hidden_size: Option<u64>,
    /// Width of the feed-forward layers.
    pub intermediate_size: Option<u64>,
    /// Number of layers.
    pub num_hidden_layers: Option<u64>,
    /// Attention heads of the queries.
    pub num_attention_heads: Option<u64>,
    /// Attention heads of keys and values; where the file has no such key, those of the queries.
    pub num_key_value_heads: Option<u64>,
    /// Width of one head; where the file has no such key, the share of a head in `hidden_size`.
    pub head_dim: Option<u64>,
    /// Experts of each layer, of a mixture of experts.
    pub num_experts: Option<u64>,
    /// Of these, how many a token passes through.
    pub num_experts_per_tok: Option<u64>,
    /// Width of one expert's feed-forward layer, where the file has a key of its own for it.
    pub moe_intermediate_size: Option<u64>,
    /// Width of compressed keys and values, of multi-head latent attention.
    pub kv_lora_rank: Option<u64>,
    /// Longest context in tokens, prompt and output together.
    pub max_positions: Option<u64>,
    /// Whether the output layer shares the embedding table.
    pub tie_word_embeddings: Option<bool>,
    /// Tokens that end a sequence; `generation_config.json` goes before `config.json`, as in transformers.
    pub eos_ids: Vec<u32>,
    /// Tokens that stand for images, sound and the like.
    pub other_media_ids: Vec<u32>,
    /// Whether the model reads text only.
    pub is_text_only: bool,
    /// Data type that the configuration names for the weights, e.g. `bfloat16`.
    pub dtype: Option<String>,
    /// `quant_method` of a quantised checkpoint.
    pub quantization: Option<String>,
}

impl ModelConfig {
    /// Reads `config.json` of a model directory, and `generation_config.json` when there is one. Fails only where the first is absent,
    /// too long or no JSON object.
    pub fn read(dir: &Path) -> Result<Self, GeometryError> {
        let config: Map<String, Value> = read_json(&dir.join("config.json"))?;
        let generation: Option<Map<String, Value>> = read_json(&dir.join("generation_config.json")).ok();
        let eos = generation.as_ref().and_then(|map| map.get("eos_token_id"));
        let keys = Keys::new(&config);
        let heads = keys.number(&["num_attention_heads", "n_head", "n_heads"]);
        let hidden = keys.number(&["hidden_size", "n_embd", "d_model"]);
        let share = hidden.zip(heads).filter(|(hidden, heads)| hidden.is_multiple_of(*heads)).map(|(h, n)| h / n);
        Ok(Self {
            architecture: first_text(config.get("architectures")),
            model_type: text(config.get("model_type")),
            vocab_size: keys.number(&["vocab_size", "padded_vocab_size"]),
            hidden_size: hidden,
            intermediate_size: keys.number(&["intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"]),
            num_hidden_layers: keys.number(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"]),
            num_attention_heads: heads,
            num_key_value_heads: keys.number(&["num_key_value_heads", "num_kv_heads"]).or(heads),
            head_dim: keys.number(&["head_dim"]).or(share),
            num_experts: keys.number(&["num_local_experts", "num_experts", "n_routed_experts"]),
            num_experts_per_tok: keys.number(&["num_experts_per_tok", "num_experts_per_token"]),
            moe_intermediate_size: keys.number(&["moe_intermediate_size"]),
            kv_lora_rank: keys.number(&["kv_lora_rank"]),
            max_positions: keys.max_positions(),
            tie_word_embeddings: keys.get("tie_word_embeddings").and_then(Value::as_bool),
            eos_ids: token_ids(eos.or_else(|| keys.get("eos_token_id"))),
            other_media_ids: other_media_ids(&config),
            is_text_only: !OTHER_PARTS.iter().any(|part| config.contains_key(*part)),
            dtype: text(keys.get("dtype")).or_else(|| text(keys.get("torch_dtype"))),
            quantization: keys.get("quantization_config").and_then(Value::as_object).map(quantization_method),
        })
    }

    /// The model's kind for messages: what the file names first.
    pub fn name(&self) -> &str {
        self.architecture.as_deref().or(self.model_type.as_deref()).unwrap_or("a model without `architectures`")
    }
}

/// A configuration with the part for text before the whole.
struct Keys<'a> {
    text: Option<&'a Map<String, Value>>,
    whole: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn new(whole: &'a Map<String, Value>) -> Self {
        Self { text: NESTED.iter().find_map(|key| whole.get(*key)?.as_object()), whole }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        let given = |map: &'a Map<String, Value>| map.get(key).filter(|value| !value.is_null());
        self.text.and_then(given).or_else(|| given(self.whole))
    }

    /// The first of several spellings that is a number above 0.
    fn number(&self, spellings: &[&str]) -> Option<u64> {
        spellings.iter().find_map(|key| self.get(key)?.as_u64()).filter(|number| *number > 0)
    }

    /// The longest context; unknown where positions are stretched in a way that the file does not number.
    fn max_positions(&self) -> Option<u64> {
        let positions = self.number(&["max_position_embeddings", "n_positions", "max_seq_len"])?;
        let scaling = ["rope_parameters", "rope_scaling"].iter().find_map(|key| self.get(key)?.as_object());
        let Some(scaling) = scaling else { return Some(positions) };
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str);
        if !kind.is_some_and(|kind| STRETCHING.contains(&kind)) {
            return Some(positions);
        }
        let factor = scaling.get("factor").and_then(Value::as_f64).filter(|factor| factor.is_finite())?;
        let unscaled = scaling.get("original_max_position_embeddings").and_then(Value::as_u64).unwrap_or(positions);
        Some(positions.max((unscaled as f64 * factor) as u64))
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).map(str::to_owned)
}

fn first_text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_array).and_then(|list| text(list.first()))
}

/// One id or a list of ids.
fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let ids = match value {
        Some(Value::Array(ids)) => ids.as_slice(),
        Some(single) => std::slice::from_ref(single),
        None => &[],
    };
    ids.iter().filter_map(token_id).collect()
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn other_media_ids(config: &Map<String, Value>) -> Vec<u32> {
    let is_token = |key: &str| {
        OTHER_TOKENS.iter().any(|media| key.starts_with(media))
            && (key.ends_with("token_id") || key.ends_with("token_index"))
    };
    config.iter().filter(|(key, _)| is_token(key)).filter_map(|(_, value)| token_id(value)).collect()
}
