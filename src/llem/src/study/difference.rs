//! In what a study file differs from the study that it shall go on with.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::{Experiment, StudyConfig};
use crate::result::{Design, DesignedExperiment, StoreError, StudyFiles};

/// Differences and experiments that a message lists.
const LISTED: usize = 20;

/// Experiments that are compared in search of the one that another one became.
const COMPARED: usize = 2_000;

/// Why a study cannot go on with a file: what the file changed or left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differences {
    /// The study's directory.
    pub directory: PathBuf,
    /// The study's name and that of the file, where they differ.
    pub name: Option<(String, String)>,
    /// Values that changed.
    pub changed: Vec<ChangedValue>,
    /// Labels and ids of experiments that the file does not have.
    pub removed: Vec<(String, String)>,
}

/// A value that changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangedValue {
    /// Dotted key.
    pub key: String,
    /// What the study has.
    pub old: String,
    /// What the file has.
    pub new: String,
    /// Experiments in which it changed.
    pub experiments: usize,
}

impl Differences {
    /// What speaks against going on with `study` in `directory`; `None` when nothing does.
    pub(super) fn find(
        study: &StudyConfig,
        design: &Design,
        directory: &StudyFiles,
    ) -> Result<Option<Self>, StoreError> {
        let name = (design.name != study.name).then(|| (design.name.clone(), study.name.clone()));
        let (gone, new) = apart(study, design);
        if gone.is_empty() && name.is_none() {
            return Ok(None);
        }
        let mut found = Self { directory: directory.path().to_owned(), name, changed: Vec::new(), removed: Vec::new() };
        if !gone.is_empty() {
            found.compare(&gone, &new, design, directory)?;
        }
        Ok(Some(found))
    }

    fn compare(
        &mut self,
        gone: &[&DesignedExperiment],
        new: &[&Experiment],
        design: &Design,
        directory: &StudyFiles,
    ) -> Result<(), StoreError> {
        let old_configs = directory.configs(design)?;
        let mut others: Vec<BTreeMap<String, String>> =
            new.iter().take(COMPARED).map(|e| leaves(&serde_json::to_value(&e.config).unwrap_or_default())).collect();
        let mut changed: BTreeMap<(String, String, String), usize> = BTreeMap::new();
        for (at, experiment) in gone.iter().enumerate() {
            let old = old_configs.get(&experiment.id).filter(|_| at < LISTED).map(leaves);
            let nearest = old.and_then(|old| {
                let differences = others.iter().map(|new| between(&old, new)).enumerate();
                differences.min_by_key(|(_, differences)| differences.len())
            });
            match nearest {
                // Each new experiment is what one old one became.
                Some((place, differences)) => {
                    others.swap_remove(place);
                    for difference in differences {
                        *changed.entry(difference).or_default() += 1;
                    }
                }
                None => self.removed.push((experiment.label.clone(), experiment.id.clone())),
            }
        }
        let value = |((key, old, new), experiments)| ChangedValue { key, old, new, experiments };
        self.changed = changed.into_iter().map(value).collect();
        Ok(())
    }
}

/// Experiments of the design that the file does not have, and those of the file that the design does not have.
fn apart<'a>(study: &'a StudyConfig, design: &'a Design) -> (Vec<&'a DesignedExperiment>, Vec<&'a Experiment>) {
    let asked: HashSet<&str> = study.experiments.iter().map(|e| e.id.as_str()).collect();
    let had: HashSet<&str> = design.experiments.iter().map(|e| e.id.as_str()).collect();
    let gone = design.experiments.iter().filter(|e| !asked.contains(e.id.as_str())).collect();
    let new = study.experiments.iter().filter(|e| !had.contains(e.id.as_str())).collect();
    (gone, new)
}

/// The values of a document by their dotted keys, as JSON.
fn leaves(value: &Value) -> BTreeMap<String, String> {
    fn walk(value: &Value, key: &str, into: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, field) in fields {
                    let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                    walk(field, &key, into);
                }
            }
            leaf => drop(into.insert(key.to_owned(), leaf.to_string())),
        }
    }
    let mut into = BTreeMap::new();
    walk(value, "", &mut into);
    into
}

/// Key, old and new value of everything that differs.
fn between(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<(String, String, String)> {
    let absent = || "absent".to_owned();
    let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
    keys.filter(|key| old.get(*key) != new.get(*key))
        .map(|key| {
            let value = |of: &BTreeMap<String, String>| of.get(key).cloned().unwrap_or_else(absent);
            (key.clone(), value(old), value(new))
        })
        .collect()
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the config is not that of the study in {}:", shown(&self.directory))?;
        if let Some((old, new)) = &self.name {
            writeln!(f, "  name: {old} → {new}")?;
        }
        for ChangedValue { key, old, new, experiments } in self.changed.iter().take(LISTED) {
            let plural = if *experiments == 1 { "" } else { "s" };
            writeln!(f, "  {key}: {old} → {new} (in {experiments} experiment{plural})")?;
        }
        for (label, id) in self.removed.iter().take(LISTED) {
            let comma = if label.is_empty() { "" } else { " " };
            writeln!(f, "  no longer there: {label}{comma}({id})")?;
        }
        let more = self.changed.len().saturating_sub(LISTED) + self.removed.len().saturating_sub(LISTED);
        if more > 0 {
            writeln!(f, "  and {more} more")?;
        }
        write!(
            f,
            "put back what was changed or taken out, or run it as a new study, without --resume; more experiments, more cycles and \
             everything else under `execution` may change. `llem run --resume {}` goes on with the study as it is",
            shown(&self.directory)
        )
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Differences;
    use crate::config::{Profile, StudyConfig};
    use crate::result::{Design, StudyDirectory};

    fn study(text: &str) -> StudyConfig {
        StudyConfig::from_text(Path::new("s.yaml"), text, &[], Profile::Quick).unwrap()
    }

    fn differences(old: &str, new: &str) -> Option<Differences> {
        let root = tempfile::tempdir().unwrap();
        let directory = StudyDirectory::create(root.path(), "s").unwrap();
        let old = study(old);
        let design = Design::of(&old, "process");
        directory.write_design(&design, None, &old.experiments).unwrap();
        Differences::find(&study(new), &design, directory.files()).unwrap()
    }

    const OLD: &str = "{name: s, model: synthetic, backend: candle, sweep: {candle.batch_size: [1, 2]}}";

    #[test]
    fn a_study_may_grow() {
        for new in [
            OLD,
            "{name: s, model: synthetic, backend: candle, sweep: {candle.batch_size: [4, 2, 1]}, execution: {n_cycles: 9}}",
            "{name: s, model: synthetic, backend: candle, sweep: {candle.batch_size: [1, 2], workload.n: [200, 8]}}",
        ] {
            let found = differences(OLD, new);
            let is_same_workload = new.contains("workload.n");
            assert_eq!(found.is_some(), is_same_workload, "{found:?}");
        }
    }

    #[test]
    fn what_changed_is_said_with_old_and_new_value() {
        let new = "{name: s, model: synthetic, backend: candle, sweep: {candle.batch_size: [1, 2]}, measurement: {min_seconds: 3}}";
        let found = differences(OLD, new).unwrap();
        let text = found.to_string();
        assert!(text.contains("  measurement.min_seconds: 2.0 → 3.0 (in 2 experiments)\n"), "{text}");
        assert_eq!((found.changed.len(), found.removed.len()), (1, 0), "{text}");
    }

    #[test]
    fn what_was_taken_out_is_named() {
        let new = "{name: t, model: synthetic, backend: candle, sweep: {candle.batch_size: [1]}}";
        let found = differences(OLD, new).unwrap();
        let text = found.to_string();
        assert!(text.contains("  name: s → t\n") && text.contains("  no longer there: batch_size=2 ("), "{text}");
        assert_eq!((found.changed.len(), found.removed.len()), (0, 1), "{text}");
    }
}
