//! Rules of `workload`.

use super::super::check::Finding;
use super::super::model::study_path;
use super::super::wording::{key, nearest};
use super::super::workload::{AIENERGYSCORE_DATASET, AIENERGYSCORE_PROMPTS, Length, SYNTHETIC_DATASET, WorkloadConfig};
use super::Surroundings;

pub(super) fn rules(workload: &WorkloadConfig, surroundings: Surroundings<'_>, findings: &mut Vec<Finding>) {
    dataset(workload, surroundings, findings);
    range("/workload/input_tokens", workload.input_tokens, findings);
    range("/workload/output_tokens", Some(workload.output_tokens), findings);
    if !workload.is_synthetic() && matches!(workload.input_tokens, Some(Length::Uniform(_))) {
        let message = "a text data set can be cut to one length, not to a range";
        let finding = Finding::value("/workload/input_tokens", message);
        findings.push(finding.hint("give one number, or use `dataset: synthetic`"));
    }
}

fn dataset(workload: &WorkloadConfig, surroundings: Surroundings<'_>, findings: &mut Vec<Finding>) {
    match workload.dataset.as_str() {
        SYNTHETIC_DATASET => {}
        AIENERGYSCORE_DATASET => {
            if let Some(n) = workload.n.filter(|n| *n > AIENERGYSCORE_PROMPTS) {
                let message = format!("`aienergyscore` has {AIENERGYSCORE_PROMPTS} prompts, fewer than {n}");
                findings.push(Finding::value("/workload/n", message));
            }
        }
        path => findings.extend(file(path, surroundings)),
    }
}

fn file(path: &str, surroundings: Surroundings<'_>) -> Option<Finding> {
    let is_packed = surroundings.bundled.is_some_and(|bundled| bundled.datasets.contains_key(path));
    if is_packed || study_path(surroundings.study_dir, path).is_file() {
        return None;
    }
    let known = [SYNTHETIC_DATASET, AIENERGYSCORE_DATASET];
    let finding = Finding::value("/workload/dataset", format!("there is no file `{}`", key(path)));
    Some(finding.hint(match nearest(path, known) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "known data sets: `synthetic`, `aienergyscore`; otherwise the path of a JSON Lines file, from the study file on".to_owned(),
    }))
}

fn range(pointer: &str, length: Option<Length>, findings: &mut Vec<Finding>) {
    if let Some(Length::Uniform(range)) = length
        && range.min > range.max
    {
        findings.push(Finding::value(pointer, format!("`min` {} is greater than `max` {}", range.min, range.max)));
    }
}
