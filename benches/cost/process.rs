//! Time and memory of a process.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;

/// Seconds from the start of a process to its end, its output read from a pipe. A status other than 0 is an error.
pub(crate) fn time_s(command: &mut Command) -> Outcome<f64> {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let seconds = start.elapsed().as_secs_f64();
    if output.status.success() { Ok(seconds) } else { Err(format!("{command:?}: {}", output.status).into()) }
}

/// The most memory that a process had resident, in bytes, as last seen at most a millisecond before its end.
///
/// `getrusage(2)` would be exact, but its maximum for a child begins with that of the process that started it.
pub(crate) fn peak_bytes(command: &mut Command) -> Outcome<u64> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        peak = peak.max(high_water_bytes(&status_file));
        if let Some(status) = child.try_wait()? {
            return if status.success() && peak > 0 { Ok(peak) } else { Err(format!("{command:?}: {status}").into()) };
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// 0 for a process that has no memory any more.
fn high_water_bytes(status_file: &str) -> u64 {
    let status = fs_err::read_to_string(status_file).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
