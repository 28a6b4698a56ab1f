//! Where an engine is for the driver, and which variables say so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::UserConfig;
use crate::engine_cache::CacheKind;
use crate::files;

/// vLLM's variable for all that it caches.
const VLLM_ROOT: &str = "VLLM_CACHE_ROOT";

/// Inductor's, and Triton's.
const INDUCTOR: &str = "TORCHINDUCTOR_CACHE_DIR";
const TRITON: &str = "TRITON_CACHE_DIR";

/// Those of llem's driver of TensorRT-LLM.
const LOAD: &str = "LLEM_ENGINE_DIR";
const BUILD: &str = "LLEM_ENGINE_BUILD_DIR";

/// Switches vLLM's cache off.
const VLLM_OFF: &str = "VLLM_DISABLE_COMPILE_CACHE";

/// What tells the driver where its engine is, or has to be built.
pub(super) fn variables(kind: CacheKind, is_there: bool, dir: &Path) -> BTreeMap<String, String> {
    let at = |name: &str, dir: PathBuf| (name.to_owned(), dir.display().to_string());
    match kind {
        CacheKind::TensorrtEngine => [at(if is_there { LOAD } else { BUILD }, dir.to_owned())].into(),
        CacheKind::VllmCompile => [at(VLLM_ROOT, dir.to_owned())].into(),
        CacheKind::TorchCompile => [at(INDUCTOR, dir.join("torchinductor")), at(TRITON, dir.join("triton"))].into(),
    }
}

/// A variable of the machine's owner that says where compiled things are to be: then they are not llem's.
pub(super) fn taken_by_user(kind: CacheKind, user: &UserConfig) -> Option<&'static str> {
    let ours: &[&'static str] = match kind {
        CacheKind::TensorrtEngine => &[LOAD, BUILD],
        CacheKind::VllmCompile => &[VLLM_ROOT, VLLM_OFF],
        CacheKind::TorchCompile => &[INDUCTOR, TRITON],
    };
    ours.iter().find(|name| user.env.contains_key(**name)).copied()
}

/// A copy of an entry that its run may change. Removed when it is dropped.
#[derive(Debug)]
pub(in crate::study) struct Copy(pub(super) PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        // What cannot be removed is in the run's own directory, where its user finds it.
        let _ = files::remove_tree(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{CacheKind, variables};

    #[test]
    fn each_engine_is_told_in_its_own_words() {
        let told = |kind, is_there| {
            let variables = variables(kind, is_there, Path::new("/e"));
            variables.into_iter().map(|(name, dir)| format!("{name}={dir}")).collect::<Vec<_>>()
        };
        assert_eq!(told(CacheKind::TensorrtEngine, true), ["LLEM_ENGINE_DIR=/e"]);
        assert_eq!(told(CacheKind::TensorrtEngine, false), ["LLEM_ENGINE_BUILD_DIR=/e"]);
        assert_eq!(told(CacheKind::VllmCompile, true), ["VLLM_CACHE_ROOT=/e"]);
        let torch = ["TORCHINDUCTOR_CACHE_DIR=/e/torchinductor", "TRITON_CACHE_DIR=/e/triton"];
        assert_eq!(told(CacheKind::TorchCompile, false), torch);
    }
}
