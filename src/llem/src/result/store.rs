//! The study directory: made once, filled file by file, each file whole or absent.

use std::fs::TryLockError;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fs_err::File;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::design::source_name;
use super::{Design, Journal, RunDirectory, StudyFiles, StudyResult};
use crate::config::Experiment;
use crate::files::write_atomic_with;

/// Longest attempt to find a free directory name.
const COLLISIONS: u32 = 1000;

/// Name of the journal.
pub(super) const JOURNAL: &str = "journal.jsonl";

/// Results could not be written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file operation; the message names the path.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A record that cannot be expressed.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// serde's account.
        source: serde_json::Error,
    },
    /// A file of a study that is not as llem wrote it.
    #[error("{}: damaged: {problem}; restore it, or run the study anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A Parquet file could not be written.
    #[error("{path}: {source}")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The library's account.
        source: parquet::errors::ParquetError,
    },
    /// A column that has no form as text.
    #[error("column `{0}` of experiments.csv cannot be written as text")]
    NoText(&'static str),
    /// All names are taken.
    #[error("{0}: this directory and {COLLISIONS} numbered ones beside it exist; choose another output directory")]
    Taken(PathBuf),
    /// Another controller has the study.
    #[error("{}: {} carries out this study; wait until it has ended, or stop it", directory.display(), holder(*pid))]
    Held {
        /// The study's directory.
        directory: PathBuf,
        /// Process id of the controller, where it told.
        pid: Option<u32>,
    },
    /// A directory that holds no study that can go on.
    #[error("{}: no `design.json` is in it: it is no study directory, or one that has not begun; name another, or run the study anew", .0.display())]
    NoStudy(PathBuf),
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another llem".to_owned(), |pid| format!("another llem (process {pid})"))
}

impl StoreError {
    /// Whether there was no space left.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded))
    }

    pub(super) fn json(path: &Path, source: serde_json::Error) -> Self {
        Self::Json { path: path.to_owned(), source }
    }
}

/// The directory of one study, locked as long as this value lives.
#[derive(Debug)]
pub struct StudyDirectory {
    files: StudyFiles,
    lock: File,
    lock_path: PathBuf,
    keeps_lock_file: AtomicBool,
}

impl StudyDirectory {
    /// Creates `{name}_{UTC}` under `root`, with a counter when the name is taken, and locks it.
    pub fn create(root: &Path, name: &str) -> Result<Self, StoreError> {
        fs_err::create_dir_all(root)?;
        let root = fs_err::canonicalize(root)?;
        let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let base = root.join(format!("{name}_{stamp}"));
        let path = (1..=COLLISIONS)
            .map(|n| if n == 1 { base.clone() } else { root.join(format!("{name}_{stamp}-{n}")) })
            .find_map(|candidate| match fs_err::create_dir(&candidate) {
                Ok(()) => Some(Ok(candidate)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => None,
                Err(error) => Some(Err(error)),
            })
            .ok_or_else(|| StoreError::Taken(base.clone()))??;
        fs_err::create_dir(path.join("runs"))?;
        Self::lock(path)
    }

    /// Opens and locks the directory of a study that goes on.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = fs_err::canonicalize(path)?;
        if !path.join("design.json").is_file() {
            return Err(StoreError::NoStudy(path));
        }
        fs_err::create_dir_all(path.join("runs"))?;
        Self::lock(path)
    }

    fn lock(path: PathBuf) -> Result<Self, StoreError> {
        let lock_path = path.join(".lock");
        loop {
            let lock =
                fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path)?;
            match lock.file().try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let pid = fs_err::read_to_string(&lock_path).ok().and_then(|text| text.trim().parse().ok());
                    return Err(StoreError::Held { directory: path, pid });
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            // Its last holder may have removed the file between our two calls: then others lock another one.
            let inode = |found: std::io::Result<std::fs::Metadata>| found.map(|found| found.ino()).ok();
            if inode(lock.metadata()) == inode(fs_err::metadata(&lock_path)) {
                lock.set_len(0)?;
                (&mut &lock).write_all(std::process::id().to_string().as_bytes())?;
                return Ok(Self {
                    files: StudyFiles::of(path),
                    lock,
                    lock_path,
                    keeps_lock_file: AtomicBool::new(false),
                });
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// What is in it.
    pub fn files(&self) -> &StudyFiles {
        &self.files
    }

    /// The directory's name: the study's identity.
    pub fn study_id(&self) -> String {
        self.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The file whose lock says that the study's controller lives.
    pub fn lock_path(&self) -> &Path {
        &self.lock_path
    }

    /// Leaves the lock file behind, unlocked: it tells the next controller that a container of this study is an orphan.
    pub fn keep_lock_file(&self) {
        self.keeps_lock_file.store(true, Ordering::Relaxed);
    }

    /// Keeps the study file as it was run, then what it means. From then on the study can be resumed.
    pub fn write_design(
        &self,
        design: &Design,
        source: Option<&str>,
        experiments: &[Experiment],
    ) -> Result<(), StoreError> {
        if let Some(text) = source {
            write_atomic(&self.path().join(source_name(design.revision)), text.as_bytes())?;
        }
        design.write(self.path(), experiments)?;
        Ok(crate::files::sync_directory(self.path())?)
    }

    /// What the study is run with.
    pub fn lock_file(&self) -> PathBuf {
        self.path().join("study.lock.json")
    }

    /// Writes `study.lock.json`: what the study is run with.
    pub fn write_lock(&self, lock: &impl Serialize) -> Result<(), StoreError> {
        let path = self.lock_file();
        let mut text = serde_json::to_vec_pretty(lock).map_err(|source| StoreError::json(&path, source))?;
        text.push(b'\n');
        write_atomic(&path, &text)
    }

    /// Creates the journal of this new study.
    pub fn create_journal(&self) -> Result<Journal, StoreError> {
        let journal = Journal::create(&self.path().join(JOURNAL))?;
        crate::files::sync_directory(self.path())?;
        Ok(journal)
    }

    /// Opens the journal of this study, which goes on.
    pub fn open_journal(&self) -> Result<Journal, StoreError> {
        Journal::open(&self.path().join(JOURNAL))
    }

    /// Creates the directory of a run, with the volume that its agent writes to.
    pub fn run(&self, run_id: &str) -> Result<RunDirectory, StoreError> {
        let path = self.path().join("runs").join(run_id);
        fs_err::create_dir(&path)?;
        let run = RunDirectory::at(path);
        fs_err::create_dir(run.volume())?;
        Ok(run)
    }

    /// Writes `study.json`, `runs.parquet`, and `experiments.parquet` with the same as CSV.
    pub fn write_result(&self, result: &StudyResult) -> Result<(), StoreError> {
        super::parquet::write_experiments(self.path(), result)?;
        super::parquet::write_runs(&self.path().join("runs.parquet"), result)?;
        let write = |file: &mut dyn Write| {
            serde_json::to_writer_pretty(&mut *file, result)?;
            file.write_all(b"\n")
        };
        Ok(write_atomic_with(&self.path().join("study.json"), |file| write(file))?)
    }
}

impl Drop for StudyDirectory {
    fn drop(&mut self) {
        // A lock file without a controller is of use only to those who find a container of the study. It is removed while it is still
        // held: whoever opened it meanwhile finds that it is gone, see `lock`.
        if !self.keeps_lock_file.load(Ordering::Relaxed) {
            let _ = fs_err::remove_file(&self.lock_path);
        }
        let _ = self.lock.file().unlock();
    }
}

/// What a file is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
}

impl FileIdentity {
    /// Of a file's content.
    pub fn of(content: &[u8]) -> Self {
        Self { bytes: content.len() as u64, sha256: hex::encode(Sha256::digest(content)) }
    }
}

/// As [`crate::files::write_atomic`].
pub(super) fn write_atomic(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    Ok(crate::files::write_atomic(path, content)?)
}

#[cfg(test)]
mod tests;
