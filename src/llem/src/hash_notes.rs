//! Hashes of large files, kept so that a file is read once: what was hashed before is not read again while size, times and inode are the
//! same.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err::File;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files;

/// Folder of llem's cache with the hashes of files that were read before.
const NOTES: &str = "content-hashes-v1";

/// A file that was changed less than this ago may change again without another time stamp: its hash is not noted.
pub(crate) const SETTLED: Duration = Duration::from_secs(2);

/// A file as it was when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    pub(crate) size_bytes: u64,
    modified_ns: i64,
    changed_ns: i64,
    inode: u64,
    device: u64,
    pub(crate) sha256: String,
}

/// SHA-256 of one file, hexadecimal. It is noted under `cache_root`, where that can be written.
pub(crate) fn file_sha256(path: &Path, cache_root: &Path) -> io::Result<String> {
    let path = fs_err::canonicalize(path)?;
    let notes_path = notes_path(&path, cache_root);
    let old = read_notes(&notes_path);
    let (noted, settled) = note(&path, old.get(""))?;
    let sha256 = noted.sha256.clone();
    if settled && old.get("") != Some(&noted) {
        // Without the note it is read again the next time.
        let _ = write_notes(&notes_path, &BTreeMap::from([(String::new(), noted)]));
    }
    Ok(sha256)
}

/// Where the notes of a file or directory are; `of` has no links in it.
pub(crate) fn notes_path(of: &Path, cache_root: &Path) -> PathBuf {
    let name = hex::encode(Sha256::digest(of.as_os_str().as_encoded_bytes()));
    cache_root.join(NOTES).join(format!("{name}.json"))
}

/// The notes of earlier times, by the names of files; none where they cannot be read.
pub(crate) fn read_notes(path: &Path) -> BTreeMap<String, Note> {
    fs_err::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Keeps notes whole or not at all.
pub(crate) fn write_notes(path: &Path, notes: &BTreeMap<String, Note>) -> io::Result<()> {
    fs_err::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    files::write_atomic(path, &serde_json::to_vec(notes)?)
}

/// The file's note, from before or made now, and whether it may be kept.
pub(crate) fn note(path: &Path, old: Option<&Note>) -> io::Result<(Note, bool)> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let stamp = |seconds: i64, ns: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(ns);
    let mut note = Note {
        size_bytes: metadata.len(),
        modified_ns: stamp(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: stamp(metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
        device: metadata.dev(),
        sha256: String::new(),
    };
    if let Some(old) = old {
        note.sha256.clone_from(&old.sha256);
        if note == *old {
            return Ok((note, true));
        }
    }
    let (read, sha256) = files::hash_into(&mut file, &mut io::sink())?;
    note.sha256 = sha256;
    if read != note.size_bytes {
        let text = format!("{}: changed while it was read; run again when nobody writes to it", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let changed = SystemTime::UNIX_EPOCH + Duration::from_nanos(note.changed_ns.max(note.modified_ns).max(0) as u64);
    Ok((note, changed.elapsed().is_ok_and(|age| age > SETTLED)))
}
