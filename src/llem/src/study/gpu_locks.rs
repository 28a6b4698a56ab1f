//! Keeps the GPUs of a study to itself, against other studies on the machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::job::gpus;
use super::{StudyError, StudyEvent};
use crate::config::{GpuConfig, StudyConfig, UserConfig, WhenBusy};
use crate::host::gpu_lock::{Attempt, GpuLock, lock_directory, try_lock};

/// Time between two looks at a GPU that somebody else has.
const PERIOD: Duration = Duration::from_millis(500);

/// Every GPU that a run of the study will be given on this machine.
pub(super) fn study_gpus(study: &StudyConfig, user: &UserConfig) -> BTreeSet<String> {
    study.experiments.iter().flat_map(|e| gpus(&e.config, user)).collect()
}

/// Locks GPUs, or waits for them, as the user config says. In one order for all studies: two of them never wait for each other.
pub(super) async fn lock_gpus(
    wanted: BTreeSet<String>,
    config: &GpuConfig,
    notify: &impl Fn(StudyEvent),
) -> Result<Vec<GpuLock>, StudyError> {
    let directory = config.lock_dir.clone().unwrap_or_else(lock_directory);
    let mut locks = Vec::with_capacity(wanted.len());
    for gpu in wanted {
        locks.push(lock(&gpu, &directory, config.when_busy, notify).await?);
    }
    Ok(locks)
}

async fn lock(
    gpu: &str,
    directory: &Path,
    when_busy: WhenBusy,
    notify: &impl Fn(StudyEvent),
) -> Result<GpuLock, StudyError> {
    let mut told = None;
    loop {
        let holder = match try_lock(gpu, directory)? {
            Attempt::Locked(lock) => return Ok(lock),
            Attempt::Held(holder) => holder,
        };
        if when_busy == WhenBusy::Refuse {
            return Err(StudyError::GpuInUse { gpu: gpu.to_owned(), holder });
        }
        if told.as_ref() != Some(&holder) {
            let text = format!("GPU {gpu} is in use by {holder}: waiting for its end");
            notify(StudyEvent::Notice { text });
            told = Some(holder);
        }
        tokio::time::sleep(PERIOD).await;
    }
}
