//! The machine as seen from inside the container. What cannot be read is absent.

use std::ffi::CStr;
use std::path::Path;

use fs_err::read_to_string;
use llem_protocol::EnvironmentReport;

use crate::cgroup::MemoryCgroup;
use crate::cpus;
use crate::packages::{conda_packages, conda_prefixes, system_packages};
use crate::power::GpuFacts;

/// Reads the machine.
pub(crate) fn read_environment(memory: &MemoryCgroup, gpus: GpuFacts) -> EnvironmentReport {
    let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let governor = read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").ok();
    EnvironmentReport {
        kernel: rustix::system::uname().release().to_str().ok().map(str::to_owned),
        cpu_model: value_of(&cpuinfo, "model name", ':'),
        cpus: std::thread::available_parallelism().ok().and_then(|count| u32::try_from(count.get()).ok()),
        agent_cpus: cpus::allowed(None),
        engine_cpus: None,
        cpu_governor: governor.map(|text| text.trim().to_owned()),
        memory_bytes: read_to_string("/proc/meminfo").ok().and_then(|text| memory_total_bytes(&text)),
        memory_limit_bytes: memory.limit_bytes(),
        os: read_to_string("/etc/os-release").ok().and_then(|text| os_name(&text)),
        libc: libc_version(),
        nvidia_driver: gpus.driver,
        gpus: gpus.gpus,
        system_packages: system_packages(Path::new("/")),
        conda_packages: conda_packages(&conda_prefixes()),
    }
}

fn value_of(text: &str, key: &str, separator: char) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(separator));
    let (_, value) = pairs.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().trim_matches('"').to_owned())
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

#[expect(unsafe_code, reason = "only the C library itself knows its version")]
fn libc_version() -> Option<String> {
    // SAFETY: the signature is that of <gnu/libc-version.h>; the function takes nothing and cannot fail.
    unsafe extern "C" {
        safe fn gnu_get_libc_version() -> *const std::ffi::c_char;
    }
    let version = gnu_get_libc_version();
    if version.is_null() {
        return None;
    }
    // SAFETY: gnu_get_libc_version(3) returns a static string that ends in NUL and is never written to.
    let version = unsafe { CStr::from_ptr(version) };
    Some(format!("glibc {}", version.to_str().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_read() {
        let report = read_environment(&MemoryCgroup::of_self(), GpuFacts::default());
        assert!(report.kernel.is_some() && report.os.is_some());
        assert!(report.cpus >= Some(1) && report.memory_bytes > Some(1 << 26));
        assert!(report.libc.unwrap().starts_with("glibc 2."));
        assert_eq!((report.nvidia_driver, report.gpus.len()), (None, 0));
    }

    #[test]
    fn files_are_parsed() {
        assert_eq!(memory_total_bytes("MemTotal:       16 kB\nMemFree: 1 kB"), Some(16 * 1024));
        let debian = "PRETTY_NAME=\"x\"\nNAME=\"Debian GNU/Linux\"\nVERSION=\"12 (bookworm)\"\n";
        assert_eq!(os_name(debian).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(os_name("NAME=Alpine\nVERSION_ID=3.20\n").as_deref(), Some("Alpine 3.20"));
        assert_eq!(value_of("model name\t: Fast CPU\n", "model name", ':').as_deref(), Some("Fast CPU"));
    }
}
