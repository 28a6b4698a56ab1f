//! From a file to experiments.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::assign::{self, pointer_of};
use super::bundled::Bundled;
use super::check::{Finding, check};
use super::defaults::Profile;
use super::document::pointer_segment;
use super::execution::ExecutionConfig;
use super::experiment::ExperimentConfig;
use super::identity;
use super::problem::{ConfigError, Problem};
use super::rules::{self, Surroundings};
use super::schema::{CheckedSchema, STUDY};
use super::source::Source;
use crate::sweep;

/// Mappings inside each other that may become incomplete when something is taken out.
const MAX_CONSEQUENCES: usize = 3;

/// The largest study file, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// A study: its experiments and how they are carried out. Everything in it has been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct StudyConfig {
    /// Name of the study; safe as a directory name.
    pub name: String,
    /// The file that it came from.
    pub source: Option<StudySource>,
    /// The set of defaults that it was resolved with.
    pub profile: Profile,
    /// How it is carried out.
    pub execution: ExecutionConfig,
    /// The experiments, each once, in order.
    pub experiments: Vec<Experiment>,
    /// Points that turned out equal to an earlier one and are not run again.
    pub merged: Vec<MergedPoint>,
    /// Dotted keys that differ between experiments; `backend` among them when several are compared.
    pub varied_keys: Vec<String>,
}

/// The file that a study came from.
#[derive(Clone, Debug, PartialEq)]
pub struct StudySource {
    /// As the user named it.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// The `--set` arguments.
    pub overrides: Vec<String>,
    /// The bundle that it came in, and where the things are that it names; absent: beside the file, and wherever this machine has them.
    pub bundled: Option<Arc<Bundled>>,
}

/// One experiment of a study.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// [`ExperimentConfig::id`].
    pub id: String,
    /// What is particular about it, short: `batch_size=4 input_tokens=64`.
    pub label: String,
    /// Its values of [`StudyConfig::varied_keys`]; keys that it does not have are left out.
    pub varied: Vec<(String, Value)>,
    /// The experiment.
    pub config: ExperimentConfig,
}

/// A point that is equal to an experiment before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MergedPoint {
    /// Where the point came from, e.g. `experiments[0]` or `sweep point 3`, with what it sets.
    pub point: String,
    /// Id of the experiment that stands for it.
    pub experiment: String,
}

impl StudyConfig {
    /// What relative paths in the study are relative to: the directory of its file.
    pub fn base_dir(&self) -> PathBuf {
        let parent = self.source.as_ref().and_then(|source| source.path.parent());
        parent.filter(|dir| !dir.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned)
    }

    /// What came with the study, if it came in a bundle.
    pub fn bundled(&self) -> Option<&Arc<Bundled>> {
        self.source.as_ref()?.bundled.as_ref()
    }

    /// Reads and resolves a file. `overrides` are `key=yaml` arguments, applied in order.
    pub fn from_file(path: &Path, overrides: &[String], profile: Profile) -> Result<Self, ConfigError> {
        let text = read_bounded(path).map_err(|error| ConfigError { problems: vec![Problem::new("", error)] })?;
        Self::from_text(path, &text, overrides, profile)
    }

    /// Resolves a file's text; `path_for_messages` is not read.
    pub fn from_text(
        path_for_messages: &Path,
        text: &str,
        overrides: &[String],
        profile: Profile,
    ) -> Result<Self, ConfigError> {
        Self::resolve(path_for_messages, text, overrides, profile, None)
    }

    /// Reads and resolves the file of a study that came in a bundle.
    pub(crate) fn from_bundle(
        path: &Path,
        overrides: &[String],
        profile: Profile,
        bundled: Arc<Bundled>,
    ) -> Result<Self, ConfigError> {
        let text = read_bounded(path).map_err(|error| ConfigError { problems: vec![Problem::new("", error)] })?;
        Self::resolve(path, &text, overrides, profile, Some(bundled))
    }

    fn resolve(
        path_for_messages: &Path,
        text: &str,
        overrides: &[String],
        profile: Profile,
        bundled: Option<Arc<Bundled>>,
    ) -> Result<Self, ConfigError> {
        let mut source = Source::read(path_for_messages, text, overrides);
        let mut problems = std::mem::take(&mut source.problems);
        let unreadable = !problems.is_empty() && source.value.as_object().is_none_or(serde_json::Map::is_empty);
        if unreadable {
            return Err(ConfigError::new(problems));
        }
        problems.extend(prune(&mut source, &STUDY));
        let name = study_name(&source, path_for_messages).unwrap_or_else(|problem| {
            problems.push(*problem);
            String::new()
        });
        let mut base = profile.base();
        assign::overlay(&mut base, source.value.clone());
        let execution = execution(&source, &base, profile, &mut problems);
        let surroundings =
            Surroundings { execution: &execution, profile, study_dir: source.directory(), bundled: bundled.as_deref() };
        let resolved = sweep::resolve(&source, &base, surroundings, &mut problems);
        if problems.is_empty() {
            problems.extend(rules::secrets::in_text(path_for_messages, text, overrides));
        }
        if !problems.is_empty() {
            return Err(ConfigError::new(problems));
        }
        let overrides = overrides.to_vec();
        let source = StudySource { path: path_for_messages.to_path_buf(), text: text.to_owned(), overrides, bundled };
        Ok(Self {
            name,
            source: Some(source),
            profile,
            execution,
            experiments: resolved.experiments,
            merged: resolved.merged,
            varied_keys: resolved.varied_keys,
        })
    }

    /// A study of one experiment that did not come from a file, under the rules of the default profile.
    pub fn single(name: &str, experiment: ExperimentConfig, execution: ExecutionConfig) -> Result<Self, ConfigError> {
        let profile = Profile::default();
        let surroundings = Surroundings { execution: &execution, profile, study_dir: Path::new(""), bundled: None };
        let mut findings: Vec<Finding> = rules::name(name, "/name").into_iter().collect();
        let value = serde_json::to_value(&experiment).unwrap_or_default();
        findings.extend(check(&STUDY, &value));
        findings.extend(rules::experiment(&experiment, surroundings));
        findings.extend(rules::sections(&value, &[experiment.backend]));
        findings.extend(check(&STUDY, &serde_json::json!({ "execution": &execution })));
        if !findings.is_empty() {
            let problems = findings.into_iter().map(Finding::without_file).collect();
            return Err(ConfigError::new(problems));
        }
        let label = experiment.backend.to_string();
        let experiment = Experiment { id: experiment.id(), label, varied: Vec::new(), config: experiment };
        Ok(Self {
            name: name.to_owned(),
            source: None,
            profile,
            execution,
            experiments: vec![experiment],
            merged: Vec::new(),
            varied_keys: Vec::new(),
        })
    }

    /// A problem with what the study says at a dotted key, found out after the file was checked. Where an axis or a list of experiments
    /// gives the key its values, it is placed at the one that says `text`.
    pub(crate) fn problem_with(&self, key: &str, text: &str, message: String) -> Problem {
        let Some(file) = &self.source else { return Problem::new(key, message) };
        let source = Source::read(&file.path, &file.text, &file.overrides);
        let own = pointer_of(key);
        let says = |pointer: &str| source.value.pointer(pointer).and_then(Value::as_str) == Some(text);
        let pointer = if says(&own) { None } else { pointer_to(&source.value, key, text) };
        source.problem_of(key, Finding::value(pointer.unwrap_or(own), message))
    }

    /// Identifies what is compared: SHA-256 over the sorted experiment ids, whatever the execution.
    pub fn design_hash(&self) -> String {
        identity::design_hash(self.experiments.iter().map(|experiment| experiment.id.as_str()))
    }
}

/// Where a value says `text`, below a key that is the last part of a dotted one, or ends in it.
fn pointer_to(value: &Value, dotted: &str, text: &str) -> Option<String> {
    let last = dotted.rsplit('.').next().unwrap_or(dotted);
    let mut open = vec![(String::new(), value, false)];
    while let Some((pointer, value, named)) = open.pop() {
        match value {
            Value::String(said) if named && said == text => return Some(pointer),
            Value::Array(items) => {
                open.extend(items.iter().enumerate().rev().map(|(at, item)| (format!("{pointer}/{at}"), item, named)));
            }
            Value::Object(map) => open.extend(map.iter().rev().map(|(key, item)| {
                let named = named || key.rsplit('.').next() == Some(last);
                (format!("{pointer}/{}", pointer_segment(key)), item, named)
            })),
            _ => {}
        }
    }
    None
}

/// Reports what the schema does not allow and takes it out, so that the rest can be checked too.
pub(crate) fn prune(source: &mut Source, schema: &CheckedSchema) -> Vec<Problem> {
    let findings = check(schema, &source.value);
    take_out(&mut source.value, &findings);
    // What is left may now lack something: a consequence, which is taken out without a word.
    for _ in 0..MAX_CONSEQUENCES {
        let consequences = if findings.is_empty() { Vec::new() } else { check(schema, &source.value) };
        take_out(&mut source.value, &consequences);
    }
    findings.into_iter().map(|finding| source.problem(finding)).collect()
}

fn take_out(value: &mut Value, findings: &[Finding]) {
    for finding in findings {
        assign::remove(value, &finding.pointer);
    }
}

fn study_name(source: &Source, path: &Path) -> Result<String, Box<Problem>> {
    let named = source.value.get("name").and_then(Value::as_str);
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = named.map(str::to_owned).or(stem).unwrap_or_else(|| "study".to_owned());
    match rules::name(&name, "/name") {
        None => Ok(name),
        Some(finding) if named.is_some() => Err(Box::new(source.problem(finding))),
        Some(finding) => {
            Err(Box::new(source.problem(finding.hint("the file's name is the study's name; set `name:`"))))
        }
    }
}

/// What the file says over the profile's; on a problem, the profile's, so that the rest can be checked.
fn execution(source: &Source, base: &Value, profile: Profile, problems: &mut Vec<Problem>) -> ExecutionConfig {
    ExecutionConfig::deserialize(base.get("execution").unwrap_or(&Value::Null)).unwrap_or_else(|error| {
        problems.push(source.problem(Finding::value("/execution", error.to_string())));
        profile.execution()
    })
}

/// Reads a file of bounded size; the error names it.
pub(crate) fn read_bounded(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let file = fs_err::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("{}: larger than {} MiB", path.display(), MAX_FILE_BYTES >> 20));
    }
    String::from_utf8(bytes).map_err(|error| format!("{}: not UTF-8: {error}", path.display()))
}
