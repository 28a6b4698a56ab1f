//! Space on disks.

use std::path::{Path, PathBuf};

/// Bytes that a user without privileges may still write where `path` is or will be, and the directory that was asked.
pub fn free_bytes(path: &Path) -> Option<(u64, PathBuf)> {
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute.ancestors().find(|dir| dir.exists())?;
    let found = rustix::fs::statvfs(existing).ok()?;
    Some((found.f_bavail.saturating_mul(found.f_frsize), existing.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::free_bytes;

    #[test]
    fn what_is_not_there_yet_is_on_the_disk_of_what_is_above_it() {
        let directory = tempfile::tempdir().unwrap();
        let (free, asked) = free_bytes(&directory.path().join("a/b")).unwrap();
        assert_eq!(asked, directory.path());
        assert!(free > 0);
    }
}
