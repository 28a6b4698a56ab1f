//! Arithmetic of the window as reference metadata: nothing is derived from it.

use llem_model::ParametersSource;
use llem_protocol::{Reason, ReasonCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Metrics;
use crate::model::LocalModel;

/// 2·N·T: a multiplication and an addition per parameter and token (Kaplan et al., *Scaling Laws for Neural Language Models*,
/// arXiv:2001.08361, section 2.1). It leaves out attention over the context and counts the embedding table.
const FORMULA: &str =
    "2 * parameters * tokens; prefill: prompt tokens; decode: output tokens less the first of each request";

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
    /// For the work of a window on a model, or why there is no such number.
    pub fn of(model: &LocalModel, metrics: &Metrics) -> Result<Self, Reason> {
        let unknown = |happened: &str| Reason::new(ReasonCode::FlopsUnknown, happened);
        let parameters = model
            .parameters
            .ok_or_else(|| unknown("neither the model's files nor its config tell how many parameters it has"))?;
        if let Some(experts) = model.config.num_experts.filter(|experts| *experts > 1) {
            return Err(unknown(&format!("the model is a mixture of {experts} experts, of which a token uses some")));
        }
        if !model.config.is_text_only {
            return Err(unknown("part of the model's parameters reads something else than text"));
        }
        let flops = |tokens: u64| 2.0 * parameters.count as f64 * tokens as f64;
        Ok(Self {
            parameters: parameters.count,
            parameters_source: parameters.source,
            prefill: flops(metrics.prompt_tokens),
            decode: flops(metrics.output_tokens.saturating_sub(metrics.requests)),
            formula: FORMULA.to_owned(),
        })
    }
}
