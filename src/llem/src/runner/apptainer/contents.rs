//! The files of an archive with their digests.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use fs_err::File;
use serde::de::DeserializeOwned;

use crate::files::hash_into;

/// Largest description of an image that is read, in bytes.
const MAX_DESCRIPTION_BYTES: u64 = 16 << 20;

/// What files begin with that gzip, zstd, bzip2 and xz made.
const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"];

/// What is in an archive, read once to its end.
pub(super) struct Content<'a> {
    path: &'a Path,
    /// SHA-256 of every file, and how it begins.
    files: BTreeMap<PathBuf, (String, Vec<u8>)>,
    /// `docker save` writes a layer that two images share once.
    links: BTreeMap<PathBuf, PathBuf>,
}

impl<'a> Content<'a> {
    /// Reads an archive to its end.
    pub(super) fn read(path: &'a Path) -> Result<Self, String> {
        refuse_compressed(path)?;
        let (mut files, mut links) = (BTreeMap::new(), BTreeMap::new());
        each_entry(path, |name, entry| {
            let kind = entry.header().entry_type();
            if let Some(target) = entry.link_name()?.filter(|_| kind.is_symlink() || kind.is_hard_link()) {
                let place = name.parent().filter(|_| kind.is_symlink()).unwrap_or(Path::new(""));
                links.insert(name.clone(), plain(&place.join(target)));
            } else if kind.is_file() {
                let mut start = Vec::new();
                entry.by_ref().take(8).read_to_end(&mut start)?;
                let size_bytes = entry.size();
                let (bytes, sha256) = hash_into(&mut start.as_slice().chain(entry), &mut io::sink())?;
                if bytes < size_bytes {
                    return Err(io::Error::other(format!("it ends in the middle of {}", name.display())));
                }
                files.insert(name, (sha256, start));
            }
            Ok(true)
        })?;
        Ok(Self { path, files, links })
    }

    /// A file by its name, or by that of a link to it.
    fn find(&self, name: &str) -> Option<(&PathBuf, &(String, Vec<u8>))> {
        let name = plain(Path::new(name));
        self.files.get_key_value(self.links.get(&name).unwrap_or(&name))
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether a file begins as a compressed one.
    pub(super) fn is_compressed(&self, name: &str) -> bool {
        self.find(name).is_some_and(|(_, (_, start))| begins_compressed(start))
    }

    /// Compares every file whose name is its digest.
    pub(super) fn compare_blobs(&self) -> Result<(), String> {
        let name = |path: &PathBuf| path.to_string_lossy().into_owned();
        self.files.keys().map(name).filter(|name| is_blob(name)).try_for_each(|blob| {
            let digest = blob.rsplit('/').next().unwrap_or_default();
            self.compare(&blob, digest)
        })
    }

    /// Compares a file with the SHA-256 that it must have.
    pub(super) fn compare(&self, name: &str, expected: &str) -> Result<(), String> {
        let (_, (found, _)) = self.find(name).ok_or_else(|| format!("{name} is not in it"))?;
        if found == expected {
            return Ok(());
        }
        Err(format!("it is damaged: the SHA-256 of {name} is {found}, and must be {expected}"))
    }

    /// What a file of JSON says.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, String> {
        let (wanted, _) = self.find(name).ok_or_else(|| format!("{name} is not in it"))?;
        let mut text = Vec::new();
        each_entry(self.path, |found, entry| {
            let is_it = found == *wanted;
            if is_it {
                entry.take(MAX_DESCRIPTION_BYTES).read_to_end(&mut text)?;
            }
            Ok(!is_it)
        })?;
        serde_json::from_slice(&text).map_err(|error| format!("{name}: {error}"))
    }
}

/// Whether the last part of a file's name is the digest of its content.
fn is_blob(name: &str) -> bool {
    name.trim_start_matches("./").starts_with("blobs/sha256/")
}

fn begins_compressed(start: &[u8]) -> bool {
    COMPRESSED.iter().any(|magic| start.starts_with(magic))
}

fn refuse_compressed(path: &Path) -> Result<(), String> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(8).read_to_end(&mut start));
    read.map_err(|error| error.to_string())?;
    if begins_compressed(&start) {
        return Err("it is compressed: unpack it first (`gunzip`, `unzstd`, …)".to_owned());
    }
    Ok(())
}

/// Calls `look` with the entries of an archive, until it returns false.
fn each_entry(
    path: &Path,
    mut look: impl FnMut(PathBuf, &mut tar::Entry<'_, File>) -> io::Result<bool>,
) -> Result<(), String> {
    let mut go = || -> io::Result<()> {
        let mut archive = tar::Archive::new(File::open(path)?);
        for entry in archive.entries_with_seek()? {
            let mut entry = entry?;
            let name = plain(&entry.path()?);
            if !look(name, &mut entry)? {
                break;
            }
        }
        Ok(())
    };
    go().map_err(|error| format!("it is no tar archive, or damaged: {error}"))
}

/// A path within an archive, without what leads nowhere or out of it.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
        plain
    })
}
