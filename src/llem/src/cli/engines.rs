//! Compiled engines of a study: what a run made of the cache, and what the next one would find there.

use std::fmt::Write;
use std::path::Path;

use llem::config::{Profile, RunnerKind, StudyConfig, UserConfig};
use llem::engine_cache::{CacheOutcome, CacheRecord, CacheSettings, EngineCache, Entry, Key, Nearest, nearest};
use llem::result::RunRow;
use llem::study::{Effort, EngineLookup, RunOptions, look_up_engines};
use serde_json::{Value, json};

use super::arguments::Format;
use super::cache::{NEAREST, differing};
use super::{Exit, Failure, Printer, runtime, table};

/// `compiled engines: 7 hit, 1 miss; building took 312 s, 48211 J`: the line under a study's table.
pub(crate) fn note(runs: &[&RunRow]) -> Option<String> {
    let records: Vec<&CacheRecord> = runs.iter().filter_map(|run| run.engine_cache.as_deref()).collect();
    let outcomes =
        [CacheOutcome::Hit, CacheOutcome::Miss, CacheOutcome::Rebuilt, CacheOutcome::Private, CacheOutcome::Off];
    let counted = outcomes.into_iter().filter_map(|outcome| {
        let times = records.iter().filter(|record| record.outcome == outcome).count();
        (times > 0).then(|| format!("{times} {}", outcome.name()))
    });
    let counts = counted.collect::<Vec<_>>().join(", ");
    if counts.is_empty() {
        return None;
    }
    let built = || records.iter().filter(|record| record.outcome != CacheOutcome::Hit);
    let seconds: f64 = built().filter_map(|record| record.build_seconds).sum();
    let joules: f64 = built().filter_map(|record| record.build_energy_j).sum();
    let mut text = format!("compiled engines: {counts}");
    if seconds > 0.0 {
        let _ = write!(text, "; building took {} s", table::number(seconds));
    }
    if joules > 0.0 {
        let _ = write!(text, ", {} J", table::number(joules));
    }
    Some(text)
}

/// The line under a plan: how many engines are there. Nothing for a study that compiles nothing.
pub(crate) async fn plan_line(
    study: &StudyConfig,
    user: &UserConfig,
    runner: Option<RunnerKind>,
) -> Result<Option<String>, Failure> {
    let options = RunOptions { user: user.clone(), runner, ..RunOptions::default() };
    let found = look_up_engines(study, &options, Effort::Little).await?;
    if found.is_empty() {
        return Ok(None);
    }
    let entries = EngineCache::open(CacheSettings::of(user)).entries().unwrap_or_default();
    let with_key: Vec<&Key> = found.iter().filter_map(|lookup| lookup.key.as_ref().ok()).collect();
    let hits = with_key.iter().filter(|key| is_there(key, &entries)).count();
    let mut text = format!("compiled engines: {hits} in the cache, {} to be built", with_key.len() - hits);
    if with_key.len() < found.len() {
        let _ = write!(text, ", {} not known", found.len() - with_key.len());
    }
    text.push_str("; `llem cache explain FILE` says more");
    Ok(Some(text))
}

fn is_there(key: &Key, entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.kind == key.kind() && entry.key == key.hex())
}

/// `llem cache explain FILE`.
pub(crate) fn explain_file(
    cache: &EngineCache,
    user: UserConfig,
    file: &Path,
    format: Format,
    printer: Printer,
) -> Result<Exit, Failure> {
    let study = StudyConfig::from_file(file, &[], Profile::Standard)?;
    let options = RunOptions { user, ..RunOptions::default() };
    let found = runtime()?.block_on(look_up_engines(&study, &options, Effort::Whatever))?;
    let entries = cache.entries()?;
    match format {
        Format::Human if found.is_empty() => printer.line("no experiment of the study compiles anything that is kept"),
        Format::Human => {
            let texts: Vec<String> = found.iter().map(|lookup| human(lookup, &entries)).collect();
            printer.result(&texts.join("\n"))?;
        }
        Format::Json => {
            let list: Vec<Value> = found.iter().map(|lookup| as_json(lookup, &entries)).collect();
            printer.result(&format!("{:#}", json!(list)))?;
        }
    }
    Ok(Exit::Success)
}

/// The entries that are nearest to a key that is not there.
fn nearest_to<'a>(key: &Key, entries: &'a [Entry]) -> Vec<Nearest<'a>> {
    if is_there(key, entries) { Vec::new() } else { nearest(key.inputs(), entries, NEAREST) }
}

fn human(lookup: &EngineLookup, entries: &[Entry]) -> String {
    let name = [lookup.experiment_id.as_str(), lookup.label.as_str()].join(" ");
    let name = name.trim();
    let key = match &lookup.key {
        Ok(key) => key,
        Err(why) => return format!("{name}: {}, no key: {why}\n", lookup.kind),
    };
    let state = if is_there(key, entries) { "in the cache" } else { "to be built" };
    let mut text = format!("{name}: {} {}, {state}\n", lookup.kind, key.short());
    for near in nearest_to(key, entries) {
        text.push_str(&differing(key.short(), near.entry.short(), &near.differences));
    }
    text
}

fn as_json(lookup: &EngineLookup, entries: &[Entry]) -> Value {
    let key = lookup.key.as_ref().ok();
    let near = key.map(|key| nearest_to(key, entries)).unwrap_or_default();
    let near = near.iter().map(|near| json!({"key": near.entry.key, "differences": near.differences}));
    json!({
        "experiment_id": lookup.experiment_id, "label": lookup.label, "kind": lookup.kind,
        "key": key.map(Key::hex), "inputs": key.map(Key::inputs), "why_no_key": lookup.key.as_ref().err(),
        "in_cache": key.is_some_and(|key| is_there(key, entries)), "nearest": near.collect::<Vec<_>>(),
    })
}
