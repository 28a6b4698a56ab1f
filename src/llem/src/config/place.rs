//! Where a study's file says something that turns out wrong only after the study was resolved.

use serde_json::Value;

use super::assign::pointer_of;
use super::check::Finding;
use super::document::{Side, pointer_segment};
use super::problem::Problem;
use super::source::Source;
use super::study::StudyConfig;

impl StudyConfig {
    /// A problem of the field `key` of an experiment, at the place where the file, an axis or an entry gives it `value`; at the field's
    /// name when `value` is absent. A field that the file does not give has no place.
    pub(crate) fn problem(&self, key: &str, value: Option<&Value>, message: &str, hint: &str) -> Problem {
        let side = if value.is_some() { Side::Value } else { Side::Key };
        let finding = |pointer| Finding { side, ..Finding::value(pointer, message).hint(hint) };
        let Some(source) = &self.source else { return finding(pointer_of(key)).without_file() };
        let file = Source::read(&source.path, &source.text, &source.overrides);
        match find(&file.value, key, value) {
            Some(pointer) => file.problem_of(key, finding(pointer)),
            None => finding(pointer_of(key)).without_file(),
        }
    }
}

/// The JSON pointer of what gives a field this value: an axis or an entry before the section that it overrides.
fn find(file: &Value, key: &str, value: Option<&Value>) -> Option<String> {
    let design = ["sweep", "experiments"].into_iter().filter_map(|part| Some((format!("/{part}"), file.get(part)?)));
    let in_design = design.into_iter().find_map(|(pointer, part)| search(part, &pointer, key, value));
    in_design.or_else(|| search_settings(file, "", key, value))
}

/// Looks through groups, zips and lists for settings.
fn search(node: &Value, pointer: &str, key: &str, value: Option<&Value>) -> Option<String> {
    if let Some(found) = search_settings(node, pointer, key, value) {
        return Some(found);
    }
    let children: Vec<(String, &Value)> = match node {
        Value::Object(map) => map.iter().map(|(name, inner)| (pointer_segment(name).into_owned(), inner)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(index, inner)| (index.to_string(), inner)).collect(),
        _ => Vec::new(),
    };
    children.into_iter().find_map(|(name, inner)| search(inner, &format!("{pointer}/{name}"), key, value))
}

/// A dotted key below a mapping, however it is split over nested mappings.
fn search_settings(node: &Value, pointer: &str, key: &str, value: Option<&Value>) -> Option<String> {
    let map = node.as_object()?;
    map.iter().find_map(|(name, inner)| {
        let here = format!("{pointer}/{}", pointer_segment(name));
        let rest = key.strip_prefix(name.as_str())?;
        match rest.strip_prefix('.') {
            _ if rest.is_empty() => holds(inner, &here, value),
            Some(rest) => search_settings(inner, &here, rest, value),
            None => None,
        }
    })
}

/// The place of the value itself, or its position in a list of values.
fn holds(given: &Value, pointer: &str, wanted: Option<&Value>) -> Option<String> {
    match wanted {
        None => Some(pointer.to_owned()),
        Some(wanted) if given == wanted => Some(pointer.to_owned()),
        Some(wanted) => {
            let index = given.as_array()?.iter().position(|item| item == wanted)?;
            Some(format!("{pointer}/{index}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use crate::config::{Profile, StudyConfig};

    fn place(text: &str, set: &[&str], key: &str, value: Option<&str>) -> String {
        let set: Vec<String> = set.iter().map(|&one| one.to_owned()).collect();
        let study = StudyConfig::from_text(Path::new("s.yaml"), text, &set, Profile::Quick).unwrap();
        let value = value.map(|value| json!(value));
        let problem = study.problem(key, value.as_ref(), "is wrong", "mend it");
        let place = problem.location.as_ref().map_or("nowhere".to_owned(), |at| format!("{}:{}", at.line, at.column));
        format!("{} {place}", problem.path)
    }

    #[test]
    fn a_value_is_found_where_it_is_given() {
        let section = "model: synthetic\nbackend: vllm\nvllm:\n  image: a:1\n  enforce_eager: true\n";
        assert_eq!(place(section, &[], "vllm.image", Some("a:1")), "vllm.image 4:10");
        assert_eq!(place(section, &[], "vllm.enforce_eager", None), "vllm.enforce_eager 5:3");
        assert_eq!(place(section, &[], "vllm.image", Some("from:user-config")), "vllm.image nowhere");
        assert_eq!(place(section, &["vllm.image=b:2"], "vllm.image", Some("b:2")), "--set vllm.image=b:2 nowhere");
        let axis = "model: synthetic\nbackend: vllm\nsweep:\n  vllm.image: [a:1, b:2]\n";
        assert_eq!(place(axis, &[], "vllm.image", Some("b:2")), "vllm.image 4:21");
        let nested = "model: synthetic\nbackend: vllm\nsweep:\n  groups:\n    g:\n      - vllm: {image: b:2}\n";
        assert_eq!(place(nested, &[], "vllm.image", Some("b:2")), "vllm.image 6:23");
        let listed = "model: synthetic\nbackend: vllm\nexperiments:\n  - {vllm.image: c:3}\n";
        assert_eq!(place(listed, &[], "vllm.image", Some("c:3")), "vllm.image 4:18");
    }
}
