//! Keeps the GPUs of a study to itself: they are there, no other study of the machine has them, and nobody else computes on them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::job::gpus;
use super::{StudyError, StudyEvent};
use crate::config::{GpuConfig, StudyConfig, UserConfig, WhenBusy};
use crate::gpu_watch::{GpuProcess, GpuWait, Look, Lookout, Owner, named};
use crate::host::gpu_lock::{Attempt, GpuLock, lock_directory, try_lock};
use crate::runner::host_gpus;

/// Time between two looks at a GPU that another study has.
const PERIOD: Duration = Duration::from_millis(500);

/// How long somebody may compute on a GPU who is not waited for. The driver lists a process for a moment after its end.
const GRACE: Duration = Duration::from_secs(2);

/// The GPUs that runs of a study will be given, and what to do when somebody has them.
pub(super) struct GpuClaim<'a> {
    gpus: Vec<String>,
    directory: PathBuf,
    when_busy: WhenBusy,
    /// Whose processes are the study's own: those of containers that it left when its controller died.
    own: Vec<Owner>,
    stop: &'a CancellationToken,
}

/// Why a GPU is not free.
#[derive(Debug)]
pub(super) enum NotFree {
    /// Somebody computes there, and the user config says not to wait.
    Busy(Vec<GpuProcess>),
    /// The user did not want to wait any longer.
    Stopped,
}

impl<'a> GpuClaim<'a> {
    /// Those of a whole study.
    pub(super) fn of_study(
        study: &StudyConfig,
        user: &UserConfig,
        own: Vec<Owner>,
        stop: &'a CancellationToken,
    ) -> Self {
        Self::new(study.experiments.iter().flat_map(|e| gpus(&e.config, user)), &user.gpu, own, stop)
    }

    pub(super) fn new(
        gpus: impl IntoIterator<Item = String>,
        config: &GpuConfig,
        own: Vec<Owner>,
        stop: &'a CancellationToken,
    ) -> Self {
        // In one order for all studies: two of them never wait for each other.
        let wanted: BTreeSet<String> = gpus.into_iter().collect();
        Self {
            gpus: wanted.into_iter().collect(),
            directory: config.lock_dir.clone().unwrap_or_else(lock_directory),
            when_busy: config.when_busy,
            own,
            stop,
        }
    }

    /// Refuses a study whose GPUs are not there or, where it shall not wait, not free: before anything is made ready for it.
    pub(super) async fn check(&self, notify: &impl Fn(StudyEvent)) -> Result<(), StudyError> {
        if self.gpus.is_empty() {
            return Ok(());
        }
        let look = Lookout::start(&self.gpus, &[]).next().await;
        find_all(&self.gpus, &look).map_err(StudyError::Gpus)?;
        match self.when_busy {
            WhenBusy::Wait => Ok(()),
            WhenBusy::Refuse => self.take(notify).await.map(drop),
        }
    }

    /// Locks every GPU, or waits for those that have them, as the user config says; then the same with those who compute there.
    pub(super) async fn take(&self, notify: &impl Fn(StudyEvent)) -> Result<Vec<GpuLock>, StudyError> {
        let locks = self.lock(notify).await?;
        match until_free(&self.gpus, &self.own, self.when_busy, self.stop, notify).await {
            Ok(_) => Ok(locks),
            Err(NotFree::Busy(processes)) => Err(StudyError::GpuBusy { processes: named(&processes) }),
            Err(NotFree::Stopped) => Err(StudyError::Stopped),
        }
    }

    /// Locks every GPU, or waits for other studies that have them, as the user config says.
    pub(super) async fn lock(&self, notify: &impl Fn(StudyEvent)) -> Result<Vec<GpuLock>, StudyError> {
        let mut locks = Vec::with_capacity(self.gpus.len());
        for gpu in &self.gpus {
            locks.push(lock(gpu, &self.directory, self.when_busy, notify).await?);
        }
        Ok(locks)
    }
}

/// Whether every GPU is one of the machine's, by the kernel driver or by NVML.
fn find_all(gpus: &[String], look: &Look) -> Result<(), String> {
    let mut present: BTreeSet<String> = host_gpus().into_iter().map(|gpu| gpu.uuid).collect();
    present.extend(look.present.iter().cloned());
    match gpus.iter().find(|gpu| !present.contains(*gpu)) {
        None => Ok(()),
        Some(absent) => Err(no_such_gpu(absent, present.iter().map(String::as_str), look.problem.as_deref())),
    }
}

/// What is said of a GPU that the user config names and the machine does not have.
pub(super) fn no_such_gpu<'a>(uuid: &str, present: impl Iterator<Item = &'a str>, problem: Option<&str>) -> String {
    let present = present.collect::<Vec<_>>().join(", ");
    let present = if present.is_empty() { "none" } else { &present };
    let problem = problem.map(|problem| format!("; {problem}")).unwrap_or_default();
    format!(
        "no GPU `{uuid}` on this machine (GPUs present: {present}{problem}); correct `gpu.devices` of the user config"
    )
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

/// Waits until nobody but `own` computes on `gpus`, or says who does, as `when_busy` tells. Gives the wait, where there was one. What
/// cannot be looked at counts as free: the watch of the run says that it could not look.
pub(super) async fn until_free(
    gpus: &[String],
    own: &[Owner],
    when_busy: WhenBusy,
    stop: &CancellationToken,
    notify: &impl Fn(StudyEvent),
) -> Result<Option<GpuWait>, NotFree> {
    if gpus.is_empty() {
        return Ok(None);
    }
    let mut lookout = Lookout::start(gpus, own);
    let (mut since, mut wait) = (None, GpuWait::default());
    let mut told = BTreeSet::new();
    loop {
        let look = tokio::select! {
            look = lookout.next() => look,
            () = stop.cancelled() => return Err(NotFree::Stopped),
        };
        if look.busy.is_empty() {
            wait.wait_s = since.map_or(0.0, |since: Instant| since.elapsed().as_secs_f64());
            return Ok(since.map(|_| wait));
        }
        wait.see(&look.busy);
        if since.get_or_insert_with(Instant::now).elapsed() < GRACE {
            continue;
        }
        if when_busy == WhenBusy::Refuse {
            return Err(NotFree::Busy(look.busy));
        }
        let new: Vec<GpuProcess> = look.busy.into_iter().filter(|p| told.insert((p.gpu.clone(), p.pid))).collect();
        if !new.is_empty() {
            let text = format!("{} computes there: waiting for its end", named(&new));
            notify(StudyEvent::Notice { text });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{find_all, no_such_gpu};
    use crate::gpu_watch::Look;

    #[test]
    fn a_gpu_that_is_not_here_is_named_with_those_that_are() {
        let look = Look { present: vec!["GPU-a".to_owned(), "GPU-b".to_owned()], ..Look::default() };
        assert_eq!(find_all(&["GPU-b".to_owned()], &look), Ok(()));
        let error = find_all(&["GPU-b".to_owned(), "GPU-x".to_owned()], &look).unwrap_err();
        assert!(
            error.starts_with("no GPU `GPU-x` on this machine (GPUs present: GPU-a, GPU-b); correct `gpu.devices`")
        );
        let error = no_such_gpu("GPU-x", std::iter::empty(), Some("NVML cannot be used"));
        assert!(error.contains("(GPUs present: none; NVML cannot be used)"), "{error}");
    }
}
