use std::io;
use std::path::{Path, PathBuf};

use super::canonical::{self, CheckedDataset, MAX_DATASET_BYTES};
use super::json_lines::{self, PromptField};
use super::{DatasetManifest, DatasetProvenance, WorkloadError, WorkloadRequest};
use crate::config::study_path;
use crate::hub::{Hub, HubFile, RepoKind};

/// The data set that is drawn, not read.
pub(super) const SYNTHETIC: &str = "synthetic";

/// The folder of llem's cache for built-in data sets.
const CACHE_BUCKET: &str = "datasets-v1";

/// File name of the canonical form in the cache.
const CANONICAL_FILE: &str = "prompts.jsonl";

/// One prompt of a data set.
pub(super) struct Prompt {
    pub(super) text: String,
    /// Overrides the experiment's.
    pub(super) output_tokens: Option<u32>,
    /// Line of the file, or number in the data set, from 1.
    pub(super) position: u64,
}

/// The prompts that a workload uses and where they come from.
pub(super) struct Prompts {
    pub(super) prompts: Vec<Prompt>,
    pub(super) provenance: DatasetProvenance,
}

/// Reads the first `n` prompts of a text data set.
pub(super) fn load(
    manifests: &[DatasetManifest],
    request: &WorkloadRequest<'_>,
    cache_root: &Path,
    hub: &Hub,
) -> Result<Prompts, WorkloadError> {
    let (mut found, default_n) = match manifests.iter().find(|manifest| manifest.name == request.dataset) {
        Some(manifest) => (built_in(manifest, cache_root, hub)?, Some(manifest.default_n)),
        None => (own_file(manifests, request)?, None),
    };
    let available = found.prompts.len() as u64;
    let wanted = request.n.or(default_n).unwrap_or(available);
    if wanted > available {
        return Err(WorkloadError::TooFewPrompts { name: request.dataset.to_owned(), available, wanted });
    }
    found.prompts.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
    found.provenance.available = Some(available);
    Ok(found)
}

fn own_file(manifests: &[DatasetManifest], request: &WorkloadRequest<'_>) -> Result<Prompts, WorkloadError> {
    let path = study_path(request.base_dir, request.dataset);
    if !path.is_file() {
        let built_in = manifests.iter().map(|manifest| manifest.name.as_str());
        let known: Vec<&str> = std::iter::once(SYNTHETIC).chain(built_in).collect();
        return Err(WorkloadError::UnknownDataset { name: request.dataset.to_owned(), known: known.join(", "), path });
    }
    let file = json_lines::read(&path, PromptField::Prompt)?;
    if file.prompts.is_empty() {
        return Err(WorkloadError::NoPrompts { path });
    }
    let provenance = DatasetProvenance {
        name: request.dataset.to_owned(),
        source: Some(path.display().to_string()),
        sha256: Some(file.sha256),
        ..Default::default()
    };
    Ok(Prompts { prompts: file.prompts, provenance })
}

fn built_in(manifest: &DatasetManifest, cache_root: &Path, hub: &Hub) -> Result<Prompts, WorkloadError> {
    let checked = obtain(manifest, cache_root, hub)?;
    let prompt = |(position, text)| Prompt { text, output_tokens: None, position };
    let provenance = DatasetProvenance {
        name: manifest.name.clone(),
        source: Some(manifest.repository.clone()),
        revision: Some(manifest.revision.clone()),
        sha256: Some(manifest.sha256.clone()),
        licence: Some(manifest.licence.clone()),
        ..Default::default()
    };
    Ok(Prompts { prompts: (1..).zip(checked.prompts).map(prompt).collect(), provenance })
}

/// The data set from the first place that has it: llem's cache, a local copy, the user's Hugging Face cache, the hub.
/// A damaged cache is made anew; a local copy with other content is an error, because somebody meant it to be used.
fn obtain(manifest: &DatasetManifest, cache_root: &Path, hub: &Hub) -> Result<CheckedDataset, WorkloadError> {
    let folder = cache_root.join(CACHE_BUCKET).join(&manifest.name);
    let cached = folder.join(&manifest.revision).join(CANONICAL_FILE);
    if cached.is_file()
        && let Ok(checked) = canonical::read(manifest, &cached, &cached.display().to_string())
    {
        return Ok(checked);
    }
    let file = HubFile {
        kind: RepoKind::Dataset,
        repo: &manifest.repository,
        revision: &manifest.revision,
        file: &manifest.file,
    };
    let local = local_copy(manifest, &folder, hub)?.or_else(|| hub.cached(&file).map(|found| found.path));
    let checked = match local {
        Some(path) => canonical::read(manifest, &path, &path.display().to_string())?,
        None => fetch(manifest, &file, &folder, hub)?,
    };
    write_atomically(&cached, &checked.bytes)?;
    Ok(checked)
}

fn fetch(
    manifest: &DatasetManifest,
    file: &HubFile<'_>,
    folder: &Path,
    hub: &Hub,
) -> Result<CheckedDataset, WorkloadError> {
    fs_err::create_dir_all(folder)?;
    let scratch = tempfile::tempdir_in(folder)?;
    let downloaded = scratch.path().join("download.parquet");
    hub.fetch(file, &downloaded, MAX_DATASET_BYTES).map_err(|source| WorkloadError::Unavailable {
        name: manifest.name.clone(),
        place: folder.join(format!("{}.jsonl", manifest.name)).display().to_string(),
        source: Box::new(source),
    })?;
    canonical::read(manifest, &downloaded, &hub.url(file))
}

/// A copy that the user put into `LLEM_DATASETS_DIR` (named after the data set) or into the data set's cache folder.
fn local_copy(manifest: &DatasetManifest, folder: &Path, hub: &Hub) -> io::Result<Option<PathBuf>> {
    let named = |directory: &Path| {
        let with = |extension: &str| directory.join(format!("{}.{extension}", manifest.name));
        [with("jsonl"), with("parquet")].into_iter().find(|path| path.is_file())
    };
    if let Some(path) = hub.settings().datasets_dir.as_deref().and_then(named) {
        return Ok(Some(path));
    }
    if !folder.is_dir() {
        return Ok(None);
    }
    let mut dropped = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let known = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "parquet");
        if known && path.is_file() {
            dropped.push(path);
        }
    }
    Ok(dropped.into_iter().min())
}

/// The canonical form of a built-in data set that a workload was made from, where it is in the cache.
pub(crate) fn cached_dataset(of: &DatasetProvenance, cache_root: &Path) -> Option<PathBuf> {
    let path = cache_root.join(CACHE_BUCKET).join(&of.name).join(of.revision.as_ref()?).join(CANONICAL_FILE);
    path.is_file().then_some(path)
}

/// As [`crate::files::write_atomic`], in a directory that is made when it is not there.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs_err::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    crate::files::write_atomic(path, bytes)
}
