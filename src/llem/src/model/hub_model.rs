//! Models of the Hugging Face hub: from the user's cache when it is complete, else downloaded into llem's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use llem_model::Geometry;
use llem_model::safetensors::{INDEX_FILE, SINGLE_FILE};
use serde::Deserialize;

use super::{LocalModel, ModelError};
use crate::hub::{Hub, HubError, HubFile, RepoKind};

/// Largest weight file that is downloaded, in bytes.
const MAX_WEIGHT_BYTES: u64 = 1 << 40;

/// Largest description that is downloaded, in bytes.
const MAX_DESCRIPTION_BYTES: u64 = 1 << 28;

/// Finds a model whole in the user's cache, or brings all of it into llem's own.
pub(super) fn resolve(
    repo: &str,
    revision: Option<&str>,
    cache_root: &Path,
    hub: &Hub,
) -> Result<LocalModel, ModelError> {
    let wanted = |file| HubFile { kind: RepoKind::Model, repo, revision: revision.unwrap_or("main"), file };
    let (config, commit) = match in_user_cache(hub, &wanted("config.json")) {
        Some(found) => found,
        None => download(hub, &wanted("config.json"), cache_root)?,
    };
    let dir = config.parent().unwrap_or(Path::new(".")).to_owned();
    let geometry = Geometry::read(&dir)?;
    let (root, subdirectory) = cache_folder(&dir);
    Ok(LocalModel { root, subdirectory, source: repo.to_owned(), revision: Some(commit), geometry })
}

/// The path of `config.json` and its commit, when all weight files are beside it.
fn in_user_cache(hub: &Hub, config: &HubFile<'_>) -> Option<(PathBuf, String)> {
    let found = hub.cached(config)?;
    let dir = found.path.parent()?;
    let names = match hub.cached(&HubFile { file: INDEX_FILE, revision: &found.commit, ..*config }) {
        Some(index) => weight_names(&index.path).ok()?,
        None => BTreeSet::from([SINGLE_FILE.to_owned()]),
    };
    names.iter().all(|name| dir.join(name).is_file()).then_some((found.path, found.commit))
}

/// Downloads what is missing in llem's own cache, all of it from the commit that `config` resolves to.
fn download(hub: &Hub, config: &HubFile<'_>, cache_root: &Path) -> Result<(PathBuf, String), ModelError> {
    let found = hub.own_file(config, cache_root, MAX_DESCRIPTION_BYTES)?;
    let get =
        |file: &str, limit| hub.own_file(&HubFile { file, revision: &found.commit, ..*config }, cache_root, limit);
    get("tokenizer.json", MAX_DESCRIPTION_BYTES)?;
    let names = match get(INDEX_FILE, MAX_DESCRIPTION_BYTES) {
        Ok(index) => weight_names(&index.path)?,
        Err(HubError::Missing { .. }) => BTreeSet::from([SINGLE_FILE.to_owned()]),
        Err(error) => return Err(error.into()),
    };
    for name in &names {
        get(name, MAX_WEIGHT_BYTES)?;
    }
    Ok((found.path.clone(), found.commit.clone()))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The weight files that an index lists.
fn weight_names(path: &Path) -> Result<BTreeSet<String>, ModelError> {
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
