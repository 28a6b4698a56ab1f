//! Tells the program which commit it is built from: `LLEM_COMMIT`, not set outside a clone.
//!
//! It runs again when a commit is made or checked out and when the controller's own sources change, not at each change of the tree.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the controller is made of, relative to the workspace.
const SOURCES: [&str; 7] =
    ["src/llem", "src/llem-model", "src/llem-protocol", "datasets", "images", "Cargo.toml", "Cargo.lock"];

/// Files in git's directory that change with the commit: the branch, its history, and where a packed branch lies.
const GIT_FILES: [&str; 3] = ["HEAD", "logs/HEAD", "packed-refs"];

fn main() {
    let workspace = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../..");
    for source in SOURCES {
        watch(&workspace.join(source));
    }
    // A tarball may have been unpacked inside a clone of something else.
    let root = git(&workspace, &["rev-parse", "--show-toplevel"]);
    if root.is_none_or(|root| Path::new(&root).canonicalize().ok() != workspace.canonicalize().ok()) {
        return;
    }
    for file in GIT_FILES {
        if let Some(path) = git(&workspace, &["rev-parse", "--git-path", file]) {
            watch(&workspace.join(path));
        }
    }
    if let Some(commit) = git(&workspace, &["rev-parse", "HEAD"]) {
        let state = [&["--no-optional-locks", "status", "--porcelain", "--"], &SOURCES[..]].concat();
        let dirty = if git(&workspace, &state).is_some_and(|changes| changes.is_empty()) { "" } else { "+dirty" };
        println!("cargo:rustc-env=LLEM_COMMIT={commit}{dirty}");
    }
}

/// Cargo runs this again when the path changes; at every build if it does not exist.
fn watch(path: &Path) {
    if path.exists() {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}

/// What git prints; `None` without git, without a clone, and when git refuses.
fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
