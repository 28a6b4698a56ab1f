//! Rules of `model`.

use super::super::check::Finding;
use super::super::experiment::ExperimentConfig;
use super::super::model::{ModelSource, ModelSpec, is_path};
use super::super::wording::{key, nearest};

pub(super) fn rules(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    match config.model_source() {
        ModelSource::Synthetic(spec) => {
            let problems = spec.problems().into_iter();
            findings.extend(problems.map(|p| Finding::value(format!("/model/synthetic/{}", p.field), p.message)));
        }
        ModelSource::Directory(_) => {}
        ModelSource::Hub { .. } => {
            if let ModelSpec::Named(name) = &config.model {
                findings.extend(reference("/model", name, &["synthetic"]));
            }
        }
    }
    if let Some((field, draft)) = config.draft_model() {
        let pointer = format!("/{}/speculative/{field}", config.backend);
        findings.extend(reference(&pointer, draft, &[]));
    }
}

/// What is wrong with a Hugging Face id or path. `words` are names with a meaning of their own.
pub(super) fn reference(pointer: &str, text: &str, words: &[&str]) -> Option<Finding> {
    if is_path(text) {
        return None;
    }
    if let Some(word) = nearest(text, words.iter().copied()) {
        let finding = Finding::value(pointer, format!("`{}` is not a Hugging Face id", key(text)));
        return Some(finding.hint(format!("did you mean `{word}`?")));
    }
    if is_hub_id(text) {
        return None;
    }
    let finding = Finding::value(pointer, format!("`{}` is neither a Hugging Face id nor a path", key(text)));
    Some(finding.hint("write `organisation/name`, or start a local directory with `/`, `./`, `../` or `~/`"))
}

/// `name`, `organisation/name`, each with an optional `@revision`.
fn is_hub_id(text: &str) -> bool {
    let (id, revision) = text.split_once('@').map_or((text, None), |(id, revision)| (id, Some(revision)));
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    let revision_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let parts: Vec<&str> = id.split('/').collect();
    id.len() <= 200
        && parts.len() <= 2
        && parts.into_iter().all(part)
        && revision.is_none_or(|revision| !revision.is_empty() && revision.chars().all(revision_char))
}
