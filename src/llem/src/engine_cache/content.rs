//! What a builder wrote, which nobody vouches for: looked at, hashed, checked, copied. Links are never followed.

use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use fs_err::os::unix::fs::OpenOptionsExt;
use fs_err::{File, OpenOptions};
use serde::{Deserialize, Serialize};

use super::error::CacheError;
use crate::files;

/// Most files and directories of an entry. The compile cache of a large model has thousands.
const MAX_FILES: usize = 100_000;

/// Most bytes of an entry.
pub(super) const MAX_BYTES: u64 = 1 << 42;

/// Deepest nesting of directories.
const MAX_DEPTH: usize = 32;

/// Longest path inside an entry, in bytes.
const MAX_PATH_BYTES: usize = 1024;

/// A file of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Where it is below `content/`.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
}

/// What became of a check.
#[derive(Debug)]
pub(super) enum Finding {
    /// It is not what was published. Nothing can be done with it.
    Damaged(String),
    /// It cannot be read now; that says nothing about what it is.
    Unreadable(String),
}

/// Files and directories below one directory, sorted, as paths relative to it.
#[derive(Default)]
struct Listing {
    files: Vec<String>,
    directories: Vec<String>,
}

/// Hashes all files below `dir`, takes the right to write them away, and has them on disk when it returns.
pub(super) fn seal(dir: &Path) -> Result<Vec<FileRecord>, CacheError> {
    let listing = list(dir)?;
    if listing.files.is_empty() {
        return Err(refused(dir, "the builder left no file"));
    }
    let mut records = Vec::with_capacity(listing.files.len());
    let mut total = 0_u64;
    for path in listing.files {
        let (record, file) = hash(dir, &path, &mut io::sink())?;
        total = total.saturating_add(record.size_bytes);
        if total > MAX_BYTES {
            return Err(refused(dir, format!("more than {MAX_BYTES} bytes")));
        }
        let mode = file.metadata()?.permissions().mode();
        file.set_permissions(std::fs::Permissions::from_mode((mode & 0o555) | 0o444))?;
        file.sync_all()?;
        records.push(record);
    }
    for directory in listing.directories.iter().map(|path| dir.join(path)).chain([dir.to_owned()]) {
        fs_err::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
        files::sync_directory(&directory)?;
    }
    Ok(records)
}

/// Whether the files below `dir` are exactly these, byte for byte.
pub(super) fn check(dir: &Path, records: &[FileRecord]) -> Result<(), Finding> {
    check_names(dir, records)?;
    for record in records {
        let (found, _) = hash(dir, &record.path, &mut io::sink()).map_err(finding)?;
        differs(record, &found)?;
    }
    Ok(())
}

/// Copies these files to `target`, which must not exist, and checks what was copied.
pub(super) fn copy(dir: &Path, records: &[FileRecord], target: &Path) -> Result<(), Finding> {
    check_names(dir, records)?;
    let unwritable = |error: io::Error| Finding::Unreadable(error.to_string());
    fs_err::create_dir_all(target).map_err(unwritable)?;
    for record in records {
        let path = target.join(&record.path);
        fs_err::create_dir_all(path.parent().unwrap_or(target)).map_err(unwritable)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let mut copied = options.open(&path).map_err(unwritable)?;
        let (found, source) = hash(dir, &record.path, &mut copied).map_err(finding)?;
        differs(record, &found)?;
        let mode = source.metadata().map_err(unwritable)?.permissions().mode();
        copied.set_permissions(std::fs::Permissions::from_mode((mode & 0o777) | 0o600)).map_err(unwritable)?;
    }
    Ok(())
}

/// Names and sizes are looked at before gigabytes are read.
fn check_names(dir: &Path, records: &[FileRecord]) -> Result<(), Finding> {
    let found = list(dir).map_err(finding)?;
    let mut expected: Vec<&str> = records.iter().map(|record| record.path.as_str()).collect();
    expected.sort_unstable();
    if let Some(extra) = found.files.iter().find(|path| expected.binary_search(&path.as_str()).is_err()) {
        return Err(Finding::Damaged(format!("{extra} was not in it")));
    }
    for record in records {
        let path = dir.join(&record.path);
        let metadata = fs_err::symlink_metadata(&path).map_err(|error| finding(CacheError::Io(error)))?;
        if metadata.len() != record.size_bytes {
            let text = format!("{} has {} bytes, not {}", record.path, metadata.len(), record.size_bytes);
            return Err(Finding::Damaged(text));
        }
    }
    Ok(())
}

fn differs(expected: &FileRecord, found: &FileRecord) -> Result<(), Finding> {
    if found == expected {
        return Ok(());
    }
    Err(Finding::Damaged(format!("the content of {} is not what was published", expected.path)))
}

/// An entry that lacks a file is damaged; one that this user or this moment cannot read is not.
fn finding(error: CacheError) -> Finding {
    match error {
        CacheError::Io(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::InvalidInput => {
                Finding::Damaged(error.to_string())
            }
            _ => Finding::Unreadable(error.to_string()),
        },
        other => Finding::Damaged(other.to_string()),
    }
}

/// Flags with which files of strangers are opened: a link is not followed, a pipe not waited for.
pub(super) fn careful() -> i32 {
    (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed()
}

/// Opens a plain file for reading; whatever else has its name is [`ErrorKind::InvalidInput`].
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let no_file = || io::Error::new(ErrorKind::InvalidInput, format!("{}: not a plain file", path.display()));
    if !fs_err::symlink_metadata(path)?.is_file() {
        return Err(no_file());
    }
    let mut options = OpenOptions::new();
    // It may have become something else since.
    let file = options.read(true).custom_flags(careful()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file()) }
}

fn hash(dir: &Path, path: &str, sink: &mut impl Write) -> Result<(FileRecord, File), CacheError> {
    let mut file = open_file(&dir.join(path))?;
    let (size_bytes, sha256) = files::hash_into(&mut file, sink)?;
    Ok((FileRecord { path: path.to_owned(), size_bytes, sha256 }, file))
}

fn list(dir: &Path) -> Result<Listing, CacheError> {
    let mut listing = Listing::default();
    // A link in place of the directory itself would lead anywhere.
    if !fs_err::symlink_metadata(dir)?.is_dir() {
        return Err(refused(dir, "not a directory"));
    }
    walk(dir, &PathBuf::new(), 0, &mut listing)?;
    listing.files.sort_unstable();
    Ok(listing)
}

fn walk(root: &Path, below: &Path, depth: usize, listing: &mut Listing) -> Result<(), CacheError> {
    for entry in fs_err::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let name = usable_name(&path).ok_or_else(|| refused(&entry.path(), "a name that is not plain text"))?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < MAX_DEPTH {
            listing.directories.push(name);
            walk(root, &path, depth + 1, listing)?;
        } else if kind.is_file() {
            listing.files.push(name);
        } else {
            let what = if kind.is_dir() { "nested too deeply" } else { "neither a file nor a directory" };
            return Err(refused(&entry.path(), what));
        }
        if listing.files.len() + listing.directories.len() > MAX_FILES {
            return Err(refused(root, format!("more than {MAX_FILES} files")));
        }
    }
    Ok(())
}

/// The path as text, if it is one that a manifest can hold and a terminal can show.
fn usable_name(path: &Path) -> Option<String> {
    let name = path.to_str().filter(|name| name.len() <= MAX_PATH_BYTES)?;
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && !name.chars().any(char::is_control)).then(|| name.to_owned())
}

/// Whether a manifest's path stays inside the entry.
pub(super) fn is_inside(path: &str) -> bool {
    !path.is_empty() && usable_name(Path::new(path)).is_some()
}

fn refused(path: &Path, problem: impl Into<String>) -> CacheError {
    let path = PathBuf::from(crate::printable::printable(&path.to_string_lossy()));
    CacheError::Content { path, problem: problem.into() }
}
