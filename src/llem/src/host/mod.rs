//! The machine as the controller sees it: what goes into every result, whatever the container can see. Nothing in it names the machine
//! or its users.

pub(crate) mod cpus;
mod disk;
pub mod gpu_lock;
mod gpus;
pub(crate) mod load;
pub(crate) mod nvml;

use std::collections::BTreeSet;
use std::path::Path;

use fs_err::read_to_string;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use disk::free_bytes;
pub use gpus::GpuInventory;
pub use load::HostLoad;

/// Commit that this program was built from, with `+dirty` when its sources differed; absent when it was not built from a clone.
pub const LLEM_COMMIT: Option<&str> = option_env!("LLEM_COMMIT");

/// The host of a run. What cannot be read is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostSnapshot {
    /// Kernel release.
    pub kernel: Option<String>,
    /// `NAME VERSION` of the operating system.
    pub os: Option<String>,
    /// Processor model.
    pub cpu_model: Option<String>,
    /// Logical processors of the machine.
    pub cpus: Option<u32>,
    /// Frequency governor; several, with commas between them, where the processors differ.
    pub cpu_governor: Option<String>,
    /// Main memory in bytes.
    pub memory_bytes: Option<u64>,
    /// The GPUs, read at the run's start; null for a run without GPUs, and where NVML does not answer.
    pub nvidia: Option<GpusSnapshot>,
}

/// The GPU driver and the GPUs of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpusSnapshot {
    /// Version of the GPU driver.
    pub driver: Option<String>,
    /// Highest CUDA version that the driver supports.
    pub cuda_driver: Option<String>,
    /// The GPUs of the run.
    pub gpus: Vec<GpuSnapshot>,
    /// How many more the machine has.
    pub other_gpus: u32,
}

/// One GPU with its settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuSnapshot {
    /// `GPU-…`.
    pub uuid: String,
    /// Product name.
    pub name: Option<String>,
    /// CUDA compute capability, e.g. `9.0`.
    pub compute_capability: Option<String>,
    /// CUDA cores: with the compute capability, they tell how much of its chip a board has.
    pub cuda_cores: Option<u32>,
    /// Its place on the bus.
    pub pci_bus_id: Option<String>,
    /// Version of its firmware.
    pub vbios: Option<String>,
    /// Its memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Whether its memory corrects errors.
    pub ecc: Option<bool>,
    /// Whether the driver stays loaded while nobody uses it.
    pub persistence: Option<bool>,
    /// Whether it is divided into instances.
    pub mig: Option<bool>,
    /// Power limit that was set, in watts.
    pub power_limit_w: Option<f64>,
    /// Power limit after a start of the driver, in watts.
    pub power_limit_default_w: Option<f64>,
    /// The lowest of all limits in force, in watts.
    pub power_limit_enforced_w: Option<f64>,
    /// Highest clock of the compute units in megahertz.
    pub sm_clock_max_mhz: Option<u32>,
    /// Highest clock of the memory in megahertz.
    pub memory_clock_max_mhz: Option<u32>,
    /// Clock that applications are given, in megahertz; newer drivers have none.
    pub graphics_clock_application_mhz: Option<u32>,
    /// Memory clock that applications are given, in megahertz; newer drivers have none.
    pub memory_clock_application_mhz: Option<u32>,
}

impl HostSnapshot {
    /// Reads everything but the GPUs.
    pub fn read() -> Self {
        let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            kernel: rustix::system::uname().release().to_str().ok().map(str::to_owned),
            os: read_to_string("/etc/os-release").ok().and_then(|text| os_name(&text)),
            cpu_model: value_of(&cpuinfo, "model name", ':'),
            cpus: processors(&cpuinfo),
            cpu_governor: governors(Path::new("/sys/devices/system/cpu")),
            memory_bytes: read_to_string("/proc/meminfo").ok().and_then(|text| memory_total_bytes(&text)),
            nvidia: None,
        }
    }
}

fn value_of(text: &str, key: &str, separator: char) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(separator));
    let (_, value) = pairs.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().trim_matches('"').to_owned())
}

fn processors(cpuinfo: &str) -> Option<u32> {
    let names = cpuinfo.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    let count = names.filter(|name| *name == "processor").count();
    (count > 0).then_some(count as u32)
}

fn governors(cpus: &Path) -> Option<String> {
    let found: BTreeSet<String> = fs_err::read_dir(cpus)
        .ok()?
        .flatten()
        .filter_map(|cpu| read_to_string(cpu.path().join("cpufreq/scaling_governor")).ok())
        .map(|text| text.trim().to_owned())
        .collect();
    (!found.is_empty()).then(|| found.into_iter().collect::<Vec<_>>().join(","))
}

fn memory_total_bytes(meminfo: &str) -> Option<u64> {
    let total = value_of(meminfo, "MemTotal", ':')?;
    total.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `NAME VERSION` of os-release(5).
fn os_name(os_release: &str) -> Option<String> {
    let name = value_of(os_release, "NAME", '=')?;
    match value_of(os_release, "VERSION", '=').or_else(|| value_of(os_release, "VERSION_ID", '=')) {
        Some(version) => Some(format!("{name} {version}")),
        None => Some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::{HostSnapshot, governors, memory_total_bytes, os_name, processors};

    #[test]
    fn this_machine_is_read_and_not_named() {
        let host = HostSnapshot::read();
        assert!(
            host.kernel.is_some() && host.os.is_some() && host.cpus >= Some(1) && host.memory_bytes > Some(1 << 26)
        );
        assert_eq!(host.nvidia, None);
        let uname = rustix::system::uname();
        let hostname = uname.nodename().to_str().unwrap();
        let text = serde_json::to_string(&host).unwrap();
        assert!(hostname.len() < 4 || !text.contains(hostname), "{text}");
    }

    #[test]
    fn governors_that_differ_are_all_named() {
        let root = tempfile::tempdir().unwrap();
        for (cpu, governor) in [("cpu0", "performance"), ("cpu1", "powersave"), ("cpu2", "performance")] {
            let directory = root.path().join(cpu).join("cpufreq");
            fs_err::create_dir_all(&directory).unwrap();
            fs_err::write(directory.join("scaling_governor"), format!("{governor}\n")).unwrap();
        }
        assert_eq!(governors(root.path()).as_deref(), Some("performance,powersave"));
        assert_eq!(governors(&root.path().join("cpu0")), None);
    }

    #[test]
    fn files_are_parsed() {
        assert_eq!(processors("processor\t: 0\nmodel name\t: x\n\nprocessor\t: 1\n"), Some(2));
        assert_eq!(processors(""), None);
        assert_eq!(memory_total_bytes("MemTotal:       16 kB\n"), Some(16 * 1024));
        assert_eq!(os_name("NAME=\"Debian GNU/Linux\"\nVERSION=\"12\"\n").as_deref(), Some("Debian GNU/Linux 12"));
    }
}
