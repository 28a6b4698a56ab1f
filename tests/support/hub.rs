//! A stand-in for the Hugging Face hub: repositories in memory, answers and headers as the hub's own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use llem_model::SyntheticSpec;

/// The commit of every repository.
pub(crate) const COMMIT: &str = "5ec2e7c0ffee5ec2e7c0ffee5ec2e7c0ffee5ec2";

/// Who may read a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Everybody,
    /// Seen by everybody, read with this token.
    Gated(String),
    /// Not even seen without this token.
    Private(String),
}

/// A repository with a branch `main`.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) access: Access,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Repository {
    /// A tiny Llama with random weights, made as llem makes synthetic models.
    pub(crate) fn model(access: Access) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let text = r#"{"layers": 1, "hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "vocab": 512}"#;
        let spec: SyntheticSpec = serde_json::from_str(text).unwrap();
        let model = llem_model::ensure(&spec, cache.path()).unwrap();
        Self { access, files: files_of(&model.dir) }
    }

    /// Files that PEFT would make; only their names and the first lines are looked at before an engine starts.
    pub(crate) fn adapter(access: Access) -> Self {
        let config = br#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}"#.to_vec();
        let files = [("adapter_config.json", config), ("adapter_model.safetensors", b"weights".to_vec())];
        Self { access, files: files.map(|(name, content)| (name.to_owned(), content)).into() }
    }

    /// Without a file.
    #[must_use]
    pub(crate) fn without(mut self, file: &str) -> Self {
        assert!(self.files.remove(file).is_some(), "no {file} in {:?}", self.files.keys());
        self
    }
}

fn files_of(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| (entry.file_name().into_string().unwrap(), fs_err::read(entry.path()).unwrap())).collect()
}

/// A hub on this machine, one thread a connection. Ends with the test process.
pub(crate) struct StandInHub {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl StandInHub {
    pub(crate) fn start(repositories: impl IntoIterator<Item = (&'static str, Repository)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let repositories: Arc<BTreeMap<_, _>> = Arc::new(repositories.into_iter().collect());
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (repositories, log) = (Arc::clone(&repositories), Arc::clone(&log));
                // The client may leave at any time, as is its right.
                std::thread::spawn(move || drop(serve(stream.unwrap(), &repositories, &log)));
            }
        });
        Self { url, requests }
    }

    /// The paths that were asked for.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    repositories: &BTreeMap<&str, Repository>,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(&stream).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut token = None;
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("authorization: bearer ") {
            token = Some(line[line.len() - value.len()..].to_owned());
        }
    }
    log.lock().unwrap().push(path.clone());
    let (status, header, body) = answer(&path, token.as_deref(), repositories);
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n{header}\r\n\r\n")?;
    stream.write_all(&body)
}

/// Status, a header, body.
fn answer(path: &str, token: Option<&str>, repositories: &BTreeMap<&str, Repository>) -> (u16, String, Vec<u8>) {
    let error = |status, code: &str| (status, format!("x-error-code: {code}"), b"no".to_vec());
    let Some((id, rest)) = path.trim_start_matches('/').split_once("/resolve/") else {
        return error(404, "RepoNotFound");
    };
    let (revision, file) = rest.split_once('/').unwrap_or((rest, ""));
    // A stranger is not told what exists; whoever has a token is.
    let unseen = error(if token.is_none() { 401 } else { 404 }, "RepoNotFound");
    let Some(repository) = repositories.get(id) else { return unseen };
    match &repository.access {
        Access::Private(secret) if token != Some(secret) => return unseen,
        Access::Gated(secret) if token != Some(secret) => {
            return error(if token.is_none() { 401 } else { 403 }, "GatedRepo");
        }
        _ => {}
    }
    if revision != "main" && revision != COMMIT {
        return error(404, "RevisionNotFound");
    }
    match repository.files.get(file) {
        Some(content) => (200, format!("x-repo-commit: {COMMIT}"), content.clone()),
        None => error(404, "EntryNotFound"),
    }
}
