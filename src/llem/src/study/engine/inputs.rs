//! From an experiment to the key of what is compiled for it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{
    AttentionImplementation, Backend, CacheImplementation, ExperimentConfig, PytorchConfig, TensorrtEngine, UserConfig,
    VllmConfig,
};
use crate::engine_cache::{CacheKind, GpuTarget, Key, KeyInputs, ModelIdentity, Software, Surroundings, Target};
use crate::host::nvml::Library;
use crate::runner::docker::ImageFacts;
use crate::study::job::gpus;
use crate::study::references::Weights;

/// What is compiled before an experiment can be measured and is worth keeping; `None` for nothing.
pub(in crate::study) fn compiled_kind(config: &ExperimentConfig, user: &UserConfig) -> Option<CacheKind> {
    match config.backend {
        Backend::Candle => None,
        Backend::Tensorrt => {
            let is_compiled = config.tensorrt.as_ref()?.engine == Some(TensorrtEngine::Tensorrt);
            is_compiled.then_some(CacheKind::TensorrtEngine)
        }
        Backend::Vllm => {
            let compiles = config.vllm.as_ref().is_none_or(vllm_compiles);
            compiles.then_some(CacheKind::VllmCompile)
        }
        Backend::Pytorch => {
            let section = config.pytorch.as_ref()?;
            let compiles = pytorch_compiles(section, || !gpus(config, user).is_empty());
            compiles.then_some(CacheKind::TorchCompile)
        }
    }
}

fn vllm_compiles(section: &VllmConfig) -> bool {
    let mode = section.compilation.as_ref().and_then(|compilation| compilation.mode);
    let is_off = mode.map_or(section.optimization_level == Some(0), |mode| mode == 0);
    section.enforce_eager != Some(true) && !is_off
}

/// What `images/pytorch/llem_compile.py` decides. Only inductor keeps anything.
fn pytorch_compiles(section: &PytorchConfig, on_gpu: impl Fn() -> bool) -> bool {
    if section.attn.as_ref().and_then(|attn| attn.implementation) == Some(AttentionImplementation::FlexAttention) {
        return true;
    }
    match &section.compile {
        Some(compile) if compile.enabled == Some(false) => false,
        Some(compile) => compile.backend.as_deref().is_none_or(|backend| backend == "inductor"),
        None => {
            let cache = section.cache.as_ref();
            let is_static = cache.is_some_and(|cache| cache.implementation == Some(CacheImplementation::Static));
            is_static && on_gpu()
        }
    }
}

/// Everything that decides the key of an experiment's engine, to be looked up in a thread that may wait.
#[derive(Clone, Debug)]
pub(super) struct KeySource {
    pub(super) kind: CacheKind,
    pub(super) config: ExperimentConfig,
    pub(super) weights: Weights,
    pub(super) workload_sha256: String,
    pub(super) facts: Option<Arc<ImageFacts>>,
    pub(super) gpus: Vec<String>,
    /// Processors of the machine; those of the engine are fewer where the user config says so.
    pub(super) processors: Option<u32>,
    pub(super) user: UserConfig,
}

impl KeySource {
    /// The key, or why there is none. Reads weights that have no commit, unless it has read the same files before; asks NVML.
    pub(super) fn key(&self) -> Result<Key, String> {
        let around = self.surroundings()?;
        let inputs = match self.kind {
            CacheKind::TensorrtEngine => KeyInputs::tensorrt_engine(&self.config, around),
            CacheKind::VllmCompile => KeyInputs::vllm_compile(&self.config, around),
            CacheKind::TorchCompile => KeyInputs::torch_compile(&self.config, around),
        };
        Key::new(&inputs).map_err(|unknown| unknown.to_string())
    }

    fn surroundings(&self) -> Result<Surroundings, String> {
        let cache_root: PathBuf = self.user.cache_root();
        let beside = |weights: &Option<Arc<_>>| {
            weights.as_ref().map(|weights| ModelIdentity::of_beside(weights, &cache_root)).transpose()
        };
        let unread = |error: std::io::Error| format!("the weights cannot be read: {error}");
        Ok(Surroundings {
            software: software(self.kind, self.facts.as_deref()),
            target: self.target(),
            model: ModelIdentity::of(&self.weights.model, &cache_root).map_err(unread)?,
            draft_model: beside(&self.weights.draft).map_err(unread)?,
            adapter: beside(&self.weights.adapter).map_err(unread)?,
            // Those of the image are part of the image.
            variables: self.user.env.clone(),
            gpus_per_node: None,
            calibration_data_sha256: None,
            // Shapes are compiled in; vLLM compiles for any.
            workload_sha256: (self.kind == CacheKind::TorchCompile).then(|| self.workload_sha256.clone()),
        })
    }

    fn target(&self) -> Target {
        if self.gpus.is_empty() && self.kind != CacheKind::TensorrtEngine {
            // Compiled loops are divided by their number.
            let own = self.user.cpus.pinning().map(|pinning| pinning.engine.iter().count() as u32);
            return Target::this_cpu(own.or(self.processors));
        }
        Target::Gpus(gpu_targets(&self.gpus))
    }
}

fn software(kind: CacheKind, facts: Option<&ImageFacts>) -> Software {
    let Some(facts) = facts else { return Software::default() };
    let versions = facts.versions.clone();
    let is_engine = kind == CacheKind::TensorrtEngine;
    Software {
        image_digest: Some(facts.id.clone()).filter(|id| !id.is_empty()),
        packages_sha256: None,
        engine: match kind {
            CacheKind::TensorrtEngine => versions.tensorrt_llm,
            CacheKind::VllmCompile => versions.vllm,
            CacheKind::TorchCompile => versions.transformers,
        },
        tensorrt: versions.tensorrt.filter(|_| is_engine),
        cuda: versions.torch_cuda,
        torch: versions.torch,
        triton: versions.triton,
        python: versions.python,
    }
}

/// The GPUs of a run as NVML describes them; what it does not tell stays unknown.
fn gpu_targets(uuids: &[String]) -> Vec<GpuTarget> {
    let library = Library::load();
    let found = library.as_ref().ok().and_then(|library| Some(library.gpus().ok()?.snapshot(uuids)));
    let known = found.map(|snapshot| snapshot.gpus).unwrap_or_default();
    let target = |uuid: &String| {
        let gpu = known.iter().find(|gpu| gpu.uuid == *uuid);
        gpu.map_or_else(GpuTarget::default, |gpu| GpuTarget {
            name: gpu.name.clone(),
            compute_capability: gpu.compute_capability.clone(),
            cuda_cores: gpu.cuda_cores,
            memory_bytes: gpu.memory_bytes,
        })
    };
    uuids.iter().map(target).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{CacheKind, UserConfig, compiled_kind};
    use crate::config::{Profile, StudyConfig};

    fn kind(backend: &str, section: &Value) -> Option<CacheKind> {
        let study = json!({"model": "synthetic", "backend": backend, backend: section,
            "workload": {"dataset": "synthetic", "n": 1, "input_tokens": 8, "output_tokens": 4}});
        let study = StudyConfig::from_text("s.yaml".as_ref(), &study.to_string(), &[], Profile::Quick).unwrap();
        let gpu = serde_json::from_value(json!({"devices": ["GPU-0"]})).unwrap();
        compiled_kind(&study.experiments[0].config, &UserConfig { gpu, ..UserConfig::default() })
    }

    #[test]
    fn what_compiles_nothing_has_no_cache() {
        let (torch, vllm) = (Some(CacheKind::TorchCompile), Some(CacheKind::VllmCompile));
        let cases = [
            ("tensorrt", json!({}), None),
            ("tensorrt", json!({"engine": "pytorch"}), None),
            ("tensorrt", json!({"engine": "tensorrt"}), Some(CacheKind::TensorrtEngine)),
            ("vllm", json!({}), vllm),
            ("vllm", json!({"enforce_eager": true}), None),
            ("vllm", json!({"optimization_level": 0}), None),
            ("vllm", json!({"optimization_level": 0, "compilation": {"mode": 3}}), vllm),
            ("vllm", json!({"compilation": {"mode": 0}}), None),
            ("pytorch", json!({}), None),
            ("pytorch", json!({"compile": {}}), torch),
            ("pytorch", json!({"compile": {"backend": "inductor"}}), torch),
            ("pytorch", json!({"compile": {"backend": "aot_eager"}}), None),
            ("pytorch", json!({"cache": {"implementation": "static"}}), torch),
            ("pytorch", json!({"cache": {"implementation": "static"}, "device_map": "cpu"}), None),
            ("pytorch", json!({"cache": {"implementation": "static"}, "compile": {"enabled": false}}), None),
            ("pytorch", json!({"attn": {"implementation": "flex_attention"}}), torch),
        ];
        for (backend, section, expected) in cases {
            assert_eq!(kind(backend, &section), expected, "{backend} {section}");
        }
    }
}
