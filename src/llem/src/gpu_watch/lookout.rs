//! Looks at the GPUs of a run before it begins. Nothing of the run exists yet: whoever computes there is somebody else.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::debug;

use super::process::{Proc, ProcessFacts, sees_all_processes};
use super::record::GpuProcess;
use super::sightings::Sightings;
use super::{Owner, PERIOD, monotonic_ns};
use crate::host::nvml::{Gpus, Library};

/// How long a look may take. Where the driver is not kept loaded, it starts for the first one, which takes seconds for every GPU.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one look found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// UUIDs of all GPUs that NVML lists.
    pub(crate) present: Vec<String>,
    /// Who computes on the GPUs that were asked about.
    pub(crate) busy: Vec<GpuProcess>,
    /// Why nothing can be known.
    pub(crate) problem: Option<String>,
}

/// Looks that are under way, four a second. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Lookout {
    looks: UnboundedReceiver<Look>,
    _stop: Sender<()>,
}

impl Lookout {
    /// Starts to look at `gpus`. Processes of `own` do not count: a study that goes on finds its own container there.
    pub(crate) fn start(gpus: &[String], own: &[Owner]) -> Self {
        let (stop, stopped) = channel();
        let (send, looks) = unbounded_channel();
        let watcher = Watcher { gpus: gpus.to_vec(), own: own.to_vec(), sees_all: sees_all_processes() };
        let thread =
            std::thread::Builder::new().name("gpu-lookout".to_owned()).spawn(move || watcher.watch(&stopped, &send));
        if let Err(error) = thread {
            debug!(%error, "no thread for looks at the GPUs");
        }
        Self { looks, _stop: stop }
    }

    /// The next look.
    pub(crate) async fn next(&mut self) -> Look {
        let problem = match tokio::time::timeout(PATIENCE, self.looks.recv()).await {
            Ok(Some(look)) => return look,
            Ok(None) => "the thread that looks at the GPUs could not be started or died".to_owned(),
            Err(_) => format!("NVML did not answer within {} s", PATIENCE.as_secs()),
        };
        Look { problem: Some(problem), ..Look::default() }
    }
}

/// The thread's own.
struct Watcher {
    gpus: Vec<String>,
    own: Vec<Owner>,
    sees_all: bool,
}

impl Watcher {
    fn watch(&self, stop: &Receiver<()>, looks: &UnboundedSender<Look>) {
        let library = Library::load();
        let problem = match library.as_ref().map(Library::gpus) {
            Ok(Ok(gpus)) => return self.watch_gpus(&gpus, stop, looks),
            Ok(Err(error)) => format!("NVML lists no GPUs: {error}"),
            Err(error) => format!("NVML cannot be used: {error}"),
        };
        let _ = looks.send(Look { problem: Some(problem), ..Look::default() });
        // Until nobody asks any more: an end before that would be told as the thread's death.
        let _ = stop.recv();
    }

    fn watch_gpus(&self, gpus: &Gpus<'_>, stop: &Receiver<()>, looks: &UnboundedSender<Look>) {
        while looks.send(self.look(gpus)).is_ok() {
            if !matches!(stop.recv_timeout(PERIOD), Err(RecvTimeoutError::Timeout)) {
                return;
            }
        }
    }

    /// Contexts for graphics are no reason to wait: a display's stays. The watch of the run judges what it means.
    fn look(&self, gpus: &Gpus<'_>) -> Look {
        let present = gpus.uuids();
        let mut sightings = Sightings::of(present.clone());
        for (gpu, (uuid, clients)) in present.iter().zip(gpus.processes()).enumerate() {
            let Ok(mut clients) = clients else { continue };
            clients.retain(|client| !client.graphics);
            if self.gpus.contains(uuid) {
                sightings.look(gpu, monotonic_ns(), &clients, &Proc);
            }
        }
        if !self.sees_all {
            // An id that is found here may be another process's.
            sightings.list.iter_mut().for_each(|seen| seen.facts = None);
        }
        let is_own = |pid: u32, facts: &Option<ProcessFacts>| {
            facts.as_ref().is_some_and(|facts| self.own.iter().any(|owner| owner.has(pid, facts)))
        };
        let others = sightings.list.iter().filter(|seen| !is_own(seen.pid, &seen.facts));
        let busy: Vec<GpuProcess> = others.map(|seen| sightings.record(seen, Some(false))).collect();
        if !self.sees_all && !self.own.is_empty() && !busy.is_empty() {
            let problem = "llem runs in a PID namespace (a container) and cannot tell its own processes from others";
            return Look { present, busy: Vec::new(), problem: Some(problem.to_owned()) };
        }
        Look { present, busy, problem: None }
    }
}
