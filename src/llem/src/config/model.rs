//! The weights, their type, and what is put on top of them.

use std::path::{Path, PathBuf};

use llem_model::SyntheticSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Data type that an engine computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// The type that the checkpoint declares.
    #[default]
    Auto,
    /// IEEE 754 single precision.
    Float32,
    /// IEEE 754 half precision.
    Float16,
    /// Brain floating point.
    Bfloat16,
}

impl Dtype {
    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

/// Where the weights come from: a Hugging Face id (`organisation/name`, optionally `@revision`), a local directory
/// (starts with `/`, `./`, `../` or `~/`), `synthetic`, or `{synthetic: {…}}` for random weights of a given geometry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)] // two shapes that no message depends on: the schema check reports errors before serde sees the file
pub enum ModelSpec {
    /// `synthetic`, a hub id or a directory.
    Named(String),
    /// Random weights of a given geometry.
    Synthetic(SyntheticModel),
}

/// Random weights of a given geometry, generated on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyntheticModel {
    /// The geometry; absent fields are those of the built-in small Llama.
    pub synthetic: SyntheticSpec,
}

impl ModelSpec {
    /// What it means. A leading `~` is the home directory of the user.
    pub fn source(&self) -> ModelSource {
        match self {
            Self::Synthetic(model) => ModelSource::Synthetic(model.synthetic.clone()),
            Self::Named(name) if name == "synthetic" => ModelSource::Synthetic(SyntheticSpec::default()),
            Self::Named(name) => weights_source(name),
        }
    }
}

/// What a reference to weights means: a path on this machine, or a hub id with an optional revision.
pub(crate) fn weights_source(reference: &str) -> ModelSource {
    match reference.split_once('@') {
        _ if is_path(reference) => ModelSource::Directory(expand_home(reference)),
        Some((id, revision)) => ModelSource::Hub { id: id.to_owned(), revision: Some(revision.to_owned()) },
        None => ModelSource::Hub { id: reference.to_owned(), revision: None },
    }
}

/// Whether a reference to a model, adapter or data set is a path on this machine.
pub(crate) fn is_path(reference: &str) -> bool {
    ["/", "./", "../", "~/"].iter().any(|start| reference.starts_with(start)) || matches!(reference, "." | ".." | "~")
}

/// The path with a leading `~/` replaced by the user's home directory.
fn expand_home(path: &str) -> PathBuf {
    let below = if path == "~" { Some("") } else { path.strip_prefix("~/") };
    match (below, etcetera::home_dir()) {
        (Some(rest), Ok(home)) => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(path),
    }
}

/// The file that a study means by a path: relative to the study's directory, a leading `~/` being the user's home.
pub(crate) fn study_path(study_dir: &Path, path: &str) -> PathBuf {
    study_dir.join(expand_home(path))
}

/// What a [`ModelSpec`] means.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// Random weights, generated on this machine.
    Synthetic(SyntheticSpec),
    /// A directory on this machine.
    Directory(PathBuf),
    /// A Hugging Face repository.
    Hub {
        /// `organisation/name`.
        id: String,
        /// Branch, tag or commit.
        revision: Option<String>,
    },
}

/// A LoRA adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Hugging Face id or local directory of the adapter.
    pub adapter: String,
    /// Merge the adapter into the weights before the run. Changes what is measured.
    #[serde(default)]
    pub merge_weights: bool,
}
