//! Locks between processes and machines that share a cache. The kernel gives them back when their process ends, however it ends.

use std::fs::TryLockError;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use fs_err::os::unix::fs::OpenOptionsExt;
use fs_err::{File, OpenOptions};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::content::{careful, open_file};
use crate::printable::printable;

/// How long a lock that is only ever held for moments is waited for.
const MOMENT: Duration = Duration::from_secs(10);

/// Time between two looks at a lock.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// Most bytes of a lock file that are read.
const MAX_HOLDER_BYTES: u64 = 4096;

/// With whom a lock is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// With all who also share it.
    Shared,
    /// With nobody.
    Exclusive,
}

/// A lock that is held until this value is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

/// What came of trying to lock.
#[derive(Debug)]
pub(super) enum Tried {
    /// It is ours.
    Locked(Lock),
    /// Somebody else has it.
    Busy,
    /// It cannot be locked here: a read-only directory, or a file system without locks.
    Unusable(String),
}

/// Who holds a lock: what its file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id on its machine.
    pub pid: u32,
    /// Name of its machine.
    pub host: String,
    /// Since when, UTC.
    pub since: String,
}

impl Holder {
    fn this_process() -> Self {
        Self { pid: std::process::id(), host: host_name(), since: Timestamp::now().strftime("%FT%TZ").to_string() }
    }

    /// What the file of a lock says; it may be about a holder before.
    pub(super) fn read(path: &Path) -> Option<Self> {
        use std::io::Read;
        let mut text = Vec::new();
        open_file(path).ok()?.take(MAX_HOLDER_BYTES).read_to_end(&mut text).ok()?;
        let found: Self = serde_json::from_slice(&text).ok()?;
        // Whoever wrote it may have written anything.
        Some(Self { host: printable(&found.host), since: printable(&found.since), ..found })
    }
}

/// The name of this machine.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Tries to take the lock of a file, which is made when it is not there.
pub(super) fn try_lock(path: &Path, mode: Mode) -> Tried {
    loop {
        let file = match open(path) {
            Ok(file) => file,
            Err(error) => return Tried::Unusable(error.to_string()),
        };
        let tried = match mode {
            Mode::Shared => file.file().try_lock_shared(),
            Mode::Exclusive => file.file().try_lock(),
        };
        match tried {
            // Whoever cleans up removes lock files too: a lock counts only while its file has its name.
            Ok(()) if is_at(&file, path) => return Tried::Locked(Lock { file }),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Tried::Busy,
            Err(TryLockError::Error(error)) => {
                return Tried::Unusable(format!("{} cannot be locked: {error}", path.display()));
            }
        }
    }
}

/// Takes a lock that others hold for moments only.
pub(super) fn lock_soon(path: &Path, mode: Mode) -> Tried {
    let started = Instant::now();
    loop {
        match try_lock(path, mode) {
            Tried::Busy if started.elapsed() < MOMENT => std::thread::sleep(POLL),
            other => return other,
        }
    }
}

/// Whether somebody holds a lock. Makes no file; what cannot be looked at is not held.
pub(super) fn is_held(path: &Path) -> bool {
    open_file(path).is_ok_and(|file| matches!(file.file().try_lock(), Err(TryLockError::WouldBlock)))
}

/// A lock can also be taken on a file that may only be read: one of another user's, or on a read-only mount. A link in its place is not
/// followed: it would let whoever made it choose which file is written to.
fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(careful());
    match options.open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            open_file(path).map_err(|_| error)
        }
        Ok(file) if !file.metadata()?.is_file() => {
            Err(std::io::Error::new(ErrorKind::InvalidInput, format!("{}: not a plain file", path.display())))
        }
        other => other,
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), fs_err::symlink_metadata(path)) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

impl Lock {
    /// Writes into the lock's file who holds it. For messages only: what cannot be written is not missed.
    pub(super) fn sign(&self) {
        use std::os::unix::fs::FileExt;
        let Ok(text) = serde_json::to_vec(&Holder::this_process()) else { return };
        let file = self.file.file();
        let _ = file.set_len(0).and_then(|()| file.write_all_at(&text, 0));
    }

    /// Sets the time of the last change of the lock's file to now: the stamp of an entry's last use.
    pub(super) fn touch(&self) -> std::io::Result<()> {
        let now = std::time::SystemTime::now();
        self.file.file().set_times(std::fs::FileTimes::new().set_modified(now).set_accessed(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let Tried::Locked(first) = try_lock(&path, Mode::Exclusive) else { panic!("free") };
        first.sign();
        assert_eq!(Holder::read(&path).unwrap().pid, std::process::id());
        assert!(matches!(try_lock(&path, Mode::Shared), Tried::Busy));
        drop(first);
        let shared = [try_lock(&path, Mode::Shared), try_lock(&path, Mode::Shared)];
        assert!(shared.iter().all(|tried| matches!(tried, Tried::Locked(_))));
        assert!(matches!(try_lock(&path, Mode::Exclusive), Tried::Busy));
    }

    #[test]
    fn a_lock_whose_file_was_replaced_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let Tried::Locked(old) = try_lock(&path, Mode::Exclusive) else { panic!("free") };
        fs_err::remove_file(&path).unwrap();
        assert!(!is_at(&old.file, &path));
        assert!(matches!(try_lock(&path, Mode::Exclusive), Tried::Locked(_)), "the file of that name is another one");
    }

    #[test]
    fn what_is_no_plain_file_is_no_lock_and_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, link) = (dir.path().join("victim"), dir.path().join("l"));
        fs_err::os::unix::fs::symlink(&victim, &link).unwrap();
        assert!(matches!(try_lock(&link, Mode::Exclusive), Tried::Unusable(_)));
        assert!(!victim.exists() && Holder::read(&link).is_none() && !is_held(&link));
        assert!(matches!(try_lock(dir.path(), Mode::Exclusive), Tried::Unusable(_)));
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_locks() {
        let dir = tempfile::tempdir().unwrap();
        let Tried::Unusable(why) = try_lock(&dir.path().join("no/l"), Mode::Exclusive) else { panic!("no directory") };
        assert!(why.contains("no/l"), "{why}");
    }
}
