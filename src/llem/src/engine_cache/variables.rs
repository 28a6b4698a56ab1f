//! The part of an engine's environment that decides what is compiled.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Beginnings of the names of environment variables that can change what is compiled, and whose values say something to people.
const COMPILE_VARIABLES: [&str; 12] = [
    "CUDA_",
    "FLASHINFER_",
    "INDUCTOR_",
    "LD_",
    "OMP_",
    "PYTHON",
    "PYTORCH_",
    "TLLM_",
    "TORCH",
    "TRITON_",
    "TRTLLM_",
    "VLLM_",
];

/// Parts of the names of variables whose values are nobody's business.
const SECRETS: [&str; 4] = ["KEY", "PASSWORD", "SECRET", "TOKEN"];

/// Beginnings of the names of variables that change no compiler's output.
const HARMLESS: [&str; 6] = ["HF_", "HOME", "LANG", "LC_", "TERM", "TZ"];

/// The variables of an engine's environment that can change what is compiled, without secrets. One that nobody knows (`CXX`, `ATEN_…`,
/// `NVIDIA_TF32_OVERRIDE`, the next version's) is among them, by the hash of its value: to forget it would be a wrong engine.
pub fn compile_variables(all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let starts = |name: &str, starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    let upper = |name: &str| name.to_ascii_uppercase();
    let is_left_out = |name: &str| {
        let is_secret = SECRETS.iter().any(|part| upper(name).contains(part));
        // No container has a network.
        is_secret || starts(name, &HARMLESS) || upper(name).ends_with("_PROXY")
    };
    let value = |name: &str, value: &str| {
        let is_shown = starts(name, &COMPILE_VARIABLES);
        if is_shown { value.to_owned() } else { format!("sha256:{}", hex::encode(Sha256::digest(value))) }
    };
    all.iter().filter(|(name, _)| !is_left_out(name)).map(|(name, text)| (name.clone(), value(name, text))).collect()
}
