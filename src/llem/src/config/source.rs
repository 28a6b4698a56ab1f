//! A file and what `--set` laid over it: one value, and where each part of it came from.

use std::path::Path;

use serde_json::Value;

use super::assign::{self, pointer_of};
use super::check::Finding;
use super::document::{Document, Side, dotted, pointer_segment};
use super::problem::{Location, Problem};
use super::wording;

/// The file's value with the overrides applied.
pub(crate) struct Source {
    pub(crate) value: Value,
    /// What kept the file or an override from being read.
    pub(crate) problems: Vec<Problem>,
    document: Document,
    overrides: Vec<Override>,
}

struct Override {
    /// As the user typed it.
    text: String,
    pointer: String,
}

impl Source {
    /// Reads a file's text and the overrides `key=yaml`.
    pub(crate) fn read(path: &Path, text: &str, overrides: &[String]) -> Self {
        let mut document = Document::parse(path, text);
        let mut value = document.value.take();
        let mut problems = std::mem::take(&mut document.problems);
        match value {
            Value::Object(_) => {}
            Value::Null => value = Value::Object(serde_json::Map::new()),
            _ => {
                let place = Some(document.location("", Side::Value));
                problems.push(Problem::new("", "expected a mapping of settings, such as `model: synthetic`").at(place));
                value = Value::Object(serde_json::Map::new());
            }
        }
        document.unread.iter().for_each(|pointer| assign::remove(&mut value, pointer));
        let mut source = Self { value, problems, document, overrides: Vec::new() };
        for text in overrides {
            if let Err(problem) = source.apply(text) {
                source.problems.push(*problem);
            }
        }
        assign::whole_numbers(&mut source.value);
        source
    }

    fn apply(&mut self, text: &str) -> Result<(), Box<Problem>> {
        let refusal = |message: String| Box::new(Problem::new(label(text), message));
        let Some((key, yaml)) = text.split_once('=') else {
            return Err(refusal("expected `key=value`, for example `workload.n=8`".to_owned()));
        };
        if key.split('.').any(str::is_empty) {
            return Err(refusal("the key has an empty part".to_owned()));
        }
        let parsed = Document::parse(Path::new("--set"), yaml);
        if let Some(wrong) = parsed.problems.first() {
            return Err(refusal(wrong.message.clone()));
        }
        let no_mapping = |outer| format!("`{outer}` is not a mapping in {}", self.document.file_name());
        let pointer = set(&mut self.value, key, parsed.value).map_err(no_mapping).map_err(refusal)?;
        self.overrides.push(Override { text: text.to_owned(), pointer });
        Ok(())
    }

    /// A finding as the user reads it.
    pub(crate) fn problem(&self, finding: Finding) -> Problem {
        let Finding { pointer, side, message, hint, is_secret } = finding;
        let path = self.override_at(&pointer).filter(|_| !is_secret).map_or_else(|| dotted(&pointer), label);
        let mut location = self.location(&pointer, side);
        if let Some(location) = location.as_mut().filter(|_| is_secret) {
            location.source_line.clear();
        }
        Problem { path, location, message, hint }
    }

    /// Like [`Self::problem`], under the path of a field while it stands elsewhere, e.g. in an axis.
    pub(crate) fn problem_of(&self, path: &str, finding: Finding) -> Problem {
        let overridden = self.override_at(&finding.pointer).is_some();
        let problem = self.problem(finding);
        if overridden { problem } else { Problem { path: path.to_owned(), ..problem } }
    }

    /// The directory that relative paths in the file are relative to; empty: the working directory.
    pub(crate) fn directory(&self) -> &Path {
        self.document.directory()
    }

    fn location(&self, pointer: &str, side: Side) -> Option<Location> {
        match self.override_at(pointer) {
            Some(_) => None,
            None => Some(self.document.location(pointer, side)),
        }
    }

    /// The override that a value came from: one that set it or what is around it, or, for a mapping that the file does
    /// not have, one that set something in it.
    fn override_at(&self, pointer: &str) -> Option<&str> {
        let made = !pointer.is_empty() && self.document.key_position(pointer).is_none();
        let concerns = |over: &&Override| is_at(pointer, &over.pointer) || (made && is_at(&over.pointer, pointer));
        self.overrides.iter().rev().find(concerns).map(|over| over.text.as_str())
    }

    /// Sorts keys of a mapping into the order in which the user wrote them; overrides last.
    pub(crate) fn in_file_order<'v>(
        &self,
        pointer: &str,
        entries: impl Iterator<Item = (&'v String, &'v Value)>,
    ) -> Vec<(String, &'v str, &'v Value)> {
        let mut entries: Vec<_> =
            entries.map(|(key, value)| (format!("{pointer}/{}", pointer_segment(key)), key.as_str(), value)).collect();
        entries.sort_by_key(|(pointer, ..)| {
            self.document.key_position(pointer).map_or((usize::MAX, 0), |at| (at.line, at.column))
        });
        entries
    }
}

/// Whether a JSON pointer is another one, or leads into it.
fn is_at(pointer: &str, outer: &str) -> bool {
    pointer.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn label(text: &str) -> String {
    format!("--set {}", wording::key(text))
}

/// Sets a key and says where it is. An axis is replaced however the file spells it, so that it is not varied twice.
fn set(file: &mut Value, key: &str, value: Value) -> Result<String, String> {
    let axis = key.strip_prefix("sweep.").filter(|axis| !axis.starts_with("zip") && !axis.starts_with("groups"));
    if let (Some(axis), Some(sweep)) = (axis, file.get_mut("sweep")) {
        assign::remove(sweep, &pointer_of(axis));
        if let Some(sweep) = sweep.as_object_mut() {
            sweep.insert(axis.to_owned(), value);
            return Ok(format!("/sweep/{}", pointer_segment(axis)));
        }
    }
    assign::set(file, key, value).map_err(|error| error.key)?;
    Ok(pointer_of(key))
}
