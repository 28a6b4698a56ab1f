//! A podman that answers on a socket, with storage of its own.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::eventually;

/// What podman is told: no limits that this machine may not set, no systemd.
const CONFIG: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// A podman service. Ends with the test, its containers and images with it.
pub(crate) struct Podman {
    service: Child,
    directory: TempDir,
    /// Whom it runs as, where that is not the test's own user.
    user: Option<u32>,
}

impl Podman {
    /// Starts a service. Where there is no podman, says so; fails where `CI` is set.
    pub(crate) fn start() -> Option<Self> {
        Self::start_as(None)
    }

    /// As [`Podman::start`], as an ordinary user: without root on this machine.
    pub(crate) fn start_as(user: Option<u32>) -> Option<Self> {
        let version = Command::new("podman").arg("--version").output();
        if !version.is_ok_and(|output| output.status.success()) {
            assert!(
                std::env::var_os("CI").is_none(),
                "there is no podman, and CI must have one (.ci/install-apptainer)"
            );
            let _ = writeln!(std::io::stderr(), "skipped: there is no podman (.ci/install-apptainer installs it)");
            return None;
        }
        // Unix sockets have short names.
        let directory = tempfile::Builder::new().prefix("llem-podman-").tempdir_in("/tmp").unwrap();
        fs_err::write(directory.path().join("containers.conf"), CONFIG).unwrap();
        std::os::unix::fs::chown(directory.path(), user, user).unwrap();
        let log = fs_err::File::create(directory.path().join("log")).unwrap().into_parts().0;
        let service = podman(directory.path(), user)
            .args(["system", "service", "--time=0", &address(directory.path())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let started = Self { service, directory, user };
        let socket = started.directory.path().join("sock");
        eventually("podman's socket", || std::os::unix::net::UnixStream::connect(&socket).ok());
        Some(started)
    }

    /// For `DOCKER_HOST`.
    pub(crate) fn address(&self) -> String {
        address(self.directory.path())
    }

    /// What a command of podman's own says.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let output = podman(self.directory.path(), self.user).args(arguments).output().unwrap();
        assert!(output.status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn address(directory: &Path) -> String {
    format!("unix://{}/sock", directory.display())
}

fn podman(directory: &Path, user: Option<u32>) -> Command {
    let mut command = Command::new("podman");
    let place = |name: &str| directory.join(name);
    command.env("CONTAINERS_CONF", place("containers.conf")).current_dir("/");
    if let Some(user) = user {
        command.uid(user).gid(user).env("HOME", directory).env("XDG_RUNTIME_DIR", directory);
    }
    command.arg("--root").arg(place("root")).arg("--runroot").arg(place("run")).args(["--storage-driver", "vfs"]);
    command
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = podman(self.directory.path(), self.user).args(["rm", "--all", "--force"]).output();
        // Without root, podman starts itself anew in a namespace of its own, as a child.
        let _ = kill_process_group(Pid::from_child(&self.service), Signal::KILL);
        let _ = self.service.wait();
        // Layers may be mounted below.
        let _ = podman(self.directory.path(), self.user).args(["system", "reset", "--force"]).output();
    }
}
