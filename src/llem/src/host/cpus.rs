//! The processors of this machine that runs can be kept to.

use fs_err::read_to_string;
use llem_protocol::CpuList;

use crate::config::UserConfig;
use crate::runner::docker::Engine;

/// Processors that the kernel has switched on.
fn online() -> Option<CpuList> {
    read_to_string("/sys/devices/system/cpu/online").ok()?.parse().ok()
}

/// Processors that this process may use; what it starts cannot use more.
fn own() -> Option<CpuList> {
    let status = read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().parse().ok()
}

/// Why runs cannot be kept to the processors of the user config; `None` when nothing speaks against it. Runs that are processes of this
/// machine (`is_process`) get no more than llem itself has; those in containers need an engine that can limit processors.
pub(crate) fn obstacle(user: &UserConfig, is_process: bool, engine: Option<&Engine>) -> Option<String> {
    let pinning = user.cpus.pinning()?;
    if engine.is_some_and(|engine| engine.info().cpu_set == Some(false)) {
        return Some("the container engine cannot keep containers to processors (no `cpuset` controller)".to_owned());
    }
    lacking(&pinning.engine.and(&pinning.agent), is_process)
}

fn lacking(wanted: &CpuList, is_process: bool) -> Option<String> {
    let among = |found: Option<CpuList>| found.and_then(|found| Some((wanted.without(&found)?, found)));
    if let Some((absent, online)) = among(online()) {
        return Some(format!("this machine has no processor {absent} (it has {online})"));
    }
    let (denied, own) = among(own()).filter(|_| is_process)?;
    Some(format!("llem itself may not use processor {denied} (it may use {own}, by `taskset` or a batch system)"))
}

#[cfg(test)]
mod tests {
    use super::{lacking, online, own};

    #[test]
    fn what_the_machine_does_not_have_is_named() {
        let (online, own) = (online().unwrap(), own().unwrap());
        assert_eq!(lacking(&own, true), None);
        let absent = online.iter().last().unwrap() + 1;
        let said = lacking(&own.and(&absent.to_string().parse().unwrap()), false).unwrap();
        assert_eq!(said, format!("this machine has no processor {absent} (it has {online})"));
    }
}
