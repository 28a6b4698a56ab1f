//! Models on this machine: from what the experiment names to a directory with a config, weights and a tokenizer.

mod hub_model;

use std::path::{Path, PathBuf};

use llem_model::{Geometry, GeometryError, SyntheticError};
use thiserror::Error;

use crate::config::ModelSource;
use crate::hub::{Hub, HubError};
use crate::workload::TokenizerSource;

/// A model that an engine can be given.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalModel {
    /// What is made visible to the engine: the model's directory, or the cache folder that its links lead into.
    pub root: PathBuf,
    /// The model's directory inside `root`; empty when they are the same.
    pub subdirectory: PathBuf,
    /// As the experiment names it.
    pub source: String,
    /// Content id of a synthetic model, commit of a hub model.
    pub revision: Option<String>,
    /// The model's shape.
    pub geometry: Geometry,
}

/// A model that cannot be had.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The generator.
    #[error(transparent)]
    Synthetic(#[from] SyntheticError),
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The model's description.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A directory that is not there.
    #[error("{0}: no such model directory; `model:` takes a directory with config.json and safetensors files")]
    Missing(PathBuf),
    /// The list of weight files of a hub model.
    #[error("{path}: {problem}")]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl ModelError {
    /// Whether the study names something that cannot be; else the machine or the network is at fault.
    pub(crate) fn is_config(&self) -> bool {
        match self {
            Self::Synthetic(error) => matches!(error, SyntheticError::Spec { .. }),
            Self::Hub(error) => error.is_config(),
            Self::Geometry(_) | Self::Missing(_) => true,
            Self::Index { .. } => false,
        }
    }
}

impl LocalModel {
    /// Finds, generates or downloads a model. `base_dir` is what relative paths are relative to.
    pub fn resolve(source: &ModelSource, base_dir: &Path, cache_root: &Path, hub: &Hub) -> Result<Self, ModelError> {
        match source {
            ModelSource::Synthetic(spec) => {
                let model = llem_model::ensure(spec, cache_root)?;
                Ok(Self {
                    root: model.dir,
                    subdirectory: PathBuf::new(),
                    source: "synthetic".to_owned(),
                    revision: Some(model.id),
                    geometry: model.geometry,
                })
            }
            ModelSource::Directory(dir) => Self::in_directory(&base_dir.join(dir)),
            ModelSource::Hub { id, revision } => hub_model::resolve(id, revision.as_deref(), cache_root, hub),
        }
    }

    fn in_directory(dir: &Path) -> Result<Self, ModelError> {
        let root = fs_err::canonicalize(dir).map_err(|_| ModelError::Missing(dir.to_owned()))?;
        let geometry = Geometry::read(&root)?;
        let source = root.display().to_string();
        let (root, subdirectory) = hub_model::cache_folder(&root);
        Ok(Self { root, subdirectory, source, revision: None, geometry })
    }

    /// The model's directory on this machine.
    pub fn dir(&self) -> PathBuf {
        self.root.join(&self.subdirectory)
    }

    /// How text becomes token ids of this model.
    pub fn tokenizer(&self) -> TokenizerSource {
        let path = self.dir().join("tokenizer.json");
        TokenizerSource {
            tokenizer_json: path.exists().then_some(path),
            vocab_size: u32::try_from(self.geometry.vocab).unwrap_or(u32::MAX),
            excluded_ids: self.geometry.eos_ids.clone(),
        }
    }
}
