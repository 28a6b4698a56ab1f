//! A driver that the kernel kills for lack of main memory, in a real control group.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use llem_protocol::{FailureClass, Phase};

use crate::harness::{bench, finish};

/// Enough for agent and interpreter, and soon used up.
const LIMIT: &str = "100663296";

#[test]
fn a_driver_killed_for_lack_of_memory_is_told_from_one_that_crashed() {
    let Some(bench) = bench("eat_memory") else { return };
    let Some(group) = limited_group() else {
        let _ = writeln!(std::io::stderr(), "skipped: no control group with a memory limit can be made here");
        return;
    };
    let agent = bench.command();
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group.join("cgroup.procs"));
    command.arg(agent.get_program()).args(agent.get_args());
    let outcome = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    fs_err::remove_dir(&group).unwrap();
    let failure = outcome.failure();
    assert_eq!((failure.class, failure.phase), (FailureClass::HostOutOfMemory, Phase::Window));
    assert!(failure.message.contains("SIGKILL"), "{failure}");
    assert_eq!(bench.report().unwrap().environment.memory_limit_bytes, Some(LIMIT.parse().unwrap()));
}

/// A new group with a limit, of either version; `None` without the right to make one.
fn limited_group() -> Option<PathBuf> {
    let name = format!("llem-agent-test-{}", std::process::id());
    for (parent, file) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
        let group = Path::new(parent).join(&name);
        if !Path::new(parent).join("cgroup.procs").exists() || fs_err::create_dir(&group).is_err() {
            continue;
        }
        let set = fs_err::OpenOptions::new().write(true).open(group.join(file));
        if set.and_then(|mut limit| std::io::Write::write_all(&mut limit, LIMIT.as_bytes())).is_ok() {
            return Some(group);
        }
        let _ = fs_err::remove_dir(&group);
    }
    None
}
