//! Every point of a design: made, checked, named, and merged with its equals.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;

use super::axes::{Assignment, Choice, applies, matches};
use super::report::PointProblems;
use super::{Design, Resolved, label, own_backend};
use crate::config::{
    Backend, Experiment, ExperimentConfig, Finding, MergedPoint, Problem, STUDY_SCHEMA, Source, Surroundings, check,
    dotted, experiment_rules, get, set,
};

/// Keys of the file that belong to the study as a whole.
const STUDY_KEYS: [&str; 6] = ["name", "backend", "execution", "sweep", "experiments", "exclude"];

pub(super) struct Points<'d> {
    source: &'d Source,
    base: &'d Value,
    surroundings: Surroundings<'d>,
    design: &'d Design,
    problems: PointProblems,
    found: Vec<Found>,
    index_of: HashMap<String, usize>,
    merged: Vec<MergedPoint>,
    excluded_by: HashSet<usize>,
    keys: Vec<String>,
    /// Short names of the keys.
    shorts: Vec<String>,
    /// Points that were checked.
    made: usize,
}

/// A point before it has a name.
struct Found {
    id: String,
    config: ExperimentConfig,
    /// Values of [`Points::keys`].
    values: Vec<Value>,
}

/// A point as the design has it.
struct Point<'d> {
    origin: String,
    backend: Backend,
    assignments: Vec<&'d Assignment>,
    is_grid: bool,
}

impl<'d> Points<'d> {
    pub(super) fn new(source: &'d Source, base: &'d Value, surroundings: Surroundings<'d>, design: &'d Design) -> Self {
        let empty = (PointProblems::default(), Vec::new(), HashMap::new(), Vec::new(), HashSet::new());
        let (problems, found, index_of, merged, excluded_by) = empty;
        let keys = assigned_keys(design);
        let shorts = label::short_keys(&keys);
        Self {
            source,
            base,
            surroundings,
            design,
            problems,
            found,
            index_of,
            merged,
            excluded_by,
            keys,
            shorts,
            made: 0,
        }
    }

    pub(super) fn resolve(mut self, problems: &mut Vec<Problem>) -> Resolved {
        self.grid();
        self.listed();
        self.unmatched_rules(problems);
        if self.found.is_empty() && self.problems.is_empty() && problems.is_empty() {
            problems.push(self.source.problem(Finding::key("/exclude", "nothing is left: every point is excluded")));
        }
        self.problems.into_problems(self.source, self.made, problems);
        named(self.found, &self.keys, self.merged)
    }

    fn grid(&mut self) {
        if !self.design.has_grid {
            return;
        }
        let mut number = 0;
        for backend in &self.design.backends {
            let base = self.base_of(*backend);
            let axes = self.design.axes_of(*backend);
            let total: usize = axes.iter().map(Vec::len).product();
            for index in 0..total {
                number += 1;
                let assignments = combination(&axes, index);
                let origin = format!("sweep point {number}");
                self.point(&base, &Point { origin, backend: *backend, assignments, is_grid: true });
            }
        }
    }

    fn listed(&mut self) {
        for (pointer, choice) in &self.design.experiments {
            let backends = own_backend(choice).map_or_else(|| self.design.backends.clone(), |own| vec![own]);
            for backend in backends.into_iter().filter(|backend| applies(choice, *backend)) {
                let base = self.base_of(backend);
                let assignments = choice.iter().collect();
                self.point(&base, &Point { origin: dotted(pointer), backend, assignments, is_grid: false });
            }
        }
    }

    /// The settings that all points of a backend share.
    fn base_of(&self, backend: Backend) -> Value {
        let mut base = self.base.clone();
        if let Value::Object(map) = &mut base {
            map.retain(|key, _| {
                !STUDY_KEYS.contains(&key.as_str()) && Backend::from_name(key).is_none_or(|own| own == backend)
            });
            map.insert("backend".to_owned(), Value::from(backend.name()));
        }
        base
    }

    fn point(&mut self, base: &Value, point: &Point<'_>) {
        let mut value = base.clone();
        let own = |assignment: &&&Assignment| assignment.scope().is_none_or(|scope| scope == point.backend);
        for assignment in point.assignments.iter().filter(own).filter(|assignment| assignment.key != "backend") {
            if let Err(error) = set(&mut value, &assignment.key, assignment.value.clone()) {
                let message = format!("cannot be set: `{}` is not a mapping here", error.key);
                self.problems.add(
                    &assignment.key,
                    Finding::key(assignment.key_pointer.as_str(), message),
                    String::new(),
                );
                return;
            }
        }
        if value.get("model").and_then(Value::as_str) == Some("synthetic") {
            value["model"] = serde_json::json!({ "synthetic": {} });
        }
        match ExperimentConfig::deserialize(&value) {
            Ok(config) => self.typed(point, config),
            Err(error) => self.untyped(point, &value, &error.to_string()),
        }
    }

    /// A point that lacks something which its assignments, each by itself, could not show.
    fn untyped(&mut self, point: &Point<'_>, value: &Value, error: &str) {
        if value.get("model").is_none() {
            self.problems.add("", Finding::value("", "missing field `model`"), self.origin(point));
            return;
        }
        let mut findings = check(&STUDY_SCHEMA, value);
        if findings.is_empty() {
            findings.push(Finding::value("", error));
        }
        for finding in findings {
            self.report(point, finding);
        }
    }

    fn typed(&mut self, point: &Point<'_>, config: ExperimentConfig) {
        let json = serde_json::to_value(&config).unwrap_or_default();
        if point.is_grid && self.is_excluded(&json) {
            return;
        }
        self.made += 1;
        for finding in experiment_rules(&config, self.surroundings) {
            self.report(point, finding);
        }
        let id = config.id();
        if let Some(equal) = self.index_of.get(&id) {
            let experiment = self.found.get(*equal).map(|found| found.id.clone()).unwrap_or_default();
            self.merged.push(MergedPoint { point: self.origin(point), experiment });
            return;
        }
        let values = self.keys.iter().map(|key| get(&json, key).cloned().unwrap_or_default()).collect();
        self.index_of.insert(id.clone(), self.found.len());
        self.found.push(Found { id, config, values });
    }

    fn report(&mut self, point: &Point<'_>, finding: Finding) {
        let path = dotted(&finding.pointer);
        let in_section = path.starts_with(point.backend.name());
        let located = relocate(finding, &path, &point.assignments);
        // A setting of the file's own section is wrong by itself, whatever the point.
        let by_itself = in_section && point.is_grid && !located.pointer.starts_with("/sweep");
        let origin = if by_itself { String::new() } else { self.origin(point) };
        self.problems.add(&path, located, origin);
    }

    /// Every matching rule counts as used, not only the first.
    fn is_excluded(&mut self, config: &Value) -> bool {
        let mut excluded = false;
        for (index, (_, rule)) in self.design.exclude.iter().enumerate() {
            if rule.iter().all(|assignment| matches(config, assignment)) {
                self.excluded_by.insert(index);
                excluded = true;
            }
        }
        excluded
    }

    fn unmatched_rules(&self, problems: &mut Vec<Problem>) {
        if !problems.iter().all(|problem| problem.path.starts_with("exclude")) {
            return;
        }
        for (index, (pointer, _)) in self.design.exclude.iter().enumerate() {
            if !self.excluded_by.contains(&index) {
                let finding = Finding::value(pointer.as_str(), "this rule matches no point of the sweep");
                problems.push(self.source.problem(finding));
            }
        }
    }

    fn origin(&self, point: &Point<'_>) -> String {
        let own = point.assignments.iter().filter(|assignment| assignment.key != "backend").filter_map(|assignment| {
            let index = self.keys.iter().position(|key| *key == assignment.key)?;
            Some((self.shorts.get(index)?.as_str(), &assignment.value))
        });
        let settings = label::label(own);
        let backend = if self.design.used().len() > 1 { format!("backend={} ", point.backend) } else { String::new() };
        format!("{}: {backend}{settings}", point.origin).trim_end_matches([' ', ':']).to_owned()
    }
}

/// The axis or entry that set a field, as the place of a message about it.
fn relocate(finding: Finding, path: &str, assignments: &[&Assignment]) -> Finding {
    let inside = |outer: &str, inner: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let set_by = assignments.iter().find(|assignment| inside(&assignment.key, path) || inside(path, &assignment.key));
    match set_by {
        Some(assignment) => Finding { pointer: assignment.value_pointer.clone(), ..finding },
        None => finding,
    }
}

/// The assignments of a point of the grid; the last axis is the fastest.
fn combination<'d>(axes: &[Vec<&'d Choice>], mut index: usize) -> Vec<&'d Assignment> {
    let mut picked: Vec<&'d Choice> = Vec::with_capacity(axes.len());
    for choices in axes.iter().rev() {
        picked.extend(choices.get(index % choices.len()));
        index /= choices.len();
    }
    picked.into_iter().rev().flatten().collect()
}

/// All keys that the design sets, in its order; `backend` first.
pub(super) fn assigned_keys(design: &Design) -> Vec<String> {
    let in_axes = design.axes.iter().flat_map(|axis| axis.choices.iter().flatten());
    let in_lists = design.experiments.iter().flat_map(|(_, choice)| choice);
    let mut seen = HashSet::from(["backend"]);
    let mut keys = vec!["backend".to_owned()];
    for assignment in in_axes.chain(in_lists) {
        if seen.insert(&assignment.key) {
            keys.push(assignment.key.clone());
        }
    }
    keys
}

/// Names the experiments by the keys in which they differ.
fn named(found: Vec<Found>, keys: &[String], merged: Vec<MergedPoint>) -> Resolved {
    let differs = |index: usize| {
        let mut values = found.iter().filter_map(|one| one.values.get(index));
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    let varied: Vec<usize> = (0..keys.len()).filter(|index| differs(*index)).collect();
    let varied_keys: Vec<String> = varied.iter().filter_map(|index| keys.get(*index).cloned()).collect();
    let shorts = label::short_keys(&varied_keys);
    let experiments = found.into_iter().map(|one| name_one(one, &varied, &varied_keys, &shorts)).collect();
    Resolved { experiments, merged, varied_keys }
}

fn name_one(found: Found, varied: &[usize], keys: &[String], shorts: &[String]) -> Experiment {
    let Found { id, config, mut values } = found;
    let own: Vec<Value> = varied.iter().filter_map(|index| values.get_mut(*index).map(Value::take)).collect();
    let present = |(key, value): (&String, &Value)| (!value.is_null()).then(|| (key.clone(), value.clone()));
    let short = shorts.iter().map(String::as_str).zip(&own).filter(|(_, value)| !value.is_null());
    let label = match label::label(short) {
        nothing if nothing.is_empty() => config.backend.to_string(),
        label => label,
    };
    let varied = keys.iter().zip(&own).filter_map(present).collect();
    Experiment { id, label, varied, config }
}
