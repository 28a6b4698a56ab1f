//! What a killed controller leaves of a run that no container engine looks after: its process is noted beside the job, so that the next
//! controller of the study ends it before it measures anything.
//!
//! Agents leave by themselves when nobody reads what they say. That takes a moment, and one that is stuck never does.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err::File;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::STOP_GRACE;
use crate::files::{remove_tree, write_atomic};

/// The note's name in the directory of a run.
const NAME: &str = ".process.json";

/// A scratch directory of another machine, or from before this one was started, that nobody changed for so long is used by nothing. Locks
/// of other machines may not be seen here.
const FOREIGN_SCRATCH_AGE: Duration = Duration::from_secs(24 * 3600);

/// Tries to make a scratch directory that nobody takes for one that was left.
const SCRATCH_TRIES: usize = 10;

/// How long the kernel may take to end a process that was killed.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// What names of scratch directories begin with: nothing else is removed.
const SCRATCH_PREFIX: &str = "llem-run-";

/// The process of a run, as it can be known again.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The boot of the machine that it runs on.
    boot_id: String,
    /// Its id, which is that of its process group.
    pid: i32,
    /// When it was started, in clock ticks since boot: tells it from another one that got its id.
    start_ticks: u64,
    /// A directory that goes with it.
    scratch: Option<PathBuf>,
}

/// Notes a process that was just started as the leader of its group. `run_dir` is the directory of its run.
pub(super) fn note(run_dir: &Path, pid: u32, scratch: Option<&Path>) -> io::Result<()> {
    let pid = i32::try_from(pid).unwrap_or_default();
    let start_ticks = start_ticks(pid).unwrap_or_default();
    let note = Note { boot_id: boot_id()?, pid, start_ticks, scratch: scratch.map(Path::to_owned) };
    write_atomic(&run_dir.join(NAME), &serde_json::to_vec(&note)?)
}

/// Forgets a process that has ended.
pub(super) fn forget(run_dir: &Path) {
    let _ = fs_err::remove_file(run_dir.join(NAME));
}

/// Ends what is left of the run in `run_dir` on this machine, and waits until it is gone. Its id, if it was still there.
///
/// # Errors
///
/// It does not go away.
pub fn end_left_process(run_dir: &Path) -> io::Result<Option<i32>> {
    let Some(note) = fs_err::read(run_dir.join(NAME)).ok().and_then(|text| serde_json::from_slice(&text).ok()) else {
        return Ok(None);
    };
    let ended = end(&note)?;
    if let Some(scratch) = note.scratch.as_deref().filter(|scratch| is_scratch(scratch)) {
        // Another machine's, or gone already: no matter.
        let _ = remove_tree(scratch);
    }
    forget(run_dir);
    Ok(ended.then_some(note.pid))
}

/// A directory for the time of one container. Its lock lasts as long as its controller does; its name tells the boot of the machine.
#[derive(Debug)]
pub(super) struct Scratch {
    directory: TempDir,
    _lock: File,
}

impl Scratch {
    /// An empty directory of this machine. Schedulers name a local disk by `TMPDIR`.
    pub(super) fn new() -> io::Result<Self> {
        Self::new_in(&std::env::temp_dir())
    }

    /// One in a directory that [`remove_left_scratch`] is called for.
    pub(super) fn new_in(place: &Path) -> io::Result<Self> {
        let prefix = own_prefix().unwrap_or_else(|| SCRATCH_PREFIX.to_owned());
        for _ in 0..SCRATCH_TRIES {
            let directory = tempfile::Builder::new().prefix(&prefix).tempdir_in(place)?;
            let Ok(lock) = File::open(directory.path()) else { continue };
            // Network file systems lock directories for one machine only, if at all: others go by the name.
            let _ = lock.file().lock();
            // Whoever cleans up may have been faster than the lock.
            if directory.path().exists() {
                return Ok(Self { directory, _lock: lock });
            }
        }
        Err(io::Error::other(format!("{}: directories made there vanish", place.display())))
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Scratch {
    /// What was in a container may have locked directories of its own.
    fn drop(&mut self) {
        if let Err(error) = remove_tree(self.directory.path()) {
            tracing::warn!(directory = %self.directory.path().display(), %error, "left");
        }
    }
}

/// Removes scratch directories that killed controllers of this user left in `place`.
pub(super) fn remove_left_scratch(place: &Path) {
    let entries = fs_err::read_dir(place).into_iter().flatten().flatten();
    let own_prefix = own_prefix();
    for path in entries.map(|entry| entry.path()).filter(|path| is_scratch(path)) {
        let Ok(found) = fs_err::symlink_metadata(&path) else { continue };
        let is_own = found.is_dir() && found.uid() == rustix::process::getuid().as_raw();
        let is_of_this_boot = own_prefix.as_deref().is_some_and(|prefix| has_prefix(&path, prefix));
        let is_old = || found.modified().is_ok_and(|then| then.elapsed().is_ok_and(|age| age > FOREIGN_SCRATCH_AGE));
        if !is_own || !(is_of_this_boot || is_old()) {
            continue;
        }
        let Ok(directory) = File::open(&path) else { continue };
        // Held until it is gone: whoever has just made it finds that out.
        if directory.file().try_lock().is_ok() {
            let _ = remove_tree(&path);
        }
    }
}

/// What names of scratch directories of this machine begin with until it is started anew.
fn own_prefix() -> Option<String> {
    let boot: String = boot_id().ok()?.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    Some(format!("{SCRATCH_PREFIX}{boot}-"))
}

fn is_scratch(path: &Path) -> bool {
    has_prefix(path, SCRATCH_PREFIX)
}

fn has_prefix(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// Asks, waits, kills. False for a process that is not there any more.
fn end(note: &Note) -> io::Result<bool> {
    if boot_id().ok().as_deref() != Some(&note.boot_id) {
        return Ok(false);
    }
    let Some(pid) = Pid::from_raw(note.pid) else { return Ok(false) };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(false) };
    // Only now does the id stay with the process.
    if start_ticks(note.pid) != Some(note.start_ticks) {
        return Ok(false);
    }
    let _ = pidfd_send_signal(&process, Signal::TERM);
    if !gone_within(&process, STOP_GRACE) {
        let _ = kill_process_group(pid, Signal::KILL);
        if !gone_within(&process, KILL_WAIT) {
            let text =
                format!("process {} of a run that a dead controller left does not end; end it by hand", note.pid);
            return Err(io::Error::other(text));
        }
    }
    Ok(true)
}

/// Waits for the end of a process.
fn gone_within(process: &impl AsFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// proc_pid_stat(5): the start is field 22; fields count from the end of the name in parentheses. A process that has ended and was not yet
/// waited for is as good as gone.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?;
    fields.nth(18)?.parse().ok().filter(|_| state != "Z")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::{NAME, Note, Scratch, end_left_process, note, own_prefix, remove_left_scratch};

    fn sleeper() -> Child {
        Command::new("sleep").arg("300").process_group(0).spawn().unwrap()
    }

    #[test]
    fn what_was_noted_is_ended_with_its_scratch_directory() {
        let (run, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let scratch = temporary.path().join("llem-run-x");
        fs_err::create_dir(&scratch).unwrap();
        let mut child = sleeper();
        note(run.path(), child.id(), Some(&scratch)).unwrap();
        assert_eq!(end_left_process(run.path()).unwrap(), Some(child.id().cast_signed()));
        child.wait().unwrap();
        assert!(!scratch.exists() && !run.path().join(NAME).exists());
        assert_eq!(end_left_process(run.path()).unwrap(), None);
    }

    #[test]
    fn scratch_directories_that_were_left_go_and_those_in_use_stay() {
        let place = tempfile::tempdir().unwrap();
        let make = |name: &str, age_s: u64| {
            let path = place.path().join(name);
            fs_err::create_dir(&path).unwrap();
            let directory = fs_err::File::open(&path).unwrap();
            let then = std::time::SystemTime::now() - std::time::Duration::from_secs(age_s);
            directory.file().set_modified(then).unwrap();
            directory
        };
        drop(make("llem-run-old", 100_000));
        drop(make("llem-run-foreign", 7200));
        drop(make("other", 100_000));
        let held = make("llem-run-held", 100_000);
        held.file().lock().unwrap();
        // Of a controller that was killed a moment ago on this machine: its lock went with it.
        drop(make(&format!("{}left", own_prefix().unwrap()), 0));
        let live = Scratch::new_in(place.path()).unwrap();
        remove_left_scratch(place.path());
        let entries = fs_err::read_dir(place.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        fs_err::create_dir(live.path().join("locked")).unwrap();
        fs_err::set_permissions(live.path().join("locked"), std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
        let live_name = live.path().file_name().unwrap().to_owned();
        let mut expected: Vec<_> = ["llem-run-held", "llem-run-foreign", "other"].map(Into::into).into();
        expected.push(live_name);
        expected.sort();
        assert_eq!(names, expected);
        let path = live.path().to_owned();
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn another_process_with_the_same_id_is_let_be() {
        let run = tempfile::tempdir().unwrap();
        let mut child = sleeper();
        note(run.path(), child.id(), Some(run.path())).unwrap();
        let path = run.path().join(NAME);
        let noted: Note = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        let others = [
            Note { start_ticks: noted.start_ticks + 1, boot_id: noted.boot_id.clone(), scratch: None, ..noted },
            Note { boot_id: "another".to_owned(), scratch: None, ..noted },
        ];
        for other in others {
            fs_err::write(&path, serde_json::to_vec(&other).unwrap()).unwrap();
            assert_eq!(end_left_process(run.path()).unwrap(), None);
            assert_eq!(child.try_wait().unwrap(), None);
        }
        assert!(run.path().exists(), "no scratch directory by its name");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
