//! What results and messages say of a process on a GPU.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Processes that a message names.
const NAMED: usize = 5;

/// A process that had a context on a GPU of the machine while a run lasted, or before it could begin: an entry of `result.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuProcess {
    /// UUID of the GPU.
    pub gpu: String,
    /// Process id on the host.
    pub pid: u32,
    /// The kernel's name of the process; `unknown` when it was gone before it could be looked up, or hidden.
    pub name: String,
    /// Its real user.
    pub uid: Option<u32>,
    /// Path of its control group, which names its container if it has one.
    pub cgroup: Option<String>,
    /// Whether it had a context for graphics.
    pub graphics: bool,
    /// The most memory that it was seen to hold on the GPU, in bytes; null where the driver does not account for it.
    pub memory_bytes: Option<u64>,
    /// When it was first seen.
    pub first_seen_ns: u64,
    /// When it was last seen.
    pub last_seen_ns: u64,
    /// Whether it belongs to the run; null where that cannot be told.
    pub own: Option<bool>,
}

/// The wait of a run whose GPUs somebody else computed on when it was to begin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuWait {
    /// Seconds from the first look at the GPUs to the one that found them free.
    pub wait_s: f64,
    /// Everybody who was waited for.
    pub processes: Vec<GpuProcess>,
}

impl GpuWait {
    /// Two waits of one run as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.wait_s += other.wait_s;
        self.processes.extend(other.processes);
        self
    }

    /// Takes who was seen by one look; who was seen before stays one entry.
    pub(crate) fn see(&mut self, seen: &[GpuProcess]) {
        for process in seen {
            let is_known = |known: &&mut GpuProcess| (&known.gpu, known.pid) == (&process.gpu, process.pid);
            match self.processes.iter_mut().find(is_known) {
                Some(known) => known.last_seen_ns = process.last_seen_ns,
                None => self.processes.push(process.clone()),
            }
        }
    }
}

/// `process 42 (python3, uid 1000, 512 MiB on GPU-…)`, for the first few.
pub(crate) fn named(found: &[GpuProcess]) -> String {
    let one = |process: &GpuProcess| {
        let user = process.uid.map_or("unknown user".to_owned(), |uid| format!("uid {uid}"));
        let memory = process.memory_bytes.map_or("memory unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
        format!("process {} ({}, {user}, {memory} on {})", process.pid, process.name, process.gpu)
    };
    let more = found.len().saturating_sub(NAMED);
    let named = found.iter().take(NAMED).map(one).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}
