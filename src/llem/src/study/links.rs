//! Links in the directories of weights: a container sees what is mounted, and nothing of where a link leads out of it.

use std::path::{Path, PathBuf};

use super::StudyError;
use super::references::Weights;
use crate::config::Mount;

/// Refuses weights that this machine can read and a container cannot.
pub(super) fn refuse_links_outside(weights: &[Weights], mounts: &[Mount]) -> Result<(), StudyError> {
    for weights in weights {
        for (root, dir) in weights.roots().zip(weights.directories()) {
            if let Some((link, target)) = link_outside(root, &dir, mounts) {
                return Err(StudyError::LinkOutside { link, target });
            }
        }
    }
    Ok(())
}

/// The first link of `dir` that leads out of `root`, and where to.
fn link_outside(root: &Path, dir: &Path, mounts: &[Mount]) -> Option<(PathBuf, PathBuf)> {
    let real_root = fs_err::canonicalize(root).ok()?;
    let is_mounted = |target: &Path| mounts.iter().any(|m| target.is_absolute() && target.starts_with(&m.target));
    let mut entries: Vec<PathBuf> = fs_err::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries.into_iter().find_map(|path| {
        let target = fs_err::read_link(&path).ok()?;
        let real = fs_err::canonicalize(&path).ok()?;
        // An absolute link is looked for at the same place of the container, where the mounted directory need not be.
        let is_inside = real.starts_with(&real_root) && target.is_relative();
        (!is_inside && !is_mounted(&target)).then_some((path, real))
    })
}

#[cfg(test)]
mod tests {
    use fs_err::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_must_lead_to_what_a_container_sees() {
        let base = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (base.path().join("root"), base.path().join("elsewhere"));
        let dir = root.join("snapshots/c");
        fs_err::create_dir_all(&dir).unwrap();
        fs_err::create_dir_all(root.join("blobs")).unwrap();
        fs_err::create_dir(&elsewhere).unwrap();
        for place in [root.join("blobs/b"), elsewhere.join("w"), dir.join("plain")] {
            fs_err::write(place, "").unwrap();
        }
        symlink("../../blobs/b", dir.join("config.json")).unwrap();
        symlink("../../blobs/gone", dir.join("dangling")).unwrap();
        assert_eq!(link_outside(&root, &dir, &[]), None);
        let link = dir.join("model.safetensors");
        for target in [elsewhere.join("w"), "../../../elsewhere/w".into(), root.join("blobs/b")] {
            symlink(&target, &link).unwrap();
            assert_eq!(
                link_outside(&root, &dir, &[]).map(|(link, _)| link).as_deref(),
                Some(link.as_path()),
                "{target:?}"
            );
            fs_err::remove_file(&link).unwrap();
        }
        symlink(elsewhere.join("w"), &link).unwrap();
        let mount = Mount { source: elsewhere.clone(), target: elsewhere, read_only: true };
        assert_eq!(link_outside(&root, &dir, &[mount]), None, "it is at its place in the container, too");
    }
}
