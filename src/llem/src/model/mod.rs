//! Models on this machine: from what the experiment names to a directory with a config, weights and a tokenizer; adapters and models that
//! draft tokens likewise.

mod beside;
mod hub_model;
mod offline;

use std::path::{Path, PathBuf};

use llem_model::{Checkpoint, Geometry, GeometryError, ModelConfig, Parameters, SyntheticError};
use thiserror::Error;

pub use beside::{BesideKind, BesideWeights};
pub(crate) use hub_model::weight_names;
pub use offline::{OfflineModel, look_up_offline};

use crate::config::{Backend, ModelSource};
use crate::hub::{Hub, HubError};
use crate::workload::TokenizerSource;
use hub_model::{Layout, Repository};

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
    /// What its `config.json` says.
    pub config: ModelConfig,
    /// How many parameters it has, where that can be told.
    pub parameters: Option<Parameters>,
    /// Number of token ids that it knows.
    pub vocab_size: u32,
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
    /// A model that the embedded backend does not compute.
    #[error("{0}; backend `candle` computes no other; set `backend: pytorch`, `vllm` or `tensorrt` for this model")]
    NotForCandle(#[source] GeometryError),
    /// A description without the size of the vocabulary.
    #[error(
        "{}: `vocab_size` is missing, and no safetensors file beside it has an embedding table by a usual name",
        .0.join("config.json").display()
    )]
    NoVocabulary(PathBuf),
    /// A directory that is not there.
    #[error("{0}: no such model directory; `model:` takes a directory with config.json and safetensors files")]
    Missing(PathBuf),
    /// An adapter or a draft model that is not there.
    #[error(
        "{}: no such directory, or no {} in it; name a Hugging Face id or {}",
        dir.display(),
        match kind { BesideKind::Adapter => "adapter_config.json", BesideKind::Draft => "config.json" },
        match kind {
            BesideKind::Adapter => "a directory that PEFT's `save_pretrained` made",
            BesideKind::Draft => "the directory of a model",
        }
    )]
    MissingBeside {
        /// The directory.
        dir: PathBuf,
        /// What it should hold.
        kind: BesideKind,
    },
    /// An adapter that is something else.
    #[error("{path}: {problem}")]
    Adapter {
        /// Its description.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Weights in another form.
    #[error(
        "{page} has no `{file}`: llem reads safetensors only; save the weights anew with `save_pretrained(…, \
         safe_serialization=True)`"
    )]
    NoSafetensors {
        /// The repository's page, or the directory.
        page: String,
        /// The file that is looked for.
        file: String,
    },
    /// A copy in the user's cache that lacks files, which could not be had.
    #[error("the copy of {id} in {} is not complete (no {missing}), and {source}", dir.display())]
    Incomplete {
        /// The repository.
        id: String,
        /// The copy.
        dir: PathBuf,
        /// The files that it lacks.
        missing: String,
        /// Why they could not be had.
        source: Box<HubError>,
    },
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
            Self::Incomplete { source, .. } => source.is_config(),
            Self::Geometry(_)
            | Self::NotForCandle(_)
            | Self::NoVocabulary(_)
            | Self::Missing(_)
            | Self::MissingBeside { .. }
            | Self::Adapter { .. }
            | Self::NoSafetensors { .. } => true,
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
                Self::read((model.dir, PathBuf::new()), "synthetic".to_owned(), Some(model.id))
            }
            ModelSource::Directory(dir) => {
                let dir = base_dir.join(dir);
                let dir = fs_err::canonicalize(&dir).map_err(|_| ModelError::Missing(dir))?;
                Self::read(hub_model::cache_folder(&dir), dir.display().to_string(), None)
            }
            ModelSource::Hub { id, revision } => {
                let revision = revision.as_deref();
                let repository = Repository { hub, cache_root, id, revision, layout: Layout::Model };
                let (dir, commit) = repository.resolve()?;
                Self::read(hub_model::cache_folder(&dir), id.clone(), Some(commit))
            }
        }
    }

    fn read(
        (root, subdirectory): (PathBuf, PathBuf),
        source: String,
        revision: Option<String>,
    ) -> Result<Self, ModelError> {
        let dir = root.join(&subdirectory);
        let config = ModelConfig::read(&dir)?;
        let parameters = Parameters::of(&dir, &config);
        let stored = || Checkpoint::open(&dir).ok()?.embedding_rows();
        let vocab_size = config.vocab_size.or_else(stored).ok_or_else(|| ModelError::NoVocabulary(dir.clone()))?;
        let vocab_size = u32::try_from(vocab_size).unwrap_or(u32::MAX);
        Ok(Self { root, subdirectory, source, revision, config, parameters, vocab_size })
    }

    /// Refuses what a backend cannot compute, as far as that is llem's to know: engines in images know their own.
    pub fn check_for(&self, backend: Backend) -> Result<(), ModelError> {
        check_for(backend, &self.dir())
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
            vocab_size: self.vocab_size,
            excluded_ids: [self.config.eos_ids.as_slice(), &self.config.other_media_ids].concat(),
        }
    }
}

fn check_for(backend: Backend, dir: &Path) -> Result<(), ModelError> {
    if backend != Backend::Candle {
        return Ok(());
    }
    Geometry::read(dir).map(drop).map_err(|error| match error {
        GeometryError::Architecture { .. } | GeometryError::Unsupported { .. } => ModelError::NotForCandle(error),
        other => other.into(),
    })
}

/// Whether what a reference names can be had at all and is for the backend, by its smallest file; what is on this machine or made on it is
/// looked at when it is resolved.
pub fn look_up(
    kind: Option<BesideKind>,
    source: &ModelSource,
    backend: Backend,
    cache_root: &Path,
    hub: &Hub,
) -> Result<(), ModelError> {
    let ModelSource::Hub { id, revision } = source else { return Ok(()) };
    let layout = if kind == Some(BesideKind::Adapter) { Layout::Adapter } else { Layout::Model };
    let dir = Repository { hub, cache_root, id, revision: revision.as_deref(), layout }.look_up()?;
    if kind.is_none() { check_for(backend, &dir) } else { Ok(()) }
}
