//! Copies of a study, larger or changed.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

/// A study in a temporary directory.
pub(crate) struct Grown(TempDir);

impl Grown {
    /// `times` as many experiments as `study` has after `change`: copies with names of their own, whose runs share the files of the first. Rows of
    /// runs are taken from what `change` left of them.
    pub(crate) fn of(study: &Path, times: usize, change: impl Fn(&mut Value)) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut content: Value = serde_json::from_slice(&fs_err::read(study.join("study.json")).unwrap()).unwrap();
        change(&mut content);
        let originals = content["experiments"].as_array().unwrap().clone();
        let mut experiments = Vec::new();
        for copy in 0..times {
            for original in &originals {
                let mut experiment = original.clone();
                if copy > 0 {
                    let id = format!("{}{copy:04}", original["experiment_id"].as_str().unwrap());
                    experiment["experiment_id"] = json!(id);
                    experiment["varied"][1][1] = json!(1000 + copy);
                }
                for row in experiment["runs"].as_array_mut().unwrap() {
                    let from = row["run_id"].as_str().unwrap().to_owned();
                    if copy > 0 {
                        row["run_id"] = json!(format!("{copy:04}-{from}"));
                    }
                    copy_run(study, &from, directory.path(), row);
                }
                experiments.push(experiment);
            }
        }
        content["experiments"] = json!(experiments);
        fs_err::write(directory.path().join("study.json"), content.to_string()).unwrap();
        Self(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A run's directory under the name that its row has now.
fn copy_run(study: &Path, from: &str, to: &Path, row: &Value) {
    let (source, run) = (study.join("runs").join(from), to.join("runs").join(row["run_id"].as_str().unwrap()));
    fs_err::create_dir_all(&run).unwrap();
    for name in ["requests.parquet", "timeseries.parquet"] {
        fs_err::copy(source.join(name), run.join(name)).unwrap();
    }
    let mut result: Value = serde_json::from_slice(&fs_err::read(source.join("result.json")).unwrap()).unwrap();
    result["run_id"] = row["run_id"].clone();
    fs_err::write(run.join("result.json"), result.to_string()).unwrap();
}
