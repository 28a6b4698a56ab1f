use std::time::{Duration, Instant};

use llem::hub::{HubError, HubFile, LocalFile, RepoKind};

use crate::fixtures::{REVISION, Scene};
use crate::server::{Reply, Server, closed_url};

const FILE: HubFile<'_> =
    HubFile { kind: RepoKind::Dataset, repo: "org/name", revision: REVISION, file: "data/x.parquet" };

/// Fetches from a server that always answers so; nothing may be left at the destination.
fn fault(reply: impl Fn() -> Reply + Send + Sync + 'static) -> HubError {
    let scene = Scene::new();
    let server = Server::start(move |_| reply());
    let folder = scene.folder.path().join("downloads");
    fs_err::create_dir_all(&folder).unwrap();
    let error = scene.hub(&server.url).fetch(&FILE, &folder.join("x.parquet"), 50).unwrap_err();
    assert_eq!(fs_err::read_dir(&folder).unwrap().count(), 0, "{error}");
    error
}

#[test]
fn refusals_name_the_page() {
    for status in [401, 403] {
        let error = fault(move || Reply::status(status));
        assert!(matches!(error, HubError::Gated { token_sent: false, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("/datasets/org/name refused access") && text.contains("HF_TOKEN"), "{text}");
    }
}

#[test]
fn missing_files_and_broken_servers_are_told_apart() {
    let error = fault(|| Reply::status(404));
    assert!(matches!(&error, HubError::Missing { revision, .. } if revision == REVISION), "{error}");
    for status in [500, 503, 429, 204, 206] {
        let error = fault(move || Reply::status(status));
        assert!(matches!(error, HubError::Status { status: found, .. } if found == status), "{error}");
    }
}

#[test]
fn files_above_the_limit_are_not_kept() {
    let error = fault(|| Reply::file(&[0; 51]));
    assert!(matches!(error, HubError::TooLarge { max_bytes: 50, .. }), "{error}");
    // Without a length the limit must be found while reading.
    let error = fault(|| Reply::Drip);
    assert!(matches!(error, HubError::TooLarge { .. } | HubError::Offline { .. }), "{error}");
    let scene = Scene::new();
    let server = Server::start(|_| Reply::file(&[7; 50]));
    let dest = scene.folder.path().join("exact");
    scene.hub(&server.url).fetch(&FILE, &dest, 50).unwrap();
    assert_eq!(fs_err::read(dest).unwrap(), [7; 50]);
}

#[test]
fn answers_that_break_off_or_stop_end_in_time_and_say_where_a_copy_may_be_put() {
    let faults: [fn() -> Reply; 5] =
        [|| Reply::Stall, || Reply::StallInBody, || Reply::BreakOff, || Reply::Garbage, || Reply::status(100)];
    for reply in faults {
        let start = Instant::now();
        let error = fault(reply);
        assert!(start.elapsed() < Duration::from_secs(5), "{error} after {:?}", start.elapsed());
        let text = error.to_string();
        assert!(matches!(error, HubError::Offline { .. }), "{text}");
        assert!(
            text.contains("hf download --repo-type dataset org/name") && text.contains("datasets--org--name"),
            "{text}"
        );
    }
}

#[test]
fn a_server_that_drips_meets_the_total_limit() {
    let scene = Scene::new();
    let server = Server::start(|_| Reply::Drip);
    let start = Instant::now();
    let dest = scene.folder.path().join("x");
    let error = scene.hub(&server.url).fetch(&FILE, &dest, u64::MAX).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }) && start.elapsed() < Duration::from_secs(5), "{error}");
    assert!(!dest.exists());
}

#[test]
fn redirects_that_lead_nowhere_are_errors() {
    for location in ["/again", "ftp://127.0.0.1/x", "", "relative"] {
        let error = fault(move || Reply::redirect(location));
        assert!(matches!(error, HubError::Redirect { .. }), "{location}: {error}");
    }
    let error = fault(|| Reply::redirect(&closed_url()));
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
}

#[test]
fn model_files_come_from_the_users_cache_then_llems_then_the_hub() {
    let scene = Scene::new();
    let server = Server::start(|path| match path {
        "/org/name/resolve/main/config.json" => Reply::file(b"{\"from\":\"hub\"}"),
        _ => Reply::status(404),
    });
    let hub = scene.hub(&server.url);
    let found = hub.model_file("org/name", None, "config.json", &scene.cache()).unwrap();
    let commit = "ab".repeat(20);
    let path = scene.cache().join("hub-v1/models--org--name/snapshots").join(&commit).join("config.json");
    assert_eq!(found, LocalFile { path, commit: commit.clone() });
    assert_eq!(fs_err::read(&found.path).unwrap(), b"{\"from\":\"hub\"}");
    let offline = scene.offline_hub();
    assert_eq!(offline.model_file("org/name", Some("main"), "config.json", &scene.cache()).unwrap(), found);
    assert_eq!(offline.model_file("org/name", Some(&commit), "config.json", &scene.cache()).unwrap(), found);
    assert_eq!(server.seen().len(), 1);

    let users = scene.write(&format!("hf/models--org--name/snapshots/{REVISION}/config.json"), "{}");
    scene.write("hf/models--org--name/refs/main", REVISION);
    let cached = offline.model_file("org/name", None, "config.json", &scene.cache()).unwrap();
    assert_eq!(cached, LocalFile { path: users, commit: REVISION.to_owned() });
    let missing = hub.model_file("org/name", None, "tokenizer.json", &scene.cache()).unwrap_err();
    assert!(matches!(missing, HubError::Missing { .. }), "{missing}");
    let escape = hub.model_file("../../etc", None, "passwd", &scene.cache()).unwrap_err();
    assert!(matches!(escape, HubError::Name { what: "repository", .. }), "{escape}");
}

#[test]
fn a_branch_whose_commit_is_not_told_is_not_kept() {
    let scene = Scene::new();
    let server = Server::start(|_| Reply::Full(200, Vec::new(), b"{}".to_vec()));
    let error = scene.hub(&server.url).model_file("org/name", None, "config.json", &scene.cache()).unwrap_err();
    assert!(matches!(error, HubError::NoCommit { .. }), "{error}");
    let pinned = scene.hub(&server.url).model_file("org/name", Some(REVISION), "config.json", &scene.cache());
    assert_eq!(pinned.unwrap().commit, REVISION);
}
