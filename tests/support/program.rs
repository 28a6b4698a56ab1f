//! A started `llem` and what it says while it works.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fs_err::File;
use rustix::process::{Pid, Signal, kill_process};

use super::finished::Place;
use super::{Finished, containers_of, docker_text, eventually, eventually_within};

/// A started `llem`. Dropped before its end, it is killed.
pub(crate) struct Program {
    child: Option<Child>,
    lines: Arc<Mutex<Vec<String>>>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<()>>,
    place: Place,
    starting: Option<File>,
}

impl Program {
    /// Starts a command whose results go to `place`.
    pub(crate) fn start(command: Command, place: Place) -> Self {
        let starting = start_lock();
        starting.file().lock_shared().unwrap();
        let mut program = Self::start_alone(command, place);
        program.starting = Some(starting);
        program
    }

    /// As [`Program::start`] for a caller that holds [`alone`].
    pub(crate) fn start_alone(mut command: Command, place: Place) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        Self {
            child: Some(child),
            lines,
            stdout: Some(std::thread::spawn(move || {
                let mut text = String::new();
                stdout.read_to_string(&mut text).unwrap();
                text
            })),
            stderr: Some(std::thread::spawn(move || {
                stderr.lines().for_each(|line| kept.lock().unwrap().push(line.unwrap()));
            })),
            place,
            starting: None,
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// All lines on stderr so far.
    pub(crate) fn said(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits for a line on stderr with `text` in it.
    pub(crate) fn until(&mut self, text: &str) {
        let deadline = Instant::now() + super::PATIENCE;
        loop {
            // The end is looked at first: what was said before it is then complete.
            let ended = self.stderr.as_ref().is_none_or(JoinHandle::is_finished);
            if self.lines.lock().unwrap().iter().any(|line| line.contains(text)) {
                return;
            }
            assert!(!ended && Instant::now() < deadline, "llem did not say `{text}` but:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets other tests be alone: this one works on an engine of its own.
    pub(crate) fn elsewhere(mut self) -> Self {
        self.starting = None;
        self
    }

    /// Waits until the warm-up of the `n`th run has ended.
    pub(crate) fn until_run(&mut self, n: usize) {
        let deadline = Instant::now() + super::PATIENCE;
        while self.said().matches("  warm-up ").count() < n {
            assert!(self.is_running() && Instant::now() < deadline, "no run {n}: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the first run's window is open: `-v` tells when the warm-up has ended, the container's log the rest.
    pub(crate) fn until_window(&mut self) {
        self.until("  warm-up ");
        self.starting = None;
        if self.said().contains("runner docker") {
            let id = self.container();
            let is_open = || docker_text(&["logs", &id]).contains(r#""event":"phase_started","phase":"window""#);
            eventually("the window", || is_open().then_some(()));
        }
    }

    /// The study's directory, once it is there.
    pub(crate) fn study_dir(&self) -> PathBuf {
        eventually("the study directory", || study_dirs(&self.place.output).pop())
    }

    /// The running container of this study.
    pub(crate) fn container(&self) -> String {
        let directory = self.study_dir();
        eventually("the container of the study", || containers_of(&directory).pop())
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Kills it as nothing can be prepared for; its containers stay.
    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for the end.
    pub(crate) fn finish(mut self) -> Finished {
        let status = self.wait();
        self.starting = None;
        self.child = None;
        let stdout = self.stdout.take().unwrap().join().unwrap();
        self.stderr.take().unwrap().join().unwrap();
        Finished::new(status, stdout, self.said(), self.place.clone())
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let said = Arc::clone(&self.lines);
        let child = self.child.as_mut().unwrap();
        let what = format!("the end of llem; it said {:?}", said.lock().unwrap());
        eventually_within(self.place.patience, &what, || child.try_wait().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// While this is held no other test's `llem` starts on the engine: each removes what dead controllers left, whoever left it.
pub(crate) fn alone() -> File {
    let lock = start_lock();
    lock.file().lock().unwrap();
    lock
}

fn start_lock() -> File {
    File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("start.lock")).unwrap()
}

/// Study directories below `output`, oldest first.
pub(super) fn study_dirs(output: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs_err::read_dir(output) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    paths.sort();
    paths
}

/// Whether a process exists and has not ended.
pub(crate) fn is_alive(pid: Pid) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}
