//! What the kernel says about a process. Processes come and go: each answer may be missing.

use std::path::PathBuf;

use fs_err::read_to_string;

use crate::printable::printable;

/// Generations that are looked up.
const ANCESTORS: usize = 64;

/// Characters of a control group's path that are kept.
const CGROUP_CHARS: usize = 1024;

/// A process at first sight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ProcessFacts {
    /// When it was started, in clock ticks since boot: tells it from another one that got its id.
    pub(super) start_ticks: u64,
    /// The kernel's name of it, at most 15 bytes; any process can choose its own.
    pub(super) name: String,
    /// Its real user.
    pub(super) uid: Option<u32>,
    /// Paths of its control groups, one a line.
    pub(super) cgroups: String,
    /// Its process group.
    pub(super) group: u32,
    /// Its parent, that one's parent, and so on.
    pub(super) ancestors: Vec<u32>,
}

/// Tells about processes by their id.
pub(super) trait Processes {
    /// When a process was started, in clock ticks since boot.
    fn start_ticks(&self, pid: u32) -> Option<u64>;
    /// Everything about a process.
    fn facts(&self, pid: u32) -> Option<ProcessFacts>;
}

/// The processes of this machine.
pub(super) struct Proc;

impl Processes for Proc {
    fn start_ticks(&self, pid: u32) -> Option<u64> {
        stat(pid).map(|stat| stat.start_ticks)
    }

    fn facts(&self, pid: u32) -> Option<ProcessFacts> {
        let stat = stat(pid)?;
        let cgroups = read_to_string(file(pid, "cgroup")).ok()?;
        Some(ProcessFacts {
            start_ticks: stat.start_ticks,
            name: printable(&stat.name),
            uid: read_to_string(file(pid, "status")).ok().and_then(|text| real_uid(&text)),
            cgroups: paths(&cgroups),
            group: stat.group,
            ancestors: std::iter::successors(Some(stat.parent), |pid| self::stat(*pid).map(|stat| stat.parent))
                .take_while(|pid| *pid > 0)
                .take(ANCESTORS)
                .collect(),
        })
    }
}

/// Whether this process is in the machine's first PID namespace, where all processes can be seen. Its number is fixed in the kernel's
/// sources (`PROC_PID_INIT_INO` of include/linux/proc_ns.h).
pub(super) fn sees_all_processes() -> bool {
    fs_err::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
}

fn file(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// Part of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    group: u32,
    start_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    // A name need not be UTF-8.
    let bytes = fs_err::read(file(pid, "stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// The name in parentheses may hold anything, parentheses included: fields count from the last one (proc_pid_stat(5): state is field 3,
/// the parent 4, the group 5, the start time 22).
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split_ascii_whitespace().skip(1);
    let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let start_ticks = fields.nth(16)?.parse().ok()?;
    Some(Stat { name: name.to_owned(), parent, group, start_ticks })
}

fn real_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()
}

/// The paths of cgroups(7)'s `hierarchy:controllers:path`, without the root, each once.
fn paths(cgroups: &str) -> String {
    let mut paths: Vec<&str> = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    paths.retain(|path| *path != "/");
    paths.sort_unstable();
    paths.dedup();
    paths.join("\n").chars().take(CGROUP_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::{Proc, Processes, Stat, parse_stat, paths, real_uid};

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b (c)) S 7 41 40 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 1 0 987 0 0";
        let expected = Stat { name: "a) b (c)".into(), parent: 7, group: 41, start_ticks: 987 };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("42 (cut"), None);
        assert_eq!(parse_stat("42 (x) S 7 41"), None);
    }

    #[test]
    fn control_groups_of_both_versions_are_read() {
        let text = "5:memory:/docker/ab12\n4:pids:/docker/ab12\n1:name=systemd:/a:b\n0::/\n";
        assert_eq!(paths(text), "/a:b\n/docker/ab12");
        assert_eq!(paths("0::/system.slice/docker-ab12.scope\n"), "/system.slice/docker-ab12.scope");
        assert_eq!(real_uid("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(1000));
    }

    #[test]
    fn a_child_knows_this_process() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let facts = Proc.facts(child.id()).unwrap();
        let again = Proc.start_ticks(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(facts.ancestors.first(), Some(&std::process::id()));
        assert_eq!(facts.uid, Some(rustix::process::getuid().as_raw()));
        assert!(facts.start_ticks > 0 && again == Some(facts.start_ticks));
        assert_eq!((Proc.start_ticks(child.id()), Proc.facts(child.id())), (None, None));
    }
}
