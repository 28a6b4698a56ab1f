use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::bounded;
use crate::geometry::{Architecture, Geometry, RopeScaling};

/// The most that is read of a `config.json`. Real ones have a few kilobytes.
const MAX_CONFIG_BYTES: u64 = 4 * 1024 * 1024;

/// Why a model directory's configuration cannot be used. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum GeometryError {
    /// The file is absent, unreadable or too long.
    #[error("the model's configuration could not be read; is the directory a Hugging Face model?")]
    Read(#[source] io::Error),
    /// The file is not the JSON that it should be.
    #[error("{} is not a model configuration", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// The model is of a family that llem has no geometry for.
    #[error("{}: architecture `{found}` is none of those that llem computes itself: {}", path.display(), Architecture::NAMES)]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What the file names.
        found: String,
    },
    /// Two keys name different families.
    #[error("{}: `model_type: {model_type}` and `architectures: [{classes}]` name different architectures", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// The value of `model_type`.
        model_type: String,
        /// The values of `architectures`.
        classes: String,
    },
    /// A feature that changes the forward pass or the tensors, and that llem does not implement.
    #[error("{}: {what} is not supported", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Key and value.
        what: String,
    },
    /// A key that must be there is not.
    #[error("{}: `{key}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
    },
    /// A number that no model can have.
    #[error("{}: `{key}` is {value}, which {why}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What the file says.
        value: String,
        /// The rule that it breaks, as a fragment after "which".
        why: String,
    },
}

/// `config.json` as far as llem reads it; the many other keys do not change the forward pass.
#[derive(Deserialize)]
struct RawConfig {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    vocab_size: Option<u64>,
    hidden_size: Option<u64>,
    intermediate_size: Option<u64>,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    max_position_embeddings: Option<u64>,
    hidden_act: Option<String>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    rope_parameters: Option<Map<String, Value>>,
    rms_norm_eps: Option<f64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    eos_token_id: Option<Value>,
    torch_dtype: Option<String>,
    dtype: Option<String>,
    quantization_config: Option<Map<String, Value>>,
}

/// `generation_config.json` as far as llem reads it.
#[derive(Deserialize)]
struct RawGeneration {
    eos_token_id: Option<Value>,
}

impl Geometry {
    /// Reads and checks `config.json` of a model directory, and the end-of-sequence tokens of its
    /// `generation_config.json` when there is one.
    pub fn read(dir: &Path) -> Result<Self, GeometryError> {
        let path = dir.join("config.json");
        let raw: RawConfig = read_json(&path)?;
        let mut geometry = Reader { path: &path, raw }.geometry()?;
        let generation_path = dir.join("generation_config.json");
        if generation_path.is_file() {
            let generation: RawGeneration = read_json(&generation_path)?;
            if let Some(ids) = generation.eos_token_id {
                geometry.eos_ids = token_ids(&generation_path, &ids, geometry.vocab)?;
            }
        }
        Ok(geometry)
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, GeometryError> {
    let content = bounded::read(path, MAX_CONFIG_BYTES).map_err(GeometryError::Read)?;
    serde_json::from_slice(&content).map_err(|source| GeometryError::Json { path: path.to_owned(), source })
}

/// One configuration under examination.
struct Reader<'a> {
    path: &'a Path,
    raw: RawConfig,
}

impl Reader<'_> {
    fn geometry(&self) -> Result<Geometry, GeometryError> {
        let architecture = self.architecture()?;
        self.refuse_unsupported()?;
        let raw = &self.raw;
        let vocab = self.size("vocab_size", raw.vocab_size, 1 << 24)?;
        let hidden = self.size("hidden_size", raw.hidden_size, 1 << 18)?;
        let heads = self.size("num_attention_heads", raw.num_attention_heads, 1 << 12)?;
        let kv_heads = self.size("num_key_value_heads", raw.num_key_value_heads.or(Some(heads as u64)), 1 << 12)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(self.value("num_key_value_heads", kv_heads, format!("does not divide the {heads} heads")));
        }
        let attention_bias = raw.attention_bias.unwrap_or(false);
        let (rope_theta, rope_scaling) = self.rope()?;
        Ok(Geometry {
            architecture,
            vocab,
            hidden,
            intermediate: self.size("intermediate_size", raw.intermediate_size, 1 << 21)?,
            layers: self.size("num_hidden_layers", raw.num_hidden_layers, 1 << 10)?,
            heads,
            kv_heads,
            head_dim: self.head_dim(hidden, heads)?,
            max_positions: self.size("max_position_embeddings", raw.max_position_embeddings, 1 << 28)?,
            rope_theta,
            rope_scaling,
            rms_norm_eps: self.positive("rms_norm_eps", raw.rms_norm_eps.unwrap_or(1e-6))?,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            qkv_bias: architecture == Architecture::Qwen2 || attention_bias,
            output_bias: architecture == Architecture::Llama && attention_bias,
            eos_ids: raw.eos_token_id.as_ref().map_or(Ok(Vec::new()), |ids| token_ids(self.path, ids, vocab))?,
            dtype: raw.dtype.clone().or_else(|| raw.torch_dtype.clone()),
            quantization: raw.quantization_config.as_ref().map(quantization_method),
        })
    }

    fn architecture(&self) -> Result<Architecture, GeometryError> {
        let path = self.path.to_owned();
        let classes = self.raw.architectures.as_deref().unwrap_or_default();
        let by_class = Architecture::ALL.into_iter().find(|known| classes.iter().any(|c| c == known.class_name()));
        let Some(model_type) = &self.raw.model_type else {
            let found = classes.first().map_or("none", String::as_str).to_owned();
            return by_class.ok_or(GeometryError::Architecture { path, found });
        };
        let by_type = Architecture::ALL.into_iter().find(|known| model_type == known.model_type());
        match (by_type, by_class) {
            (Some(known), None) if classes.is_empty() => Ok(known),
            (Some(known), Some(class)) if known == class => Ok(known),
            (None, None) => {
                let found = classes.first().unwrap_or(model_type).to_owned();
                Err(GeometryError::Architecture { path, found })
            }
            _ => Err(GeometryError::Contradiction {
                path,
                model_type: model_type.to_owned(),
                classes: classes.join(", "),
            }),
        }
    }

    fn refuse_unsupported(&self) -> Result<(), GeometryError> {
        let raw = &self.raw;
        let refusal = match &raw.hidden_act {
            Some(activation) if activation != "silu" => format!("`hidden_act: {activation}`"),
            _ if raw.mlp_bias == Some(true) => "`mlp_bias: true`".to_owned(),
            _ if raw.use_sliding_window == Some(true) => "`use_sliding_window: true`".to_owned(),
            _ => return Ok(()),
        };
        Err(self.unsupported(refusal))
    }

    fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize, GeometryError> {
        if self.raw.head_dim.is_none() && !hidden.is_multiple_of(heads) {
            return Err(self.value("hidden_size", hidden, format!("is not a multiple of the {heads} heads")));
        }
        let head_dim = self.size("head_dim", self.raw.head_dim.or(Some((hidden / heads) as u64)), 1 << 12)?;
        if head_dim.is_multiple_of(2) {
            Ok(head_dim)
        } else {
            Err(self.value("head_dim", head_dim, "is odd: rotary embeddings need pairs".to_owned()))
        }
    }

    /// Base and scaling; `rope_parameters` of transformers 5 holds both, before it there were two top-level keys.
    fn rope(&self) -> Result<(f64, Option<RopeScaling>), GeometryError> {
        let parameters = self.raw.rope_parameters.as_ref().or(self.raw.rope_scaling.as_ref());
        let number = |key: &str| parameters.and_then(|map| map.get(key)).and_then(Value::as_f64);
        let theta = number("rope_theta").or(self.raw.rope_theta).unwrap_or(10_000.0);
        let theta = self.positive("rope_theta", theta)?;
        let Some(parameters) = parameters else { return Ok((theta, None)) };
        if number("partial_rotary_factor").is_some_and(|factor| factor < 1.0) {
            return Err(self.unsupported("`partial_rotary_factor`".to_owned()));
        }
        let kind = parameters.get("rope_type").or_else(|| parameters.get("type")).and_then(Value::as_str);
        match kind.unwrap_or("default") {
            "default" => Ok((theta, None)),
            "llama3" => {
                let scaling = RopeScaling::Llama3 {
                    factor: self.required("factor", number("factor"))?,
                    low_freq_factor: self.required("low_freq_factor", number("low_freq_factor"))?,
                    high_freq_factor: self.required("high_freq_factor", number("high_freq_factor"))?,
                    original_max_positions: self
                        .required("original_max_position_embeddings", number("original_max_position_embeddings"))?,
                };
                Ok((theta, Some(scaling)))
            }
            other => Err(self.unsupported(format!("rope scaling of type `{other}`"))),
        }
    }

    fn size(&self, key: &'static str, value: Option<u64>, limit: u64) -> Result<usize, GeometryError> {
        let value = value.ok_or_else(|| GeometryError::Missing { path: self.path.to_owned(), key })?;
        if (1..=limit).contains(&value) {
            Ok(value as usize)
        } else {
            Err(self.value(key, value, format!("is outside 1 to {limit}")))
        }
    }

    fn required(&self, key: &'static str, value: Option<f64>) -> Result<f64, GeometryError> {
        self.positive(key, value.ok_or_else(|| GeometryError::Missing { path: self.path.to_owned(), key })?)
    }

    fn positive(&self, key: &'static str, value: f64) -> Result<f64, GeometryError> {
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            Err(self.value(key, value, "is not a positive number".to_owned()))
        }
    }

    fn value(&self, key: &'static str, value: impl Display, why: String) -> GeometryError {
        GeometryError::Value { path: self.path.to_owned(), key, value: value.to_string(), why }
    }

    fn unsupported(&self, what: String) -> GeometryError {
        GeometryError::Unsupported { path: self.path.to_owned(), what }
    }
}

/// One id or a list of ids, all inside the vocabulary.
fn token_ids(path: &Path, value: &Value, vocab: usize) -> Result<Vec<u32>, GeometryError> {
    let ids = match value {
        Value::Null => &[][..],
        Value::Array(ids) => ids,
        single => std::slice::from_ref(single),
    };
    ids.iter()
        .map(|id| {
            id.as_u64().filter(|id| *id < vocab as u64).map(|id| id as u32).ok_or_else(|| GeometryError::Value {
                path: path.to_owned(),
                key: "eos_token_id",
                value: id.to_string(),
                why: format!("is not a token below the vocabulary size {vocab}"),
            })
        })
        .collect()
}

pub(crate) fn quantization_method(config: &Map<String, Value>) -> String {
    config.get("quant_method").and_then(Value::as_str).unwrap_or("unknown").to_owned()
}
