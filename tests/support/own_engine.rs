//! A container engine of a test's own, beside the machine's: it can be stopped, killed and started again.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fs_err::File;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{eventually, has_program};

/// How long an engine may take to end in order, its containers included, before it is killed.
const SHUTDOWN: Duration = Duration::from_secs(60);

/// `dockerd` on a containerd of its own: nothing of it is shared with the machine's engine but the kernel.
pub(crate) struct OwnEngine {
    /// Images and containers.
    data: TempDir,
    /// Sockets; their paths must be short.
    state: TempDir,
    containerd: Child,
    dockerd: Option<Child>,
}

impl OwnEngine {
    /// `None`, with a line that says why, where there can be none; where `CI` is set that is a failure.
    pub(crate) fn start() -> Option<Self> {
        if let Some(why) = obstacle() {
            assert!(std::env::var_os("CI").is_none(), "no engine of its own: {why}; CI must have one");
            let _ = writeln!(std::io::stderr(), "skipped: no container engine of the test's own: {why}");
            return None;
        }
        let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let state = tempfile::tempdir().unwrap();
        let config = containerd_config(data.path(), state.path());
        fs_err::write(state.path().join("containerd.toml"), config).unwrap();
        // Without it, dockerd would take the settings of the machine's engine.
        fs_err::write(state.path().join("dockerd.json"), "{}").unwrap();
        let mut containerd = Command::new("containerd");
        containerd.arg("--config").arg(state.path().join("containerd.toml"));
        let containerd = spawn(containerd, &state.path().join("containerd.log"));
        let mut engine = Self { data, state, containerd, dockerd: None };
        eventually("the socket of containerd", || engine.state("containerd.sock").exists().then_some(()));
        engine.run();
        Some(engine)
    }

    /// Value for `DOCKER_HOST`.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.state("docker.sock").display())
    }

    /// Starts the engine, for the first time or again, and waits until it answers.
    pub(crate) fn run(&mut self) {
        self.try_run().unwrap();
    }

    fn try_run(&mut self) -> Result<(), String> {
        if self.dockerd.is_some() {
            return Ok(());
        }
        let _ = fs_err::remove_file(self.state("docker.pid"));
        // In a network of its own: an engine that is told to have no bridge removes `docker0`, and that is the machine's engine's.
        let mut command = Command::new("unshare");
        command
            .args(["--net", "dockerd"])
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"])
            .args(["--containerd-namespace=llem-test", "--containerd-plugins-namespace=llem-test-plugins"])
            .arg("--config-file")
            .arg(self.state("dockerd.json"))
            .arg("--data-root")
            .arg(self.data.path().join("docker"))
            .arg("--exec-root")
            .arg(self.state("docker"))
            .arg("--pidfile")
            .arg(self.state("docker.pid"))
            .arg("--containerd")
            .arg(self.state("containerd.sock"))
            .arg("--host")
            .arg(self.address());
        let log = self.state("dockerd.log");
        let mut dockerd = spawn(command, &log);
        let deadline = Instant::now() + super::PATIENCE;
        while !self.docker(&["version"]).status.success() {
            if dockerd.try_wait().unwrap().is_some() || Instant::now() > deadline {
                let _ = dockerd.kill();
                return Err(format!("dockerd: {}", fs_err::read_to_string(&log).unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.dockerd = Some(dockerd);
        Ok(())
    }

    /// Ends the engine with a signal and waits until it is gone. What `SIGKILL` does to its containers is the engine's affair.
    pub(crate) fn end(&mut self, signal: Signal) {
        let Some(mut dockerd) = self.dockerd.take() else { return };
        end(&mut dockerd, signal);
    }

    /// Runs the engine's client on this engine.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Output {
        // A client that asks an engine which is just ending may wait for ever.
        let mut client = Command::new("timeout");
        client.args(["60", "docker", "--host", &self.address()]).args(arguments).output().unwrap()
    }

    /// Ids of all its containers, running or not.
    pub(crate) fn containers(&self) -> Vec<String> {
        let listed = self.docker(&["ps", "-aq", "--no-trunc"]);
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn state(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        // Containers outlive an engine that was killed, and only an engine can remove them.
        if self.try_run().is_ok() {
            let ids = String::from_utf8(self.docker(&["ps", "-aq"]).stdout).unwrap_or_default();
            for id in ids.lines() {
                let _ = self.docker(&["rm", "-f", id]);
            }
        }
        self.end(Signal::TERM);
        end(&mut self.containerd, Signal::TERM);
        for root in [self.data.path(), self.state.path()] {
            unmount_below(root);
        }
    }
}

/// Why there can be no engine beside the machine's.
fn obstacle() -> Option<String> {
    if !rustix::process::getuid().is_root() {
        return Some("only root can start one".to_owned());
    }
    let missing =
        ["dockerd", "containerd", "docker", "runc", "timeout", "unshare"].into_iter().find(|name| !has_program(name));
    missing.map(|name| format!("there is no `{name}`"))
}

fn containerd_config(data: &Path, state: &Path) -> String {
    // A JSON text is a TOML text, too.
    let text = |path: PathBuf| serde_json::json!(path.display().to_string());
    let (root, run, socket) = (data.join("containerd"), state.join("containerd"), state.join("containerd.sock"));
    format!(
        "version = 2\nroot = {}\nstate = {}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {}\n",
        text(root),
        text(run),
        text(socket)
    )
}

/// Starts a daemon with its words in a file.
fn spawn(mut command: Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap().into_parts().0;
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn end(child: &mut Child, signal: Signal) {
    let _ = kill_process(Pid::from_child(child), signal);
    let deadline = Instant::now() + SHUTDOWN;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A killed engine leaves its mounts.
fn unmount_below(root: &Path) {
    let mounts = fs_err::read_to_string("/proc/mounts").unwrap_or_default();
    let targets: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    for target in targets.into_iter().rev().filter(|target| Path::new(target).starts_with(root)) {
        let _ = Command::new("umount").args(["-l", target]).status();
    }
}
