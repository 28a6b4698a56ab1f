//! The grammar of `sweep`, `experiments` and `exclude`: from the file's mappings to axes of assignments.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::range;
use crate::config::{Backend, Finding, STUDY_SCHEMA, Side, Source, check, get, pointer_of, set, shown_key};

/// Refused values of one axis that are reported; the rest is left out in silence.
const MAX_REFUSED: usize = 20;

/// A key and the value that it gets.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    /// Dotted path of the field.
    pub(super) key: String,
    pub(super) value: Value,
    /// JSON pointer of the key in the file.
    pub(super) key_pointer: String,
    /// JSON pointer of the value in the file.
    pub(super) value_pointer: String,
}

/// What one position on an axis sets.
pub(super) type Choice = Vec<Assignment>;

/// Positions of which each point of the grid takes one.
#[derive(Clone, Debug, Default)]
pub(super) struct Axis {
    pub(super) choices: Vec<Choice>,
}

impl Assignment {
    /// The backend that the key belongs to.
    pub(super) fn scope(&self) -> Option<Backend> {
        Backend::from_name(self.key.split('.').next()?)
    }
}

/// Whether a choice is meant for a backend: it sets no scoped key, or one of that backend.
pub(super) fn applies(choice: &Choice, backend: Backend) -> bool {
    let mut scoped = choice.iter().filter_map(Assignment::scope).peekable();
    scoped.peek().is_none() || scoped.any(|scope| scope == backend)
}

/// The axes of `sweep` in the order of the file.
pub(super) struct Grammar<'s> {
    source: &'s Source,
    pub(super) findings: Vec<Finding>,
}

impl<'s> Grammar<'s> {
    pub(super) fn new(source: &'s Source) -> Self {
        Self { source, findings: Vec::new() }
    }

    /// Reads `sweep`.
    pub(super) fn axes(&mut self) -> Vec<Axis> {
        let mut axes = Vec::new();
        if let Some(sweep) = self.source.value.get("sweep").and_then(Value::as_object) {
            for (pointer, key, value) in self.source.in_file_order("/sweep", sweep.iter()) {
                match key {
                    "zip" => self.zips(&pointer, value, &mut axes),
                    "groups" => self.groups(&pointer, value, &mut axes),
                    _ => self.plain(&pointer, key, value, &mut axes),
                }
            }
        }
        self.refuse_repeated(&axes);
        axes
    }

    /// A list or range under a dotted key, or a mapping of more of them.
    fn plain(&mut self, pointer: &str, key: &str, value: &Value, axes: &mut Vec<Axis>) {
        match value {
            Value::Object(map) if !range::is_range(map) => {
                for (pointer, inner, value) in self.source.in_file_order(pointer, map.iter()) {
                    self.plain(&pointer, &format!("{key}.{inner}"), value, axes);
                }
            }
            _ => {
                let assignments = self.values(pointer, key, value);
                axes.push(Axis { choices: assignments.into_iter().map(|one| vec![one]).collect() });
            }
        }
    }

    fn values(&mut self, pointer: &str, key: &str, value: &Value) -> Vec<Assignment> {
        let assignment = |value: Value, value_pointer: String| {
            let (key, key_pointer) = (key.to_owned(), pointer.to_owned());
            Assignment { key, value, key_pointer, value_pointer }
        };
        let assignments: Result<Vec<Assignment>, String> = match value {
            Value::Array(items) if items.is_empty() => Err("the axis is empty".to_owned()),
            Value::Array(items) => {
                let numbered = items.iter().enumerate();
                Ok(numbered.map(|(index, value)| assignment(value.clone(), format!("{pointer}/{index}"))).collect())
            }
            Value::Object(map) => {
                let values = range::values(map);
                values.map(|values| values.into_iter().map(|value| assignment(value, pointer.to_owned())).collect())
            }
            _ => Err(format!("an axis is a list or a range; for one value, set `{}` outside `sweep`", shown_key(key))),
        };
        let mut assignments = assignments.unwrap_or_else(|message| {
            self.findings.push(Finding::value(pointer, message));
            Vec::new()
        });
        self.keep_assignable(&mut assignments, value.is_object());
        assignments
    }

    /// Of a range, the first value that is refused speaks for all.
    fn keep_assignable(&mut self, assignments: &mut Vec<Assignment>, is_range: bool) {
        let mut refused = 0;
        assignments.retain(|assignment| {
            let most = if is_range { 1 } else { MAX_REFUSED };
            let fine = refused < most && self.is_assignable(assignment);
            refused += usize::from(!fine);
            fine
        });
    }

    /// Axes that advance together: `zip: {a: […], b: […]}`, or a list of such mappings.
    fn zips(&mut self, pointer: &str, value: &Value, axes: &mut Vec<Axis>) {
        match value {
            Value::Object(map) => axes.push(self.zip(pointer, map)),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.zips(&format!("{pointer}/{index}"), item, axes);
                }
            }
            _ => self.findings.push(Finding::value(pointer, "`zip` is a mapping of axes, or a list of such mappings")),
        }
    }

    fn zip(&mut self, pointer: &str, map: &Map<String, Value>) -> Axis {
        let before = self.findings.len();
        let mut columns = Vec::new();
        for (pointer, key, value) in self.source.in_file_order(pointer, map.iter()) {
            self.plain(&pointer, key, value, &mut columns);
        }
        let lengths: Vec<usize> = columns.iter().map(|column| column.choices.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if self.findings.len() == before && lengths.iter().any(|length| *length != longest) {
            let counted = columns.iter().filter_map(|column| {
                let first = column.choices.first()?.first()?;
                Some(format!("`{}` has {}", first.key, column.choices.len()))
            });
            let message = format!("zipped axes must be equally long: {}", counted.collect::<Vec<_>>().join(", "));
            self.findings.push(Finding::key(pointer, message));
        }
        let row =
            |index: usize| columns.iter().filter_map(|column| column.choices.get(index)).flatten().cloned().collect();
        let choices: Vec<Choice> = (0..longest).map(row).collect();
        choices.first().into_iter().for_each(|row| self.refuse_doubles(row));
        Axis { choices }
    }

    /// Named axes whose positions set several keys: `groups: {name: [{a: 1, b: 2}, …]}`.
    fn groups(&mut self, pointer: &str, value: &Value, axes: &mut Vec<Axis>) {
        let Value::Object(groups) = value else {
            self.findings.push(Finding::value(pointer, "`groups` is a mapping of names to lists of settings"));
            return;
        };
        for (pointer, name, value) in self.source.in_file_order(pointer, groups.iter()) {
            match value {
                Value::Array(items) if !items.is_empty() => {
                    let choices = self.partials(&pointer, items).into_iter().map(|(_, choice)| choice).collect();
                    axes.push(Axis { choices });
                }
                _ => {
                    let message = format!("the group `{}` must be a list of mappings of settings", shown_key(name));
                    self.findings.push(Finding::value(pointer, message));
                }
            }
        }
    }

    /// The entries of a list of settings, each with its JSON pointer.
    pub(super) fn partials(&mut self, pointer: &str, items: &[Value]) -> Vec<(String, Choice)> {
        let pointers = items.iter().enumerate().map(|(index, item)| (format!("{pointer}/{index}"), item));
        pointers.filter_map(|(pointer, item)| Some((pointer.clone(), self.partial(&pointer, item)?))).collect()
    }

    /// Rules of `exclude`. A rule of which a part is broken is none: what is left would match too much.
    pub(super) fn rules(&mut self, pointer: &str, items: &[Value]) -> Vec<(String, Choice)> {
        let mut rules = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let before = self.findings.len();
            let rule = self.rule(&format!("{pointer}/{index}"), item);
            rules.extend(rule.filter(|_| self.findings.len() == before));
        }
        rules
    }

    fn rule(&mut self, pointer: &str, item: &Value) -> Option<(String, Choice)> {
        Some((pointer.to_owned(), self.partial(pointer, item)?))
    }

    /// Settings in dotted or nested keys.
    fn partial(&mut self, pointer: &str, item: &Value) -> Option<Choice> {
        let Value::Object(map) = item else {
            if !item.is_null() {
                self.findings.push(Finding::value(pointer, "expected a mapping of settings"));
            }
            return None;
        };
        let mut choice = Vec::new();
        self.flatten(pointer, "", map, &mut choice);
        self.refuse_doubles(&choice);
        Some(choice)
    }

    fn flatten(&mut self, pointer: &str, prefix: &str, map: &Map<String, Value>, choice: &mut Choice) {
        for (pointer, key, value) in self.source.in_file_order(pointer, map.iter()) {
            let key = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
            let is_section = STUDY_SCHEMA.is_section(&key.split('.').collect::<Vec<_>>());
            match value {
                Value::Object(inner) if is_section => self.flatten(&pointer, &key, inner, choice),
                _ => {
                    let (value, key_pointer) = (value.clone(), pointer.clone());
                    let assignment = Assignment { key, value, key_pointer, value_pointer: pointer };
                    if self.is_assignable(&assignment) {
                        choice.push(assignment);
                    }
                }
            }
        }
    }

    fn is_assignable(&mut self, assignment: &Assignment) -> bool {
        let findings = match &assignment.value {
            Value::Array(items) if assignment.key_pointer.starts_with("/exclude/") => {
                any_of_findings(assignment, items)
            }
            _ => assignment_findings(assignment),
        };
        let fine = findings.is_empty();
        for finding in findings {
            self.add(finding);
        }
        fine
    }

    fn add(&mut self, finding: Finding) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// The same key in dotted and in nested form.
    fn refuse_doubles(&mut self, choice: &Choice) {
        let mut seen = HashSet::new();
        for assignment in choice.iter().filter(|assignment| !seen.insert(assignment.key.as_str())) {
            self.add(Finding::key(assignment.key_pointer.as_str(), format!("`{}` is given twice", assignment.key)));
        }
    }

    /// Two axes that set the same field, or a field and a part of it.
    fn refuse_repeated(&mut self, axes: &[Axis]) {
        let mut owners: HashMap<&str, usize> = HashMap::new();
        for (index, axis) in axes.iter().enumerate() {
            for assignment in axis.choices.iter().flatten() {
                owners.entry(&assignment.key).or_insert(index);
            }
        }
        for (index, axis) in axes.iter().enumerate() {
            for assignment in axis.choices.iter().flatten() {
                let taken = |key: &str| owners.get(key).is_some_and(|owner| *owner != index);
                if let Some(key) = with_ancestors(&assignment.key).find(|key| taken(key)) {
                    let message = format!("`{key}` is varied by another axis too");
                    self.add(Finding::key(assignment.key_pointer.as_str(), message));
                }
            }
        }
    }
}

/// `a.b.c`, `a.b`, `a`.
fn with_ancestors(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(key), |key| key.rsplit_once('.').map(|(parent, _)| parent))
}

/// A rule of `exclude` may list several values, or name one value that is itself a list.
fn any_of_findings(assignment: &Assignment, items: &[Value]) -> Vec<Finding> {
    if assignment_findings(assignment).is_empty() {
        return Vec::new();
    }
    let single = |(index, value): (usize, &Value)| {
        let value_pointer = format!("{}/{index}", assignment.value_pointer);
        assignment_findings(&Assignment { value: value.clone(), value_pointer, ..assignment.clone() })
    };
    items.iter().enumerate().flat_map(single).collect()
}

/// Checks a key and its value as if they stood in the file by themselves.
fn assignment_findings(assignment: &Assignment) -> Vec<Finding> {
    let Assignment { key, value, key_pointer, value_pointer } = assignment;
    if let Some(finding) = refuse_key(key, key_pointer) {
        return vec![finding];
    }
    let mut alone = Value::Object(Map::new());
    if set(&mut alone, key, value.clone()).is_err() {
        return Vec::new();
    }
    let target = pointer_of(key);
    let place = |finding: Finding| match finding.pointer.strip_prefix(&target) {
        // At or inside the value, unless the field itself is unknown.
        Some(rest) if !(rest.is_empty() && finding.side == Side::Key) => {
            Finding { pointer: format!("{value_pointer}{rest}"), ..finding }
        }
        _ => Finding { pointer: key_pointer.clone(), ..finding },
    };
    // What lies beside the value may be set elsewhere; only whole points show whether it is missing.
    let beside = |finding: &Finding| finding.side == Side::Value && !finding.pointer.starts_with(&target);
    check(&STUDY_SCHEMA, &alone).into_iter().filter(|finding| !beside(finding)).map(place).collect()
}

/// Keys that belong to the study as a whole.
fn refuse_key(key: &str, pointer: &str) -> Option<Finding> {
    let first = key.split('.').next().unwrap_or_default();
    if key.split('.').any(str::is_empty) {
        return Some(Finding::key(pointer, format!("the key `{}` has an empty part", shown_key(key))));
    }
    match first {
        "name" | "execution" | "sweep" | "experiments" | "exclude" => Some(Finding::key(
            pointer,
            format!("`{first}` belongs to the whole study and cannot differ between experiments"),
        )),
        "backend" if !pointer.starts_with("/experiments") && !pointer.starts_with("/exclude") => {
            Some(Finding::key(pointer, "backends are compared by a list at the top: `backend: [pytorch, vllm]`"))
        }
        _ => None,
    }
}

/// Whether an experiment's full JSON has the value that a rule of `exclude` names, or one of a list of them.
pub(super) fn matches(config: &Value, assignment: &Assignment) -> bool {
    let found = get(config, &assignment.key).unwrap_or(&Value::Null);
    let same = |wanted: &Value| wanted == found || (wanted.is_number() && wanted.as_f64() == found.as_f64());
    same(&assignment.value) || assignment.value.as_array().is_some_and(|wanted| wanted.iter().any(same))
}
