//! The study directory: made once, filled file by file, each file whole or absent.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fs_err::File;
use jiff::Timestamp;
use llem_protocol::{Job, files};
use serde::Serialize;
use thiserror::Error;

use super::{Journal, RunResult, StudyResult};

/// Longest attempt to find a free directory name.
const COLLISIONS: u32 = 1000;

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
}

impl StoreError {
    pub(super) fn json(path: &Path, source: serde_json::Error) -> Self {
        Self::Json { path: path.to_owned(), source }
    }
}

/// The directory of one study, locked as long as this value lives.
#[derive(Debug)]
pub struct StudyDirectory {
    path: PathBuf,
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
        let lock_path = path.join(".lock");
        let lock = File::create(&lock_path)?;
        lock.file().lock()?;
        Ok(Self { path, lock, lock_path, keeps_lock_file: AtomicBool::new(false) })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory's name: the study's identity.
    pub fn study_id(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The file whose lock says that the study's controller lives.
    pub fn lock_path(&self) -> &Path {
        &self.lock_path
    }

    /// Leaves the lock file behind, unlocked: it tells the next controller that a container of this study is an orphan.
    pub fn keep_lock_file(&self) {
        self.keeps_lock_file.store(true, Ordering::Relaxed);
    }

    /// Keeps the study file as it was run.
    pub fn write_source(&self, text: &str) -> Result<(), StoreError> {
        write_atomic(&self.path.join("study.yaml"), text.as_bytes())
    }

    /// Writes `study.lock.json`: what the study is run with.
    pub fn write_lock(&self, lock: &impl Serialize) -> Result<(), StoreError> {
        write_json(&self.path.join("study.lock.json"), lock)
    }

    /// Opens the journal of this new study.
    pub fn journal(&self) -> Result<Journal, StoreError> {
        Journal::create(&self.path.join("journal.jsonl"))
    }

    /// Creates the directory of a run, with the volume that its agent writes to.
    pub fn run(&self, run_id: &str) -> Result<RunDirectory, StoreError> {
        let path = self.path.join("runs").join(run_id);
        fs_err::create_dir(&path)?;
        let volume = path.join(".volume");
        fs_err::create_dir(&volume)?;
        Ok(RunDirectory { path, volume })
    }

    /// Writes `study.json`, `experiments.parquet` with the same as CSV, and `runs.parquet`.
    pub fn write_result(&self, result: &StudyResult) -> Result<(), StoreError> {
        super::parquet::write_experiments(&self.path, result)?;
        super::parquet::write_runs(&self.path.join("runs.parquet"), result)?;
        write_json(&self.path.join("study.json"), result)
    }
}

impl Drop for StudyDirectory {
    fn drop(&mut self) {
        // A lock file without a controller is of use only to those who find a container of the study.
        let _ = self.lock.file().unlock();
        if !self.keeps_lock_file.load(Ordering::Relaxed) {
            let _ = fs_err::remove_file(&self.lock_path);
        }
    }
}

/// The directory of one run.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    volume: PathBuf,
}

impl RunDirectory {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the agent writes to. Nothing in it is trusted.
    pub fn volume(&self) -> &Path {
        &self.volume
    }

    /// An empty volume in place of what an agent has left.
    pub fn renew_volume(&self) -> Result<(), StoreError> {
        crate::files::remove_tree(&self.volume)?;
        Ok(fs_err::create_dir(&self.volume)?)
    }

    /// `job.json`.
    pub fn job_file(&self) -> PathBuf {
        self.path.join("job.json")
    }

    /// Writes the job. It is not waited for until it is on disk: a run counts from its `result.json` on.
    pub fn write_job(&self, job: &Job) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(job).map_err(|source| StoreError::json(&self.job_file(), source))?;
        Ok(fs_err::write(self.job_file(), text)?)
    }

    /// Writes the nonce by which the agent knows the volume.
    pub fn write_nonce(&self, nonce: &str) -> Result<(), StoreError> {
        Ok(fs_err::write(self.volume.join(files::NONCE), nonce)?)
    }

    /// Writes a log of this run.
    pub fn write_log(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        Ok(fs_err::write(self.path.join(name), content)?)
    }

    /// Writes `requests.parquet` and `timeseries.parquet`.
    pub fn write_tables(
        &self,
        requests: &[llem_protocol::RequestRecord],
        samples: &[llem_protocol::PowerSample],
    ) -> Result<(), StoreError> {
        super::parquet::write_requests(&self.path.join("requests.parquet"), requests)?;
        super::parquet::write_samples(&self.path.join("timeseries.parquet"), samples)
    }

    /// Writes `result.json`, the last file of a run, and removes the volume.
    pub fn finish(&self, result: &RunResult) -> Result<(), StoreError> {
        // What cannot be removed belongs to somebody else and harms no result.
        let _ = crate::files::remove_tree(&self.volume);
        write_json(&self.path.join("result.json"), result)?;
        File::open(&self.path)?.sync_all()?;
        Ok(())
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| StoreError::json(path, source))?;
    text.push(b'\n');
    write_atomic(path, &text)
}

/// As [`crate::files::write_atomic`].
pub(super) fn write_atomic(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    Ok(crate::files::write_atomic(path, content)?)
}

#[cfg(test)]
mod tests {
    use super::StudyDirectory;

    #[test]
    fn two_studies_of_one_second_get_two_directories() {
        let root = tempfile::tempdir().unwrap();
        let studies: Vec<_> = (0..3).map(|_| StudyDirectory::create(root.path(), "s").unwrap()).collect();
        let ids: std::collections::BTreeSet<_> = studies.iter().map(StudyDirectory::study_id).collect();
        assert_eq!(ids.len(), 3);
        assert!(ids.iter().all(|id| id.starts_with("s_2")));
    }

    #[test]
    fn the_lock_lives_as_long_as_the_study() {
        let root = tempfile::tempdir().unwrap();
        let study = StudyDirectory::create(root.path(), "s").unwrap();
        let lock = study.lock_path().to_owned();
        assert!(fs_err::File::open(&lock).unwrap().file().try_lock().is_err());
        drop(study);
        assert!(!lock.exists());
    }

    #[test]
    fn a_lock_file_that_is_kept_is_free() {
        let root = tempfile::tempdir().unwrap();
        let study = StudyDirectory::create(root.path(), "s").unwrap();
        study.keep_lock_file();
        let lock = study.lock_path().to_owned();
        drop(study);
        assert!(fs_err::File::open(&lock).unwrap().file().try_lock().is_ok());
    }
}
