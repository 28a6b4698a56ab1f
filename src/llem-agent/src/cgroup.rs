//! Memory of the container: its limit, and whether the kernel killed somebody for lack of it.

use std::path::{Path, PathBuf};

use fs_err::read_to_string;

/// Limits from here on mean "none": version 1 writes the largest multiple of a page.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// Bytes of a page, of those that have the smallest.
const PAGE_BYTES: u64 = 4096;

/// The memory controller's directories of this process, innermost first.
#[derive(Clone, Debug)]
pub(crate) struct MemoryCgroup {
    directories: Vec<PathBuf>,
}

impl MemoryCgroup {
    /// Of this process.
    pub(crate) fn of_self() -> Self {
        let membership = read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::from_membership(&membership, Path::new("/sys/fs/cgroup"))
    }

    /// `membership` is the content of `/proc/PID/cgroup`, `root` where the hierarchies are mounted. Both versions are
    /// looked at, and the mount's root at last: in a container the path may be one of the host's.
    fn from_membership(membership: &str, root: &Path) -> Self {
        let mut directories = Vec::new();
        for line in membership.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let mount = match controllers {
                "" => root.to_owned(),
                _ if controllers.split(',').any(|name| name == "memory") => root.join("memory"),
                _ => continue,
            };
            let own = mount.join(path.trim_start_matches('/'));
            directories
                .extend(own.ancestors().take_while(|directory| directory.starts_with(&mount)).map(Path::to_owned));
        }
        Self { directories }
    }

    /// The lowest limit on the way to the root, in bytes; `None` when there is none.
    pub(crate) fn limit_bytes(&self) -> Option<u64> {
        let names = ["memory.max", "memory.limit_in_bytes"];
        let files = self.directories.iter().flat_map(|directory| names.map(|name| directory.join(name)));
        let limits = files.filter_map(|file| read_to_string(file).ok()?.trim().parse::<u64>().ok());
        limits.filter(|limit| *limit < NO_LIMIT_BYTES).min()
    }

    /// How many processes of the innermost readable group were killed for lack of memory; `None` when nobody counts.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        let names = ["memory.events", "memory.oom_control"];
        let mut files = self.directories.iter().flat_map(|directory| names.map(|name| directory.join(name)));
        files.find_map(|file| count_of(&read_to_string(file).ok()?, "oom_kill"))
    }

    /// Bytes of files, at least, that had to make room in the innermost readable group and were read again; `None` when nobody counts.
    pub(crate) fn reread_bytes(&self) -> Option<u64> {
        let mut texts =
            self.directories.iter().filter_map(|directory| read_to_string(directory.join("memory.stat")).ok());
        texts.find_map(|text| count_of(&text, "workingset_refault_file")).map(|pages| pages.saturating_mul(PAGE_BYTES))
    }
}

fn count_of(text: &str, key: &str) -> Option<u64> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find_map(|(name, value)| (name == key).then(|| value.trim().parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    #[test]
    fn version_2_takes_the_lowest_limit_above() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "a/b/memory.max", "max\n");
        write(root.path(), "a/memory.max", "1073741824\n");
        write(root.path(), "a/b/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n");
        write(root.path(), "a/b/memory.stat", "anon 1\nworkingset_refault_anon 9\nworkingset_refault_file 10\n");
        let group = MemoryCgroup::from_membership("0::/a/b\n", root.path());
        assert_eq!(group.reread_bytes(), Some(40_960));
        assert_eq!((group.limit_bytes(), group.oom_kills()), (Some(1 << 30), Some(2)));
    }

    #[test]
    fn version_1_in_a_container_falls_back_to_the_mounts_root() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "memory/memory.limit_in_bytes", "536870912\n");
        write(root.path(), "memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
        let membership = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n";
        let group = MemoryCgroup::from_membership(membership, root.path());
        assert_eq!((group.limit_bytes(), group.oom_kills()), (Some(512 << 20), Some(1)));
    }

    #[test]
    fn no_limit_is_none() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "memory/memory.limit_in_bytes", "9223372036854771712\n");
        let group = MemoryCgroup::from_membership("4:memory:/\n", root.path());
        assert_eq!((group.limit_bytes(), group.oom_kills(), group.reread_bytes()), (None, None, None));
    }
}
