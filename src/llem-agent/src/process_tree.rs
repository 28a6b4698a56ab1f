//! The agent's descendants: who they are, what they used, and how they are made to leave.
//!
//! Engines hold GPU memory in grandchildren that outlive the driver. The agent is a child subreaper, so that every
//! orphan becomes its child and can be found under `/proc`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};

/// How long killed processes are waited for. The kernel may hold one for longer in an uninterruptible call.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// `USER_HZ`: clock ticks of `/proc/PID/stat` in a second, on every architecture that the agent is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// How often processes that were told to leave are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One line of `/proc/PID/stat`, as far as it is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// Process id.
    pub(crate) pid: i32,
    /// Its parent.
    pub(crate) parent: i32,
    /// State letter; `Z` is a process that has ended and was not yet waited for.
    pub(crate) state: char,
    /// User and system time of the process and of its children that were waited for, in clock ticks.
    pub(crate) ticks: u64,
}

impl ProcessStat {
    fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// All processes below this one, those that have ended included.
pub(crate) fn descendants() -> Vec<ProcessStat> {
    let mut children: HashMap<i32, Vec<ProcessStat>> = HashMap::new();
    for process in all_processes() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut parents = vec![own_pid()];
    while let Some(parent) = parents.pop() {
        for process in children.remove(&parent).unwrap_or_default() {
            parents.push(process.pid);
            found.push(process);
        }
    }
    found
}

/// Processor seconds that this process and everything below it have used, those that have ended included.
pub(crate) fn own_cpu_s() -> Option<f64> {
    let own = read_stat(own_pid())?.ticks;
    let ticks = own + descendants().iter().map(|process| process.ticks).sum::<u64>();
    Some(ticks as f64 / TICKS_PER_SECOND)
}

/// Makes the group and every descendant leave: TERM, the grace time or until `hurried`, KILL. Returns the process ids
/// that are still there.
pub(crate) fn terminate(group: Pid, grace: Duration, hurried: impl Fn() -> bool) -> Vec<i32> {
    signal_all(Some(group), Signal::TERM);
    let mut survivors = wait_until_gone(grace, hurried);
    let deadline = Instant::now() + KILL_WAIT;
    while !survivors.is_empty() && Instant::now() < deadline {
        signal_all(Some(group), Signal::KILL);
        survivors = wait_until_gone(LOOK_AGAIN, || false);
    }
    survivors
}

/// Kills every descendant without waiting.
pub(crate) fn kill_all() {
    signal_all(None, Signal::KILL);
}

fn signal_all(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // The group may be empty already.
        let _ = kill_process_group(group, signal);
    }
    for process in descendants().iter().filter(|process| process.is_alive()) {
        if let Some(pid) = Pid::from_raw(process.pid) {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Reaps and looks until no descendant lives, the time is over, or somebody is in a hurry. Returns those that live.
fn wait_until_gone(limit: Duration, hurried: impl Fn() -> bool) -> Vec<i32> {
    let deadline = Instant::now() + limit;
    loop {
        let living = reap();
        if living.is_empty() || Instant::now() >= deadline || hurried() {
            return living;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Waits for those children that have ended. Returns the descendants that live.
fn reap() -> Vec<i32> {
    let (living, ended): (Vec<_>, Vec<_>) = descendants().into_iter().partition(ProcessStat::is_alive);
    for child in ended.iter().filter(|process| process.parent == own_pid()) {
        let _ = waitpid(Pid::from_raw(child.pid), WaitOptions::NOHANG);
    }
    living.iter().map(|process| process.pid).collect()
}

fn own_pid() -> i32 {
    std::process::id() as i32
}

fn all_processes() -> Vec<ProcessStat> {
    let Ok(entries) = fs_err::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(read_stat).collect()
}

fn read_stat(pid: i32) -> Option<ProcessStat> {
    parse_stat(pid, &fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold anything, parentheses and spaces included: fields count from the last one.
fn parse_stat(pid: i32, stat: &str) -> Option<ProcessStat> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // proc_pid_stat(5): utime, stime, cutime and cstime are fields 14 to 17; the parent is field 4.
    let ticks = fields.skip(9).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(ProcessStat { pid, parent, state, ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c)) S 7 42 42 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 1 0 9 0 0";
        let expected = ProcessStat { pid: 42, parent: 7, state: 'S', ticks: 110 };
        assert_eq!(parse_stat(42, stat), Some(expected));
        assert_eq!(parse_stat(42, "42 (cut"), None);
    }

    #[test]
    fn a_child_is_found_below_this_process() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(descendants().iter().any(|process| process.pid == pid && process.is_alive()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!descendants().iter().any(|process| process.pid == pid));
    }
}
