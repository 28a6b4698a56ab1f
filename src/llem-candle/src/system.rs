use llem_protocol::{Device, DeviceKind};
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of every stamp.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The processor as Linux names it.
pub(crate) fn processor() -> Device {
    Device { kind: DeviceKind::Cpu, uuid: None, name: field("/proc/cpuinfo", "model name") }
}

/// The most main memory that this process has occupied so far, in bytes: `VmHWM` of proc_pid_status(5).
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let kib: u64 = field("/proc/self/status", "VmHWM")?.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The first `key: value` line of a file of the kernel.
fn field(path: &str, key: &str) -> Option<String> {
    let content = fs_err::read_to_string(path).ok()?;
    content
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().to_owned())
}
