//! What a machine gives to all its containers.

use std::path::{Path, PathBuf};

use super::HostPaths;
use crate::config::{GpuAccess, Mount, UserConfig};

/// What the machine's owner set for all containers.
#[derive(Clone, Debug, Default)]
pub struct MachineConfig {
    /// How GPUs are handed over.
    pub gpu_access: GpuAccess,
    /// Additional mounts.
    pub mounts: Vec<BindMount>,
    /// Additional device nodes.
    pub devices: Vec<PathBuf>,
    /// Capabilities to keep; all others are dropped.
    pub cap_add: Vec<String>,
    /// The kernel's RAPL zones, which containers may read; see [`host_powercap`].
    pub powercap: Option<PathBuf>,
    /// What the engine's machine calls paths of this process.
    pub paths: HostPaths,
}

/// Where this machine has RAPL zones. These are the real directories: `/sys/class/powercap` holds links, which lead nowhere in a
/// container, and engines hide the real path there, too (CVE-2020-8694).
pub fn host_powercap() -> Option<PathBuf> {
    let root = PathBuf::from("/sys/devices/virtual/powercap/intel-rapl");
    has_zones(&root).then_some(root)
}

fn has_zones(root: &Path) -> bool {
    let is_rapl = |entry: fs_err::DirEntry| entry.file_name().to_string_lossy().starts_with("intel-rapl:");
    fs_err::read_dir(root).is_ok_and(|entries| entries.flatten().any(is_rapl))
}

/// A directory or file of this machine inside the container.
#[derive(Clone, Debug)]
pub struct BindMount {
    /// On this machine.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// Whether the container may only read it.
    pub read_only: bool,
}

impl BindMount {
    /// As the user config has it.
    pub fn of(mount: &Mount) -> Self {
        Self { source: mount.source.clone(), target: mount.target.clone(), read_only: mount.read_only }
    }

    /// What the machine's owner adds to every container.
    pub fn all_of(user: &UserConfig) -> Vec<Self> {
        user.mounts.iter().map(Self::of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::has_zones;

    #[test]
    fn a_machine_without_zones_mounts_none() {
        let root = tempfile::tempdir().unwrap();
        assert!(!has_zones(&root.path().join("absent")) && !has_zones(root.path()));
        fs_err::create_dir(root.path().join("power")).unwrap();
        assert!(!has_zones(root.path()));
        fs_err::create_dir(root.path().join("intel-rapl:0")).unwrap();
        assert!(has_zones(root.path()));
    }
}
