//! The driver: a child in its own process group that speaks JSON lines.

use std::ffi::OsStr;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use llem_protocol::{CpuList, DriverCommand, FailureClass, MAX_LINE_BYTES, Message, Request};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, set_parent_process_death_signal, waitid};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::cpus;
use crate::driver_log::SharedLog;
use crate::fault::Fault;
use crate::inbox::{Exit, Notice, Outbox};
use crate::lines::{self, Line};
use crate::process_tree;

/// Bytes taken from the driver's stderr at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// A started driver. Nothing here reads or writes on the main thread: a driver that hangs cannot hang the agent.
pub(crate) struct Driver {
    group: Pid,
    requests: Sender<Vec<u8>>,
}

impl Driver {
    /// Starts the first program that exists, on `cpus` where there are any. What it says arrives at `outbox`, what else it writes in `log`.
    pub(crate) fn start(
        command: &DriverCommand,
        cpus: Option<&CpuList>,
        outbox: &Outbox,
        log: &SharedLog,
    ) -> Result<Self, Fault> {
        let program = find_program(&command.programs, std::env::var_os("PATH").as_deref()).ok_or_else(|| {
            let tried = command.programs.join("`, `");
            Fault::new(FailureClass::DriverMissing, format!("none of these programs exists: `{tried}`"))
        })?;
        let mut child = spawn(&program, command, cpus.and_then(cpus::cpu_set)).map_err(|error| {
            Fault::new(FailureClass::DriverMissing, format!("cannot start {}: {error}", program.display()))
        })?;
        let group = Pid::from_child(&child);
        let (requests, lines) = channel();
        if let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        {
            thread::spawn(move || feed(stdin, &lines));
            let (said, written) = (outbox.clone(), log.clone());
            thread::spawn(move || listen(stdout, &said, &written));
            let (said, written) = (outbox.clone(), log.clone());
            thread::spawn(move || collect_log(stderr, &said, &written));
        }
        let ended = outbox.clone();
        thread::spawn(move || await_exit(group, &ended));
        Ok(Self { group, requests })
    }

    /// The processors that the kernel lets it run on.
    pub(crate) fn cpus(&self) -> Option<String> {
        cpus::allowed(Some(self.group))
    }

    /// Hands a request to the writing thread. A driver that is gone is noticed by its exit, not here.
    pub(crate) fn send(&self, request: &Request) -> Result<(), Fault> {
        let mut line = serde_json::to_vec(request).map_err(|error| Fault::protocol(error.to_string()))?;
        line.push(b'\n');
        let _ = self.requests.send(line);
        Ok(())
    }

    /// Ends the group and all descendants; the grace time ends early once `hurried`. Returns the process ids that would
    /// not leave.
    pub(crate) fn terminate(self, grace: Duration, hurried: impl Fn() -> bool) -> Vec<i32> {
        process_tree::terminate(self.group, grace, hurried)
    }
}

/// The first of `programs` that is an executable file; names without `/` are looked up in `path`.
fn find_program(programs: &[String], path: Option<&OsStr>) -> Option<PathBuf> {
    programs.iter().find_map(|program| {
        if program.contains('/') {
            return Some(PathBuf::from(program)).filter(|file| is_executable(file));
        }
        std::env::split_paths(path?).map(|directory| directory.join(program)).find(|file| is_executable(file))
    })
}

fn is_executable(file: &Path) -> bool {
    fs_err::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[expect(unsafe_code, reason = "the parent-death signal and the processors can only be set between fork and exec")]
fn spawn(program: &Path, driver: &DriverCommand, cpus: Option<CpuSet>) -> std::io::Result<Child> {
    let mut command = Command::new(program);
    command.args(&driver.args).envs(&driver.env).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: the closure makes two system calls, allocates nothing and takes no lock, which is all that is allowed in
    // a forked child of a process with threads.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if let Some(cpus) = &cpus {
                // Refused, it shows in what `/proc` says afterwards, which is looked at.
                let _ = sched_setaffinity(None, cpus);
            }
            Ok(())
        });
    }
    command.spawn()
}

fn feed(mut stdin: impl Write, lines: &Receiver<Vec<u8>>) {
    while let Ok(line) = lines.recv() {
        if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

/// Reads the protocol channel to its end. Lines that are not messages are log: engines print where they like.
fn listen(stdout: impl Read, outbox: &Outbox, log: &SharedLog) {
    let mut reader = BufReader::with_capacity(CHUNK_BYTES, stdout);
    let mut line = Vec::new();
    loop {
        let notice = match lines::read_line(&mut reader, &mut line) {
            Ok(Line::Complete) => {
                let Ok(message) = serde_json::from_slice::<Message>(&line) else {
                    log.lock().append_stray_line(&line);
                    continue;
                };
                Notice::Said(Box::new(message))
            }
            Ok(Line::TooLong) => Notice::Broke(format!("a line on stdout is longer than {MAX_LINE_BYTES} bytes")),
            Ok(Line::End) | Err(_) => Notice::ChannelClosed,
        };
        let last = !matches!(notice, Notice::Said(_));
        if !outbox.send(notice) || last {
            return;
        }
    }
}

fn collect_log(mut stderr: impl Read, outbox: &Outbox, log: &SharedLog) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match stderr.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => log.lock().append(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    outbox.send(Notice::LogClosed);
}

/// The driver is left as a zombie, so that its process id names nobody else until the group has been killed.
fn await_exit(driver: Pid, outbox: &Outbox) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let exit = loop {
        match waitid(WaitId::Pid(driver), options) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(Some(status)) => {
                break Exit { status: status.exit_status(), signal: status.terminating_signal() };
            }
            Ok(None) | Err(_) => return,
        }
    };
    outbox.send(Notice::Ended(exit));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(programs: &[&str]) -> Vec<String> {
        programs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_program_that_exists_is_taken() {
        let path = Some(OsStr::new("/nowhere:/bin"));
        assert_eq!(find_program(&names(&["/nowhere/x", "sh"]), path), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find_program(&names(&["/bin/sh", "ls"]), path), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find_program(&names(&["no-such-program"]), path), None);
    }

    #[test]
    fn directories_and_plain_files_are_not_programs() {
        assert_eq!(find_program(&names(&["/tmp", "/etc/passwd"]), None), None);
    }
}
