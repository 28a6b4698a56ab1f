//! The controller in a container beside the engine: what it calls a path, the host calls otherwise, and the engine wants the host's.

use std::path::{Component, Path, PathBuf};

use bollard::models::{ContainerInspectResponse, MountPoint};
use thiserror::Error;
use tracing::debug;

use super::client::{Engine, EngineError};

/// Files that every engine mounts into its containers, from a directory of the host that has the container's id in its name.
const ENGINE_FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// Hexadecimal digits of a container's id.
const ID_DIGITS: usize = 64;

/// File systems of the kernel: the same under the same name everywhere on the machine.
const KERNEL: [&str; 2] = ["/sys", "/dev"];

/// A path of the controller's container that no container of the host can be given.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{}: llem runs in container {container} beside the container engine, and {reason}; mount a directory of the host there \
     (`-v /host/directory:{}`)",
    path.display(), remedy.display()
)]
pub struct NotShared {
    /// The path.
    pub path: PathBuf,
    container: String,
    reason: String,
    remedy: PathBuf,
}

/// How paths of this process are named on the engine's machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostPaths {
    /// The same.
    #[default]
    Same,
    /// By the mounts of the container that this process is in.
    Mounted {
        /// The container's id.
        container: String,
        /// Its mounts.
        mounts: Vec<OwnMount>,
    },
}

/// A directory of the host in the controller's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnMount {
    /// On the host; `None` for memory, which has no name there.
    pub host: Option<PathBuf>,
    /// In the controller's container.
    pub here: PathBuf,
}

impl HostPaths {
    /// Finds out whether this process is in a container of the engine, and asks the engine for that container's mounts. An engine that
    /// does not know the container is not beside it but, like llem, inside it: then paths are the same.
    pub async fn find(engine: &Engine) -> Result<Self, EngineError> {
        let read = |path: &str| fs_err::read_to_string(path).unwrap_or_default();
        let Some(id) = own_container(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup")) else {
            return Ok(Self::Same);
        };
        match engine.inspect(&id).await {
            Ok(container) => {
                let found = Self::of_container(id, &container);
                debug!(?found, "llem runs in a container of the engine");
                Ok(found)
            }
            Err(error) if error.is_missing() => Ok(Self::Same),
            Err(error) => Err(error),
        }
    }

    fn of_container(id: String, container: &ContainerInspectResponse) -> Self {
        let mounts = container.mounts.iter().flatten().filter_map(own_mount).collect();
        Self::Mounted { container: id, mounts }
    }

    /// The host's name of a path. The path need not exist, but what exists of it is followed through symbolic links.
    pub fn on_host(&self, path: &Path) -> Result<PathBuf, NotShared> {
        let Self::Mounted { container, mounts } = self else { return Ok(path.to_owned()) };
        if KERNEL.iter().any(|kernel| path.starts_with(kernel)) {
            return Ok(path.to_owned());
        }
        let real = real(path);
        let refusal = |reason: String, remedy: &Path| NotShared {
            path: path.to_owned(),
            container: container.get(..12).unwrap_or(container).to_owned(),
            reason,
            remedy: remedy.to_owned(),
        };
        if let Some(inner) = mounts.iter().find(|mount| mount.here != real && mount.here.starts_with(&real)) {
            let reason = format!("another directory is mounted inside it, at {}", inner.here.display());
            return Err(refusal(reason, &real));
        }
        let around = mounts.iter().filter(|mount| real.starts_with(&mount.here));
        let Some(mount) = around.max_by_key(|mount| mount.here.components().count()) else {
            return Err(refusal("this path is of that container alone, so no other can share it".to_owned(), &real));
        };
        match (&mount.host, real.strip_prefix(&mount.here)) {
            (Some(host), Ok(rest)) if rest.as_os_str().is_empty() => Ok(host.clone()),
            (Some(host), Ok(rest)) => Ok(host.join(rest)),
            _ => Err(refusal("its directory is in memory, where no other container sees it".to_owned(), &mount.here)),
        }
    }
}

fn own_mount(mount: &MountPoint) -> Option<OwnMount> {
    let host = mount.source.as_ref().filter(|source| source.starts_with('/')).map(PathBuf::from);
    Some(OwnMount { host, here: PathBuf::from(mount.destination.as_ref()?) })
}

/// Follows links in the part of a path that exists; the rest is appended.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for existing in absolute.ancestors() {
        if let Ok(found) = fs_err::canonicalize(existing) {
            let rest = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
            let rest = rest.components().filter(|part| *part != Component::CurDir);
            return rest.fold(found, |path, part| path.join(part));
        }
    }
    absolute
}

/// The id of the container that a process is in, by its mounts, else by its control groups; `None` for a process of the host.
fn own_container(mountinfo: &str, cgroup: &str) -> Option<String> {
    let of_mount = |line: &str| {
        // mountinfo(5): the fourth field is the directory within the file system, the fifth where it is mounted.
        let mut fields = line.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        ENGINE_FILES.contains(&place).then(|| container_id(root)).flatten()
    };
    mountinfo.lines().find_map(of_mount).or_else(|| cgroup.lines().find_map(container_id))
}

/// A part of a path that is an id, also in `docker-ID.scope`.
fn container_id(path: &str) -> Option<String> {
    let parts = path.split(|c: char| !c.is_ascii_alphanumeric());
    let is_id =
        |part: &&str| part.len() == ID_DIGITS && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    parts.into_iter().find(is_id).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{HostPaths, OwnMount, own_container};

    const ID: &str = "0d897a1d9fb2c3ffbb5a0f1b8a2c6fd9a76a9de4cbf3b61f4a2df1f3c4d5e6f7";

    fn mount(host: Option<&str>, here: &str) -> OwnMount {
        OwnMount { host: host.map(PathBuf::from), here: here.into() }
    }

    fn paths(mounts: Vec<OwnMount>) -> HostPaths {
        HostPaths::Mounted { container: ID.to_owned(), mounts }
    }

    #[test]
    fn the_own_container_is_known_by_what_engines_mount() {
        let docker = format!(
            "594 571 0:49 / / rw - overlay overlay rw\n\
             612 594 254:0 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/vda rw\n"
        );
        let podman = format!(
            "7 6 0:24 /containers/storage/overlay-containers/{ID}/userdata/resolv.conf /etc/resolv.conf rw - tmpfs tmpfs rw\n"
        );
        assert_eq!(own_container(&docker, "0::/\n").as_deref(), Some(ID));
        assert_eq!(own_container(&podman, "0::/\n").as_deref(), Some(ID));
        // The host sees the mounts of its containers' file systems, too, at other places.
        let host = format!("9 1 0:60 / /var/lib/docker/overlay2/{ID}/merged rw - overlay overlay rw\n");
        assert_eq!(own_container(&host, "0::/user.slice\n"), None);
    }

    #[test]
    fn without_such_a_mount_control_groups_tell() {
        assert_eq!(own_container("", &format!("12:pids:/docker/{ID}\n0::/\n")).as_deref(), Some(ID));
        assert_eq!(own_container("", &format!("0::/system.slice/docker-{ID}.scope\n")).as_deref(), Some(ID));
        assert_eq!(own_container("", "0::/system.slice/ssh.service\n"), None);
    }

    #[test]
    fn outside_of_containers_paths_are_the_same() {
        assert_eq!(HostPaths::Same.on_host(Path::new("/a/b")).unwrap(), Path::new("/a/b"));
    }

    #[test]
    fn the_innermost_mount_gives_the_hosts_name() {
        let paths = paths(vec![
            mount(Some("/srv/llem"), "/nowhere/work"),
            mount(Some("/var/lib/docker/volumes/cache/_data"), "/nowhere/work/cache"),
        ]);
        let host = |path: &str| paths.on_host(Path::new(path)).unwrap();
        assert_eq!(host("/nowhere/work/results/a"), Path::new("/srv/llem/results/a"));
        assert_eq!(host("/nowhere/work/cache/models"), Path::new("/var/lib/docker/volumes/cache/_data/models"));
        assert_eq!(host("/nowhere/work/cache"), Path::new("/var/lib/docker/volumes/cache/_data"));
        // A name that only begins alike is another directory.
        assert!(paths.on_host(Path::new("/nowhere/workshop")).is_err());
        assert_eq!(host("/sys/devices/virtual/powercap"), Path::new("/sys/devices/virtual/powercap"));
    }

    #[test]
    fn what_no_container_can_share_is_refused_with_the_remedy() {
        let paths = paths(vec![mount(Some("/srv"), "/nowhere/out"), mount(None, "/nowhere/scratch")]);
        let refusal = |path: &str| paths.on_host(Path::new(path)).unwrap_err().to_string();
        let alone = refusal("/nowhere/results");
        assert!(
            alone.contains("container 0d897a1d9fb2") && alone.contains("-v /host/directory:/nowhere/results"),
            "{alone}"
        );
        assert!(refusal("/nowhere/scratch/x").contains("in memory"), "{}", refusal("/nowhere/scratch/x"));
        assert!(refusal("/nowhere").contains("mounted inside it, at /nowhere/out"), "{}", refusal("/nowhere"));
    }

    #[test]
    fn links_are_followed_before_mounts_are_looked_up() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs_err::canonicalize(dir.path()).unwrap();
        fs_err::create_dir(real.join("data")).unwrap();
        std::os::unix::fs::symlink(real.join("data"), real.join("link")).unwrap();
        let paths = paths(vec![mount(Some("/host/data"), real.join("data").to_str().unwrap())]);
        assert_eq!(paths.on_host(&real.join("link/model")).unwrap(), Path::new("/host/data/model"));
    }
}
