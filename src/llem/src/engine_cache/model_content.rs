//! What a model is, by its commit or by its files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use crate::config::canonical_sha256;
use crate::hash_notes::{Note, note, notes_path, read_notes, write_notes};
use crate::model::{BesideWeights, LocalModel};

/// Most files in the directory of a model.
const MAX_FILES: usize = 10_000;

/// The commit of a git repository, hexadecimal.
const COMMIT_DIGITS: usize = 40;

/// Which weights: the commit of a repository, or the hash of the files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModelIdentity {
    /// `organisation/name` of a hub model; null for any other.
    pub id: Option<String>,
    /// Its commit.
    pub commit: Option<String>,
    /// [`content_sha256`] of any other model: the same files are the same model wherever they lie.
    pub content_sha256: Option<String>,
    /// The model as the experiment names it; not part of the key.
    #[serde(skip)]
    pub label: String,
}

impl ModelIdentity {
    /// A model by commit where it has one, else by its files, which are read once and noted under `cache_root`.
    pub fn of(model: &LocalModel, cache_root: &Path) -> io::Result<Self> {
        Self::of_weights(&model.source, model.revision.as_deref(), &model.dir(), cache_root)
    }

    /// An adapter or a draft model, likewise.
    pub fn of_beside(weights: &BesideWeights, cache_root: &Path) -> io::Result<Self> {
        let dir = weights.root.join(&weights.subdirectory);
        Self::of_weights(&weights.source, weights.revision.as_deref(), &dir, cache_root)
    }

    fn of_weights(source: &str, revision: Option<&str>, dir: &Path, cache_root: &Path) -> io::Result<Self> {
        let label = source.rsplit('/').next().unwrap_or_default().to_owned();
        let commit = revision.filter(|revision| is_commit(revision) && source.contains('/'));
        Ok(match commit {
            Some(commit) => {
                Self { id: Some(source.to_owned()), commit: Some(commit.to_owned()), content_sha256: None, label }
            }
            None => Self { label, content_sha256: Some(content_sha256(dir, cache_root)?), ..Self::default() },
        })
    }

    /// Whether it says which weights these are.
    pub(super) fn is_known(&self) -> bool {
        self.content_sha256.is_some() || (self.id.is_some() && self.commit.is_some())
    }
}

fn is_commit(revision: &str) -> bool {
    revision.len() == COMMIT_DIGITS && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// SHA-256 over names, sizes and hashes of all files of a model's directory: config, weights, tokenizer, code. Hidden files, Markdown and
/// directories below it are left out, links to files (as in Hugging Face's cache) are followed. What was hashed before is not read again
/// while size, times and inode are the same; the notes of that are kept under `cache_root`, where they can be written.
pub fn content_sha256(dir: &Path, cache_root: &Path) -> io::Result<String> {
    let dir = fs_err::canonicalize(dir)?;
    let notes_path = notes_path(&dir, cache_root);
    let old: BTreeMap<String, Note> = read_notes(&notes_path);
    let (mut notes, mut listed) = (BTreeMap::new(), Vec::new());
    for (name, path) in model_files(&dir)? {
        let (note, settled) = note(&path, old.get(&name))?;
        listed.push(json!({"name": name, "size_bytes": note.size_bytes.to_string(), "sha256": note.sha256}));
        if settled {
            notes.insert(name, note);
        }
    }
    if listed.is_empty() {
        let text = format!("{}: no files in it; a model's directory holds config.json and weights", dir.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    if notes != old {
        // Without notes the next run reads the weights again.
        let _ = write_notes(&notes_path, &notes);
    }
    Ok(canonical_sha256(json!(listed))?)
}

/// Names and paths of the files of a model's directory that count, sorted by name.
pub(crate) fn model_files(dir: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_markdown = Path::new(&name).extension().is_some_and(|ext| ext.eq_ignore_ascii_case("md"));
        if name.starts_with('.') || is_markdown || !fs_err::metadata(entry.path())?.is_file() {
            continue;
        }
        found.insert(name, entry.path());
        if found.len() > MAX_FILES {
            let text = format!("{}: more than {MAX_FILES} files; is this the directory of a model?", dir.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::hash_notes::SETTLED;

    fn model(config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("config.json"), config).unwrap();
        fs_err::write(dir.path().join("model.safetensors"), "weights").unwrap();
        dir
    }

    #[test]
    fn the_same_files_are_the_same_model_wherever_they_lie() {
        let cache = tempfile::tempdir().unwrap();
        let (a, b, other) = (model("{}"), model("{}"), model("{ }"));
        let hash = |dir: &tempfile::TempDir| content_sha256(dir.path(), cache.path()).unwrap();
        assert_eq!(hash(&a), hash(&b));
        assert_ne!(hash(&a), hash(&other));
        fs_err::write(a.path().join("README.md"), "x").unwrap();
        fs_err::create_dir(a.path().join(".git")).unwrap();
        assert_eq!(hash(&a), hash(&b), "what no engine reads does not count");
        fs_err::os::unix::fs::symlink(b.path().join("config.json"), a.path().join("more.json")).unwrap();
        assert_ne!(hash(&a), hash(&b), "links are followed");
    }

    #[test]
    fn settled_files_are_read_once_and_changed_ones_again() {
        let (cache, dir) = (tempfile::tempdir().unwrap(), model("{}"));
        let first = content_sha256(dir.path(), cache.path()).unwrap();
        let notes = notes_path(&fs_err::canonicalize(dir.path()).unwrap(), cache.path());
        assert!(!notes.exists(), "a file that was just written may change again within its time stamp");
        std::thread::sleep(SETTLED + Duration::from_millis(200));
        assert_eq!(content_sha256(dir.path(), cache.path()).unwrap(), first);
        let mut noted = read_notes(&notes);
        assert_eq!(noted.len(), 2);
        // A hash that the file does not have shows that the note was believed.
        noted.get_mut("model.safetensors").unwrap().sha256 = "0".repeat(64);
        write_notes(&notes, &noted).unwrap();
        let believed = content_sha256(dir.path(), cache.path()).unwrap();
        assert_ne!(believed, first);
        fs_err::write(dir.path().join("model.safetensors"), "weightz").unwrap();
        let changed = content_sha256(dir.path(), cache.path()).unwrap();
        assert!(changed != believed && changed != first);
    }

    #[test]
    fn a_directory_without_files_is_no_model() {
        let dir = tempfile::tempdir().unwrap();
        let error = content_sha256(dir.path(), dir.path()).unwrap_err();
        assert!(error.to_string().contains("no files in it"), "{error}");
    }
}
