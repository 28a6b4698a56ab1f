//! Names of entries: hashes of everything that decides their content.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::{KeyInputs, Target};
use crate::config::canonical_sha256;
use crate::printable::printable;

/// Hexadecimal digits of a whole key.
const KEY_DIGITS: usize = 64;

/// Digits that people are shown.
const SHORT_DIGITS: usize = 12;

/// What is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CacheKind {
    /// Engines that TensorRT-LLM builds.
    TensorrtEngine,
    /// What vLLM compiles.
    VllmCompile,
    /// What `torch.compile` makes for the PyTorch backend.
    TorchCompile,
}

impl CacheKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::TensorrtEngine, Self::VllmCompile, Self::TorchCompile];

    /// The name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TensorrtEngine => "tensorrt-engine",
            Self::VllmCompile => "vllm-compile",
            Self::TorchCompile => "torch-compile",
        }
    }

    /// The directory of its entries. Another form of entries gets another version and leaves the old ones to the old programs.
    pub(super) const fn bucket(self) -> &'static str {
        match self {
            Self::TensorrtEngine => "tensorrt-engine-v2",
            Self::VllmCompile => "vllm-compile-v2",
            Self::TorchCompile => "torch-compile-v2",
        }
    }
}

impl fmt::Display for CacheKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name of an entry, with what it was made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    kind: CacheKind,
    hex: String,
    inputs: Value,
    summary: Summary,
}

/// An entry in the words of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// The model as the experiment names it.
    pub model: String,
    /// Version of the engine.
    pub engine: String,
    /// The device that it is compiled for.
    pub device: String,
}

/// Inputs that must be known and are not: there is no key, and nothing is cached.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{kind} is not cached: not known: {}; different engines could not be told apart", names.join(", "))]
pub struct UnknownInputs {
    /// What would have been cached.
    pub kind: CacheKind,
    /// Dotted names of the inputs.
    pub names: Vec<String>,
}

impl Key {
    /// The key of these inputs: the SHA-256 of their canonical JSON (RFC 8785).
    pub fn new(inputs: &KeyInputs) -> Result<Self, UnknownInputs> {
        let unknown = |names| UnknownInputs { kind: inputs.kind, names };
        let missing = inputs.unknown();
        if !missing.is_empty() {
            return Err(unknown(missing));
        }
        // Neither can fail for these types; a key of nothing would be worse than none.
        let value = serde_json::to_value(inputs).map_err(|error| unknown(vec![error.to_string()]))?;
        let hex = key_of(&value).map_err(|error| unknown(vec![error.to_string()]))?;
        Ok(Self { kind: inputs.kind, hex, inputs: value, summary: Summary::of(inputs) })
    }

    /// What is cached under it.
    pub fn kind(&self) -> CacheKind {
        self.kind
    }

    /// All 64 digits, hexadecimal.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first digits, for people.
    pub fn short(&self) -> &str {
        short(&self.hex)
    }

    /// The inputs in the clear.
    pub fn inputs(&self) -> &Value {
        &self.inputs
    }

    /// The entry in the words of a list.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }
}

/// The key of inputs that were read back from a manifest.
pub(super) fn key_of(inputs: &Value) -> serde_json::Result<String> {
    canonical_sha256(inputs.clone())
}

/// The first digits of a key.
pub(super) fn short(hex: &str) -> &str {
    hex.get(..SHORT_DIGITS).unwrap_or(hex)
}

/// Whether a directory's name is that of an entry.
pub(super) fn is_key(name: &str) -> bool {
    name.len() == KEY_DIGITS && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Summary {
    fn of(inputs: &KeyInputs) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let device = match &inputs.target {
            Target::Cpu(cpu) => cpu.model.clone().unwrap_or_else(|| "CPU".to_owned()),
            Target::Gpus(gpus) => match gpus.as_slice() {
                [one] => text(&one.name),
                several => {
                    format!("{}x {}", several.len(), several.first().map_or_else(String::new, |g| text(&g.name)))
                }
            },
        };
        let model = printable(&inputs.model.label);
        Self { model, engine: printable(&text(&inputs.software.engine)), device: printable(&device) }
    }
}
