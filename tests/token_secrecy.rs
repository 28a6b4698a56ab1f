//! The access token, through whole studies in real containers: it is used for the download and then found nowhere, whatever is looked at
//! while runs last and after them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{
    Access, Bench, Finished, PYTORCH_IMAGE, Program, Repository, StandInHub, containers_of, docker, docker_text,
    has_image,
};

/// No other text of a study is like it.
const SECRET: &str = "hf_4c1dQvSecretThatNobodyElseHas7";

/// What can be seen of a study, by where it is seen.
type Sights = BTreeMap<String, Vec<u8>>;

/// A study of a gated model by both engines that run here.
fn study(name: &str) -> Option<(Bench, StandInHub)> {
    let bench = Bench::docker(name).filter(|_| has_image(PYTORCH_IMAGE))?;
    let hub = StandInHub::start([("org/gated", Repository::model(Access::Gated(SECRET.to_owned())))]);
    let mut bench = bench.with_hub(&hub.url);
    bench.study["model"] = json!("org/gated");
    bench.study["backend"] = json!(["candle", "pytorch"]);
    bench.study["pytorch"] = json!({"device_map": "cpu", "num_threads": 1, "image": PYTORCH_IMAGE});
    bench.study["measurement"]["min_seconds"] = json!(6);
    bench.variables.insert("RUST_LOG", "trace".to_owned());
    bench.variables.insert("RUST_BACKTRACE", "full".to_owned());
    Some((bench, hub))
}

/// Runs the study as loudly as can be, and looks at everything.
fn watch(bench: &Bench) -> (Finished, Sights) {
    let mut program = bench.start_loud(&["--runner", "docker"]);
    let mut sights = Sights::new();
    let directory = program.study_dir();
    while program.is_running() {
        for id in containers_of(&directory) {
            sights.extend(of_container(&id));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let finished = Program::finish(program);
    sights.insert("stdout".to_owned(), finished.stdout.clone().into_bytes());
    sights.insert("stderr".to_owned(), finished.stderr.clone().into_bytes());
    for path in files_below(&bench.path("")) {
        let content = fs_err::read(&path).unwrap();
        sights.insert(path.display().to_string(), [path.as_os_str().as_encoded_bytes(), b"\n", &content].concat());
    }
    (finished, sights)
}

/// A container and its image as the engine shows them, its log, and the environment and arguments of all its processes. It may end at any
/// moment.
fn of_container(id: &str) -> Sights {
    let mut sights = processes_of(id);
    let mut see = |what: &str, arguments: &[&str]| {
        let output = docker(arguments);
        if output.status.success() {
            sights.insert(format!("{what} {id}"), [output.stdout, output.stderr].concat());
        }
    };
    see("inspect", &["inspect", id]);
    see("logs", &["logs", id]);
    see("diff", &["diff", id]);
    let image = docker(&["inspect", "-f", "{{.Image}}", id]);
    let image = String::from_utf8(image.stdout).unwrap();
    see("image", &["image", "inspect", image.trim()]);
    see("history", &["image", "history", "--no-trunc", image.trim()]);
    sights
}

/// Environment and arguments of all processes of a container.
fn processes_of(id: &str) -> Sights {
    let mut sights = Sights::new();
    let top = docker(&["top", id, "-eo", "pid"]);
    for pid in String::from_utf8(top.stdout).unwrap().lines().filter_map(|line| line.trim().parse::<u32>().ok()) {
        for name in ["environ", "cmdline"] {
            if let Ok(content) = fs_err::read(format!("/proc/{pid}/{name}")) {
                sights.insert(format!("{name} {id} {pid}"), content);
            }
        }
    }
    sights
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let below = entries.flat_map(|entry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => files_below(&entry.path()),
        kind if kind.is_file() => vec![entry.path()],
        _ => Vec::new(),
    });
    below.collect()
}

/// The secret without what tells that it is one.
fn bare_secret() -> &'static str {
    SECRET.trim_start_matches("hf_")
}

/// Where the secret is seen.
fn leaks(sights: &Sights) -> Vec<&str> {
    let secret = bare_secret().as_bytes();
    let has = |content: &[u8]| content.windows(secret.len()).any(|window| window.eq_ignore_ascii_case(secret));
    sights.iter().filter(|(_, content)| has(content)).map(|(name, _)| name.as_str()).collect()
}

/// Checks that everything was looked at, containers of both runs with agent and driver included.
#[track_caller]
fn saw_everything(sights: &Sights, containers: usize) {
    let seen = |what: &str| sights.keys().filter(|name| name.starts_with(what)).count();
    let both = |what: &str| assert!(seen(what) >= containers, "{what}: {:?}", sights.keys());
    ["inspect ", "logs ", "image ", "history ", "diff "].into_iter().for_each(both);
    let processes = sights.iter().filter(|(name, _)| name.starts_with("environ "));
    let offline = b"HF_HUB_OFFLINE=1".as_slice();
    let engines = processes.filter(|(_, env)| env.windows(offline.len()).any(|window| window == offline)).count();
    assert!(engines >= 2 * containers, "agents and drivers: {:?}", sights.keys());
    for file in
        ["study.json", "journal.jsonl", "result.json", "job.json", "driver.log", "agent.log", "model.safetensors"]
    {
        assert!(sights.keys().any(|name| name.ends_with(file)), "{file}: {:?}", sights.keys());
    }
}

#[test]
fn a_token_of_the_environment_is_used_and_seen_nowhere() {
    let Some((mut bench, hub)) = study("token-variable") else { return };
    bench.variables.insert("HF_TOKEN", SECRET.to_owned());
    let (finished, sights) = watch(&bench);
    finished.exits(0).leaves_no_container();
    assert!(hub.requests().iter().any(|path| path.ends_with("model.safetensors")), "it was downloaded");
    assert!(finished.stderr.contains("TRACE") || finished.stderr.contains("DEBUG"), "the log is on");
    saw_everything(&sights, 2);
    assert_eq!(leaks(&sights), [""; 0]);
}

#[test]
fn a_token_of_a_file_is_used_and_seen_nowhere_else() {
    let Some((bench, hub)) = study("token-file") else { return };
    let file = bench.path("hf/token");
    fs_err::create_dir_all(file.parent().unwrap()).unwrap();
    fs_err::write(&file, format!("{SECRET}\n")).unwrap();
    let (finished, sights) = watch(&bench);
    finished.exits(0).leaves_no_container();
    assert!(hub.requests().iter().any(|path| path.ends_with("model.safetensors")), "it was downloaded");
    saw_everything(&sights, 2);
    assert_eq!(leaks(&sights), [file.display().to_string()]);
}

#[test]
fn a_run_that_fails_does_not_tell_the_token() {
    let Some((mut bench, _hub)) = study("token-failure") else { return };
    bench.variables.insert("HF_TOKEN", SECRET.to_owned());
    // The first run dies in the engine's hands, the second before it.
    bench.study["pytorch"]["extra"] = json!({"no_such_argument": 1});
    bench.user = json!({"python": {"pytorch": "python3"}});
    let (finished, sights) = watch(&bench);
    finished.exits(1).leaves_no_container();
    assert!(finished.results().iter().any(|result| result.failure.is_some()));
    assert_eq!(leaks(&sights), [""; 0]);
}

#[test]
fn a_refused_token_is_not_told() {
    let Some((mut bench, hub)) = study("token-refused") else { return };
    bench.variables.insert("HF_TOKEN", format!("{SECRET}-of-somebody-else"));
    let finished = bench.start_loud(&["--runner", "docker"]).finish();
    finished.exits(1).says(&["/org/gated refused access", "HTTP 403, with your token"]);
    assert!(!hub.requests().is_empty() && !finished.stderr.contains(SECRET) && !finished.stdout.contains(SECRET));
}

/// The test itself: a secret in a variable of the engine is found, where it is seen and in every process.
#[test]
fn a_secret_that_is_given_to_engines_would_be_found() {
    let Some((mut bench, _hub)) = study("token-control") else { return };
    bench.variables.insert("HF_TOKEN", SECRET.to_owned());
    bench.study["backend"] = json!("candle");
    bench.study.as_object_mut().unwrap().remove("pytorch");
    bench.user = json!({"env": {"OTHER_NAME": bare_secret()}});
    let (finished, sights) = watch(&bench);
    finished.exits(0);
    let found = leaks(&sights);
    assert!(found.iter().any(|name| name.starts_with("inspect ")), "{found:?}");
    assert!(found.iter().filter(|name| name.starts_with("environ ")).count() >= 2, "{found:?}");
    let text = docker_text(&["ps", "-a", "--no-trunc"]);
    assert!(!text.contains(bare_secret()));
}
