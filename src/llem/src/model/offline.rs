//! What of a model is on this machine already. No network, and nothing is written.

use std::path::{Path, PathBuf};

use llem_model::SyntheticSpec;
use llem_model::safetensors::INDEX_FILE;
use serde::Deserialize;

use super::hub_model::{Layout, Repository};
use super::{BesideKind, ModelError};
use crate::config::ModelSource;
use crate::hub::Hub;

/// Where a model is, before a study is started.
#[derive(Clone, Debug, PartialEq)]
pub enum OfflineModel {
    /// On this machine, as far as its description and the names of its weights tell.
    Here {
        /// Its directory.
        dir: PathBuf,
        /// Content id of a synthetic model, commit of a hub model.
        revision: Option<String>,
    },
    /// llem makes it at the start of the study.
    ToMake(Box<SyntheticSpec>),
    /// llem downloads it at the start of the study.
    ToDownload {
        /// The directory of its description, where that is here.
        description: Option<PathBuf>,
        /// Bytes of its weights, where a list of them is here.
        bytes: Option<u64>,
    },
}

/// Looks a reference up; `kind` is absent for the model itself.
///
/// # Errors
///
/// What cannot be had at all: a directory that is not there, a download in offline mode.
pub fn look_up_offline(
    kind: Option<BesideKind>,
    source: &ModelSource,
    base_dir: &Path,
    cache_root: &Path,
    hub: &Hub,
) -> Result<OfflineModel, ModelError> {
    match source {
        ModelSource::Synthetic(spec) => Ok(match llem_model::find(spec, cache_root) {
            Some(dir) => OfflineModel::Here { dir, revision: Some(spec.id()) },
            None => OfflineModel::ToMake(Box::new(spec.clone())),
        }),
        ModelSource::Directory(dir) => {
            let dir = base_dir.join(dir);
            match fs_err::canonicalize(&dir) {
                Ok(dir) => Ok(OfflineModel::Here { dir, revision: None }),
                Err(_) => {
                    Err(kind.map_or(ModelError::Missing(dir.clone()), |kind| ModelError::MissingBeside { dir, kind }))
                }
            }
        }
        ModelSource::Hub { id, revision } => {
            let layout = if kind == Some(BesideKind::Adapter) { Layout::Adapter } else { Layout::Model };
            let repository = Repository { hub, cache_root, id, revision: revision.as_deref(), layout };
            repository.look_up_offline()
        }
    }
}

#[derive(Deserialize)]
struct Index {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    total_size: u64,
}

/// Bytes of all weights by the list of shards in a directory.
pub(super) fn listed_bytes(dir: &Path) -> Option<u64> {
    let text = fs_err::read(dir.join(INDEX_FILE)).ok()?;
    serde_json::from_slice::<Index>(&text).ok().map(|index| index.metadata.total_size)
}
