//! Locks on GPUs, shared by all users of the machine: one study at a time measures on a GPU.
//!
//! A lock is the kernel's lock on the file `{uuid}.lock` of one directory that everybody may make files in. It ends with its process,
//! whatever ends it. Nothing is ever written into the files, and no link is followed: whoever else may write to the directory can keep a
//! lock, but not make llem touch a file elsewhere.

use std::fmt;
use std::fs::TryLockError;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat, statat};
use rustix::io::Errno;
use thiserror::Error;

/// Where users without a common directory for locks have one.
const FALLBACK: &str = "/tmp/llem-locks";

/// Why a GPU could not be locked.
#[derive(Debug, Error)]
#[error("the lock of GPU {gpu} in {} cannot be used: {source}", directory.display())]
pub struct GpuLockError {
    /// UUID of the GPU.
    pub gpu: String,
    /// The directory of the locks.
    pub directory: PathBuf,
    /// What is wrong.
    pub source: io::Error,
}

/// A GPU that this process has for itself. Ends when it is dropped.
#[derive(Debug)]
pub struct GpuLock {
    _file: std::fs::File,
}

/// Who has a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Process id, where the kernel tells.
    pub pid: Option<u32>,
    /// User id of that process.
    pub uid: Option<u32>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, self.uid) {
            (Some(pid), Some(uid)) => write!(f, "another study (process {pid} of user {uid})"),
            (Some(pid), None) => write!(f, "another study (process {pid})"),
            (None, _) => f.write_str("another study"),
        }
    }
}

/// What became of an attempt to lock.
#[derive(Debug)]
pub enum Attempt {
    /// The GPU is ours.
    Locked(GpuLock),
    /// Somebody else has it.
    Held(Holder),
}

/// Where all users of a machine find its locks: `/run/lock/llem` where everybody may write to `/run/lock`, else `/tmp/llem-locks`.
pub fn lock_directory() -> PathBuf {
    let common = Path::new("/run/lock");
    let is_common = fs_err::metadata(common).is_ok_and(|found| found.is_dir() && found.mode() & 0o1777 == 0o1777);
    if is_common { common.join("llem") } else { FALLBACK.into() }
}

/// Tries to lock a GPU; does not wait.
pub fn try_lock(gpu: &str, directory: &Path) -> Result<Attempt, GpuLockError> {
    let failed = |source: io::Error| GpuLockError { gpu: gpu.to_owned(), directory: directory.to_owned(), source };
    let opened = open_directory(directory).and_then(|directory| Ok((open_lock(&directory, gpu)?, directory)));
    let (file, directory_file) = opened.map_err(failed)?;
    match file.try_lock() {
        Ok(()) if is_current(&file, &directory_file, gpu) => Ok(Attempt::Locked(GpuLock { _file: file })),
        // Somebody cleared the directory between the two calls.
        Ok(()) => try_lock(gpu, directory),
        Err(TryLockError::WouldBlock) => Ok(Attempt::Held(holder(&file))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Opens the directory, or makes it for everybody. A link in its place is refused.
fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        found => return Ok(found?),
    }
    match mkdirat(CWD, path, Mode::from_raw_mode(0o1777)) {
        Ok(()) => {
            let made = openat(CWD, path, flags, Mode::empty())?;
            // The process's mask may have taken rights away. Only who made a directory may say who may use it.
            if fstat(&made)?.st_uid == rustix::process::geteuid().as_raw() {
                fchmod(&made, Mode::from_raw_mode(0o1777))?;
            }
            Ok(made)
        }
        Err(Errno::EXIST) => Ok(openat(CWD, path, flags, Mode::empty())?),
        Err(error) => Err(error.into()),
    }
}

/// Opens a lock file for reading, which is enough to lock it, or makes it.
fn open_lock(directory: &OwnedFd, gpu: &str) -> io::Result<std::fs::File> {
    let name = file_name(gpu);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    loop {
        // Not with O_CREAT: kernels refuse that for files of others in a directory such as this (`fs.protected_regular`).
        match openat(directory, &name, flags, Mode::empty()) {
            Ok(file) if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile => {
                return Ok(std::fs::File::from(file));
            }
            Ok(_) => return Err(io::Error::other(format!("{name} is not a regular file"))),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match openat(directory, &name, flags | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o644)) {
            Ok(made) => {
                let made = std::fs::File::from(made);
                made.set_permissions(std::fs::Permissions::from_mode(0o644))?;
                return Ok(made);
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether an open file is the one that others find under its name.
fn is_current(file: &std::fs::File, directory: &OwnedFd, gpu: &str) -> bool {
    let found = statat(directory, file_name(gpu), AtFlags::SYMLINK_NOFOLLOW);
    let own = file.metadata();
    matches!((own, found), (Ok(own), Ok(found)) if (own.dev(), own.ino()) == (found.st_dev, found.st_ino))
}

/// UUIDs are letters, digits and hyphens; whatever else a config says becomes a name, too, and no path.
fn file_name(gpu: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    format!("{}.lock", gpu.chars().map(safe).collect::<String>())
}

/// Who has the lock of a file, by the kernel's list.
fn holder(file: &std::fs::File) -> Holder {
    let Ok(metadata) = file.metadata() else { return Holder::default() };
    let locks = fs_err::read_to_string("/proc/locks").unwrap_or_default();
    let pid = locks.lines().find_map(|line| holder_in(line, metadata.dev(), metadata.ino()));
    let uid = pid.and_then(|pid| fs_err::metadata(format!("/proc/{pid}")).ok()).map(|process| process.uid());
    Holder { pid, uid }
}

/// The process in a line `1: FLOCK  ADVISORY  WRITE 4711 00:1b:1234 0 EOF`, if it is about the file. One of another PID namespace has no
/// id here.
fn holder_in(line: &str, device: u64, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace();
    // In the place of the kind, who only waits has an arrow.
    words.nth(1).filter(|kind| *kind == "FLOCK")?;
    let pid = words.nth(2)?.parse().ok().filter(|pid| *pid > 0)?;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (words.next()? == format!("{major:02x}:{minor:02x}:{inode}")).then_some(pid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{Attempt, holder_in, lock_directory, try_lock};

    #[test]
    fn a_gpu_is_held_by_one_at_a_time_and_free_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("locks");
        let Attempt::Locked(lock) = try_lock("GPU-a", &directory).unwrap() else { panic!("held") };
        match try_lock("GPU-a", &directory).unwrap() {
            Attempt::Held(holder) => assert!(holder.pid.is_none_or(|pid| pid == std::process::id()), "{holder:?}"),
            Attempt::Locked(_) => panic!("locked twice"),
        }
        assert!(matches!(try_lock("GPU-b", &directory).unwrap(), Attempt::Locked(_)));
        drop(lock);
        assert!(matches!(try_lock("GPU-a", &directory).unwrap(), Attempt::Locked(_)));
        let mode = |path| fs_err::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(directory.clone()), mode(directory.join("GPU-a.lock"))), (0o1777, 0o644));
    }

    #[test]
    fn links_and_pipes_in_place_of_locks_are_refused_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let (directory, secret) = (root.path().join("locks"), root.path().join("secret"));
        fs_err::create_dir(&directory).unwrap();
        fs_err::write(&secret, "s").unwrap();
        fs_err::os::unix::fs::symlink(&secret, directory.join("GPU-a.lock")).unwrap();
        fs_err::os::unix::fs::symlink(root.path().join("absent"), directory.join("GPU-b.lock")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(directory.join("GPU-c.lock")).status().unwrap().success());
        for gpu in ["GPU-a", "GPU-b", "GPU-c"] {
            assert!(try_lock(gpu, &directory).is_err(), "{gpu}");
        }
        assert!(!root.path().join("absent").exists());
        assert_eq!(fs_err::read(&secret).unwrap(), b"s");
        // The directory itself, too.
        fs_err::os::unix::fs::symlink(&directory, root.path().join("link")).unwrap();
        assert!(try_lock("GPU-d", &root.path().join("link")).is_err());
    }

    #[test]
    fn names_are_no_paths() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(try_lock("../../x", root.path()).unwrap(), Attempt::Locked(_)));
        assert!(root.path().join("______x.lock").exists());
    }

    #[test]
    fn the_kernels_list_names_the_holder() {
        let device = rustix::fs::makedev(0, 0x1b);
        let line = "7: FLOCK  ADVISORY  WRITE 4711 00:1b:1234 0 EOF";
        assert_eq!(holder_in(line, device, 1234), Some(4711));
        assert_eq!(holder_in(line, device, 1235), None);
        assert_eq!(holder_in("7: -> FLOCK  ADVISORY  WRITE 4711 00:1b:1234 0 EOF", device, 1234), None);
        assert_eq!(holder_in("8: POSIX  ADVISORY  WRITE 4711 00:1b:1234 0 EOF", device, 1234), None);
        assert_eq!(holder_in("9: FLOCK  ADVISORY  WRITE 0 00:1b:1234 0 EOF", device, 1234), None);
        assert!(lock_directory().is_absolute());
    }
}
