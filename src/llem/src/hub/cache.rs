use std::io;
use std::path::{Path, PathBuf};

use super::file::is_commit;
use super::{HubError, HubFile, LocalFile, RepoKind};

/// Finds a file in a cache of the hub's layout. Branches and tags are resolved by the cache's own notes.
pub(super) fn find(cache_dir: &Path, file: &HubFile<'_>) -> Option<LocalFile> {
    file.check().ok()?;
    let repo_dir = cache_dir.join(file.folder());
    let commit = if file.is_pinned() {
        file.revision.to_owned()
    } else {
        fs_err::read_to_string(repo_dir.join("refs").join(file.revision)).ok()?.trim().to_owned()
    };
    if !is_commit(&commit) {
        return None;
    }
    let path = snapshot(&repo_dir, &commit, file);
    path.is_file().then_some(LocalFile { path, commit })
}

/// Puts a downloaded file into a cache of the hub's layout. `download` writes it and names its commit.
pub(super) fn store(
    cache_dir: &Path,
    file: &HubFile<'_>,
    download: impl FnOnce(&Path) -> Result<Option<String>, HubError>,
) -> Result<LocalFile, HubError> {
    let repo_dir = cache_dir.join(file.folder());
    let keep = |source| HubError::store(file, source);
    fs_err::create_dir_all(&repo_dir).map_err(keep)?;
    let scratch = tempfile::tempdir_in(&repo_dir).map_err(keep)?;
    let downloaded = scratch.path().join("download");
    let named = download(&downloaded)?;
    let commit = if file.is_pinned() { Some(file.revision.to_owned()) } else { named.filter(|text| is_commit(text)) };
    let commit =
        commit.ok_or_else(|| HubError::NoCommit { page: file.repo.to_owned(), revision: file.revision.to_owned() })?;
    let path = snapshot(&repo_dir, &commit, file);
    move_into(&downloaded, &path).map_err(keep)?;
    if !file.is_pinned() {
        write_reference(&repo_dir, &scratch.path().join("ref"), file.revision, &commit).map_err(keep)?;
    }
    Ok(LocalFile { path, commit })
}

/// Whether a commit is known not to have a file, by the note that the hub's own tools leave, too.
pub(super) fn is_absent(cache_dir: &Path, file: &HubFile<'_>) -> bool {
    file.is_pinned() && file.check().is_ok() && absence(&cache_dir.join(file.folder()), file).is_file()
}

/// Notes that a commit does not have a file, so that nobody has to ask again.
pub(super) fn note_absence(cache_dir: &Path, file: &HubFile<'_>) -> Result<(), HubError> {
    let note = absence(&cache_dir.join(file.folder()), file);
    let write = || {
        note.parent().map_or(Ok(()), fs_err::create_dir_all)?;
        fs_err::write(&note, "")
    };
    write().map_err(|source| HubError::store(file, source))
}

fn absence(repo_dir: &Path, file: &HubFile<'_>) -> PathBuf {
    repo_dir.join(".no_exist").join(file.revision).join(file.file)
}

/// What to do so that [`find`] finds the file: a model is of no use in parts.
pub(super) fn place(cache_dir: &Path, file: &HubFile<'_>) -> String {
    let repo_dir = cache_dir.join(file.folder());
    let what = match file.kind {
        RepoKind::Dataset => format!("--repo-type dataset {} {}", file.repo, file.file),
        RepoKind::Model => file.repo.to_owned(),
    };
    let command = format!("`hf download {what} --revision {}`", file.revision);
    format!("run {command} on a machine with network and copy the folder to {}", repo_dir.display())
}

fn snapshot(repo_dir: &Path, commit: &str, file: &HubFile<'_>) -> PathBuf {
    repo_dir.join("snapshots").join(commit).join(file.file)
}

fn write_reference(repo_dir: &Path, scratch: &Path, revision: &str, commit: &str) -> io::Result<()> {
    fs_err::write(scratch, commit)?;
    move_into(scratch, &repo_dir.join("refs").join(revision))
}

fn move_into(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs_err::create_dir_all(parent)?;
    }
    fs_err::rename(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const MAIN: HubFile<'_> =
        HubFile { kind: RepoKind::Model, repo: "org/name", revision: "main", file: "sub/config.json" };

    #[test]
    fn stored_files_are_found_by_branch_and_by_commit() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(find(cache.path(), &MAIN), None);
        let stored = store(cache.path(), &MAIN, |dest| {
            fs_err::write(dest, "{}").unwrap();
            Ok(Some(COMMIT.to_owned()))
        });
        let stored = stored.unwrap();
        let expected = cache.path().join("models--org--name/snapshots").join(COMMIT).join("sub/config.json");
        assert_eq!((stored.path.as_path(), stored.commit.as_str()), (expected.as_path(), COMMIT));
        assert_eq!(find(cache.path(), &MAIN).as_ref(), Some(&stored));
        assert_eq!(find(cache.path(), &HubFile { revision: COMMIT, ..MAIN }), Some(stored));
        assert_eq!(find(cache.path(), &HubFile { revision: "other", ..MAIN }), None);
    }

    #[test]
    fn an_absence_is_noted_for_its_commit_only() {
        let cache = tempfile::tempdir().unwrap();
        let pinned = HubFile { revision: COMMIT, ..MAIN };
        assert!(!is_absent(cache.path(), &pinned));
        note_absence(cache.path(), &pinned).unwrap();
        assert!(is_absent(cache.path(), &pinned) && !is_absent(cache.path(), &MAIN));
        assert!(!is_absent(cache.path(), &HubFile { file: "other.json", ..pinned }));
        assert_eq!(find(cache.path(), &pinned), None);
    }

    #[test]
    fn a_branch_without_a_commit_is_refused_and_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let write = |dest: &Path| {
            fs_err::write(dest, "{}").unwrap();
            Ok(None)
        };
        assert!(matches!(store(cache.path(), &MAIN, write), Err(HubError::NoCommit { .. })));
        assert_eq!(fs_err::read_dir(cache.path().join("models--org--name")).unwrap().count(), 0);
    }

    #[test]
    fn a_reference_that_points_elsewhere_is_not_followed() {
        let cache = tempfile::tempdir().unwrap();
        let refs = cache.path().join("models--org--name/refs");
        fs_err::create_dir_all(&refs).unwrap();
        fs_err::create_dir_all(cache.path().join("models--org--name/snapshots")).unwrap();
        fs_err::create_dir_all(cache.path().join("sub")).unwrap();
        fs_err::write(cache.path().join("sub/config.json"), "secret").unwrap();
        fs_err::write(refs.join("main"), "../..").unwrap();
        assert_eq!(find(cache.path(), &MAIN), None);
    }
}
