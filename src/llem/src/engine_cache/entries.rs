//! What is in the cache: lists, checks, names.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::acquire::{Evicted, take_away};
use super::content::{self, Finding};
use super::error::CacheError;
use super::key::{CacheKind, is_key, short};
use super::lock::{Mode, Tried, is_held, lock_soon, try_lock};
use super::manifest::Manifest;
use super::staging::CONTENT;
use super::{Bucket, EngineCache};

/// One entry as it is listed, unchecked.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What is cached.
    pub kind: CacheKind,
    /// Its key.
    pub key: String,
    /// Its directory.
    pub path: PathBuf,
    /// What it says of itself, or why that cannot be read.
    pub manifest: Result<Manifest, String>,
    /// Its size in bytes by its manifest; else by its files.
    pub size_bytes: u64,
    /// When it was last used or published.
    pub last_used: Option<Timestamp>,
}

/// The state of an entry after all of it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Every byte is what was published.
    Whole,
    /// It is not what was published, and would be built anew.
    Damaged(String),
    /// It could not be read, which says nothing about it.
    Unreadable(String),
    /// It was taken away in the meantime.
    Gone,
}

impl Entry {
    /// The first digits of its key.
    pub fn short(&self) -> &str {
        short(&self.key)
    }
}

impl EngineCache {
    /// All entries, by kind and key. Nothing is checked or locked.
    pub fn entries(&self) -> Result<Vec<Entry>, CacheError> {
        let mut entries = Vec::new();
        for kind in CacheKind::ALL {
            let bucket = self.bucket(kind);
            let mut keys = keys(&bucket.dir)?;
            keys.sort_unstable();
            entries.extend(keys.into_iter().map(|key| describe(&bucket, key)));
        }
        Ok(entries)
    }

    /// The one entry whose key starts with `prefix`.
    pub fn find(&self, prefix: &str) -> Result<Entry, CacheError> {
        let mut found: Vec<Entry> = self.entries()?.into_iter().filter(|e| e.key.starts_with(prefix)).collect();
        match (found.pop(), found.is_empty()) {
            (Some(entry), true) => Ok(entry),
            (None, _) => Err(CacheError::Unknown { prefix: prefix.to_owned() }),
            (Some(last), false) => {
                let keys = found.iter().chain([&last]).map(|entry| entry.short().to_owned()).collect();
                Err(CacheError::Ambiguous { prefix: prefix.to_owned(), keys })
            }
        }
    }

    /// Reads all of an entry and compares it with its manifest, under the lock of those who use it.
    pub fn check(&self, entry: &Entry) -> Condition {
        let bucket = self.bucket(entry.kind);
        let _shared = match lock_soon(&bucket.use_lock(&entry.key), Mode::Shared) {
            Tried::Locked(lock) => lock,
            Tried::Busy => return Condition::Unreadable("another process has the entry to itself".to_owned()),
            Tried::Unusable(why) => return Condition::Unreadable(why),
        };
        if fs_err::symlink_metadata(&entry.path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Condition::Gone;
        }
        let checked = Manifest::read(&entry.path, entry.kind, &entry.key)
            .and_then(|manifest| content::check(&entry.path.join(CONTENT), &manifest.files));
        match checked {
            Ok(()) => Condition::Whole,
            Err(Finding::Damaged(problem)) => Condition::Damaged(problem),
            Err(Finding::Unreadable(problem)) => Condition::Unreadable(problem),
        }
    }

    /// Whether somebody uses an entry now.
    pub(super) fn is_used(&self, entry: &Entry) -> bool {
        is_held(&self.bucket(entry.kind).use_lock(&entry.key))
    }

    /// Takes a listed entry away unless somebody uses it.
    pub fn remove(&self, entry: &Entry) -> Result<Evicted, CacheError> {
        Ok(take_away(&self.bucket(entry.kind), &entry.key, try_lock)?)
    }
}

/// Names of the entries of a bucket; none where it does not exist.
fn keys(bucket: &Path) -> Result<Vec<String>, CacheError> {
    let listing = match fs_err::read_dir(bucket) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let names = listing.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<String>, std::io::Error>>()?;
    Ok(names.into_iter().filter(|name| is_key(name)).collect())
}

fn describe(bucket: &Bucket, key: String) -> Entry {
    let path = bucket.entry(&key);
    let manifest = Manifest::read(&path, bucket.kind, &key).map_err(|finding| match finding {
        Finding::Damaged(problem) => format!("damaged: {problem}"),
        Finding::Unreadable(problem) => format!("cannot be read: {problem}"),
    });
    let size_bytes = manifest.as_ref().map_or_else(|_| size(&path), |manifest| manifest.size_bytes);
    let last_used = last_used(bucket, &key).or_else(|| manifest.as_ref().ok()?.created.parse().ok());
    Entry { kind: bucket.kind, key, path, manifest, size_bytes, last_used }
}

/// The stamp of the last use.
fn last_used(bucket: &Bucket, key: &str) -> Option<Timestamp> {
    let modified = fs_err::metadata(bucket.use_lock(key)).ok()?.modified().ok()?;
    Timestamp::try_from(modified).ok()
}

/// Bytes of all files below a directory, as far as they can be listed. Links are not followed.
fn size(dir: &Path) -> u64 {
    let entries = fs_err::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size(&entry.path()),
            _ => entry.metadata().map_or(0, |metadata| metadata.len()),
        })
        .fold(0, u64::saturating_add)
}
