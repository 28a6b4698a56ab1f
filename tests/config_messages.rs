//! What the user reads for every file of `tests/bad-configs`, complete.
//!
//! Lines `# --set key=value` at the top of a file are given as overrides; files named `user-*` are user configurations.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use llem::config::{ConfigError, Profile, StudyConfig, UserConfig};

fn bad_configs() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/bad-configs");
    let entries = fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "yaml")).collect();
    files.sort();
    files
}

fn refusal(name: &str, text: &str) -> ConfigError {
    let file = format!("{name}.yaml");
    let overrides: Vec<String> =
        text.lines().map_while(|line| line.strip_prefix("# --set ")).map(str::to_owned).collect();
    if name.starts_with("user-") {
        UserConfig::from_text(Path::new(&file), text).expect_err(name)
    } else {
        StudyConfig::from_text(Path::new(&file), text, &overrides, Profile::Standard).expect_err(name)
    }
}

#[test]
fn every_bad_file_has_its_message() {
    let files = bad_configs();
    assert!(files.len() >= 60, "only {} files", files.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/bad-configs"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for path in files {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let text = fs_err::read_to_string(&path).unwrap();
            insta::assert_snapshot!(name.as_str(), refusal(&name, &text));
        }
    });
}

/// Every problem of a study file has a place in it, unless `--set` made it.
#[test]
fn every_problem_has_a_place() {
    for path in bad_configs() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs_err::read_to_string(&path).unwrap();
        for problem in refusal(&name, &text).problems {
            let placed = problem.location.is_some() || problem.path.starts_with("--set") || text.is_empty();
            assert!(placed, "{name}: {problem}");
        }
    }
}
