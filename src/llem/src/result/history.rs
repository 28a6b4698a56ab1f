//! How long runs of the same experiments took before, and what memory, by the results of one directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::RunStatus;

/// Studies that are looked through, the newest first.
const MOST_STUDIES: usize = 200;
/// Results that are read in all, and of one experiment.
const MOST_RESULTS: usize = 1_000;
const MOST_OF_ONE: usize = 20;
/// The largest result that is read, in bytes.
const MAX_RESULT_BYTES: u64 = 16 * 1024 * 1024;

/// A completed run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlierRun {
    /// Its wall time in seconds, container included.
    pub wall_s: f64,
    /// The most memory that its engine had at once, by the engine's account.
    pub peak_memory_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Ended {
    experiment_id: String,
    status: RunStatus,
    wall_s: f64,
    engine: Option<Engine>,
}

#[derive(Deserialize)]
struct Engine {
    peak_memory_bytes: Option<u64>,
}

/// Completed runs by experiment, from the studies in `output`. What cannot be read is no earlier run.
pub fn earlier_runs(output: &Path, wanted: &BTreeSet<&str>) -> BTreeMap<String, Vec<EarlierRun>> {
    let mut found: BTreeMap<String, Vec<EarlierRun>> = BTreeMap::new();
    let mut read = 0;
    for study in newest_first(output).into_iter().take(MOST_STUDIES) {
        for run in entries(&study.join("runs")) {
            let name = run.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(id) = name.split('-').find(|part| wanted.contains(part)) else { continue };
            if read >= MOST_RESULTS || found.get(id).is_some_and(|runs| runs.len() >= MOST_OF_ONE) {
                continue;
            }
            read += 1;
            let ended = ended(&run.join("result.json")).filter(|ended| ended.status == RunStatus::Completed);
            if let Some(ended) = ended.filter(|ended| wanted.contains(ended.experiment_id.as_str())) {
                let peak_memory_bytes = ended.engine.and_then(|engine| engine.peak_memory_bytes);
                found
                    .entry(ended.experiment_id)
                    .or_default()
                    .push(EarlierRun { wall_s: ended.wall_s, peak_memory_bytes });
            }
        }
    }
    found
}

/// Studies are named by their time: `{name}_{UTC}`.
fn newest_first(output: &Path) -> Vec<PathBuf> {
    let mut studies = entries(output);
    let stamp = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.rsplit_once('_').map(|(_, stamp)| stamp.to_owned())
    };
    studies.sort_by_cached_key(|path| std::cmp::Reverse(stamp(path)));
    studies
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs_err::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn ended(path: &Path) -> Option<Ended> {
    let mut bytes = Vec::new();
    fs_err::File::open(path).ok()?.take(MAX_RESULT_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{EarlierRun, earlier_runs};

    #[test]
    fn completed_runs_of_the_same_experiments_are_found_newest_first() {
        let output = tempfile::tempdir().unwrap();
        let write = |study: &str, run: &str, id: &str, status: &str, wall_s: f64| {
            let dir = output.path().join(study).join("runs").join(run);
            fs_err::create_dir_all(&dir).unwrap();
            let text = serde_json::json!({"experiment_id": id, "status": status, "wall_s": wall_s, "other": [1],
                "engine": {"peak_memory_bytes": 7}});
            fs_err::write(dir.join("result.json"), text.to_string()).unwrap();
        };
        write("b_20260101T000000Z", "001-aaaaaaaaaaaa-c1", "aaaaaaaaaaaa", "completed", 10.0);
        write("a_20260201T000000Z", "001-aaaaaaaaaaaa-c1", "aaaaaaaaaaaa", "completed", 12.0);
        write("a_20260201T000000Z", "002-aaaaaaaaaaaa-c2", "aaaaaaaaaaaa", "failed", 1.0);
        write("a_20260201T000000Z", "003-bbbbbbbbbbbb-c1", "bbbbbbbbbbbb", "completed", 99.0);
        // A name says what a result has to hold.
        write("a_20260201T000000Z", "004-cccccccccccc-c1", "bbbbbbbbbbbb", "completed", 98.0);
        fs_err::create_dir_all(output.path().join("a_20260201T000000Z/runs/005-aaaaaaaaaaaa-c3")).unwrap();
        let run = |wall_s| EarlierRun { wall_s, peak_memory_bytes: Some(7) };
        let found = earlier_runs(output.path(), &BTreeSet::from(["aaaaaaaaaaaa", "cccccccccccc"]));
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("aaaaaaaaaaaa".to_owned(), vec![run(12.0), run(10.0)])]);
        assert!(earlier_runs(&output.path().join("none"), &BTreeSet::from(["aaaaaaaaaaaa"])).is_empty());
    }
}
