//! Quantisation in transformers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Quantisation of the weights at load time; field names are those of the transformers classes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PytorchQuantization {
    /// Which library; absent: bitsandbytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<PytorchQuantizationMethod>,
    /// bitsandbytes: LLM.int8().
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_in_8bit: Option<bool>,
    /// bitsandbytes: 4 bits a weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_in_4bit: Option<bool>,
    /// bitsandbytes: the 4-bit type; absent: `fp4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bnb_4bit_quant_type: Option<Quant4BitType>,
    /// bitsandbytes: type of the arithmetic on 4-bit weights; absent: float32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bnb_4bit_compute_dtype: Option<super::super::Dtype>,
    /// bitsandbytes: quantise the scales too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bnb_4bit_use_double_quant: Option<bool>,
    /// bitsandbytes: outliers above this stay in 16 bits; absent: 6.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub llm_int8_threshold: Option<f64>,
    /// Bits a weight, for methods that take a number (GPTQ, AWQ, HQQ).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub bits: Option<u32>,
    /// Weights that share a scale, for methods that take a number; -1: a whole column.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 65_536))]
    pub group_size: Option<i32>,
}

/// Quantisation libraries by their names in transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PytorchQuantizationMethod {
    /// bitsandbytes.
    Bitsandbytes,
    /// GPTQ checkpoints.
    Gptq,
    /// AWQ checkpoints.
    Awq,
    /// Half-quadratic quantisation.
    Hqq,
    /// Optimum quanto.
    Quanto,
    /// PyTorch's own.
    Torchao,
    /// Checkpoints in compressed-tensors format.
    CompressedTensors,
    /// Fine-grained 8-bit floating point.
    Fp8,
    /// 8-bit floating point of FBGEMM.
    #[serde(rename = "fbgemm_fp8")]
    FbgemmFp8,
    /// 4-bit microscaling floating point.
    Mxfp4,
    /// 8-bit weights of EETQ.
    Eetq,
    /// Additive quantisation.
    Aqlm,
    /// HIGGS.
    Higgs,
    /// AutoRound checkpoints.
    AutoRound,
}

/// 4-bit types of bitsandbytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Quant4BitType {
    /// 4-bit floating point.
    Fp4,
    /// 4-bit normal float.
    Nf4,
}
