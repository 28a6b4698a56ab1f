//! What must hold between fields: everything that a schema cannot say.
//!
//! Every rule collects its findings; none stops another. Pointers are those of the experiment as JSON. A setting that
//! would have no effect is a finding too: the user believes that it has one.

mod lengths;
mod lora;
mod measurement;
mod model;
mod pytorch;
mod sampling;
pub(crate) mod secrets;
mod slurm;
mod tensorrt;
mod tensorrt_extra;
mod user;
mod vllm;
mod workload;

use std::path::Path;

use serde_json::Value;

use super::backend::Backend;
use super::bundled::Bundled;
use super::check::Finding;
use super::defaults::Profile;
use super::execution::ExecutionConfig;
use super::experiment::ExperimentConfig;
use super::image;

pub(crate) use tensorrt::checkpoint as tensorrt_checkpoint;
pub(crate) use user::rules as user;

/// What surrounds an experiment.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// How its study is carried out.
    pub(crate) execution: &'a ExecutionConfig,
    /// Where the study's defaults come from.
    pub(crate) profile: Profile,
    /// What relative paths are relative to.
    pub(crate) study_dir: &'a Path,
    /// What came with the study in a bundle.
    pub(crate) bundled: Option<&'a Bundled>,
}

/// Everything that is wrong with one complete experiment.
pub(crate) fn experiment(config: &ExperimentConfig, surroundings: Surroundings<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    model::rules(config, &mut findings);
    workload::rules(&config.workload, surroundings, &mut findings);
    measurement::rules(&config.measurement, surroundings, &mut findings);
    lengths::rules(config, &mut findings);
    sampling::rules(config, &mut findings);
    lora::rules(config, &mut findings);
    image_rule(config, &mut findings);
    secrets::rules(config, &mut findings);
    match config.backend {
        Backend::Candle => {}
        Backend::Pytorch => pytorch::rules(config, &mut findings),
        Backend::Vllm => vllm::rules(config, &mut findings),
        Backend::Tensorrt => tensorrt::rules(config, surroundings.study_dir, &mut findings),
    }
    findings
}

fn image_rule(config: &ExperimentConfig, findings: &mut Vec<Finding>) {
    if let Some(message) = config.image().and_then(image::problem) {
        findings.push(Finding::value(format!("/{}/image", config.backend), message));
    }
}

/// A setting that changes nothing beside another one.
fn no_effect(pointer: &str, because: &str) -> Finding {
    Finding::value(pointer, format!("has no effect: {because}")).hint("remove it")
}

/// Sections of backends that are not used: a setting there would have no effect.
pub(crate) fn sections(file: &Value, used: &[Backend]) -> Vec<Finding> {
    let unused = Backend::ALL.into_iter().filter(|backend| !used.contains(backend));
    unused.filter(|backend| file.get(backend.name()).is_some_and(Value::is_object)).map(unused_section).collect()
}

fn unused_section(backend: Backend) -> Finding {
    let message = format!("no experiment uses the backend `{backend}`, so this section has no effect");
    Finding::key(format!("/{backend}"), message).hint(format!("add `{backend}` to `backend:`, or remove the section"))
}

/// What is wrong with the name of a study.
pub(crate) fn name(name: &str, pointer: &str) -> Option<Finding> {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let fits = name.len() <= 100 && name.chars().all(safe) && starts_well;
    (!fits).then(|| {
        Finding::value(pointer, format!("`{}` cannot name a directory", super::wording::key(name)))
            .hint("use up to 100 letters, digits, `.`, `_` and `-`, starting with a letter or digit")
    })
}
