//! What the README and the documents show is valid.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::path::Path;

use llem::config::{Profile, StudyConfig, UserConfig};

/// The fenced blocks of the README in one language.
fn blocks(language: &str) -> Vec<String> {
    blocks_of("README.md", language)
}

fn blocks_of(file: &str, language: &str) -> Vec<String> {
    let text = fs_err::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file)).unwrap();
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The README and the documents that it names.
fn documents() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files = fs_err::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut documents: Vec<String> =
        pages.map(|path| format!("docs/{}", path.file_name().unwrap().to_str().unwrap())).collect();
    documents.sort();
    documents.insert(0, "README.md".to_owned());
    documents
}

#[test]
fn what_documents_link_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for document in documents() {
        let text = fs_err::read_to_string(root.join(&document)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let is_here =
                link.is_empty() || link.starts_with("http") || root.join(&document).with_file_name(link).exists();
            assert!(is_here, "{document} links to {link}");
        }
    }
}

#[test]
fn the_studies_of_the_documents_resolve() {
    let all = documents().into_iter().flat_map(|document| blocks_of(&document, "yaml"));
    let studies: Vec<_> = all.filter(|block| block.contains("backend:")).collect();
    // Four batch sizes by four lengths, one combination excluded; two images by three sizes.
    let experiments: Vec<usize> = studies.iter().map(|text| resolved(text).experiments.len()).collect();
    assert_eq!(experiments, [15, 6]);
}

fn resolved(text: &str) -> StudyConfig {
    StudyConfig::from_text(Path::new("README.md"), text, &[], Profile::Standard).unwrap()
}

#[test]
fn the_machines_config_of_the_readme_is_valid() {
    let configs: Vec<_> = blocks("yaml").into_iter().filter(|block| block.contains("docker_host:")).collect();
    assert_eq!(configs.len(), 1);
    UserConfig::from_text(Path::new("README.md"), &configs[0]).unwrap();
}

#[test]
fn the_calibration_of_the_documents_is_valid() {
    let configs = blocks_of("docs/calibration.md", "yaml");
    assert_eq!(configs.len(), 1);
    let config = UserConfig::from_text(Path::new("calibration.md"), &configs[0]).unwrap();
    assert_eq!(config.calibration.len(), 1);
}

/// The help and the README have one list.
#[test]
fn every_variable_of_the_environment_is_in_the_readme() {
    let text = fs_err::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `") && line.ends_with(" |")).collect();
    for variable in llem::config::VARIABLES {
        let row = format!("| `{}` | {} |", variable.name, variable.meaning);
        assert!(rows.contains(&row.as_str()), "the README lacks: {row}");
    }
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_llem")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(llem::config::VARIABLES.iter().all(|variable| help.contains(variable.name)), "{help}");
}
