//! What the agent itself used between two moments.

use fs_err::read_to_string;
use llem_protocol::SelfUsage;

use crate::clock;

/// The agent's own counters at one moment; cheap enough for the window's edges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsageMark {
    t_ns: u64,
    cpu_s: f64,
}

impl UsageMark {
    pub(crate) fn now() -> Self {
        Self { t_ns: clock::monotonic_ns(), cpu_s: clock::process_cpu_s() }
    }

    /// What the agent used since `earlier`.
    pub(crate) fn agent_since(&self, earlier: &Self) -> SelfUsage {
        let cpu_s = self.cpu_s - earlier.cpu_s;
        let seconds = clock::seconds_between(earlier.t_ns, self.t_ns);
        let cpu_share = if seconds > 0.0 { cpu_s / seconds } else { 0.0 };
        SelfUsage { cpu_s, cpu_share, resident_bytes: resident_bytes() }
    }
}

fn resident_bytes() -> Option<u64> {
    let status = read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_has_memory_and_a_share() {
        let start = UsageMark::now();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let usage = UsageMark::now().agent_since(&start);
        assert!(usage.resident_bytes > Some(100_000));
        assert!((0.0..2.0).contains(&usage.cpu_share));
    }
}
