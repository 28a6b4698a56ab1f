//! Whether directories can be written, and have room.

use std::path::Path;

use rustix::fs::{Access, access};

use super::Check;
use crate::host::free_bytes;

/// Less than this is not enough for the results of one run with its tables.
pub(crate) const LEAST_FREE_BYTES: u64 = 100_000_000;

/// Less than this is soon filled by weights.
const LITTLE_FREE_BYTES: u64 = 20_000_000_000;

/// Whether this user can write below a directory that is there or can be made, and how much. Nothing is made.
pub(super) fn directory(what: &str, path: &Path, key: &str) -> Check {
    let place = path.display();
    let Some((free, existing)) = free_bytes(path) else {
        return Check::fails(what, format!("{place}: the disk does not answer"), format!("name another with {key}"));
    };
    if let Err(error) = access(&existing, Access::WRITE_OK | Access::EXEC_OK) {
        let found = format!("{place}: {} cannot be written: {error}", existing.display());
        return Check::fails(what, found, format!("allow it, or name another with {key}"));
    }
    let found = format!("{place}, {:.1} GB free", free as f64 / 1e9);
    match free {
        0..LEAST_FREE_BYTES => Check::fails(what, found, format!("make room, or name another with {key}")),
        LEAST_FREE_BYTES..LITTLE_FREE_BYTES => Check::warning(what, found, "make room before large models"),
        _ => Check::ok(what, found),
    }
}

#[cfg(test)]
mod tests {
    use super::directory;
    use crate::preflight::CheckState;

    #[test]
    fn a_directory_that_cannot_be_made_fails() {
        let below_a_file = directory("cache", std::path::Path::new("/proc/self/status/cache"), "`cache_dir`");
        assert_eq!(below_a_file.state, CheckState::Fails, "{below_a_file:?}");
        assert!(below_a_file.todo.unwrap().contains("`cache_dir`"));
        let parent = tempfile::tempdir().unwrap();
        let fine = directory("cache", &parent.path().join("a/b"), "`cache_dir`");
        assert!(fine.state != CheckState::Fails && fine.found.contains("GB free"), "{fine:?}");
        assert!(!parent.path().join("a").exists(), "nothing is made");
    }
}
