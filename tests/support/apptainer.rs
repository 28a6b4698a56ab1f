//! Apptainer, and SIF files for tests.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::docker_text;

/// Whether there is an Apptainer to test with. Without one, says so, and fails where `CI` is set.
pub(crate) fn apptainer_answers() -> bool {
    static ANSWERS: OnceLock<bool> = OnceLock::new();
    let answers = *ANSWERS.get_or_init(|| {
        Command::new("apptainer").arg("--version").output().is_ok_and(|output| output.status.success())
    });
    if !answers {
        assert!(
            std::env::var_os("CI").is_none(),
            "there is no apptainer, and CI must have one (.ci/install-apptainer)"
        );
        let _ = writeln!(std::io::stderr(), "skipped: there is no apptainer (.ci/install-apptainer installs it)");
    }
    answers
}

/// The SIF file of an image of the engine, made by `llem image export` once for each content.
pub(crate) fn sif_of(reference: &str) -> PathBuf {
    let id = docker_text(&["image", "inspect", "--format", "{{.Id}}", reference]);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sif");
    fs_err::create_dir_all(&directory).unwrap();
    let sif = fs_err::canonicalize(directory).unwrap().join(format!("{}.sif", id.trim().trim_start_matches("sha256:")));
    // Other tests may be other processes.
    let making = fs_err::File::create(sif.with_extension("lock")).unwrap();
    making.file().lock().unwrap();
    if !sif.exists() {
        let output = Command::new(env!("CARGO_BIN_EXE_llem"))
            .args(["image", "export", reference, "--sif"])
            .arg(&sif)
            .env_remove("DOCKER_HOST")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    sif
}
