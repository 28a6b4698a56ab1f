use std::sync::{Arc, OnceLock};

use llem::hub::{Hub, HubFile, RepoKind, Token};

use crate::fixtures::{Scene, manifest, parquet_file, prompts, request};
use crate::server::{Reply, Seen, Server, closed_url};

const SECRET: &str = "hf_the-secret-itself";

const FILE: HubFile<'_> = HubFile { kind: RepoKind::Model, repo: "org/name", revision: "main", file: "config.json" };

fn hub(scene: &Scene, endpoint: &str) -> Hub {
    let mut settings = scene.hub_settings(endpoint);
    settings.token = Token::new(SECRET);
    Hub::new(settings)
}

fn seen(path: &str, with_token: bool) -> Seen {
    Seen { path: path.into(), authorization: with_token.then(|| format!("Bearer {SECRET}")) }
}

#[test]
fn the_token_goes_to_the_endpoint_and_stays_there() {
    let scene = Scene::new();
    let elsewhere = Server::start(|_| Reply::file(b"{}"));
    let target = format!("{}/signed?key=1", elsewhere.url);
    let endpoint = Server::start(move |path| match path {
        "/org/name/resolve/main/config.json" => Reply::redirect("/moved"),
        _ => Reply::redirect(&target),
    });
    let dest = scene.folder.path().join("config.json");
    let commit = hub(&scene, &endpoint.url).fetch(&FILE, &dest, 100).unwrap();
    assert_eq!(commit, Some("cd".repeat(20)), "the hub names the commit, not its file server");
    assert_eq!(fs_err::read(&dest).unwrap(), b"{}");
    assert_eq!(endpoint.seen(), [seen("/org/name/resolve/main/config.json", true), seen("/moved", true)]);
    assert_eq!(elsewhere.seen(), [seen("/signed?key=1", false)]);
}

#[test]
fn another_host_on_the_same_port_sees_no_token() {
    let scene = Scene::new();
    let own_url = Arc::new(OnceLock::<String>::new());
    let url = Arc::clone(&own_url);
    let endpoint = Server::start(move |path| match path {
        "/moved" => Reply::file(b"{}"),
        _ => Reply::redirect(&(url.get().unwrap().replace("127.0.0.1", "localhost") + "/moved")),
    });
    own_url.set(endpoint.url.clone()).unwrap();
    let dest = scene.folder.path().join("config.json");
    hub(&scene, &endpoint.url).fetch(&FILE, &dest, 100).unwrap();
    assert_eq!(endpoint.seen(), [seen("/org/name/resolve/main/config.json", true), seen("/moved", false)]);
}

#[test]
fn without_a_token_none_is_sent() {
    let scene = Scene::new();
    let server = Server::start(|_| Reply::file(b"{}"));
    scene.hub(&server.url).fetch(&FILE, &scene.folder.path().join("x"), 100).unwrap();
    assert_eq!(server.seen(), [seen("/org/name/resolve/main/config.json", false)]);
}

#[test]
fn no_message_and_no_file_contains_the_token() {
    let scene = Scene::new();
    for status in [401, 403, 404, 500] {
        let server = Server::start(move |_| Reply::status(status));
        let error = hub(&scene, &server.url).fetch(&FILE, &scene.folder.path().join("x"), 100).unwrap_err();
        let text = format!("{error} {error:?} {:?}", hub(&scene, &server.url));
        assert!(!text.contains(SECRET), "{text}");
    }
    let error = hub(&scene, &closed_url()).fetch(&FILE, &scene.folder.path().join("x"), 100).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");

    let file = parquet_file(&prompts(), "text", parquet::basic::Compression::SNAPPY);
    let server = Server::start(move |_| Reply::file(&file));
    let study = scene.study();
    let (request, tokenizer, hub) = (request("tiny", &study), scene.tokenizer(), hub(&scene, &server.url));
    let workload = llem::workload::prepare_from(&[manifest()], &request, &tokenizer, &scene.cache(), &hub).unwrap();
    assert!(!serde_json::to_string(&workload).unwrap().contains(SECRET));
    let files = all_files(&scene.cache());
    assert!(files.len() >= 2, "{files:?}");
    for path in files {
        let content = fs_err::read(&path).unwrap();
        assert!(!content.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "{}", path.display());
    }
}

fn all_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { all_files(&path) } else { vec![path] }).collect()
}
