//! What the agent itself and the rest of the machine used between two moments.

use fs_err::read_to_string;
use llem_protocol::SelfUsage;

use crate::{clock, process_tree};

/// Usage counters at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsageMark {
    t_ns: u64,
    cpu_s: f64,
    machine: Option<MachineTicks>,
}

/// Clock ticks of the whole machine and of this run's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MachineTicks {
    busy: u64,
    idle: u64,
    own: u64,
}

impl UsageMark {
    /// The agent's own counters; cheap enough for the window's edges.
    pub(crate) fn of_agent() -> Self {
        Self { t_ns: clock::monotonic_ns(), cpu_s: clock::process_cpu_s(), machine: None }
    }

    /// With the machine's counters, which means a walk through `/proc`: not at the edge itself.
    pub(crate) fn of_machine() -> Self {
        Self { machine: machine_ticks(), ..Self::of_agent() }
    }

    /// What the agent used since `earlier`.
    pub(crate) fn agent_since(&self, earlier: &Self) -> SelfUsage {
        let cpu_s = self.cpu_s - earlier.cpu_s;
        let seconds = clock::seconds_between(earlier.t_ns, self.t_ns);
        let cpu_share = if seconds > 0.0 { cpu_s / seconds } else { 0.0 };
        SelfUsage { cpu_s, cpu_share, resident_bytes: resident_bytes().unwrap_or(0) }
    }

    /// The share of the machine's processor time, 0 to 1, that others than this run's process tree used since
    /// `earlier`. Others are all of `/proc/stat`'s busy time (user, nice, system, interrupts, and time stolen by other
    /// virtual machines) less what agent, driver and their descendants used. `None` when `/proc` cannot be read.
    pub(crate) fn others_share_since(&self, earlier: &Self) -> Option<f64> {
        let (end, start) = (self.machine?, earlier.machine?);
        let busy = end.busy.saturating_sub(start.busy);
        let total = busy + end.idle.saturating_sub(start.idle);
        let others = busy.saturating_sub(end.own.saturating_sub(start.own));
        (total > 0).then(|| others as f64 / total as f64)
    }
}

fn machine_ticks() -> Option<MachineTicks> {
    let (busy, idle) = parse_stat(&read_to_string("/proc/stat").ok()?)?;
    Some(MachineTicks { busy, idle, own: process_tree::own_ticks()? })
}

/// Busy and idle ticks of `/proc/stat`'s first line. Guest time is contained in user time (proc_stat(5)).
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).take(8).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks.try_into().ok()?;
    Some((user + nice + system + irq + softirq + steal, idle + iowait))
}

fn resident_bytes() -> Option<u64> {
    let status = read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(busy: u64, idle: u64, own: u64) -> UsageMark {
        UsageMark { t_ns: 0, cpu_s: 0.0, machine: Some(MachineTicks { busy, idle, own }) }
    }

    #[test]
    fn the_runs_own_work_is_not_others() {
        let share = mark(1600, 1400, 500).others_share_since(&mark(1000, 1000, 100));
        assert!((share.unwrap() - 0.2).abs() < 1e-12, "600 busy of 1000, 400 of them own");
        assert_eq!(mark(1, 1, 0).others_share_since(&mark(1, 1, 0)), None);
        let unread = UsageMark { machine: None, ..mark(0, 0, 0) };
        assert_eq!(mark(9, 9, 0).others_share_since(&unread), None);
    }

    #[test]
    fn guest_time_is_not_counted_twice() {
        assert_eq!(parse_stat("cpu  10 1 2 100 50 3 4 5 6 7\ncpu0 1 1\n"), Some((25, 150)));
        assert_eq!(parse_stat("intr 1"), None);
    }

    #[test]
    fn the_agent_has_memory_and_a_share() {
        let start = UsageMark::of_machine();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let usage = UsageMark::of_machine().agent_since(&start);
        assert!(usage.resident_bytes > 100_000);
        assert!((0.0..2.0).contains(&usage.cpu_share));
    }
}
