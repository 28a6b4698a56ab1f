//! Images with stand-ins of engines: the tests' image of PyTorch with files of the checkout over it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::docker;
use super::engine::PYTORCH_IMAGE;

/// What a stand-in of TensorRT-LLM says of PyTorch, in the form in which PyTorch itself does.
const TORCH_VERSION: &str = "__version__ = \"2.9.1\"\ncuda = \"13.1\"\n";

/// An image in which TensorRT-LLM of a version seems to be installed (`tests/tensorrt/standin`).
pub(crate) fn tensorrt_image(version: &str) -> String {
    let mut files = tree(&checkout().join("tests/tensorrt/standin"), "standin");
    for (name, version) in [("tensorrt_llm", version), ("tensorrt", "10.14.1.48")] {
        let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
        files.push((format!("standin/{name}-{version}.dist-info/METADATA"), metadata.into_bytes()));
    }
    files.retain(|(path, _)| path != "standin/torch/version.py");
    files.push(("standin/torch/version.py".to_owned(), TORCH_VERSION.into()));
    image("tensorrt-standin", &files)
}

/// An image whose `/standin/python` starts `tests/pytorch/compiler.py` in the place of llem's driver of PyTorch.
pub(crate) fn compiler_image() -> String {
    let file = |name: &str| fs_err::read(checkout().join("tests/pytorch").join(name)).unwrap();
    let files = ["compiler.py", "python"].map(|name| (format!("standin/{name}"), file(name)));
    image("compiler-standin", &files)
}

fn checkout() -> PathBuf {
    fs_err::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
}

/// Names and contents of all files below a directory, without what Python leaves there.
fn tree(directory: &Path, name: &str) -> Vec<(String, Vec<u8>)> {
    let mut entries: Vec<_> = fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(fs_err::DirEntry::file_name);
    let mut files = Vec::new();
    for entry in entries {
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        match entry.file_type().unwrap().is_dir() {
            true if name.ends_with("__pycache__") => {}
            true => files.extend(tree(&entry.path(), &name)),
            false => files.push((name, fs_err::read(entry.path()).unwrap())),
        }
    }
    files
}

/// The image with these files at its root, tagged with their hash; made when the engine does not have it.
fn image(name: &str, files: &[(String, Vec<u8>)]) -> String {
    let context = tempfile::tempdir().unwrap();
    let mut hash = Sha256::new();
    for (path, content) in files {
        hash.update(path);
        hash.update(content);
        let place = context.path().join(path);
        fs_err::create_dir_all(place.parent().unwrap()).unwrap();
        fs_err::write(&place, content).unwrap();
        fs_err::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let recipe =
        format!("FROM {PYTORCH_IMAGE}\nCOPY standin /standin\nENV PYTHONPATH=/standin PYTHONDONTWRITEBYTECODE=1\n");
    hash.update(&recipe);
    let tag: String = hex::encode(hash.finalize()).chars().take(16).collect();
    let reference = format!("llem-test/{name}:{tag}");
    if docker(&["image", "inspect", &reference]).status.success() {
        return reference;
    }
    fs_err::write(context.path().join("Dockerfile"), recipe).unwrap();
    let mut build = Command::new("docker");
    build.env_remove("DOCKER_HOST").env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", &reference]);
    let made = build.arg(context.path()).output().unwrap();
    assert!(made.status.success(), "docker build: {}", String::from_utf8_lossy(&made.stderr));
    reference
}
