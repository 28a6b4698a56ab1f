//! The weights of a study in a bundle: their files, or their hashes only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use llem_model::safetensors::INDEX_FILE;

use super::super::references::{Weights, references};
use super::gather::{Item, Source};
use super::{BundleError, HUB, ModelFiles, PackedFile, PackedWeights, plain};
use crate::config::{ModelSource, StudyConfig};
use crate::engine_cache::model_files;
use crate::hash_notes::{file_sha256, note, notes_path, read_notes};
use crate::model::weight_names;

/// Weights with a name, ready on this machine.
struct Named {
    reference: String,
    /// What results call them.
    source: String,
    /// Hub id and commit.
    hub: Option<(String, String)>,
    dir: PathBuf,
}

/// Everything that the experiments name, each once. Synthetic models are made where they are needed: equal settings make equal files.
fn named(study: &StudyConfig, stocked: &[Weights]) -> Vec<Named> {
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    for (experiment, weights) in study.experiments.iter().zip(stocked) {
        for reference in references(&experiment.config) {
            if matches!(reference.source, ModelSource::Synthetic(_)) || !seen.insert(reference.text.clone()) {
                continue;
            }
            let beside = match reference.kind {
                None => None,
                Some(crate::model::BesideKind::Adapter) => weights.adapter.as_ref(),
                Some(crate::model::BesideKind::Draft) => weights.draft.as_ref(),
            };
            let (source, revision, dir) = match beside {
                Some(beside) => (&beside.source, &beside.revision, beside.root.join(&beside.subdirectory)),
                None => (&weights.model.source, &weights.model.revision, weights.model.dir()),
            };
            let hub = match (&reference.source, revision) {
                (ModelSource::Hub { id, .. }, Some(commit)) => Some((id.clone(), commit.clone())),
                _ => None,
            };
            found.push(Named { reference: reference.text, source: source.clone(), hub, dir });
        }
    }
    found
}

/// The weights of a study as the manifest lists them, with what is to be packed.
pub(super) fn gather(
    study: &StudyConfig,
    stocked: &[Weights],
    models: ModelFiles,
    cache_root: &Path,
) -> Result<(Vec<PackedWeights>, Vec<Item>), BundleError> {
    let (mut packed, mut items, mut directories) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (number, weights) in named(study, stocked).into_iter().enumerate() {
        let files = files(&weights.dir).map_err(BundleError::Files)?;
        let commit = weights.hub.as_ref().map(|(_, commit)| commit.clone());
        let (reference, source) = (weights.reference.clone(), weights.source.clone());
        let listed = match models {
            ModelFiles::Manifest => hashed(&files, cache_root)?,
            ModelFiles::Included => files.keys().map(|name| PackedFile::unknown(name.clone())).collect(),
        };
        let directory = (models == ModelFiles::Included).then(|| place(&weights, number));
        if let Some(directory) = directory.clone().filter(|directory| directories.insert(directory.clone())) {
            // What was hashed for the lock file is what must be packed.
            let notes = fs_err::canonicalize(&weights.dir).map(|dir| read_notes(&notes_path(&dir, cache_root)));
            let notes = notes.unwrap_or_default();
            for (name, path) in &files {
                let known = notes.get(name).and_then(|old| note(path, Some(old)).ok());
                let sha256 = known.filter(|(found, _)| Some(found) == notes.get(name)).map(|(found, _)| found.sha256);
                items.push(Item {
                    name: format!("{directory}/{name}"),
                    executable: false,
                    size_bytes: fs_err::metadata(path).map_err(BundleError::Files)?.len(),
                    sha256,
                    source: Source::File(path.clone()),
                });
            }
        }
        packed.push(PackedWeights { reference, source, commit, directory, files: listed });
    }
    Ok((packed, items))
}

/// Where weights are in the archive.
fn place(weights: &Named, number: usize) -> String {
    if let Some((id, commit)) = &weights.hub {
        return format!("{HUB}/models--{}/snapshots/{commit}", id.replace('/', "--"));
    }
    let name = weights.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    format!("weights/{number}-{}", plain(&name))
}

/// The files by which llem knows weights, and those that their index names below the directory.
fn files(dir: &Path) -> std::io::Result<BTreeMap<String, PathBuf>> {
    let mut files = model_files(dir)?;
    let below = weight_names(&dir.join(INDEX_FILE)).unwrap_or_default();
    for name in below.into_iter().filter(|name| name.contains('/')) {
        let path = dir.join(&name);
        files.insert(name, path);
    }
    Ok(files)
}

/// The same with their hashes, from earlier or read now.
fn hashed(files: &BTreeMap<String, PathBuf>, cache_root: &Path) -> Result<Vec<PackedFile>, BundleError> {
    let one = |(name, path): (&String, &PathBuf)| {
        let size_bytes = fs_err::metadata(path)?.len();
        let sha256 = file_sha256(path, cache_root)?;
        Ok(PackedFile { name: name.clone(), size_bytes, sha256, executable: false })
    };
    files.iter().map(one).collect::<std::io::Result<_>>().map_err(BundleError::Files)
}

/// Whether weights of which a bundle has the hashes only are on this machine, in `dir`.
pub(super) fn compare(weights: &PackedWeights, dir: &Path, cache_root: &Path) -> Result<(), BundleError> {
    let wrong = |problem: String| BundleError::Weights { reference: weights.reference.clone(), problem };
    for file in &weights.files {
        let path = dir.join(&file.name);
        let sha256 = file_sha256(&path, cache_root).map_err(|error| wrong(error.to_string()))?;
        if sha256 != file.sha256 {
            return Err(wrong(format!("{} has the SHA-256 {sha256}, not {}", path.display(), file.sha256)));
        }
    }
    Ok(())
}
