//! The processors that agent and driver are kept to.

use std::io;

use fs_err::read_to_string;
use llem_protocol::{CpuList, FailureClass};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::fault::Fault;

/// The kernel's form of a list; `None` when it names a processor beyond those that the call can say.
pub(crate) fn cpu_set(list: &CpuList) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for number in list.iter() {
        let number = usize::try_from(number).ok().filter(|number| *number < CpuSet::MAX_CPU)?;
        set.set(number);
    }
    Some(set)
}

/// Keeps this thread, and all that it starts from here on, to these processors.
pub(crate) fn pin_self(list: &CpuList) -> Result<(), Fault> {
    let set = cpu_set(list).ok_or_else(|| refused("the agent", list, "it names too high a number"))?;
    sched_setaffinity(None, &set).map_err(|error| refused("the agent", list, &io::Error::from(error).to_string()))?;
    in_effect("the agent", list, allowed(None).as_deref())
}

/// Whether a process is kept to these processors and no others: the kernel leaves out those that its control group does not have.
pub(crate) fn in_effect(whose: &str, list: &CpuList, found: Option<&str>) -> Result<(), Fault> {
    match found {
        Some(found) if found.parse().as_ref() == Ok(list) => Ok(()),
        Some(found) => Err(refused(whose, list, &format!("the kernel allows {found}"))),
        None => Err(refused(whose, list, "/proc does not tell what is in effect")),
    }
}

/// The processors that the kernel lets a process, or this thread, run on, in its own words.
pub(crate) fn allowed(process: Option<Pid>) -> Option<String> {
    let who = process.map_or_else(|| "thread-self".to_owned(), |pid| pid.as_raw_nonzero().to_string());
    let status = read_to_string(format!("/proc/{who}/status")).ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(list.trim().to_owned())
}

fn refused(whose: &str, list: &CpuList, why: &str) -> Fault {
    Fault::new(FailureClass::Unsupported, format!("{whose} cannot be kept to processors {list}: {why}"))
}

#[cfg(test)]
mod tests {
    use llem_protocol::CpuList;

    use super::{allowed, cpu_set, in_effect, pin_self};

    #[test]
    fn a_thread_is_kept_to_one_processor() {
        let before: CpuList = allowed(None).unwrap().parse().unwrap();
        let one = before.iter().last().unwrap().to_string();
        let after = std::thread::spawn(move || {
            pin_self(&one.parse().unwrap()).unwrap();
            assert_eq!(allowed(None), Some(one.clone()));
            one
        });
        let one = after.join().unwrap();
        assert_eq!(allowed(None), Some(before.to_string()), "other threads stay where they were");
        assert!(in_effect("x", &one.parse().unwrap(), Some("0-77")).unwrap_err().message.contains("allows 0-77"));
    }

    #[test]
    fn processors_that_are_not_there_are_refused() {
        let absent: CpuList = "1000".parse().unwrap();
        assert!(std::thread::spawn(move || pin_self(&absent)).join().unwrap().is_err());
        assert!(cpu_set(&"8000".parse().unwrap()).is_none());
    }
}
