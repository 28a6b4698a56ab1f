//! What is in a study directory, for those who only look.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::design::source_name;
use super::store::JOURNAL;
use super::{Design, JournalEvent, Reading, RunDirectory, RunId, StoreError, read_journal};

/// The files of a study. Whoever wants them not to change meanwhile holds the study's lock, see [`super::StudyDirectory`].
#[derive(Clone, Debug)]
pub struct StudyFiles {
    path: PathBuf,
}

impl StudyFiles {
    /// Those of a directory.
    pub fn of(path: PathBuf) -> Self {
        Self { path }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All designs of the study, oldest first; the last one holds. None where there is no study.
    pub fn designs(&self) -> Result<Vec<Design>, StoreError> {
        Design::read_all(&self.path)
    }

    /// The settings of a design's experiments, by their ids.
    pub fn configs(&self, design: &Design) -> Result<HashMap<String, Value>, StoreError> {
        design.read_configs(&self.path)
    }

    /// The text of the study file that a design was made from.
    pub fn source(&self, design: &Design) -> Result<String, StoreError> {
        Ok(fs_err::read_to_string(self.path.join(source_name(design.revision)))?)
    }

    /// Hands the events of the journal to `take`; see [`read_journal`].
    pub fn read_journal(&self, take: impl FnMut(JournalEvent)) -> Result<Reading, StoreError> {
        read_journal(&self.path.join(JOURNAL), take)
    }

    /// The directory of a run that was begun before.
    pub fn run(&self, run_id: &str) -> RunDirectory {
        RunDirectory::at(self.path.join("runs").join(run_id))
    }

    /// All runs that have a directory, in no order.
    pub fn runs(&self) -> Result<Vec<RunId>, StoreError> {
        let mut runs = Vec::new();
        for entry in fs_err::read_dir(self.path.join("runs"))? {
            runs.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RunId>().ok()));
        }
        Ok(runs)
    }
}
