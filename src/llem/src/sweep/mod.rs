//! From one file to all its experiments.
//!
//! ```yaml
//! backend: [pytorch, vllm]             # an axis; keys of one backend's section apply to that backend only
//! sweep:
//!   workload.n: [8, 64]                # a list under a dotted key
//!   pytorch:                           # or nested
//!     batch_size: {from: 1, to: 64, num: 7, scale: pow2}
//!   zip:                               # axes that advance together
//!     - {workload.input_tokens: [64, 512], workload.output_tokens: [512, 64]}
//!   groups:                            # an axis whose positions set several keys
//!     precision:
//!       - {dtype: bfloat16}
//!       - {dtype: float16, vllm.quantization: fp8}
//! experiments:                         # in addition to the grid
//!   - {backend: vllm, vllm.enforce_eager: true}
//! exclude:                             # points of the grid that are left out
//!   - {workload.n: 64, pytorch.batch_size: [32, 64]}
//! ```
//!
//! The grid is the product of all axes for each backend, the last axis fastest. A position of an axis that sets keys of
//! backends applies to those backends only. Without `sweep` and `experiments` the settings themselves are the experiment.

mod axes;
mod label;
mod points;
mod range;
mod report;

use serde_json::Value;

use crate::config::{Backend, Experiment, Finding, MergedPoint, Problem, Source, Surroundings, section_rules};
use axes::{Axis, Choice, Grammar};
pub(crate) use label::short_value;
use points::Points;

/// The most experiments of one study.
pub(crate) const MAX_POINTS: u128 = 100_000;

/// The most keys that differ between the experiments of one study.
const MAX_KEYS: usize = 200;

/// All experiments of a file.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) experiments: Vec<Experiment>,
    pub(crate) merged: Vec<MergedPoint>,
    pub(crate) varied_keys: Vec<String>,
}

/// What the file asks for, before any point is made.
struct Design {
    backends: Vec<Backend>,
    axes: Vec<Axis>,
    experiments: Vec<(String, Choice)>,
    exclude: Vec<(String, Choice)>,
    has_grid: bool,
}

/// Resolves the file. `base` is its value over the profile's defaults. Problems are added; when there are any, what is
/// returned is incomplete.
pub(crate) fn resolve(
    source: &Source,
    base: &Value,
    surroundings: Surroundings<'_>,
    problems: &mut Vec<Problem>,
) -> Resolved {
    let mut grammar = Grammar::new(source);
    let design = design(source, &mut grammar);
    let mut findings = grammar.findings;
    findings.extend(repeated_backends(source.value.get("backend")));
    findings.extend(unused_backends(source, &design));
    findings.extend(incomplete(&design, base, !problems.is_empty()));
    let too_many = too_many(&design);
    let impossible = too_many.is_some() || design.used().is_empty();
    findings.extend(too_many);
    problems.extend(findings.into_iter().map(|finding| source.problem(finding)));
    if impossible {
        return Resolved::default();
    }
    Points::new(source, &with_any_model(base, problems), surroundings, &design).resolve(problems)
}

/// When a problem took the model away, any model lets the other rules be checked.
fn with_any_model(base: &Value, problems: &[Problem]) -> Value {
    let mut base = base.clone();
    if let Value::Object(map) = &mut base
        && !problems.is_empty()
    {
        map.entry("model").or_insert_with(|| Value::from("unknown"));
    }
    base
}

fn design(source: &Source, grammar: &mut Grammar<'_>) -> Design {
    let file = &source.value;
    let axes = grammar.axes();
    let list = |key: &str| file.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let experiments = grammar.partials("/experiments", list("experiments"));
    let exclude = grammar.rules("/exclude", list("exclude"));
    let has_grid = file.get("sweep").is_some() || list("experiments").is_empty();
    Design { backends: backends(file.get("backend")), axes, experiments, exclude, has_grid }
}

fn backends(value: Option<&Value>) -> Vec<Backend> {
    let names: Vec<&str> = match value {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut backends: Vec<Backend> = Vec::new();
    for backend in names.into_iter().filter_map(Backend::from_name) {
        if !backends.contains(&backend) {
            backends.push(backend);
        }
    }
    backends
}

/// Backends that the list has already.
fn repeated_backends(value: Option<&Value>) -> Vec<Finding> {
    let items = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let named = items.iter().enumerate().filter_map(|(index, item)| Some((index, item.as_str()?)));
    let repeated = named.filter(|(index, name)| items.iter().take(*index).any(|item| item == name));
    let finding = |(index, name)| Finding::value(format!("/backend/{index}"), format!("`{name}` is listed twice"));
    repeated.map(|named| finding(named).hint("remove it; `execution.n_cycles` repeats experiments")).collect()
}

impl Design {
    /// Backends that at least one experiment can have.
    fn used(&self) -> Vec<Backend> {
        let named = self.experiments.iter().filter_map(|(_, choice)| own_backend(choice));
        self.backends.iter().copied().chain(named).collect()
    }

    /// The axes that one backend has, with the choices that are meant for it.
    fn axes_of(&self, backend: Backend) -> Vec<Vec<&Choice>> {
        let own =
            self.axes.iter().map(|axis| axis.choices.iter().filter(|choice| axes::applies(choice, backend)).collect());
        own.filter(|choices: &Vec<&Choice>| !choices.is_empty()).collect()
    }
}

/// The backend that an entry of `experiments` names.
fn own_backend(choice: &Choice) -> Option<Backend> {
    let named = choice.iter().find(|assignment| assignment.key == "backend")?;
    Backend::from_name(named.value.as_str()?)
}

/// Sections and keys of backends that no experiment uses.
fn unused_backends(source: &Source, design: &Design) -> Vec<Finding> {
    let used = design.used();
    // A misspelt backend may be the one that a section is for.
    let misspelt =
        source.value.get("backend").and_then(Value::as_array).is_some_and(|list| list.contains(&Value::Null));
    if used.is_empty() || misspelt {
        return Vec::new();
    }
    let mut findings = section_rules(&source.value, &used);
    let in_axes = design.axes.iter().flat_map(|axis| axis.choices.iter().flatten());
    let in_lists = design.experiments.iter().chain(&design.exclude).flat_map(|(_, choice)| choice);
    for assignment in in_axes.chain(in_lists) {
        let Some(scope) = assignment.scope().filter(|scope| !used.contains(scope)) else { continue };
        let message = format!("no experiment uses the backend `{scope}`, so this key has no effect");
        let hint = format!("add `{scope}` to `backend:`, or remove the key");
        let finding = Finding::key(assignment.key_pointer.as_str(), message).hint(hint);
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings.extend(design.experiments.iter().flat_map(|(_, choice)| foreign_keys(choice)));
    findings
}

/// Keys of another backend in an experiment that names its own.
fn foreign_keys(choice: &Choice) -> Vec<Finding> {
    let Some(own) = own_backend(choice) else { return Vec::new() };
    let foreign = choice.iter().filter(|assignment| assignment.scope().is_some_and(|scope| scope != own));
    let message = |_: &_| format!("this experiment's backend is `{own}`, so this key has no effect");
    foreign.map(|assignment| Finding::key(assignment.key_pointer.as_str(), message(assignment))).collect()
}

/// What every experiment needs and nothing gives. `already` is true when a broken value may be the reason.
fn incomplete(design: &Design, base: &Value, already: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if already {
        return findings;
    }
    if base.get("model").is_none() && no_model(design) {
        let finding = Finding::value("", "missing field `model`");
        findings.push(finding.hint("for example `model: synthetic`, or a Hugging Face id such as `organisation/name`"));
    }
    if design.used().is_empty() {
        findings
            .push(Finding::value("", "missing field `backend`").hint("one of `candle`, `pytorch`, `vllm`, `tensorrt`"));
    }
    findings
}

fn no_model(design: &Design) -> bool {
    let in_axes = design.axes.iter().flat_map(|axis| axis.choices.iter().flatten());
    let in_lists = design.experiments.iter().flat_map(|(_, choice)| choice);
    !in_axes.chain(in_lists).any(|assignment| assignment.key.split('.').next() == Some("model"))
}

fn too_many(design: &Design) -> Option<Finding> {
    let grid = |backend: &Backend| {
        let lengths = design.axes_of(*backend).into_iter().map(|choices| choices.len() as u128);
        lengths.fold(1_u128, u128::saturating_mul)
    };
    let keys = points::assigned_keys(design).len();
    if keys > MAX_KEYS {
        return Some(Finding::key("/experiments", format!("{keys} different keys vary; at most {MAX_KEYS} may")));
    }
    let points = design.backends.iter().map(grid).fold(0_u128, u128::saturating_add);
    (points > MAX_POINTS).then(|| {
        let message = format!("the sweep has {points} points; a study has at most {MAX_POINTS}");
        Finding::key("/sweep", message)
    })
}
