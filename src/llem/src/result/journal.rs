//! The study's journal: one line per change of state, appended, never rewritten.

use std::io::Write;
use std::path::{Path, PathBuf};

use fs_err::File;
use jiff::Timestamp;
use llem_protocol::FailureClass;
use serde::Serialize;

use super::{RunStatus, SCHEMA_VERSION, StoreError, StudyStatus};

/// One line of the journal.
#[derive(Debug, Serialize)]
struct Line<'a> {
    schema_version: u32,
    time: String,
    #[serde(flatten)]
    event: &'a JournalEvent<'a>,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum JournalEvent<'a> {
    /// The study began.
    StudyStarted {
        /// The study's identity.
        study_id: &'a str,
        /// Identity of the set of experiments.
        design_hash: &'a str,
        /// Number of planned runs.
        runs: usize,
        /// Process id of the controller.
        pid: u32,
        /// The controller's version.
        llem_version: &'a str,
    },
    /// A run began.
    RunStarted {
        /// The run.
        run_id: &'a str,
        /// Its experiment.
        experiment_id: &'a str,
        /// Its cycle, from 1.
        cycle: u32,
    },
    /// A run's result file is on disk.
    RunFinished {
        /// The run.
        run_id: &'a str,
        /// How it ended.
        status: RunStatus,
        /// Whether its numbers may be used.
        valid: bool,
        /// Why it failed.
        failure: Option<FailureClass>,
    },
    /// The study ended in order.
    StudyFinished {
        /// How.
        status: StudyStatus,
    },
}

impl JournalEvent<'_> {
    /// Whether losing the line would lose or repeat work.
    fn is_boundary(&self) -> bool {
        !matches!(self, Self::RunStarted { .. })
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Creates the journal of a new study.
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        let file = fs_err::OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends one line. Lines that end a run or a study are on disk when this returns.
    pub fn append(&mut self, event: &JournalEvent<'_>) -> Result<(), StoreError> {
        let line = Line { schema_version: SCHEMA_VERSION, time: Timestamp::now().to_string(), event };
        let mut text = serde_json::to_vec(&line).map_err(|source| StoreError::json(&self.path, source))?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        if event.is_boundary() {
            self.file.file().sync_data()?;
        }
        Ok(())
    }
}
