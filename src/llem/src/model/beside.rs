//! Weights beside the model: a LoRA adapter, or a model that drafts tokens.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ModelError;
use super::hub_model::{Layout, Repository, cache_folder};
use crate::config::ModelSource;
use crate::hub::Hub;

/// Weights that an engine is given beside the model's own. Only the engine understands them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BesideWeights {
    /// What is made visible to the engine: the directory of the weights, or the cache folder that its links lead into.
    pub root: PathBuf,
    /// The directory inside `root`; empty when they are the same.
    pub subdirectory: PathBuf,
    /// A directory, or a hub id.
    pub source: String,
    /// Commit of a hub repository.
    pub revision: Option<String>,
}

/// What the weights beside a model are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BesideKind {
    /// A LoRA adapter as PEFT saves it.
    Adapter,
    /// A model, or a part of one, that drafts tokens.
    Draft,
}

impl BesideKind {
    const fn layout(self) -> Layout {
        match self {
            Self::Adapter => Layout::Adapter,
            Self::Draft => Layout::Model,
        }
    }
}

impl BesideWeights {
    /// Finds or downloads weights. `base_dir` is what relative paths are relative to.
    pub fn resolve(
        kind: BesideKind,
        source: &ModelSource,
        base_dir: &Path,
        cache_root: &Path,
        hub: &Hub,
    ) -> Result<Self, ModelError> {
        let (dir, source, revision) = match source {
            ModelSource::Directory(dir) => {
                let dir = base_dir.join(dir);
                let dir = fs_err::canonicalize(&dir).map_err(|_| ModelError::MissingBeside { dir, kind })?;
                let source = dir.display().to_string();
                (dir, source, None)
            }
            ModelSource::Hub { id, revision } => {
                let revision = revision.as_deref();
                let repository = Repository { hub, cache_root, id, revision, layout: kind.layout() };
                let (dir, commit) = repository.resolve()?;
                (dir, id.clone(), Some(commit))
            }
            ModelSource::Synthetic(_) => return Err(ModelError::MissingBeside { dir: "synthetic".into(), kind }),
        };
        check(kind, &dir)?;
        let (root, subdirectory) = cache_folder(&dir);
        Ok(Self { root, subdirectory, source, revision })
    }
}

#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: Option<String>,
}

/// Whether the directory holds what engines look for: they would say so only after they have loaded the model.
fn check(kind: BesideKind, dir: &Path) -> Result<(), ModelError> {
    let layout = kind.layout();
    let description = dir.join(layout.description());
    if !description.is_file() {
        return Err(ModelError::MissingBeside { dir: dir.to_owned(), kind });
    }
    if kind == BesideKind::Draft {
        return Ok(());
    }
    if !dir.join(layout.single_file()).is_file() {
        return Err(ModelError::NoSafetensors {
            page: dir.display().to_string(),
            file: layout.single_file().to_owned(),
        });
    }
    let problem = |problem: String| ModelError::Adapter { path: description.clone(), problem };
    let text = fs_err::read(&description).map_err(|e| problem(e.to_string()))?;
    let config: AdapterConfig = serde_json::from_slice(&text).map_err(|e| problem(e.to_string()))?;
    match config.peft_type.as_deref() {
        Some("LORA") => Ok(()),
        Some(other) => Err(problem(format!("an adapter of type {other}; llem runs LORA adapters"))),
        None => Err(problem("no `peft_type`; save the adapter with PEFT".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::HubSettings;

    fn resolve(kind: BesideKind, dir: &Path) -> Result<BesideWeights, ModelError> {
        let hub = Hub::new(HubSettings::new("http://127.0.0.1:1", dir).unwrap());
        BesideWeights::resolve(kind, &ModelSource::Directory("a".into()), dir, dir, &hub)
    }

    #[test]
    fn a_directory_is_an_adapter_when_it_has_its_files() {
        let base = tempfile::tempdir().unwrap();
        let refused = |part: &str| {
            let error = resolve(BesideKind::Adapter, base.path()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused("no such directory, or no adapter_config.json in it");
        let dir = base.path().join("a");
        fs_err::create_dir(&dir).unwrap();
        refused("adapter_config.json");
        fs_err::write(dir.join("adapter_config.json"), r#"{"peft_type": "IA3"}"#).unwrap();
        refused("no `adapter_model.safetensors`");
        fs_err::write(dir.join("adapter_model.safetensors"), "").unwrap();
        refused("an adapter of type IA3");
        fs_err::write(dir.join("adapter_config.json"), r#"{"peft_type": "LORA", "r": 4}"#).unwrap();
        let found = resolve(BesideKind::Adapter, base.path()).unwrap();
        assert_eq!((found.root, found.revision), (fs_err::canonicalize(dir).unwrap(), None));
        assert!(resolve(BesideKind::Draft, base.path()).unwrap_err().to_string().contains("config.json"));
    }
}
