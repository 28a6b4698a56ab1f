//! Weights of the Hugging Face hub: from the user's cache when they are complete there, else downloaded into llem's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use llem_model::safetensors::{INDEX_FILE, SINGLE_FILE};
use serde::Deserialize;

use super::offline::listed_bytes;
use super::{ModelError, OfflineModel};
use crate::hub::{Hub, HubError, HubFile, LocalFile, RepoKind};

/// Largest weight file that is downloaded, in bytes.
const MAX_WEIGHT_BYTES: u64 = 1 << 40;

/// Largest description that is downloaded, in bytes.
const MAX_DESCRIPTION_BYTES: u64 = 1 << 28;

/// Most file names that a message lists.
const SHOWN_FILES: usize = 3;

/// What a repository holds, by the files that it consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Layout {
    /// A model: `config.json`, safetensors in one file or as an index lists them.
    Model,
    /// A LoRA adapter as PEFT saves it.
    Adapter,
}

impl Layout {
    /// The file that says what the rest is.
    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Model => "config.json",
            Self::Adapter => "adapter_config.json",
        }
    }

    /// Files that engines or llem read where a repository has them.
    const fn optional(self) -> &'static [&'static str] {
        match self {
            Self::Model => &["generation_config.json", "tokenizer.json", "tokenizer_config.json"],
            Self::Adapter => &[],
        }
    }

    /// The weights when no index lists more than one file.
    pub(super) const fn single_file(self) -> &'static str {
        match self {
            Self::Model => SINGLE_FILE,
            Self::Adapter => "adapter_model.safetensors",
        }
    }

    const fn index(self) -> Option<&'static str> {
        match self {
            Self::Model => Some(INDEX_FILE),
            Self::Adapter => None,
        }
    }
}

/// A repository of the hub at a revision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repository<'a> {
    pub(super) hub: &'a Hub,
    pub(super) cache_root: &'a Path,
    pub(super) id: &'a str,
    /// Branch, tag or commit; absent: `main`.
    pub(super) revision: Option<&'a str>,
    pub(super) layout: Layout,
}

/// What a copy in the user's cache lacks.
struct Incomplete {
    dir: PathBuf,
    missing: Vec<String>,
}

impl<'a> Repository<'a> {
    /// The snapshot's directory with everything in it, and its commit.
    pub(super) fn resolve(&self) -> Result<(PathBuf, String), ModelError> {
        let users = self.in_user_cache()?;
        let found = match users {
            Some(Ok(found)) => found,
            Some(Err(lack)) => self.download().map_err(|error| incomplete(self.id, lack, error))?,
            None => self.download()?,
        };
        Ok((directory(&found), found.commit))
    }

    /// Brings the description alone, so that what cannot be had at all is known before anything large is downloaded. Returns its directory.
    pub(super) fn look_up(&self) -> Result<PathBuf, ModelError> {
        let first = || self.hub.own_file(&self.file(self.layout.description()), self.cache_root, MAX_DESCRIPTION_BYTES);
        let found = match self.in_user_cache()? {
            Some(Ok(found)) => found,
            Some(Err(lack)) => first().map_err(|error| incomplete(self.id, lack, error.into()))?,
            None => first()?,
        };
        Ok(found.path.parent().unwrap_or(Path::new(".")).to_owned())
    }

    /// What is on this machine. In offline mode, what is not is an error.
    pub(super) fn look_up_offline(&self) -> Result<OfflineModel, ModelError> {
        let here = |found: LocalFile| OfflineModel::Here { dir: directory(&found), revision: Some(found.commit) };
        let users = match self.in_user_cache()? {
            Some(Ok(found)) => return Ok(here(found)),
            Some(Err(lack)) => Some(lack.dir),
            None => None,
        };
        let own = Hub::own_cached(&self.file(self.layout.description()), self.cache_root);
        if let Some(found) = &own
            && self.lacks(&directory(found))?.is_empty()
        {
            return Ok(here(found.clone()));
        }
        if self.hub.settings().offline {
            // The same words as at the start of the study.
            self.resolve()?;
        }
        let description = users.or_else(|| own.as_ref().map(directory));
        let bytes = description.as_deref().and_then(listed_bytes);
        Ok(OfflineModel::ToDownload { description, bytes })
    }

    fn file(&self, file: &'a str) -> HubFile<'a> {
        HubFile { kind: RepoKind::Model, repo: self.id, revision: self.revision.unwrap_or("main"), file }
    }

    /// The description in the user's cache when all weights are beside it, else what is not; nothing without a description.
    fn in_user_cache(&self) -> Result<Option<Result<LocalFile, Incomplete>>, ModelError> {
        let Some(found) = self.hub.cached(&self.file(self.layout.description())) else { return Ok(None) };
        let dir = directory(&found);
        let missing = self.lacks(&dir)?;
        Ok(Some(if missing.is_empty() { Ok(found) } else { Err(Incomplete { dir, missing }) }))
    }

    /// The weights that are not in a directory with a description.
    fn lacks(&self, dir: &Path) -> Result<Vec<String>, ModelError> {
        let index = self.layout.index().map(|name| dir.join(name)).filter(|path| path.is_file());
        let names = self.weight_files(index.as_deref())?;
        Ok(names.into_iter().filter(|name| !dir.join(name).is_file()).collect())
    }

    /// Downloads what is missing in llem's own cache, all of it from the commit that the description resolves to.
    fn download(&self) -> Result<LocalFile, ModelError> {
        let found = self.hub.own_file(&self.file(self.layout.description()), self.cache_root, MAX_DESCRIPTION_BYTES)?;
        let at_commit = |file| HubFile { revision: &found.commit, ..self.file(file) };
        let if_any = |file| self.hub.own_file_if_any(&at_commit(file), self.cache_root, MAX_DESCRIPTION_BYTES);
        for name in self.layout.optional() {
            if_any(name)?;
        }
        let index = self.layout.index().map(if_any).transpose()?.flatten();
        let patient = self.hub.patient();
        for name in self.weight_files(index.as_ref().map(|file| file.path.as_path()))? {
            let file = HubFile { file: &name, revision: &found.commit, ..self.file("") };
            patient.own_file(&file, self.cache_root, MAX_WEIGHT_BYTES).map_err(no_weights)?;
        }
        Ok(found)
    }

    fn weight_files(&self, index: Option<&Path>) -> Result<BTreeSet<String>, ModelError> {
        index.map_or_else(|| Ok(BTreeSet::from([self.layout.single_file().to_owned()])), weight_names)
    }
}

fn directory(file: &LocalFile) -> PathBuf {
    file.path.parent().unwrap_or(Path::new(".")).to_owned()
}

/// A repository without safetensors has its weights in a form that runs code when it is read.
fn no_weights(error: HubError) -> ModelError {
    match error {
        HubError::Missing { page, file, .. } => ModelError::NoSafetensors { page, file },
        other => other.into(),
    }
}

/// Why a copy that is not complete stays so.
fn incomplete(id: &str, lack: Incomplete, error: ModelError) -> ModelError {
    match error {
        ModelError::Hub(source) => {
            let more = lack.missing.len().saturating_sub(SHOWN_FILES);
            let mut missing = lack.missing.iter().take(SHOWN_FILES).cloned().collect::<Vec<_>>().join(", ");
            if more > 0 {
                missing = format!("{missing} and {more} more");
            }
            ModelError::Incomplete { id: id.to_owned(), dir: lack.dir, missing, source: Box::new(source) }
        }
        other => other,
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The weight files that an index lists.
pub(crate) fn weight_names(path: &Path) -> Result<BTreeSet<String>, ModelError> {
    let problem = |problem: String| ModelError::Index { path: path.to_owned(), problem };
    let text = fs_err::read(path).map_err(|e| problem(e.to_string()))?;
    let index: Index = serde_json::from_slice(&text).map_err(|e| problem(e.to_string()))?;
    Ok(index.weight_map.into_values().collect())
}

/// Files of a snapshot are links to `../../blobs`: an engine in a container needs the folder above both.
pub(super) fn cache_folder(snapshot: &Path) -> (PathBuf, PathBuf) {
    let above = snapshot.parent().filter(|dir| dir.ends_with("snapshots")).and_then(Path::parent);
    match (above, above.and_then(|root| snapshot.strip_prefix(root).ok())) {
        (Some(root), Some(inside)) => (root.to_owned(), inside.to_owned()),
        _ => (snapshot.to_owned(), PathBuf::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::cache_folder;

    #[test]
    fn links_of_a_snapshot_stay_inside_what_is_mounted() {
        let (root, inside) = cache_folder(Path::new("/c/hub/models--o--n/snapshots/abc"));
        assert_eq!((root, inside), (PathBuf::from("/c/hub/models--o--n"), PathBuf::from("snapshots/abc")));
        let (root, inside) = cache_folder(Path::new("/models/mine"));
        assert_eq!((root, inside), (PathBuf::from("/models/mine"), PathBuf::new()));
    }
}
