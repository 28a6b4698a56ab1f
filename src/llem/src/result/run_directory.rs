//! The directory of one run, filled file by file; `result.json` comes last.

use std::path::{Path, PathBuf};

use fs_err::File;
use llem_protocol::{Job, files};

use super::collect::driver_log;
use super::store::write_atomic;
use super::{FileIdentity, RunResult, StoreError};

/// The directory of one run.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    volume: PathBuf,
}

impl RunDirectory {
    pub(super) fn at(path: PathBuf) -> Self {
        let volume = path.join(".volume");
        Self { path, volume }
    }

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

    /// The job that the run was begun with; `None` when it was not written, or not wholly.
    pub fn read_job(&self) -> Option<Job> {
        serde_json::from_slice(&fs_err::read(self.job_file()).ok()?).ok()
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
        super::parquet::write_requests(&self.requests_file(), requests)?;
        super::parquet::write_samples(&self.samples_file(), samples)
    }

    /// Writes `result.json`, the last file of a run, and removes the volume.
    pub fn finish(&self, result: &RunResult) -> Result<FileIdentity, StoreError> {
        // What cannot be removed belongs to somebody else and harms no result.
        let _ = crate::files::remove_tree(&self.volume);
        let path = self.result_file();
        let mut text = serde_json::to_vec_pretty(result).map_err(|source| StoreError::json(&path, source))?;
        text.push(b'\n');
        write_atomic(&path, &text)?;
        File::open(&self.path)?.sync_all()?;
        File::open(self.path.parent().unwrap_or(&self.path))?.sync_all()?;
        Ok(FileIdentity::of(&text))
    }

    /// `result.json`.
    pub fn result_file(&self) -> PathBuf {
        self.path.join("result.json")
    }

    /// `requests.parquet`.
    pub fn requests_file(&self) -> PathBuf {
        self.path.join("requests.parquet")
    }

    /// `timeseries.parquet`.
    pub fn samples_file(&self) -> PathBuf {
        self.path.join("timeseries.parquet")
    }

    /// Whether the tables are there, which are written before `result.json`. They are not read.
    pub fn has_tables(&self) -> bool {
        let is_there = |path| fs_err::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0);
        is_there(self.requests_file()) && is_there(self.samples_file())
    }

    /// Clears up after an attempt whose controller died before it had a result: what the driver wrote is kept, the volume is not.
    pub fn abandon(&self) {
        if self.volume.exists() {
            let _ = self.write_log("driver.log", &driver_log(&self.volume));
            let _ = crate::files::remove_tree(&self.volume);
        }
    }
}
