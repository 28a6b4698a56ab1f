//! What must hold between fields: everything that a schema cannot say.
//!
//! Every rule collects its findings; none stops another. Pointers are those of the experiment as JSON.

mod sampling;

use serde_json::Value;

use super::backend::Backend;
use super::check::Finding;
use super::experiment::ExperimentConfig;

/// Everything that is wrong with one complete experiment.
pub(crate) fn experiment(config: &ExperimentConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    sampling::rules(config, &mut findings);
    findings
}

/// Sections of backends that are not used: a setting there would have no effect.
pub(crate) fn sections(file: &Value, used: &[Backend]) -> Vec<Finding> {
    let unused = Backend::ALL.into_iter().filter(|backend| !used.contains(backend));
    unused
        .filter(|backend| file.get(backend.name()).is_some_and(|section| !section.is_null()))
        .map(unused_section)
        .collect()
}

fn unused_section(backend: Backend) -> Finding {
    Finding::key(
        format!("/{backend}"),
        format!("no experiment uses the backend `{backend}`, so this section has no effect"),
    )
    .hint(format!("add `{backend}` to `backend:`, or remove the section"))
}

/// What is wrong with the name of a study.
pub(crate) fn name(name: &str, pointer: &str) -> Option<Finding> {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = (1..=100).contains(&name.len())
        && name.chars().all(safe)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    (!fits).then(|| {
        Finding::value(pointer, format!("`{}` cannot name a directory", super::wording::key(name)))
            .hint("use up to 100 letters, digits, `.`, `_` and `-`, starting with a letter or digit")
    })
}
