use std::collections::BTreeMap;

use super::{LOCK_SCHEMA_VERSION, LockedImage, LockedPrograms, LockedWeights, StudyLock};

fn lock() -> StudyLock {
    let image =
        LockedImage { image_id: Some("sha256:1".into()), image_digests: vec!["r@sha256:9".into()], source_id: None };
    let weights = LockedWeights { commit: Some("abc".into()), content_sha256: None };
    StudyLock {
        schema_version: LOCK_SCHEMA_VERSION,
        design_hash: "d".into(),
        llem: LockedPrograms { version: "1".into(), commit: None, agent_sha256: "a".into(), candle_sha256: None },
        images: BTreeMap::from([("vllm r:t".into(), image)]),
        weights: BTreeMap::from([("model o/n".into(), weights)]),
        workloads: BTreeMap::from([("e1".into(), "w".into())]),
    }
}

#[test]
fn every_difference_is_named_with_both_sides() {
    assert!(lock().drift(&lock()).is_empty());
    let mut found = lock();
    found.llem.agent_sha256 = "b".into();
    // Only one of both has it.
    found.llem.candle_sha256 = Some("c".into());
    assert!(found.drift(&found).is_empty());
    let mut other = found.clone();
    other.llem.candle_sha256 = Some("d".into());
    let said: Vec<String> = other.drift(&found).iter().map(ToString::to_string).collect();
    assert_eq!(said, ["  llem-candle sha256\n    locked  d\n    found   c"]);
    found.design_hash = "e".into();
    found.images.get_mut("vllm r:t").unwrap().image_id = Some("sha256:2".into());
    found.weights.get_mut("model o/n").unwrap().commit = Some("def".into());
    found.workloads = BTreeMap::from([("e2".into(), "w".into())]);
    let said: Vec<String> = lock().drift(&found).iter().map(ToString::to_string).collect();
    let expected = [
        "  llem-agent sha256\n    locked  a\n    found   b",
        "  experiments (design_hash)\n    locked  d\n    found   e",
        "  image vllm r:t\n    locked  sha256:1 (r@sha256:9)\n    found   sha256:2 (r@sha256:9)",
        "  model o/n\n    locked  commit abc\n    found   commit def",
        "  workload of experiment e1\n    locked  w\n    found   -",
        "  workload of experiment e2\n    locked  -\n    found   w",
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_study_goes_on_with_more_and_not_with_other_things() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("study.lock.json");
    fs_err::write(&path, serde_json::to_vec(&lock()).unwrap()).unwrap();
    let mut more = lock();
    more.design_hash = "e".into();
    more.workloads.insert("e2".into(), "w".into());
    more.images.insert("vllm r:u".into(), LockedImage { image_id: None, image_digests: Vec::new(), source_id: None });
    assert!(!more.check_extends(&path).unwrap(), "the file does not have it yet");
    assert!(lock().check_extends(&path).unwrap());
    more.images.get_mut("vllm r:t").unwrap().image_id = Some("sha256:2".into());
    let error = more.check_extends(&path).unwrap_err().to_string();
    assert!(
        error.ends_with("  image vllm r:t\n    locked  sha256:1 (r@sha256:9)\n    found   sha256:2 (r@sha256:9)"),
        "{error}"
    );
}

#[test]
fn a_sif_file_stands_for_itself_anywhere_and_for_what_it_was_made_from() {
    let sif = |sha: &str, source: Option<&str>| LockedImage {
        image_id: Some(format!("sha256:{sha}")),
        image_digests: Vec::new(),
        source_id: source.map(|id| format!("sha256:{id}")),
    };
    let with = |name: &str, image: LockedImage| {
        let mut lock = lock();
        lock.images = BTreeMap::from([(name.to_owned(), image)]);
        lock
    };
    let here = with("vllm /here/x.sif", sif("a", Some("1")));
    assert!(lock().drift(&here).is_empty(), "made from the image that was locked");
    assert!(with("vllm /there/y.sif", sif("a", Some("1"))).drift(&here).is_empty(), "moved");
    for other in [
        with("vllm /here/x.sif", sif("b", Some("1"))),
        with("vllm /there/y.sif", sif("b", Some("2"))),
        with("pytorch /here/x.sif", sif("a", Some("1"))),
    ] {
        assert!(!other.drift(&here).is_empty(), "{:?}", other.images);
    }
    assert!(!lock().drift(&with("vllm /here/x.sif", sif("a", None))).is_empty(), "nothing is recorded");
}

#[test]
fn a_file_of_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.lock.json");
    let error = |path: &std::path::Path| StudyLock::read(path).unwrap_err().to_string();
    assert!(error(&path).contains("study.lock.json"), "{}", error(&path));
    fs_err::write(&path, "{\"schema_version\": 1}").unwrap();
    assert!(error(&path).contains("no lock file of this version of llem: missing field"), "{}", error(&path));
    fs_err::write(&path, serde_json::to_vec(&lock()).unwrap()).unwrap();
    assert_eq!(StudyLock::read(&path).unwrap(), lock());
    let newer = StudyLock { schema_version: LOCK_SCHEMA_VERSION + 1, ..lock() };
    fs_err::write(&path, serde_json::to_vec(&newer).unwrap()).unwrap();
    assert!(error(&path).contains("its schema_version is 2, not 1"), "{}", error(&path));
    let folder = path.parent().unwrap();
    assert!(error(folder).contains("no plain file"), "{}", error(folder));
}
