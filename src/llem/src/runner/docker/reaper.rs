//! Removes containers that no controller looks after any more.

use std::io::ErrorKind;
use std::path::Path;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};

use super::client::{Engine, EngineError};
use super::{LABEL_LOCK, LABEL_RUN};

/// A container that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// The engine's id.
    pub id: String,
    /// The run that it belonged to.
    pub run_id: String,
}

/// Removes what dead controllers left. A controller holds its study's lock as long as it lives, whatever kills it. Those of `kept` are of a
/// study that goes on, wherever it was before.
pub async fn remove_orphans(engine: &Engine, kept: &[String]) -> Result<Vec<Reaped>, EngineError> {
    remove_where(engine, |container| is_orphan(container) && !is_moved(container, kept)).await
}

/// Removes every container of llem that no living controller holds, also those whose lock file cannot be found.
pub async fn remove_all(engine: &Engine) -> Result<Vec<Reaped>, EngineError> {
    remove_where(engine, |container| lock_state(container) != LockState::Held).await
}

async fn remove_where(
    engine: &Engine,
    unwanted: impl Fn(&ContainerSummary) -> bool,
) -> Result<Vec<Reaped>, EngineError> {
    let mut reaped = Vec::new();
    for container in engine.containers(LABEL_RUN).await? {
        let Some(id) = container.id.clone().filter(|_| is_ours(&container) && unwanted(&container)) else { continue };
        engine.remove(&id).await?;
        reaped.push(Reaped { id, run_id: label(&container, LABEL_RUN).unwrap_or_default().to_owned() });
    }
    Ok(reaped)
}

/// A lock file that is not there says nothing: the controller may live in a container with other paths. Then only a container that
/// has ended is an orphan.
fn is_orphan(container: &ContainerSummary) -> bool {
    match lock_state(container) {
        LockState::Held => false,
        LockState::Free => true,
        LockState::Unknown => {
            matches!(container.state, Some(ContainerSummaryStateEnum::EXITED | ContainerSummaryStateEnum::DEAD))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LockState {
    Held,
    Free,
    Unknown,
}

fn lock_state(container: &ContainerSummary) -> LockState {
    label(container, LABEL_LOCK).map_or(LockState::Unknown, |path| probe(Path::new(path)))
}

fn probe(path: &Path) -> LockState {
    let file = match fs_err::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return LockState::Unknown,
        // A lock that this user may not see is somebody else's affair.
        Err(_) => return LockState::Held,
    };
    match file.file().try_lock_shared() {
        Ok(()) => LockState::Free,
        Err(_) => LockState::Held,
    }
}

/// Labels alone prove nothing: a container of an image that was committed from one of ours has them too. The name is given by llem.
pub(super) fn is_ours(container: &ContainerSummary) -> bool {
    let Some(run) = label(container, LABEL_RUN) else { return false };
    let prefix = format!("/llem-{run}-");
    container.names.iter().flatten().any(|name| name.starts_with(&prefix))
}

/// Whether a container has one of `names`, which are drawn at random, and the directory of the lock that it is labelled with is not there
/// any more: its study was moved. That of a study that was copied belongs to the original.
pub(super) fn is_moved(container: &ContainerSummary, names: &[String]) -> bool {
    let has_name = |name: &String| names.iter().any(|wanted| name.strip_prefix('/') == Some(wanted));
    let is_gone = |lock: &str| {
        let directory = Path::new(lock).parent().unwrap_or(Path::new("/"));
        fs_err::symlink_metadata(directory).is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    container.names.iter().flatten().any(has_name) && label(container, LABEL_LOCK).is_some_and(is_gone)
}

/// A label of a container.
pub(super) fn label<'a>(container: &'a ContainerSummary, name: &str) -> Option<&'a str> {
    container.labels.as_ref()?.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerSummary;

    use super::{LABEL_LOCK, LABEL_RUN, LockState, is_moved, is_ours, probe};

    #[test]
    fn a_container_with_inherited_labels_is_not_ours() {
        let named = |name: &str| ContainerSummary {
            names: Some(vec![name.to_owned()]),
            labels: Some([(LABEL_RUN.to_owned(), "001-a-c1".to_owned())].into()),
            ..ContainerSummary::default()
        };
        assert!(is_ours(&named("/llem-001-a-c1-0123abcd")));
        assert!(!is_ours(&named("/mine")));
        assert!(!is_ours(&ContainerSummary { labels: None, ..named("/llem-001-a-c1-0123abcd") }));
    }

    #[test]
    fn a_container_is_its_studys_where_that_was_moved_and_not_where_it_was_copied() {
        let root = tempfile::tempdir().unwrap();
        let of_study = |directory: &str| ContainerSummary {
            names: Some(vec!["/llem-001-a-c1-0123abcd".to_owned()]),
            labels: Some(
                [(LABEL_LOCK.to_owned(), root.path().join(directory).join(".lock").display().to_string())].into(),
            ),
            ..ContainerSummary::default()
        };
        fs_err::create_dir(root.path().join("original")).unwrap();
        let own = ["llem-001-a-c1-0123abcd".to_owned()];
        assert!(is_moved(&of_study("gone"), &own));
        assert!(!is_moved(&of_study("original"), &own));
        assert!(!is_moved(&of_study("gone"), &["llem-001-a-c1-0123abce".to_owned()]));
    }

    #[test]
    fn a_lock_is_held_exactly_as_long_as_its_file_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(probe(&path), LockState::Unknown);
        let holder = fs_err::File::create(&path).unwrap();
        holder.file().lock().unwrap();
        assert_eq!(probe(&path), LockState::Held);
        drop(holder);
        assert_eq!(probe(&path), LockState::Free);
    }
}
