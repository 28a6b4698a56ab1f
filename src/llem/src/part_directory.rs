//! A place beside a file or directory that is being made, for what is not finished.

use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs_err::File;

use crate::files::{remove_tree, sync_directory};

/// Tries to find the directory as it was when it was locked.
const TRIES: usize = 100;

/// A hidden directory beside its target, on the same file system. Its lock says that somebody works there; what one that was killed has
/// left in it goes when it is opened, all of it when it is dropped.
pub(crate) struct PartDirectory {
    target: PathBuf,
    path: PathBuf,
    _lock: File,
}

impl PartDirectory {
    /// `None` while somebody else makes the same target.
    pub(crate) fn open(target: &Path) -> io::Result<Option<Self>> {
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = fs_err::canonicalize(parent)?;
        let name = target.file_name().unwrap_or_default();
        let path = parent.join(format!(".{}.llem-part", name.to_string_lossy()));
        for _ in 0..TRIES {
            match fs_err::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let lock = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            match lock.file().try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(without_locks(&path, &error)),
            }
            // Whoever worked here before may just have removed it.
            let is_same = fs_err::symlink_metadata(&path).and_then(|there| Ok(there.ino() == lock.metadata()?.ino()));
            if is_same.unwrap_or(false) {
                let part = Self { target: parent.join(name), path, _lock: lock };
                part.clear()?;
                return Ok(Some(part));
            }
        }
        Err(io::Error::other(format!("{}: it comes and goes; is somebody cleaning up there?", path.display())))
    }

    fn clear(&self) -> io::Result<()> {
        for entry in fs_err::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { remove_tree(&entry.path())? } else { fs_err::remove_file(entry.path())? }
        }
        Ok(())
    }

    /// Something in the making.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The place itself.
    pub(crate) fn directory(&self) -> &Path {
        &self.path
    }

    /// What is being made, without links.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Gives what was made, and is on disk, its name.
    pub(crate) fn publish(&self, name: &str) -> io::Result<()> {
        fs_err::rename(self.path(name), &self.target)?;
        sync_directory(self.target.parent().unwrap_or(Path::new("/")))
    }
}

impl Drop for PartDirectory {
    /// The lock goes afterwards: who takes it finds nothing or something to remove.
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(directory = %self.path.display(), %error, "left");
        }
    }
}

/// Some network file systems have no locks, and two who write one file would make one that is neither's.
fn without_locks(path: &Path, error: &io::Error) -> io::Error {
    let text = format!(
        "{} cannot be locked: {error}; the file system must have locks (Lustre: mount with `-o flock`), or name another place",
        path.display()
    );
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::PartDirectory;

    #[test]
    fn one_at_a_time_works_there_and_nothing_is_left() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("x.tar");
        let part = PartDirectory::open(&target).unwrap().unwrap();
        assert!(PartDirectory::open(&target).unwrap().is_none());
        fs_err::write(part.path("a"), "1").unwrap();
        assert!(!target.exists());
        part.publish("a").unwrap();
        fs_err::write(part.path("b"), "2").unwrap();
        drop(part);
        let left: Vec<_> = fs_err::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["x.tar"]);
    }

    #[test]
    fn what_a_killed_process_left_is_cleared() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("x");
        let hidden = root.path().join(".x.llem-part");
        fs_err::create_dir_all(hidden.join("half/way")).unwrap();
        fs_err::write(hidden.join("f"), "").unwrap();
        let part = PartDirectory::open(&target).unwrap().unwrap();
        assert_eq!(fs_err::read_dir(&hidden).unwrap().count(), 0);
        drop(part);
        assert!(!hidden.exists());
    }
}
