use super::{StoreError, StudyDirectory};

#[test]
fn two_studies_of_one_second_get_two_directories() {
    let root = tempfile::tempdir().unwrap();
    let studies: Vec<_> = (0..3).map(|_| StudyDirectory::create(root.path(), "s").unwrap()).collect();
    let ids: std::collections::BTreeSet<_> = studies.iter().map(StudyDirectory::study_id).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| id.starts_with("s_2")));
}

#[test]
fn the_lock_lives_as_long_as_the_study() {
    let root = tempfile::tempdir().unwrap();
    let study = StudyDirectory::create(root.path(), "s").unwrap();
    let lock = study.lock_path().to_owned();
    assert!(fs_err::File::open(&lock).unwrap().file().try_lock().is_err());
    drop(study);
    assert!(!lock.exists());
}

#[test]
fn a_study_has_one_controller_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let study = StudyDirectory::create(root.path(), "s").unwrap();
    let path = study.path().to_owned();
    assert!(matches!(StudyDirectory::open(&path).unwrap_err(), StoreError::NoStudy(_)));
    fs_err::write(path.join("design.json"), "{}").unwrap();
    match StudyDirectory::open(&path).unwrap_err() {
        StoreError::Held { pid, .. } => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other}"),
    }
    drop(study);
    let again = StudyDirectory::open(&path).unwrap();
    assert!(StudyDirectory::open(&path).is_err());
    drop(again);
}

#[test]
fn a_lock_file_that_is_kept_is_free() {
    let root = tempfile::tempdir().unwrap();
    let study = StudyDirectory::create(root.path(), "s").unwrap();
    study.keep_lock_file();
    let lock = study.lock_path().to_owned();
    drop(study);
    assert!(fs_err::File::open(&lock).unwrap().file().try_lock().is_ok());
}
