//! Whether runs can be kept to the processors that the machine's config names, before anything is made ready.

use std::collections::BTreeSet;

use super::StudyError;
use super::fleet::Fleet;
use crate::config::{Backend, StudyConfig, UserConfig};
use crate::host::cpus::obstacle;

/// Refuses a study whose processors are not there, or cannot be had.
pub(super) fn refuse_absent_cpus(study: &StudyConfig, user: &UserConfig, fleet: &Fleet) -> Result<(), StudyError> {
    let backends: BTreeSet<Backend> = study.experiments.iter().map(|experiment| experiment.config.backend).collect();
    let is_process = |backend: &Backend| !fleet.runner(*backend).has_images();
    match obstacle(user, backends.iter().any(is_process), fleet.engine()) {
        Some(problem) => Err(StudyError::Cpus(problem)),
        None => Ok(()),
    }
}
