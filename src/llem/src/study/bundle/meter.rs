//! Work on large files beside the event loop: how far it is, and whether it shall end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::StudyError;
use super::{BundleError, BundleEvent};

/// How often progress is told.
const PERIOD: Duration = Duration::from_millis(200);

/// Counts bytes.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    done: Arc<AtomicU64>,
    waits: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Meter {
    pub(super) fn new(stop: &CancellationToken) -> Self {
        Self { done: Arc::default(), waits: Arc::default(), stop: stop.clone() }
    }

    /// Some more bytes are done; an error when the work shall end.
    pub(super) fn add(&self, bytes: u64) -> Result<(), BundleError> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.stop.is_cancelled() { Err(BundleError::Stopped) } else { Ok(()) }
    }

    /// Somebody else does the same work and is waited for.
    pub(super) fn wait(&self) {
        self.waits.store(true, Ordering::Relaxed);
    }

    /// Begins anew.
    pub(super) fn reset(&self) {
        self.done.store(0, Ordering::Relaxed);
    }

    /// Ends when the work shall end.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + use<> {
        self.stop.clone().cancelled_owned()
    }

    pub(super) fn done_bytes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// Does the work in a thread and tells how far it is. It ends itself when it is stopped, so that nothing half done is left.
pub(super) async fn in_thread<T: Send + 'static>(
    doing: &'static str,
    total_bytes: u64,
    meter: &Meter,
    notify: &impl Fn(BundleEvent),
    work: impl FnOnce(&Meter) -> Result<T, BundleError> + Send + 'static,
) -> Result<T, BundleError> {
    let (sender, mut done) = tokio::sync::oneshot::channel();
    let own = meter.clone();
    std::thread::Builder::new()
        .name("bundle".to_owned())
        .spawn(move || sender.send(work(&own)))
        .map_err(BundleError::Files)?;
    let mut waits = false;
    loop {
        tokio::select! {
            result = &mut done => {
                return result.map_err(|_| StudyError::Task("the work on the bundle died".to_owned()))?;
            }
            () = tokio::time::sleep(PERIOD) => {
                if meter.waits.load(Ordering::Relaxed) && !std::mem::replace(&mut waits, true) {
                    notify(BundleEvent::Note("another llem unpacks the same bundle: waiting for it".to_owned()));
                }
                notify(BundleEvent::Progress { doing, done_bytes: meter.done_bytes(), total_bytes });
            }
        }
    }
}
