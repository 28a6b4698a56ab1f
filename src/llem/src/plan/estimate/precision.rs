//! Bytes that one value takes: of weights, of keys and values, of activations.

use super::ModelFacts;
use crate::config::{
    Backend, CacheImplementation, Dtype, ExperimentConfig, KvCacheQuantAlgorithm, PytorchQuantization,
    PytorchQuantizationMethod, QuantAlgorithm,
};

/// Bytes of a value, or why they are not known.
pub(super) type Bytes = Result<f64, String>;

/// How the engine holds the weights of the layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum WeightForm {
    /// As the checkpoint has them, byte for byte.
    AsStored,
    /// This many bytes for each value.
    Each(f64),
}

/// Bytes of one activation: of the type that the engine computes in.
pub(super) fn activation(config: &ExperimentConfig, model: &ModelFacts) -> Bytes {
    match config.dtype {
        Dtype::Float32 => Ok(4.0),
        Dtype::Float16 | Dtype::Bfloat16 => Ok(2.0),
        Dtype::Auto => {
            let stored = || model.stored.as_ref().and_then(|stored| stored.dtype.as_deref());
            let declared = model.dtype.as_deref().or_else(stored);
            let declared = declared.ok_or("`dtype: auto` is the checkpoint's type, which is not known here")?;
            match of_type(declared) {
                // vLLM and TensorRT-LLM compute in half precision where the checkpoint is in single precision.
                Some(bytes) if bytes > 2.0 && matches!(config.backend, Backend::Vllm | Backend::Tensorrt) => Ok(2.0),
                Some(bytes) if bytes >= 2.0 => Ok(bytes),
                _ => Err(format!("`dtype: auto` of a checkpoint in {declared}")),
            }
        }
    }
}

/// Bytes of a data type by its name in `config.json` or in safetensors.
fn of_type(name: &str) -> Option<f64> {
    match name.trim_start_matches("torch.") {
        "float32" | "F32" => Some(4.0),
        "float16" | "bfloat16" | "F16" | "BF16" => Some(2.0),
        "F8_E4M3" | "F8_E5M2" | "float8_e4m3fn" | "U8" | "I8" => Some(1.0),
        _ => None,
    }
}

/// How the engine holds the layers' weights. Scales count where their group is fixed by the method: one of 16 bits for 128 values in AWQ and
/// GPTQ, one of 32 bits for 64 values in 4-bit bitsandbytes, one of 8 bits for 16 values in NVFP4.
pub(super) fn layer_weights(config: &ExperimentConfig, model: &ModelFacts) -> Result<WeightForm, String> {
    let asked = match config.backend {
        Backend::Candle => None,
        Backend::Pytorch => match config.pytorch.as_ref().and_then(|section| section.quantization.as_ref()) {
            Some(quantization) => Some(pytorch(quantization)?),
            None => None,
        },
        Backend::Vllm => match config.vllm.as_ref().and_then(|section| section.quantization.as_deref()) {
            Some(method) if model.quantization.is_none() => Some(vllm(method)?),
            _ => None,
        },
        Backend::Tensorrt => {
            let quant = config.tensorrt.as_ref().and_then(|section| section.quant.as_ref());
            quant.and_then(|quant| quant.quant_algo).map(tensorrt)
        }
    };
    match (asked, &model.quantization) {
        (Some(form), _) => Ok(form),
        (None, Some(_)) if model.stored.is_some() => Ok(WeightForm::AsStored),
        (None, Some(method)) => {
            Err(format!("the checkpoint is quantised ({method}), and only its headers tell how large it is"))
        }
        (None, None) => activation(config, model).map(WeightForm::Each),
    }
}

fn pytorch(quantization: &PytorchQuantization) -> Result<WeightForm, String> {
    use PytorchQuantizationMethod as Method;
    let method = quantization.method.unwrap_or(Method::Bitsandbytes);
    match method {
        Method::Bitsandbytes if quantization.load_in_4bit == Some(true) => {
            let double = quantization.bnb_4bit_use_double_quant == Some(true);
            // With double quantisation a scale has 8 bits, and 256 of them share one of 32.
            Ok(WeightForm::Each(0.5 + if double { 1.0 / 64.0 + 4.0 / (64.0 * 256.0) } else { 4.0 / 64.0 }))
        }
        Method::Bitsandbytes | Method::Fp8 | Method::FbgemmFp8 | Method::Eetq => Ok(WeightForm::Each(1.0)),
        Method::Gptq | Method::Awq | Method::CompressedTensors | Method::Aqlm | Method::AutoRound | Method::Mxfp4 => {
            Ok(WeightForm::AsStored)
        }
        Method::Hqq | Method::Quanto | Method::Torchao | Method::Higgs => {
            let name = serde_json::to_value(method).unwrap_or_default();
            Err(format!("no rule for weights quantised by {}", name.as_str().unwrap_or_default()))
        }
    }
}

/// Methods of vLLM that quantise an unquantised checkpoint while loading it.
fn vllm(method: &str) -> Result<WeightForm, String> {
    match method {
        "fp8" | "fp8_per_tensor" | "fp8_per_block" | "mxfp8" | "experts_int8" | "int8_per_channel_weight_only" => {
            Ok(WeightForm::Each(1.0))
        }
        "nvfp4_per_token" | "bitsandbytes" => Ok(WeightForm::Each(0.5 + 1.0 / 16.0)),
        other => Err(format!("no rule for weights quantised by {other} of a checkpoint that is not")),
    }
}

fn tensorrt(algorithm: QuantAlgorithm) -> WeightForm {
    use QuantAlgorithm as Algorithm;
    WeightForm::Each(match algorithm {
        Algorithm::W4a16 => 0.5,
        Algorithm::W4a16Awq | Algorithm::W4a16Gptq | Algorithm::W4a8Awq => 0.5 + 2.0 / 128.0,
        Algorithm::Nvfp4 => 0.5 + 1.0 / 16.0,
        Algorithm::W8a16
        | Algorithm::SmoothQuant
        | Algorithm::SmoothQuantPerChannel
        | Algorithm::Fp8
        | Algorithm::Fp8Rowwise
        | Algorithm::Fp8BlockScales
        | Algorithm::Int8 => 1.0,
    })
}

/// Bytes of one value of keys or values.
pub(super) fn key_value(config: &ExperimentConfig, model: &ModelFacts) -> Bytes {
    let named = match config.backend {
        Backend::Candle => None,
        Backend::Pytorch => {
            let cache = config.pytorch.as_ref().and_then(|section| section.cache.as_ref());
            if cache.and_then(|cache| cache.implementation) == Some(CacheImplementation::Quantized) {
                return Err("no rule for the quantised key-value cache of transformers".to_owned());
            }
            None
        }
        Backend::Vllm => config.vllm.as_ref().and_then(|section| section.kv_cache_dtype.as_deref()),
        Backend::Tensorrt => {
            let section = config.tensorrt.as_ref();
            let algorithm = section.and_then(|section| section.quant.as_ref()?.kv_cache_quant_algo);
            match algorithm {
                Some(KvCacheQuantAlgorithm::Int8 | KvCacheQuantAlgorithm::Fp8) => return Ok(1.0),
                None => section.and_then(|section| section.kv_cache.as_ref()?.dtype.as_deref()),
            }
        }
    };
    match named {
        None | Some("auto") => activation(config, model),
        Some("float32") => Ok(4.0),
        Some("float16" | "bfloat16") => Ok(2.0),
        Some(name) if name.starts_with("fp8") || name.starts_with("int8") => Ok(1.0),
        Some("nvfp4") => Ok(0.5 + 1.0 / 16.0),
        Some(other) => Err(format!("no rule for a key-value cache in {other}")),
    }
}
