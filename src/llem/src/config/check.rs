//! The schema check: every violation in the user's words.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::{Map, Value};

use super::document::{Side, dotted, pointer_segment};
use super::problem::Problem;
use super::schema::CheckedSchema;
use super::wording::{compact, describe, key, nearest, quoted_list};

/// The most names that a hint lists.
const MAX_LISTED: usize = 18;

/// Options that people look for and that an engine does not have: section, names, and what to do.
const ABSENT: [(&str, &[&str], &str); 2] = [
    (
        "/tensorrt/build",
        &["builder_opt", "builder_optimization_level", "builder_optimisation_level", "optimization_level", "opt_level"],
        "TensorRT-LLM 1.2 gives the builder no optimisation level: TensorRT's own default holds; remove it. Nearest are \
         `tensorrt.fast_build` and `tensorrt.build.plugin.multiple_profiles`",
    ),
    (
        "/tensorrt",
        &["quantization", "load_in_8bit", "load_in_4bit"],
        "TensorRT-LLM has no bitsandbytes: set `engine: tensorrt` with `quant:`, or point `model:` to a checkpoint that NVIDIA \
         ModelOpt quantised",
    ),
];

/// A problem at a place of the checked value, not yet at a place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// JSON pointer into the checked value.
    pub(crate) pointer: String,
    /// Whether the key is wrong or what it holds.
    pub(crate) side: Side,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// Whether what the file says there must not be repeated: messages end in the logs of others.
    pub(crate) is_secret: bool,
}

impl Finding {
    pub(crate) fn value(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), side: Side::Value, message: message.into(), hint: None, is_secret: false }
    }

    pub(crate) fn key(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { side: Side::Key, ..Self::value(pointer, message) }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    /// The problem when there is no file to point at.
    pub(crate) fn without_file(self) -> Problem {
        Problem { path: dotted(&self.pointer), location: None, message: self.message, hint: self.hint }
    }
}

/// Everything in `value` that the schema does not allow.
pub(crate) fn check(schema: &CheckedSchema, value: &Value) -> Vec<Finding> {
    match &schema.validator {
        Err(reason) => vec![Finding::value("", format!("the built-in schema is broken: {reason}"))],
        Ok(validator) if validator.is_valid(value) => Vec::new(),
        Ok(validator) => {
            let mut translation = Translation { schema, findings: Vec::new() };
            for error in validator.iter_errors(value) {
                translation.error(&error);
            }
            without_consequences(&translation.findings)
        }
    }
}

/// A misspelt field is one mistake, not also a missing one.
fn without_consequences(findings: &[Finding]) -> Vec<Finding> {
    let misspelt = |missing: &Finding| {
        let name = missing.message.strip_prefix("missing field ")?;
        findings.iter().find(|other| {
            let parent = other.pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
            parent == missing.pointer
                && other.hint.as_ref().is_some_and(|hint| *hint == format!("did you mean {name}?"))
        })
    };
    findings.iter().filter(|finding| misspelt(finding).is_none()).cloned().collect()
}

struct Translation<'s> {
    schema: &'s CheckedSchema,
    findings: Vec<Finding>,
}

impl Translation<'_> {
    fn error(&mut self, error: &ValidationError<'_>) {
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => self.unknown_fields(error, unexpected),
            ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
                self.alternatives(error, context);
            }
            ValidationErrorKind::PropertyNames { error: name } => self.property_name(error, name),
            _ => self.value(error),
        }
    }

    fn node(&self, error: &ValidationError<'_>) -> Option<&Map<String, Value>> {
        let (parent, _) = error.schema_path().as_str().rsplit_once('/')?;
        self.schema.schema.pointer(parent)?.as_object()
    }

    fn unknown_fields(&mut self, error: &ValidationError<'_>, unexpected: &[String]) {
        let known = self.node(error).map(|node| self.schema.field_names(node)).unwrap_or_default();
        let mut findings = Vec::new();
        for name in unexpected {
            let pointer = format!("{}/{}", error.instance_path(), pointer_segment(name));
            let finding = Finding::key(pointer, format!("unknown field `{}`", key(name)));
            let at = error.instance_path().as_str();
            let absent = ABSENT.iter().find(|(section, names, _)| *section == at && names.contains(&name.as_str()));
            findings.push(match absent {
                Some((.., hint)) => finding.hint(*hint),
                None => finding.hint(self.hint_for_unknown(name, &known, at.is_empty())),
            });
        }
        self.findings.extend(findings);
    }

    fn hint_for_unknown(&self, name: &str, known: &[&str], is_top_level: bool) -> String {
        if let Some(near) = nearest(name, known.iter().copied()) {
            return format!("did you mean `{near}`?");
        }
        if let Some((section, field)) = name.split_once('.')
            && known.contains(&section)
        {
            return format!("write it nested: `{section}:` with `{}:` below it", key(field));
        }
        // In a section, the same name in several others says little.
        let elsewhere = self.schema.paths_of(name);
        if elsewhere.len() == 1 || (is_top_level && !elsewhere.is_empty()) {
            let names = quoted_list(elsewhere.iter().map(String::as_str));
            return format!("did you mean {}?", names.replace("`, `", "` or `"));
        }
        match known.get(..MAX_LISTED) {
            Some(_) if known.len() > MAX_LISTED => "`llem config schema` prints all fields".to_owned(),
            _ => format!("known fields: {}", quoted_list(known.iter().copied())),
        }
    }

    fn alternatives(&mut self, error: &ValidationError<'_>, context: &[Vec<ValidationError<'static>>]) {
        let choices = self.node(error).map(choices).unwrap_or_default();
        if !choices.is_empty() {
            let finding = unknown_choice(error, &choices);
            self.findings.push(finding);
            return;
        }
        let at = error.instance_path();
        let fits = |branch: &&Vec<ValidationError<'static>>| {
            !branch.iter().any(|inner| inner.instance_path() == at && is_wrong_kind(inner))
        };
        match context.iter().find(fits) {
            Some(branch) => branch.iter().for_each(|inner| self.error(inner)),
            None => self.findings.push(wrong_type(error, &expected_types(context))),
        }
    }

    fn property_name(&mut self, error: &ValidationError<'_>, name: &ValidationError<'static>) {
        let before = self.findings.len();
        self.error(name);
        let pointer = match name.instance().as_ref() {
            Value::String(text) => format!("{}/{}", error.instance_path(), pointer_segment(text)),
            _ => error.instance_path().to_string(),
        };
        for finding in self.findings.iter_mut().skip(before) {
            finding.pointer.clone_from(&pointer);
            finding.side = Side::Key;
        }
    }

    fn value(&mut self, error: &ValidationError<'_>) {
        let finding = match error.kind() {
            ValidationErrorKind::Type { kind } => wrong_type(error, &type_names(kind)),
            ValidationErrorKind::Enum { options } => {
                let names: Vec<_> = options.as_array().into_iter().flatten().map(compact).collect();
                unknown_choice(error, &names)
            }
            ValidationErrorKind::Constant { expected_value } => unknown_choice(error, &[compact(expected_value)]),
            ValidationErrorKind::Required { property } => {
                Finding::value(pointer(error), format!("missing field `{}`", compact(property)))
            }
            ValidationErrorKind::Minimum { .. } | ValidationErrorKind::Maximum { .. } => self.out_of_range(error),
            other => Finding::value(pointer(error), sizes(other, error)),
        };
        self.findings.push(finding);
    }

    fn out_of_range(&self, error: &ValidationError<'_>) -> Finding {
        let is_limit = |value: &&Value| value.as_u64() != Some(u64::MAX);
        let limit = |name| self.node(error).and_then(|node| node.get(name)).filter(is_limit).map(plain_number);
        let range = match (limit("minimum"), limit("maximum")) {
            (Some(least), Some(most)) => format!("from {least} to {most}"),
            (Some(least), None) => format!("at least {least}"),
            (None, Some(most)) => format!("at most {most}"),
            (None, None) => "in range".to_owned(),
        };
        Finding::value(pointer(error), format!("must be {range}, found `{}`", compact(error.instance())))
    }
}

/// Without the fraction that the schema gives whole limits of fractional fields.
fn plain_number(value: &Value) -> String {
    value.as_f64().filter(|_| value.is_f64()).map_or_else(|| compact(value), |float| float.to_string())
}

/// The names of an enumeration; empty when the alternatives are of another kind.
fn choices(node: &Map<String, Value>) -> Vec<String> {
    let alternatives = ["oneOf", "anyOf"].into_iter().find_map(|of| node.get(of)?.as_array());
    let mut names = Vec::new();
    for alternative in alternatives.into_iter().flatten() {
        if let Some(Value::String(name)) = alternative.get("const") {
            names.push(name.clone());
        } else if let Some(Value::Array(some)) = alternative.get("enum") {
            names.extend(some.iter().filter_map(Value::as_str).map(str::to_owned));
        } else {
            return Vec::new();
        }
    }
    names
}

fn pointer(error: &ValidationError<'_>) -> String {
    error.instance_path().to_string()
}

/// Whether the value is of another kind than the branch is for: enumerations are for text.
fn is_wrong_kind(error: &ValidationError<'_>) -> bool {
    match error.kind() {
        ValidationErrorKind::Type { .. } => true,
        ValidationErrorKind::Enum { .. } | ValidationErrorKind::Constant { .. } => !error.instance().is_string(),
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            context.iter().all(|branch| branch.iter().any(is_wrong_kind))
        }
        _ => false,
    }
}

fn sizes(kind: &ValidationErrorKind, error: &ValidationError<'_>) -> String {
    match kind {
        ValidationErrorKind::MinLength { limit: 1 } => "must not be empty".to_owned(),
        ValidationErrorKind::MinLength { limit } => format!("must have at least {limit} characters"),
        ValidationErrorKind::MaxLength { limit } => format!("must have at most {limit} characters"),
        ValidationErrorKind::MinItems { limit: 1 } => "the list is empty".to_owned(),
        ValidationErrorKind::MinItems { limit } => format!("must have at least {limit} entries"),
        ValidationErrorKind::MaxItems { limit } => format!("must have at most {limit} entries"),
        _ => error.to_string(),
    }
}

fn unknown_choice(error: &ValidationError<'_>, names: &[String]) -> Finding {
    let known = names.iter().map(String::as_str);
    let near = match error.instance().as_ref() {
        Value::String(text) => nearest(text, known.clone()),
        _ => None,
    };
    let message = match error.instance().as_ref() {
        Value::String(text) => format!("unknown value `{}`", key(text)),
        other => format!("expected one of the known values, found {}", describe(other)),
    };
    let known = quoted_list(known);
    Finding::value(pointer(error), message).hint(match near {
        Some(near) => format!("did you mean `{near}`? known values: {known}"),
        None => format!("known values: {known}"),
    })
}

fn wrong_type(error: &ValidationError<'_>, expected: &[String]) -> Finding {
    let found = error.instance();
    let named: Vec<&str> = expected.iter().filter(|name| *name != "nothing").map(String::as_str).collect();
    let finding = Finding::value(pointer(error), format!("expected {}, found {}", named.join(" or "), describe(found)));
    match (found.as_ref(), named.first()) {
        (Value::String(text), Some(&("an integer" | "a number"))) if text.parse::<f64>().is_ok() => {
            finding.hint("remove the quotes")
        }
        (Value::String(text), Some(&"true or false")) if is_yaml_1_1_bool(text) => {
            finding.hint("YAML 1.2 knows `true` and `false` only")
        }
        (Value::Number(_) | Value::Bool(_), Some(&"text")) => finding.hint("put it in quotes"),
        (Value::Null, _) => finding.hint("give it a value or remove the key"),
        _ => finding,
    }
}

fn is_yaml_1_1_bool(text: &str) -> bool {
    matches!(text.to_lowercase().as_str(), "yes" | "no" | "on" | "off" | "true" | "false")
}

fn expected_types(context: &[Vec<ValidationError<'static>>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for error in context.iter().flatten() {
        let more = match error.kind() {
            ValidationErrorKind::Type { kind } => type_names(kind),
            ValidationErrorKind::Enum { .. } | ValidationErrorKind::Constant { .. } => vec!["text".to_owned()],
            ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
                expected_types(context)
            }
            _ => Vec::new(),
        };
        for name in more {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn type_names(kind: &TypeKind) -> Vec<String> {
    let words = |name: &str| match name {
        "integer" => "an integer".to_owned(),
        "number" => "a number".to_owned(),
        "string" => "text".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "a mapping".to_owned(),
        "null" => "nothing".to_owned(),
        other => other.to_owned(),
    };
    match kind {
        TypeKind::Single(one) => vec![words(&one.to_string())],
        TypeKind::Multiple(several) => several.iter().map(|one| words(&one.to_string())).collect(),
    }
}
