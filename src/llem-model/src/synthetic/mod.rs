//! Models with random weights, made on this machine: a Hugging Face style directory that every backend can load.
//!
//! ```text
//! <cache_root>/synthetic-v1/
//!   3f0c…/                 first 16 hexadecimal digits of the SHA-256 of the canonical specification
//!     config.json  generation_config.json  tokenizer.json  tokenizer_config.json
//!     model.safetensors    bfloat16
//!     manifest.json        specification, size and SHA-256 of every file
//!   .tmp-…/                being built, or left by a crash
//! ```
//!
//! A directory appears whole by a rename, so builders on one machine need no lock.

mod build;
mod manifest;
mod spec;
mod text;
mod tokenizer;
mod weights;

pub use build::{SyntheticError, SyntheticModel, ensure, find};
pub use spec::{SpecProblem, SyntheticSpec};

/// Version of everything that decides the bytes of a synthetic model. Another version is another directory.
pub const BUCKET: &str = "synthetic-v1";
