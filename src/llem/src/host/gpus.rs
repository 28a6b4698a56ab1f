//! The GPUs of this machine, before a study.

use serde::Serialize;

use super::nvml::{GpuClient, Library};
use super::{GpuSnapshot, GpusSnapshot};
use crate::config::{GpuAccess, UserConfig};
use crate::runner::host_gpus;

/// The GPUs that llem may use on this machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GpuInventory {
    /// Their UUIDs, in the order in which runs get them.
    pub uuids: Vec<String>,
    /// What NVML says of driver and GPUs; absent where it does not answer.
    pub nvml: Option<GpusSnapshot>,
    /// The processes with a context on each, by UUID, where NVML lists them.
    #[serde(skip)]
    pub(crate) processes: Vec<(String, Vec<GpuClient>)>,
    /// Why there is none, or why nothing is known of them.
    pub problem: Option<String>,
}

impl GpuInventory {
    /// Lists those that the user config allows. Loads NVML only where there are any.
    pub fn read(user: &UserConfig) -> Self {
        let present: Vec<String> = host_gpus().into_iter().map(|gpu| gpu.uuid).collect();
        let problem = |text: &str| Self { problem: Some(text.to_owned()), ..Self::default() };
        if user.gpu.access == GpuAccess::None {
            return problem("`gpu.access: none` of the user config hands no GPU over");
        }
        if present.is_empty() && user.gpu.devices.is_empty() {
            return problem("the NVIDIA driver lists no GPU on this machine");
        }
        let uuids = if user.gpu.devices.is_empty() { present } else { user.gpu.devices.clone() };
        let library = Library::load();
        let found = library.as_ref().map_err(ToString::to_string).and_then(|library| {
            let gpus = library.gpus().map_err(|error| error.to_string())?;
            let processes = gpus.uuids().into_iter().zip(gpus.processes().map(Result::unwrap_or_default));
            let processes: Vec<_> = processes.filter(|(uuid, _)| uuids.contains(uuid)).collect();
            Ok((gpus.snapshot(&uuids), processes))
        });
        match found {
            Ok((nvml, processes)) => {
                let missing: Vec<_> =
                    uuids.iter().filter(|uuid| !nvml.gpus.iter().any(|gpu| gpu.uuid == **uuid)).collect();
                let problem = missing.first().map(|uuid| format!("NVML does not know {uuid} on this machine"));
                Self { uuids, nvml: Some(nvml), processes, problem }
            }
            Err(error) => Self { uuids, problem: Some(format!("NVML does not answer: {error}")), ..Self::default() },
        }
    }

    /// What is known of each.
    pub fn gpus(&self) -> &[GpuSnapshot] {
        self.nvml.as_ref().map(|nvml| nvml.gpus.as_slice()).unwrap_or_default()
    }

    /// Memory of the smallest in bytes, where all tell.
    pub fn smallest_memory_bytes(&self) -> Option<u64> {
        self.gpus().iter().map(|gpu| gpu.memory_bytes).collect::<Option<Vec<_>>>()?.into_iter().min()
    }
}
