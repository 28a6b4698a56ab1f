//! Watches the GPUs of the machine while a run lasts: who computes on them that is not the run, and whether the run does.
//!
//! The check is the host's, not the agent's: inside a container, process ids are not those that NVML gives. A thread of its own owns
//! NVML, lists the processes of all GPUs four times a second, and looks each up once under `/proc`. It can neither delay nor fail a
//! run: whatever goes wrong with it becomes the note `foreign_check_unavailable`.
//!
//! Before a run begins, `Lookout` tells who computes on its GPUs already.

mod lookout;
mod process;
mod record;
mod sightings;
mod verdict;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use llem_protocol::Report;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use tracing::debug;

use crate::host::GpusSnapshot;
use crate::host::nvml::{Gpus, Library};
use process::{Proc, sees_all_processes};
use sightings::Sightings;

pub(crate) use lookout::{Look, Lookout};
pub(crate) use record::named;
pub use record::{GpuProcess, GpuWait};
pub use verdict::{Owner, Verdict};

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(250);

/// How long a watch may take to end. NVML can hang on a GPU that fell off the bus.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is measured of a run, and what it has to have on its GPUs in its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The window's beginning.
    pub start_ns: u64,
    /// The window's end.
    pub end_ns: u64,
    /// Beginning and end of the idle baseline, where there was one.
    pub baseline: Option<(u64, u64)>,
    /// Beginning and end of the passes of prefill alone, where there were any.
    pub prefill: Option<(u64, u64)>,
    /// Number of parameters by the engine's account.
    pub parameters: Option<u64>,
}

impl Expected {
    /// From an agent's report; `None` without a window.
    pub fn of(report: &Report) -> Option<Self> {
        let window = report.window.as_ref()?;
        Some(Self {
            start_ns: window.start_ns,
            end_ns: window.end_ns,
            baseline: report.baseline.as_ref().map(|record| (record.start_ns, record.end_ns)),
            prefill: report.prefill.as_ref().map(|record| (record.start_ns, record.end_ns)),
            parameters: report.engine.as_ref().and_then(|engine| engine.parameters),
        })
    }
}

/// A watch that is under way. It ends when this is dropped.
#[derive(Debug)]
pub struct GpuWatch {
    gpus: Vec<String>,
    stop: Sender<()>,
    seen: oneshot::Receiver<Watched>,
}

/// What a watch saw.
#[derive(Debug, Default)]
pub struct Watched {
    /// The GPUs of the run.
    of_run: Vec<String>,
    /// Driver and GPUs as they were when the watch began.
    pub gpus: Option<GpusSnapshot>,
    sightings: Sightings,
    /// Why nothing could be seen.
    problem: Option<String>,
    /// Whether every process of the machine can be seen from here.
    sees_all: bool,
}

impl GpuWatch {
    /// Starts to watch for a run on `gpus`. Without GPUs there is nothing to watch, and NVML is not loaded.
    pub fn start(gpus: &[String]) -> Option<Self> {
        if gpus.is_empty() {
            return None;
        }
        let (stop, stopped) = channel();
        let (send, seen) = oneshot::channel();
        let of_run = gpus.to_vec();
        let thread = std::thread::Builder::new().name("gpu-watch".to_owned()).spawn(move || {
            watch(of_run, &stopped, send);
        });
        if let Err(error) = thread {
            debug!(%error, "no thread for the watch of the GPUs");
        }
        Some(Self { gpus: gpus.to_vec(), stop, seen })
    }

    /// Ends the watch after a last look.
    pub async fn finish(self) -> Watched {
        let Self { gpus, stop, seen } = self;
        let _ = stop.send(());
        let problem = match tokio::time::timeout(PATIENCE, seen).await {
            Ok(Ok(watched)) => return watched,
            Ok(Err(_)) => "the watch's thread could not be started or died".to_owned(),
            Err(_) => format!("NVML did not answer within {} s", PATIENCE.as_secs()),
        };
        Watched { of_run: gpus, problem: Some(problem), ..Watched::default() }
    }
}

/// The thread: looks until it is told to stop, and tells what it saw.
fn watch(of_run: Vec<String>, stop: &Receiver<()>, seen: oneshot::Sender<Watched>) {
    let mut watched = Watched { of_run, sees_all: sees_all_processes(), ..Watched::default() };
    let library = Library::load();
    match library.as_ref().map(Library::gpus) {
        Ok(Ok(gpus)) => watch_gpus(&gpus, &mut watched, stop),
        Ok(Err(error)) => watched.problem = Some(format!("NVML lists no GPUs: {error}")),
        Err(error) => watched.problem = Some(format!("NVML cannot be used: {error}")),
    }
    // Nobody waits for a watch that was dropped, nor for the library to be unloaded, which takes long when it was the driver's last user.
    let _ = seen.send(watched);
}

fn watch_gpus(gpus: &Gpus<'_>, watched: &mut Watched, stop: &Receiver<()>) {
    watched.sightings = Sightings::of(gpus.uuids());
    look(gpus, &mut watched.sightings);
    watched.gpus = Some(gpus.snapshot(&watched.of_run));
    while matches!(stop.recv_timeout(PERIOD), Err(RecvTimeoutError::Timeout)) {
        look(gpus, &mut watched.sightings);
    }
    look(gpus, &mut watched.sightings);
    debug!(cpu_s = cpu_s(), "watch of the GPUs ended");
}

fn look(gpus: &Gpus<'_>, sightings: &mut Sightings) {
    for (gpu, clients) in gpus.processes().enumerate() {
        match clients {
            Ok(clients) => sightings.look(gpu, monotonic_ns(), &clients, &Proc),
            Err(error) => sightings.failed(gpu, error.to_string()),
        }
    }
}

/// `CLOCK_MONOTONIC`, as all stamps of the agent.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Processor seconds that this thread has used.
fn cpu_s() -> f64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}
