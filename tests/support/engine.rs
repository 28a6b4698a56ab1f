//! The container engine, asked directly.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

/// Runs the engine's own client.
pub(crate) fn docker(arguments: &[&str]) -> Output {
    Command::new("docker").env_remove("DOCKER_HOST").args(arguments).output().unwrap()
}

/// As [`docker`], for a command that must succeed: its stdout.
#[track_caller]
pub(crate) fn docker_text(arguments: &[&str]) -> String {
    let output = docker(arguments);
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether there is an engine to test with. Without one, says so, and fails where `CI` is set.
pub(crate) fn engine_answers() -> bool {
    let answers = is_there();
    if !answers {
        assert!(std::env::var_os("CI").is_none(), "no container engine answers, and CI must have one");
        let _ = writeln!(std::io::stderr(), "skipped: no container engine answers at /var/run/docker.sock");
    }
    answers
}

fn is_there() -> bool {
    static ANSWERS: OnceLock<bool> = OnceLock::new();
    *ANSWERS.get_or_init(|| {
        let mut client = Command::new("docker");
        let version = client.env_remove("DOCKER_HOST").args(["version", "-f", "{{.Server.Version}}"]).output();
        version.is_ok_and(|output| output.status.success())
    })
}

/// An image with python3, torch and transformers, made by `tests/images/pytorch-cpu/build`.
pub(crate) const PYTORCH_IMAGE: &str = "llem-tests/pytorch-cpu:2";

/// An image with python3 and vLLM for processors, made by `tests/images/vllm-cpu/build`.
pub(crate) const VLLM_IMAGE: &str = "llem-tests/vllm-cpu:1";

/// How long a study with a real engine may take: vLLM takes half a minute to start, on a busy machine several.
pub(crate) const ENGINE_PATIENCE: Duration = Duration::from_secs(900);

/// Whether the engine has an image of the tests. Without it, says so.
pub(crate) fn has_image(reference: &str) -> bool {
    let is_there = docker(&["image", "inspect", reference]).status.success();
    if !is_there {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: the container engine has no image {reference} (`tests/images` has what makes it)"
        );
    }
    is_there
}

/// Ids of the containers of the study in `directory`, running or not; none where there is no engine.
pub(crate) fn containers_of(directory: &Path) -> Vec<String> {
    let lock = directory.join(".lock");
    listed().filter(|(_, path)| *path == lock).map(|(id, _)| id).collect()
}

/// Ids of the containers of all studies below `directory`.
pub(super) fn containers_below(directory: &Path) -> Vec<String> {
    listed().filter(|(_, path)| path.starts_with(directory)).map(|(id, _)| id).collect()
}

/// All containers of llem with the lock files of their studies.
fn listed() -> impl Iterator<Item = (String, PathBuf)> {
    let arguments = ["ps", "-a", "--no-trunc", "--filter", "label=io.llem.lock", "--format"];
    let format = "{{.ID}} {{.Label \"io.llem.lock\"}}";
    let text = if is_there() { docker_text(&[&arguments[..], &[format]].concat()) } else { String::new() };
    let pairs = text.lines().filter_map(|line| line.split_once(' ')).map(|(id, path)| (id.to_owned(), path.into()));
    pairs.collect::<Vec<_>>().into_iter()
}
