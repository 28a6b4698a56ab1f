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

/// A file that was looked at, to be noted when it is still the same afterwards.
pub(crate) struct Looked {
    path: PathBuf,
    note: Note,
}

impl Looked {
    /// The file as it is now.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let path = fs_err::canonicalize(path)?;
        let (note, _) = stamp(&fs_err::metadata(&path)?);
        Ok(Self { path, note })
    }

    /// What was found out about exactly this file earlier, under that name.
    pub(crate) fn noted(&self, what: &str, cache_root: &Path) -> Option<String> {
        let old = read_notes(&notes_path(&self.path, cache_root)).remove(what)?;
        (Note { sha256: String::new(), ..old.clone() } == self.note).then_some(old.sha256)
    }

    /// Whether the file is as it was.
    pub(crate) fn is_same(&self) -> bool {
        fs_err::metadata(&self.path).is_ok_and(|metadata| stamp(&metadata).0 == self.note)
    }

    /// Notes what was found out, if the file has been left alone; without the note it is found out anew.
    pub(crate) fn keep(&self, what: &str, sha256: &str, cache_root: &Path) {
        if is_settled(&self.note) && self.is_same() {
            let note = Note { sha256: sha256.to_owned(), ..self.note.clone() };
            let _ = write_notes(&notes_path(&self.path, cache_root), &BTreeMap::from([(what.to_owned(), note)]));
        }
    }
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

/// Notes the hash of files of one directory, by their names, that were just written there and hashed on the way.
pub(crate) fn note_written(directory: &Path, hashes: &BTreeMap<String, String>, cache_root: &Path) -> io::Result<()> {
    let directory = fs_err::canonicalize(directory)?;
    let mut notes = BTreeMap::new();
    for (name, sha256) in hashes {
        let (mut noted, settled) = stamp(&fs_err::metadata(directory.join(name))?);
        if settled {
            noted.sha256.clone_from(sha256);
            notes.insert(name.clone(), noted);
        }
    }
    if notes.is_empty() { Ok(()) } else { write_notes(&notes_path(&directory, cache_root), &notes) }
}

/// The file's note, from before or made now, and whether it may be kept.
pub(crate) fn note(path: &Path, old: Option<&Note>) -> io::Result<(Note, bool)> {
    let mut file = File::open(path)?;
    let (mut note, _) = stamp(&file.metadata()?);
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
    let settled = is_settled(&note);
    Ok((note, settled))
}

/// A note without a hash, and whether the file has been left alone for long enough.
fn stamp(metadata: &std::fs::Metadata) -> (Note, bool) {
    let stamp = |seconds: i64, ns: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(ns);
    let note = Note {
        size_bytes: metadata.len(),
        modified_ns: stamp(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: stamp(metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
        device: metadata.dev(),
        sha256: String::new(),
    };
    let settled = is_settled(&note);
    (note, settled)
}

fn is_settled(note: &Note) -> bool {
    let changed = SystemTime::UNIX_EPOCH + Duration::from_nanos(note.changed_ns.max(note.modified_ns).max(0) as u64);
    changed.elapsed().is_ok_and(|age| age > SETTLED)
}
