//! What a study is: written when it starts, and once more, under another name, whenever it is extended. No design is ever rewritten.
//!
//! ```text
//! design.json      the study as it began
//! design-2.json    after its first extension: holds from here on
//! study-2.yaml     the file that asked for it
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SCHEMA_VERSION, StoreError};
use crate::config::{BundleOrigin, ExecutionConfig, Experiment, ExperimentConfig, MOST_CYCLES, Profile, StudyConfig};
use crate::files::write_atomic_with;
use crate::plan::order::{PlannedRun, order};

/// One design of a study, without the settings of its experiments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Design {
    /// [`super::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// From 1; the highest holds.
    pub revision: u32,
    /// The study's name.
    pub name: String,
    /// Identity of the set of experiments, whatever their execution.
    pub design_hash: String,
    /// Profile that the defaults came from.
    pub profile: Profile,
    /// `key=value` from the command line.
    pub overrides: Vec<String>,
    /// The study file, absolute; null for a study that came from no file.
    pub source: Option<PathBuf>,
    /// The bundle that the file came in; absent for a study of this machine's own files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleOrigin>,
    /// Which runner carries out which backends, e.g. `docker`.
    pub runner: String,
    /// The controller's version.
    pub llem_version: String,
    /// How it is carried out.
    pub execution: ExecutionConfig,
    /// The experiments, in order.
    pub experiments: Vec<DesignedExperiment>,
}

/// An experiment of a design.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesignedExperiment {
    /// Its identity.
    pub id: String,
    /// What distinguishes it, for people.
    pub label: String,
}

/// A design as it is written: every experiment complete with defaults.
#[derive(Serialize)]
struct Full<'a> {
    #[serde(flatten)]
    design: &'a Design,
    configs: BTreeMap<&'a str, &'a ExperimentConfig>,
}

/// The part of a file that [`Design`] leaves out.
#[derive(Deserialize)]
struct Configs {
    configs: HashMap<String, Value>,
}

impl Design {
    /// The first design of a study.
    pub fn of(study: &StudyConfig, runner: &str) -> Self {
        let source = study.source.as_ref();
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let experiment = |e: &Experiment| DesignedExperiment { id: e.id.clone(), label: e.label.clone() };
        Self {
            schema_version: SCHEMA_VERSION,
            revision: 1,
            name: study.name.clone(),
            design_hash: study.design_hash(),
            profile: study.profile,
            overrides: source.map(|s| s.overrides.clone()).unwrap_or_default(),
            source: source.map(|s| absolute(&s.path)),
            bundle: study.bundled().map(|bundled| bundled.origin.clone()),
            runner: runner.to_owned(),
            llem_version: env!("CARGO_PKG_VERSION").to_owned(),
            execution: study.execution.clone(),
            experiments: study.experiments.iter().map(experiment).collect(),
        }
    }

    /// Whether another design asks for the same experiments in the same way.
    pub fn is_same(&self, other: &Self) -> bool {
        let ids = |design: &Self| design.experiments.iter().map(|e| e.id.clone()).collect::<Vec<_>>();
        self.execution == other.execution && ids(self) == ids(other)
    }

    /// Writes the design with the settings of its experiments.
    pub(super) fn write(&self, directory: &Path, experiments: &[Experiment]) -> Result<(), StoreError> {
        let configs = experiments.iter().map(|e| (e.id.as_str(), &e.config)).collect();
        let path = directory.join(file_name(self.revision));
        write_atomic_with(&path, |file| Ok(serde_json::to_writer(file, &Full { design: self, configs })?))?;
        Ok(())
    }

    /// Reads all designs of a study, oldest first.
    pub(super) fn read_all(directory: &Path) -> Result<Vec<Self>, StoreError> {
        let mut designs = Vec::new();
        for revision in 1.. {
            let path = directory.join(file_name(revision));
            match fs_err::read(&path) {
                Ok(text) => {
                    designs.push(Self::from_json(&text).map_err(|problem| StoreError::Damaged { path, problem })?);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(designs)
    }

    /// Reads a design that somebody may have changed: what no study file can ask for is not worked out.
    fn from_json(text: &[u8]) -> Result<Self, String> {
        let design: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let cycles = design.execution.n_cycles;
        if (1..=MOST_CYCLES).contains(&cycles) { Ok(design) } else { Err(format!("execution.n_cycles is {cycles}")) }
    }

    /// The settings of the experiments, by their ids.
    pub(super) fn read_configs(&self, directory: &Path) -> Result<HashMap<String, Value>, StoreError> {
        let path = directory.join(file_name(self.revision));
        let text = fs_err::read(&path)?;
        let damaged = |error: serde_json::Error| StoreError::Damaged { path, problem: error.to_string() };
        let full: Configs = serde_json::from_slice(&text).map_err(damaged)?;
        Ok(full.configs)
    }
}

fn file_name(revision: u32) -> String {
    if revision == 1 { "design.json".to_owned() } else { format!("design-{revision}.json") }
}

/// Name of the copy of the study file that a design was made from.
pub(super) fn source_name(revision: u32) -> String {
    if revision == 1 { "study.yaml".to_owned() } else { format!("study-{revision}.yaml") }
}

/// All runs of a study that any of its designs asked for: what the last one asks for in its order, then the others. Each keeps the number
/// that it got from the first design that had it.
#[derive(Debug, Default)]
pub struct NumberedRuns {
    /// What the last design asks for.
    pub planned: Vec<PlannedRun>,
    /// What only an earlier one asked for.
    pub beside: Vec<PlannedRun>,
}

/// Numbers the runs of a study. `designs` are all that it had, oldest first; experiments are those of the last one.
pub fn number_runs(designs: &[Design]) -> NumberedRuns {
    let mut numbers: HashMap<(&str, u32), usize> = HashMap::new();
    let mut runs = NumberedRuns::default();
    for design in designs {
        runs.planned = order(design.experiments.len(), &design.execution);
        for planned in &mut runs.planned {
            let Some(experiment) = design.experiments.get(planned.experiment) else { continue };
            let next = numbers.len() + 1;
            planned.number = *numbers.entry((&experiment.id, planned.cycle)).or_insert(next);
        }
    }
    let Some(last) = designs.last() else { return runs };
    let places: HashMap<&str, usize> = last.experiments.iter().enumerate().map(|(at, e)| (e.id.as_str(), at)).collect();
    let cycles = last.execution.n_cycles;
    let beside = numbers.iter().filter(|((_, cycle), _)| *cycle > cycles).filter_map(|((id, cycle), number)| {
        Some(PlannedRun { number: *number, experiment: *places.get(id)?, cycle: *cycle })
    });
    runs.beside = beside.collect();
    runs.beside.sort_by_key(|run| run.number);
    runs
}

#[cfg(test)]
mod tests {
    use super::{Design, DesignedExperiment, number_runs};
    use crate::config::{CycleOrder, ExecutionConfig, Profile};

    fn design(ids: &[&str], n_cycles: u32, cycle_order: CycleOrder) -> Design {
        let execution = ExecutionConfig { n_cycles, cycle_order, ..Profile::Standard.execution() };
        Design {
            schema_version: 2,
            revision: 1,
            name: "s".to_owned(),
            design_hash: String::new(),
            profile: Profile::Standard,
            overrides: Vec::new(),
            source: None,
            bundle: None,
            runner: String::new(),
            llem_version: String::new(),
            execution,
            experiments: ids
                .iter()
                .map(|id| DesignedExperiment { id: (*id).to_owned(), label: String::new() })
                .collect(),
        }
    }

    /// Number, experiment and cycle of the planned runs in their order.
    fn planned(designs: &[Design]) -> Vec<(usize, usize, u32)> {
        number_runs(designs).planned.iter().map(|run| (run.number, run.experiment, run.cycle)).collect()
    }

    #[test]
    fn runs_keep_their_numbers_when_a_study_grows() {
        let first = design(&["a", "b"], 2, CycleOrder::Interleaved);
        assert_eq!(planned(std::slice::from_ref(&first)), [(1, 0, 1), (2, 1, 1), (3, 0, 2), (4, 1, 2)]);
        let more_cycles = design(&["a", "b"], 3, CycleOrder::Interleaved);
        let grown = [first.clone(), more_cycles];
        assert_eq!(planned(&grown), [(1, 0, 1), (2, 1, 1), (3, 0, 2), (4, 1, 2), (5, 0, 3), (6, 1, 3)]);
        // A new experiment, in front of the others, and in another order.
        let [first, second] = grown;
        let more_points = design(&["c", "a", "b"], 3, CycleOrder::Sequential);
        let expected =
            [(7, 0, 1), (8, 0, 2), (9, 0, 3), (1, 1, 1), (3, 1, 2), (5, 1, 3), (2, 2, 1), (4, 2, 2), (6, 2, 3)];
        assert_eq!(planned(&[first, second, more_points]), expected);
    }

    #[test]
    fn cycles_that_are_no_longer_asked_for_are_kept_beside() {
        let designs = [design(&["a"], 3, CycleOrder::Sequential), design(&["a"], 1, CycleOrder::Sequential)];
        let runs = number_runs(&designs);
        assert_eq!(runs.planned.iter().map(|run| run.number).collect::<Vec<_>>(), [1]);
        assert_eq!(runs.beside.iter().map(|run| (run.number, run.cycle)).collect::<Vec<_>>(), [(2, 2), (3, 3)]);
    }
}
