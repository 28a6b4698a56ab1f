//! Directories in which entries are made, before they have their name.
//!
//! Each has a lock file beside it, held by its builder as long as that lives: whoever can take the lock may remove the directory.

use std::path::{Path, PathBuf};

use super::error::CacheError;
use super::lock::{Lock, Mode, Tried, try_lock};
use super::random_digits;
use crate::files;

/// The part of an entry that engines see.
pub(super) const CONTENT: &str = "content";

/// Ending of the lock file beside a staging directory.
const LOCK_ENDING: &str = ".lock";

/// Attempts to find a free name.
const ATTEMPTS: u32 = 100;

/// A directory that is removed with its lock file when this value is dropped, unless it was renamed away.
#[derive(Debug)]
pub(super) struct Staging {
    dir: PathBuf,
    lock_path: PathBuf,
    /// Absent where nothing can be locked: then nobody cleans up either.
    lock: Option<Lock>,
}

impl Staging {
    /// Makes `parent/{name}-{random}/content`.
    pub(super) fn create(parent: &Path, name: &str) -> Result<Self, CacheError> {
        fs_err::create_dir_all(parent)?;
        for _ in 0..ATTEMPTS {
            let dir = parent.join(format!("{name}-{}", random_digits()));
            let lock_path = with_ending(&dir);
            let lock = match try_lock(&lock_path, Mode::Exclusive) {
                Tried::Locked(lock) => Some(lock),
                Tried::Busy => continue,
                Tried::Unusable(_) => None,
            };
            let staging = Self { dir, lock_path, lock };
            fs_err::create_dir(&staging.dir)?;
            fs_err::create_dir(staging.content())?;
            return Ok(staging);
        }
        Err(CacheError::Content { path: parent.to_owned(), problem: "no free name for a new directory".to_owned() })
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the builder fills.
    pub(super) fn content(&self) -> PathBuf {
        self.dir.join(CONTENT)
    }

    /// Whether others can see that its builder lives.
    pub(super) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What is left is removed by the next builder; the lock is released last.
        if files::remove_tree(&self.dir).is_ok() {
            let _ = fs_err::remove_file(&self.lock_path);
        }
        self.lock = None;
    }
}

fn with_ending(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(LOCK_ENDING);
    PathBuf::from(name)
}

/// Removes what dead builders left in `parent` and returns how many directories that were.
pub(super) fn clean(parent: &Path) -> usize {
    let mut names: Vec<_> = fs_err::read_dir(parent).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
    names.sort();
    let mut removed = 0;
    for name in names {
        let name = name.to_string_lossy();
        let dir = parent.join(name.strip_suffix(LOCK_ENDING).unwrap_or(&name));
        let lock_path = with_ending(&dir);
        let Tried::Locked(_dead) = try_lock(&lock_path, Mode::Exclusive) else { continue };
        let was_there = dir.exists();
        if files::remove_tree(&dir).is_ok() {
            removed += usize::from(was_there);
            let _ = fs_err::remove_file(&lock_path);
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_living_builder_has_stays_and_what_a_dead_one_left_goes() {
        let root = tempfile::tempdir().unwrap();
        let living = Staging::create(root.path(), "a").unwrap();
        assert!(living.is_locked() && living.content().is_dir());
        let dead = root.path().join("a-0000000000000000");
        fs_err::create_dir_all(dead.join("content")).unwrap();
        fs_err::write(root.path().join("b-0.lock"), "").unwrap();
        assert_eq!(clean(root.path()), 1);
        assert!(!dead.exists() && living.content().is_dir());
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 2, "the living one and its lock");
        drop(living);
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 0);
    }
}
