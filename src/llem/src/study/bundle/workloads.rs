//! The workloads of a study that came in a bundle: its requests are tokenised already.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::StudyError;
use crate::config::StudyConfig;
use crate::workload::{Workload, read_list};

/// Workloads by experiment; none for a study that did not come in a bundle.
#[derive(Default)]
pub(in crate::study) struct PackedWorkloads {
    list: Option<PathBuf>,
    /// Read at the first question.
    known: Option<HashMap<String, Arc<Workload>>>,
}

impl PackedWorkloads {
    pub(in crate::study) fn of(study: &StudyConfig) -> Self {
        Self { list: study.bundled().map(|bundled| bundled.workloads.clone()), known: None }
    }

    /// The workload of an experiment.
    pub(in crate::study) fn find(&mut self, experiment: &str) -> Result<Option<Arc<Workload>>, StudyError> {
        let Some(list) = &self.list else { return Ok(None) };
        if self.known.is_none() {
            self.known = Some(read_list(list).map_err(StudyError::PackedWorkloads)?);
        }
        Ok(self.known.as_ref().and_then(|known| known.get(experiment)).cloned())
    }
}
