use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Checkpoint, Geometry, ModelConfig, StoredTensor};

/// Where a number of parameters comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ParametersSource {
    /// The shapes in the headers of the model's safetensors files.
    SafetensorsHeaders,
    /// `config.json`, for quantised checkpoints, whose files hold packed values, and where no header can be read.
    Config,
}

/// How many parameters a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The number; a shared embedding table counts once.
    pub count: u64,
    /// Where it comes from.
    pub source: ParametersSource,
}

impl Parameters {
    /// Of the model in `dir`; nothing where neither the files nor the configuration tell.
    pub fn of(dir: &Path, config: &ModelConfig) -> Option<Self> {
        let stored = Checkpoint::open(dir).ok().filter(|_| config.quantization.is_none());
        if let Some(checkpoint) = stored {
            let count = stored_parameters(&checkpoint, config.tie_word_embeddings == Some(true));
            return Some(Self { count, source: ParametersSource::SafetensorsHeaders });
        }
        let geometry = Geometry::read(dir).ok()?;
        Some(Self { count: geometry.parameters(), source: ParametersSource::Config })
    }
}

fn stored_parameters(checkpoint: &Checkpoint, tied: bool) -> u64 {
    let parameters = checkpoint.tensors.iter().filter(|(name, tensor)| !is_buffer(name, tensor));
    let count: u64 = parameters.map(|(_, tensor)| tensor.elements()).sum();
    let second_table = checkpoint.tensors.get("lm_head.weight").filter(|head| {
        tied && checkpoint.tensors.iter().any(|(name, tensor)| name != "lm_head.weight" && tensor.shape == head.shape)
    });
    count - second_table.map_or(0, StoredTensor::elements)
}

/// What older checkpoints store beside their parameters: causal masks, rotary frequencies, positions.
fn is_buffer(name: &str, tensor: &StoredTensor) -> bool {
    let is_mask = tensor.shape.len() == 4 && (name.ends_with(".attn.bias") || name.ends_with(".attention.bias"));
    is_mask
        || [".masked_bias", ".rotary_emb.inv_freq", ".position_ids"].iter().any(|suffix| name.ends_with(suffix))
        || tensor.dtype == "BOOL"
}
