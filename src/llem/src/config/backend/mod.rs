//! Sections of the backends. An absent field is the engine's own default; names are the engine's own.

mod candle;
mod pytorch;
mod pytorch_quantization;
mod tensorrt;
mod tensorrt_build;
mod vllm;

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use candle::CandleConfig;
pub use pytorch::{
    AttentionImplementation, CacheImplementation, PytorchAttention, PytorchCache, PytorchCompile, PytorchConfig,
    PytorchSpeculative, TorchCompileMode,
};
pub use pytorch_quantization::{PytorchQuantization, PytorchQuantizationMethod, Quant4BitType};
pub use tensorrt::{
    BatchingType, CapacityPolicy, ChunkingPolicy, CudaGraphConfig, KvCacheConfig, SchedulerConfig, SpeculativeType,
    TensorrtConfig, TensorrtEngine, TensorrtSpeculative,
};
pub use tensorrt_build::{
    BuildConfig, CalibConfig, CalibDevice, KvCacheQuantAlgorithm, KvCacheType, PluginConfig, QuantAlgorithm,
    QuantConfig,
};
pub use vllm::{
    CudagraphMode, ExecutorBackend, PerformanceMode, SchedulingPolicy, VllmCompilation, VllmConfig, VllmDevice,
    VllmLora, VllmSpeculative,
};

/// Engine options that llem has no field for, passed to the engine verbatim.
pub type Extra = BTreeMap<String, serde_json::Value>;

/// An inference engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The embedded engine: Rust, on the processor, no Python.
    Candle,
    /// PyTorch with Hugging Face transformers.
    Pytorch,
    /// vLLM.
    Vllm,
    /// NVIDIA TensorRT-LLM.
    Tensorrt,
}

impl Backend {
    /// All backends.
    pub const ALL: [Self; 4] = [Self::Candle, Self::Pytorch, Self::Vllm, Self::Tensorrt];

    /// The name in files and on the command line; also the key of the backend's section.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::Pytorch => "pytorch",
            Self::Vllm => "vllm",
            Self::Tensorrt => "tensorrt",
        }
    }

    /// The backend of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
