//! Which experiment of one side belongs to which of the other.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use thiserror::Error;

use super::quantity::Quantity;
use super::record::{PairedBy, UnpairedExperiment};
use super::side::Side;
use super::text::shown;
use crate::config::{Backend, ExperimentConfig, canonical_sha256, nearest};
use crate::result::{ExperimentResult, Figure};

/// Two sides without a pair of experiments, or with pairs that cannot be told.
#[derive(Debug, Error)]
pub enum PairError {
    /// Nothing belongs together.
    #[error(
        "no experiment of {baseline} is in {candidate}: their configs differ in more than the image\n  {difference}\n\
         name the key in which they may differ with --by"
    )]
    Nothing {
        /// The baseline.
        baseline: String,
        /// The candidate.
        candidate: String,
        /// In which keys the first experiments differ.
        difference: String,
    },
    /// A side without experiments.
    #[error("{0} has no experiments")]
    Empty(String),
    /// No experiment has the key.
    #[error("--by {key}: no experiment sets this key{hint}")]
    UnknownKey {
        /// As given.
        key: String,
        /// What may have been meant.
        hint: String,
    },
    /// The key does not vary.
    #[error("--by {key}: no two experiments of {study} differ in this key only")]
    Alone {
        /// As given.
        key: String,
        /// The study.
        study: String,
    },
}

/// Two experiments that are compared.
pub(super) struct Pair<'a> {
    pub(super) name: String,
    pub(super) baseline: &'a ExperimentResult,
    pub(super) candidate: &'a ExperimentResult,
    pub(super) paired_by: PairedBy,
}

/// All pairs, and what is left.
pub(super) struct Pairs<'a> {
    pub(super) all: Vec<Pair<'a>>,
    pub(super) only_in_baseline: Vec<UnpairedExperiment>,
    pub(super) only_in_candidate: Vec<UnpairedExperiment>,
    /// The key that was given.
    pub(super) key: Option<&'a str>,
}

/// Pairs of two sides: by identity, and where the engine's image is what differs, by all but that. With `key`, by all but that key.
pub(super) fn between<'a>(
    baseline: &'a Side,
    candidate: &'a Side,
    key: Option<&'a str>,
) -> Result<Pairs<'a>, PairError> {
    for side in [baseline, candidate] {
        if side.experiments.is_empty() {
            return Err(PairError::Empty(side.name()));
        }
    }
    let mut left: [Vec<&ExperimentResult>; 2] = [baseline, candidate].map(|side| side.experiments.iter().collect());
    let mut pairs = Vec::new();
    if let Some(key) = key {
        known_key(key, [baseline, candidate])?;
        take_pairs(&mut left, &mut pairs, |config| Some((key.to_owned(), identity_without(config, key)?)));
    } else {
        take_pairs(&mut left, &mut pairs, |config| Some((String::new(), identity(&to_value(config)?)?)));
        take_pairs(&mut left, &mut pairs, |config| {
            let key = format!("{}.image", config.backend.name());
            let identity = identity_without(config, &key)?;
            Some((key, identity))
        });
    }
    if pairs.is_empty() {
        let difference = differences(&baseline.experiments[0].config, &candidate.experiments[0].config);
        return Err(PairError::Nothing { baseline: baseline.name(), candidate: candidate.name(), difference });
    }
    // As the baseline orders them.
    let place = |pair: &Pair<'_>| baseline.experiments.iter().position(|e| std::ptr::eq(e, pair.baseline));
    pairs.sort_by_cached_key(place);
    let [only_a, only_b] = left.map(|rest| rest.into_iter().map(unpaired).collect());
    Ok(Pairs { all: pairs, only_in_baseline: only_a, only_in_candidate: only_b, key })
}

/// Pairs of experiments of one study that differ by `key` only: the first is the baseline of all that are like it.
pub(super) fn within<'a>(side: &'a Side, key: &'a str) -> Result<Pairs<'a>, PairError> {
    known_key(key, [side, side])?;
    let mut first: BTreeMap<String, &ExperimentResult> = BTreeMap::new();
    let mut pairs = Vec::new();
    for experiment in &side.experiments {
        let Some(identity) = identity_without(&experiment.config, key) else { continue };
        match first.get(&identity) {
            None => {
                first.insert(identity, experiment);
            }
            Some(baseline) => pairs.push(pair(baseline, experiment, key)),
        }
    }
    if pairs.is_empty() {
        return Err(PairError::Alone { key: shown(key), study: side.name() });
    }
    Ok(Pairs { all: pairs, only_in_baseline: Vec::new(), only_in_candidate: Vec::new(), key: Some(key) })
}

/// Moves those of both lists that have the same name into pairs. A name that is not unique on both sides pairs nothing.
fn take_pairs<'a>(
    left: &mut [Vec<&'a ExperimentResult>; 2],
    pairs: &mut Vec<Pair<'a>>,
    name_of: impl Fn(&ExperimentConfig) -> Option<(String, String)>,
) {
    let [named_a, named_b] = [&left[0], &left[1]].map(|side| {
        let mut named: BTreeMap<(String, String), Vec<&'a ExperimentResult>> = BTreeMap::new();
        for experiment in side {
            if let Some(name) = name_of(&experiment.config) {
                named.entry(name).or_default().push(experiment);
            }
        }
        named
    });
    for (name, of_a) in &named_a {
        if let ([a], Some([b])) = (of_a.as_slice(), named_b.get(name).map(Vec::as_slice)) {
            pairs.push(pair(a, b, &name.0));
            left[0].retain(|other| !std::ptr::eq(*other, *a));
            left[1].retain(|other| !std::ptr::eq(*other, *b));
        }
    }
}

fn pair<'a>(baseline: &'a ExperimentResult, candidate: &'a ExperimentResult, key: &str) -> Pair<'a> {
    if key.is_empty() {
        return Pair { name: name_of(candidate, None), baseline, candidate, paired_by: PairedBy::Identity };
    }
    let value = |experiment: &ExperimentResult| {
        to_value(&experiment.config).map_or(Value::Null, |config| value_at(&config, key))
    };
    let paired_by = PairedBy::AllBut { key: key.to_owned(), baseline: value(baseline), candidate: value(candidate) };
    Pair { name: name_of(candidate, Some(key)), baseline, candidate, paired_by }
}

fn unpaired(experiment: &ExperimentResult) -> UnpairedExperiment {
    let energy = |row: &crate::result::RunRow| {
        row.metrics.as_ref().is_some_and(|m| Quantity::Figure(Figure::EnergyPerOutputTokenJ).of(m).is_some())
    };
    UnpairedExperiment {
        experiment_id: experiment.experiment_id.clone(),
        name: name_of(experiment, None),
        knows_energy: experiment.runs.iter().any(energy),
    }
}

/// What distinguishes an experiment in its study, without the key by which it is compared.
fn name_of(experiment: &ExperimentResult, without: Option<&str>) -> String {
    let Some(key) = without else {
        let named = [&experiment.label, &experiment.experiment_id].into_iter().find(|name| !name.is_empty());
        return named.cloned().unwrap_or_else(|| experiment.config.backend.name().to_owned());
    };
    let rest = experiment.varied.iter().filter(|(name, _)| name != key);
    let text = |(name, value): &(String, Value)| {
        let last = name.rsplit('.').next().unwrap_or(name);
        format!("{last}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let parts: Vec<String> = rest.map(text).collect();
    if parts.is_empty() { experiment.config.backend.name().to_owned() } else { parts.join(" ") }
}

fn known_key(key: &str, sides: [&Side; 2]) -> Result<(), PairError> {
    let configs = || sides.into_iter().flat_map(|side| &side.experiments).filter_map(|e| to_value(&e.config));
    if configs().any(|config| !value_at(&config, key).is_null()) {
        return Ok(());
    }
    let varied =
        sides.into_iter().flat_map(|side| &side.experiments).flat_map(|e| e.varied.iter().map(|(key, _)| key.as_str()));
    let varied: BTreeSet<&str> = varied.collect();
    let hint = match nearest(key, varied.iter().copied()) {
        Some(meant) => format!("; did you mean {}?", shown(meant)),
        None if varied.is_empty() => "; this study varies none".to_owned(),
        None => format!("; what varies: {}", varied.iter().map(|key| shown(key)).collect::<Vec<_>>().join(", ")),
    };
    Err(PairError::UnknownKey { key: shown(key), hint })
}

fn to_value(config: &ExperimentConfig) -> Option<Value> {
    serde_json::to_value(config).ok()
}

fn pointer(key: &str) -> String {
    let escaped = key.replace('~', "~0").replace('/', "~1");
    format!("/{}", escaped.replace('.', "/"))
}

fn value_at(config: &Value, key: &str) -> Value {
    config.pointer(&pointer(key)).cloned().unwrap_or(Value::Null)
}

fn identity(config: &Value) -> Option<String> {
    canonical_sha256(config.clone()).ok()
}

/// Equal for experiments that differ by `key` only. The backend is one key with the sections of all backends: they are its settings.
fn identity_without(config: &ExperimentConfig, key: &str) -> Option<String> {
    let mut value = to_value(config)?;
    let (parent, last) = key.rsplit_once('.').map_or(("", key), |(parent, last)| (parent, last));
    let place = if parent.is_empty() { Some(&mut value) } else { value.pointer_mut(&pointer(parent)) };
    if let Some(fields) = place.and_then(Value::as_object_mut) {
        fields.remove(last);
    }
    let empty = Value::Object(serde_json::Map::new());
    if let Some(fields) = value.as_object_mut() {
        let is_section = |name: &str| Backend::from_name(name).is_some();
        fields.retain(|name, field| !is_section(name) || (key != "backend" && *field != empty));
    }
    identity(&value)
}

/// The keys in which two configs differ, with both values; the first few.
fn differences(a: &ExperimentConfig, b: &ExperimentConfig) -> String {
    const SHOWN: usize = 5;
    let (mut flat_a, mut flat_b) = (BTreeMap::new(), BTreeMap::new());
    flatten(&to_value(a).unwrap_or_default(), "", &mut flat_a);
    flatten(&to_value(b).unwrap_or_default(), "", &mut flat_b);
    let keys: BTreeSet<&String> = flat_a.keys().chain(flat_b.keys()).collect();
    let said = |value: Option<&String>| value.map_or_else(|| "-".to_owned(), |text| shown(text));
    let differing = keys.into_iter().filter(|key| flat_a.get(*key) != flat_b.get(*key));
    let mut lines: Vec<String> = differing
        .map(|key| format!("{}: {} and {}", shown(key), said(flat_a.get(key)), said(flat_b.get(key))))
        .collect();
    if lines.len() > SHOWN {
        let more = lines.len() - SHOWN;
        lines.truncate(SHOWN);
        lines.push(format!("and {more} more"));
    }
    lines.join("\n  ")
}

fn flatten(value: &Value, path: &str, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, field) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(field, &path, found);
            }
        }
        other => {
            found.insert(path.to_owned(), other.to_string());
        }
    }
}
