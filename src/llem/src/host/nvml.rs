//! NVIDIA's management library on the host, loaded at run time. The only code of the controller that sees it.

use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};

use super::{GpuSnapshot, GpusSnapshot};

/// `NVML_DEVICE_MIG_ENABLE` of nvml.h.
const MIG_ENABLED: u32 = 1;

/// A process that has a context on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GpuClient {
    /// Its id on the host.
    pub(crate) pid: u32,
    /// Memory that it holds on the GPU in bytes; absent where the driver does not account for it.
    pub(crate) memory_bytes: Option<u64>,
    /// Whether the context is one for graphics.
    pub(crate) graphics: bool,
}

/// The loaded library. Loading takes up to seconds where the driver is not kept loaded.
pub(crate) struct Library(Nvml);

/// All GPUs of the machine.
pub(crate) struct Gpus<'a> {
    library: &'a Nvml,
    devices: Vec<(String, Device<'a>)>,
}

impl Library {
    /// Loads and initialises it.
    pub(crate) fn load() -> Result<Self, NvmlError> {
        Nvml::init().map(Self)
    }

    /// All GPUs. One that does not tell its UUID (it fell off the bus, say) is left out.
    pub(crate) fn gpus(&self) -> Result<Gpus<'_>, NvmlError> {
        let devices = (0..self.0.device_count()?).filter_map(|index| {
            let device = self.0.device_by_index(index).ok()?;
            Some((device.uuid().ok()?, device))
        });
        Ok(Gpus { library: &self.0, devices: devices.collect() })
    }
}

impl Gpus<'_> {
    /// Their UUIDs, in NVML's order.
    pub(crate) fn uuids(&self) -> Vec<String> {
        self.devices.iter().map(|(uuid, _)| uuid.clone()).collect()
    }

    /// The processes with a context on each GPU, in the order of [`Self::uuids`].
    pub(crate) fn processes(&self) -> impl Iterator<Item = Result<Vec<GpuClient>, NvmlError>> {
        self.devices.iter().map(|(_, device)| clients(device))
    }

    /// What NVML says of the driver and of the GPUs of a run.
    pub(crate) fn snapshot(&self, of_run: &[String]) -> GpusSnapshot {
        let (ours, others): (Vec<_>, Vec<_>) = self.devices.iter().partition(|(uuid, _)| of_run.contains(uuid));
        GpusSnapshot {
            driver: self.library.sys_driver_version().ok(),
            cuda_driver: self.library.sys_cuda_driver_version().ok().map(cuda_version),
            gpus: ours.into_iter().map(|(uuid, device)| describe(uuid, device)).collect(),
            other_gpus: others.len() as u32,
        }
    }
}

fn clients(device: &Device<'_>) -> Result<Vec<GpuClient>, NvmlError> {
    let mut found = Vec::new();
    for (graphics, list) in [(false, device.running_compute_processes()?), (true, device.running_graphics_processes()?)]
    {
        found.extend(list.iter().map(|process| client(process, graphics)));
    }
    Ok(found)
}

fn client(process: &ProcessInfo, graphics: bool) -> GpuClient {
    let memory_bytes = match process.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes),
        UsedGpuMemory::Unavailable => None,
    };
    GpuClient { pid: process.pid, memory_bytes, graphics }
}

/// NVML gives 1000 · major + 10 · minor.
fn cuda_version(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// What the device does not tell is null.
fn describe(uuid: &str, device: &Device<'_>) -> GpuSnapshot {
    let watts = |milliwatts: u32| f64::from(milliwatts) / 1e3;
    GpuSnapshot {
        uuid: uuid.to_owned(),
        name: device.name().ok(),
        compute_capability: device.cuda_compute_capability().ok().map(|cuda| format!("{}.{}", cuda.major, cuda.minor)),
        cuda_cores: device.num_cores().ok(),
        pci_bus_id: device.pci_info().ok().map(|pci| pci.bus_id),
        vbios: device.vbios_version().ok(),
        memory_bytes: device.memory_info().ok().map(|memory| memory.total),
        ecc: device.is_ecc_enabled().ok().map(|ecc| ecc.currently_enabled),
        persistence: device.is_in_persistent_mode().ok(),
        mig: device.mig_mode().ok().map(|mode| mode.current == MIG_ENABLED),
        power_limit_w: device.power_management_limit().ok().map(watts),
        power_limit_default_w: device.power_management_limit_default().ok().map(watts),
        power_limit_enforced_w: device.enforced_power_limit().ok().map(watts),
        sm_clock_max_mhz: device.max_clock_info(Clock::SM).ok(),
        memory_clock_max_mhz: device.max_clock_info(Clock::Memory).ok(),
        graphics_clock_application_mhz: device.applications_clock(Clock::Graphics).ok(),
        memory_clock_application_mhz: device.applications_clock(Clock::Memory).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::cuda_version;

    #[test]
    fn cuda_versions_are_taken_apart() {
        assert_eq!((cuda_version(12_080), cuda_version(13_000)), ("12.8".to_owned(), "13.0".to_owned()));
    }
}
