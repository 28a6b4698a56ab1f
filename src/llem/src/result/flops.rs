//! Arithmetic of the window as reference metadata: nothing is derived from it.

use std::path::Path;

use llem_model::{Checkpoint, Geometry};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Metrics;

/// 2·N·T: a multiplication and an addition per parameter and token (Kaplan et al., *Scaling Laws for Neural Language Models*,
/// arXiv:2001.08361, section 2.1). It leaves out attention over the context and counts the embedding table.
const FORMULA: &str =
    "2 * parameters * tokens; prefill: prompt tokens; decode: output tokens less the first of each request";

/// Where the number of parameters comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ParametersSource {
    /// The shapes in the headers of the model's safetensors files.
    SafetensorsHeaders,
    /// `config.json`, for quantised checkpoints, whose files hold packed values, and where no header can be read.
    Config,
}

/// Floating-point operations of the window by a formula.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlopsReference {
    /// Parameters of the model.
    pub parameters: u64,
    /// Where `parameters` comes from.
    pub parameters_source: ParametersSource,
    /// Operations of all prompts.
    pub prefill: f64,
    /// Operations of all tokens after the first of each request.
    pub decode: f64,
    /// The formula.
    pub formula: String,
}

impl FlopsReference {
    /// For the work of a window on the model in `dir`.
    pub fn of(dir: &Path, geometry: &Geometry, metrics: &Metrics) -> Self {
        let (parameters, parameters_source) = parameters(dir, geometry);
        let flops = |tokens: u64| 2.0 * parameters as f64 * tokens as f64;
        Self {
            parameters,
            parameters_source,
            prefill: flops(metrics.prompt_tokens),
            decode: flops(metrics.output_tokens.saturating_sub(metrics.requests)),
            formula: FORMULA.to_owned(),
        }
    }
}

fn parameters(dir: &Path, geometry: &Geometry) -> (u64, ParametersSource) {
    let stored = Checkpoint::open(dir).ok().filter(|_| geometry.quantization.is_none());
    match stored.map(|checkpoint| checkpoint.parameters()) {
        Some(parameters) => (parameters, ParametersSource::SafetensorsHeaders),
        None => (geometry.parameters(), ParametersSource::Config),
    }
}

#[cfg(test)]
mod tests {
    use llem_model::{Geometry, SyntheticSpec, ensure};

    use super::{ParametersSource, parameters};

    /// Embedding and output layer 512·64 each; a layer: q and o 64·64, k and v 64·32, three matrices of 64·128, two norms of 64; the
    /// last norm 64.
    const BY_HAND: u64 = 2 * 512 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64;

    fn spec() -> SyntheticSpec {
        let spec = serde_json::json!({
            "layers": 2, "hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "vocab": 512, "tie_word_embeddings": false,
        });
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_gated_feed_forward_layer_has_three_matrices() {
        let cache = tempfile::tempdir().unwrap();
        let model = ensure(&spec(), cache.path()).unwrap();
        assert_eq!(parameters(&model.dir, &model.geometry), (BY_HAND, ParametersSource::SafetensorsHeaders));
        let packed = Geometry { quantization: Some("gptq".to_owned()), ..model.geometry.clone() };
        assert_eq!(parameters(&model.dir, &packed), (BY_HAND, ParametersSource::Config));
        assert_eq!(parameters(cache.path(), &model.geometry), (BY_HAND, ParametersSource::Config));
    }
}
