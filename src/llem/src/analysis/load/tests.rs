use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{LoadError, StudyFiles, read_run};

/// A study of version 1 with one run.
struct Fixture {
    directory: TempDir,
    study: Value,
    result: Value,
}

impl Fixture {
    fn new() -> Self {
        let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/old-results/schema-1");
        let json = |name: &str| serde_json::from_slice(&fs_err::read(old.join(name)).unwrap()).unwrap();
        let mut fixture =
            Self { directory: tempfile::tempdir().unwrap(), study: json("study.json"), result: json("result.json") };
        // The fixtures are of two studies.
        fixture.result["run_id"] = fixture.row()["run_id"].clone();
        fixture.result["metrics"] = fixture.row()["metrics"].clone();
        fixture
    }

    fn row(&mut self) -> &mut Value {
        &mut self.study["experiments"][0]["runs"][0]
    }

    fn write(&self) -> PathBuf {
        let root = self.directory.path().to_owned();
        let run = root.join("runs").join("001-cfd2325ffe45-c1");
        fs_err::create_dir_all(&run).unwrap();
        fs_err::write(root.join("study.json"), self.study.to_string()).unwrap();
        fs_err::write(run.join("result.json"), self.result.to_string()).unwrap();
        root
    }

    fn error(&self) -> String {
        match StudyFiles::open(&self.write()) {
            Err(error) => error.to_string(),
            Ok(files) => files.run(&files.study().experiments[0].runs[0]).unwrap_err().to_string(),
        }
    }
}

#[test]
fn a_study_is_read_by_its_directory_and_by_its_file() {
    let fixture = Fixture::new();
    let root = fixture.write();
    for path in [root.clone(), root.join("study.json")] {
        let files = StudyFiles::open(&path).unwrap();
        let row = &files.study().experiments[0].runs[0];
        let run = files.run(row).unwrap().unwrap();
        assert_eq!((run.run_id.as_str(), &run.metrics), ("001-cfd2325ffe45-c1", &row.metrics));
        assert!(files.source().unwrap().is_none() && files.table(row, "requests.parquet").unwrap().is_none());
        let directory = files.run_directory(row);
        assert_eq!(read_run(&directory).unwrap(), read_run(&directory.join("result.json")).unwrap());
    }
}

#[test]
fn what_is_no_study_is_said_with_what_to_do() {
    let fixture = Fixture::new();
    let root = fixture.write();
    let problem = |path: &Path| StudyFiles::open(path).unwrap_err().to_string();
    assert!(problem(&root.join("absent")).contains("is not there; give a directory that `llem run` made"));
    assert!(problem(&root.join("runs/001-cfd2325ffe45-c1")).contains("give its study's directory"));
    assert!(problem(&root.join("runs")).contains("has no study.json; give a directory"));
    let parent = tempfile::tempdir().unwrap();
    fs_err::os::unix::fs::symlink(&root, parent.path().join("mine")).unwrap();
    assert!(problem(parent.path()).contains("give the study in it, e.g."), "{}", problem(parent.path()));
    assert!(StudyFiles::open(&parent.path().join("mine")).is_ok());
    fs_err::write(root.join("journal.jsonl"), "").unwrap();
    fs_err::remove_file(root.join("study.json")).unwrap();
    assert!(problem(&root).contains("did not end in order"));
}

#[test]
fn files_that_are_cut_off_or_of_another_version_are_refused_with_their_path() {
    let fixture = Fixture::new();
    let root = fixture.write();
    let whole = fixture.study.to_string();
    for (text, part) in [
        (&whole[..whole.len() / 2], "was the file edited, cut off, or written by a newer llem?"),
        ("", "was the file edited, cut off, or written by a newer llem?"),
        ("NaN", "was the file edited, cut off, or written by a newer llem?"),
        ("{\"schema_version\": 99}", "is 99, this llem knows"),
        ("{\"schema_version\": \"1\"}", "is \"1\", this llem knows"),
        ("{}", "is missing"),
    ] {
        fs_err::write(root.join("study.json"), text).unwrap();
        let error = StudyFiles::open(&root).unwrap_err().to_string();
        assert!(error.contains("study.json: ") && error.contains(part), "{error}");
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    for number in ["null", "\"12.5\"", "\"NaN\"", "1e999", "NaN", "-Infinity"] {
        let mut fixture = Fixture::new();
        fixture.row()["metrics"]["output_tokens_per_s"] = json!("HERE");
        let root = fixture.write();
        let text = fixture.study.to_string().replace("\"HERE\"", number);
        fs_err::write(root.join("study.json"), text).unwrap();
        assert!(matches!(StudyFiles::open(&root), Err(LoadError::Record { .. })), "{number}");
    }
}

#[test]
fn numbers_that_contradict_each_other_are_refused() {
    type Change = fn(&mut Fixture);
    let cases: [(Change, &str); 11] = [
        (|f| f.row()["metrics"]["output_tokens_per_s"] = json!(1.0), "says 1 as output_tokens_per_s, and 177"),
        (|f| f.row()["metrics"]["energy"]["energy_j"] = json!(-1.5), "has -1.5 as energy_j"),
        (|f| f.row()["metrics"]["ttft_ms"]["p50"] = json!(-2.0), "has -2 as ttft_p50_ms"),
        (|f| f.row()["metrics"]["window_s"] = json!(0.0), "has a window of 0 s"),
        (|f| f.row()["metrics"]["ttft_ms"]["p50"] = json!(1e9), "percentiles of ttft_ms that are not in order"),
        (|f| f.row()["metrics"]["window_s"] = json!(1e308), "and 3.6e-306 by"),
        (|f| f.row()["valid"] = json!(true), "is called valid"),
        (|f| f.result["cycle"] = json!(2), "says something else than study.json"),
        (|f| f.result["valid"] = json!(true), "calls a run valid"),
        (
            |f| {
                let again = f.row().clone();
                f.study["experiments"][0]["runs"].as_array_mut().unwrap().push(again);
            },
            "is there twice",
        ),
        (
            |f| {
                for key in ["valid", "reasons"] {
                    f.row()[key] = json!({"valid": true, "reasons": []})[key].clone();
                }
                let mut again = f.row().clone();
                again["run_id"] = json!("009-copy-c9");
                f.study["experiments"][0]["runs"].as_array_mut().unwrap().push(again);
            },
            "has two valid runs of cycle 1",
        ),
    ];
    for (change, part) in cases {
        let mut fixture = Fixture::new();
        change(&mut fixture);
        let error = fixture.error();
        assert!(error.contains(part) && error.contains("restore it, or run the study again"), "{part}: {error}");
    }
}

#[test]
fn nothing_outside_of_the_directory_is_read() {
    for name in ["..", "../x", "/etc", ".", "", "a/b", "a/.."] {
        let mut fixture = Fixture::new();
        fixture.row()["run_id"] = json!(name);
        assert!(fixture.error().contains("no name of a directory"), "{name}");
    }
    let (fixture, other) = (Fixture::new(), Fixture::new());
    let (root, elsewhere) = (fixture.write(), other.write());
    let result = root.join("runs/001-cfd2325ffe45-c1/result.json");
    fs_err::remove_file(&result).unwrap();
    fs_err::os::unix::fs::symlink(elsewhere.join("runs/001-cfd2325ffe45-c1/result.json"), &result).unwrap();
    assert!(fixture_error(&root).contains("leads out of the study's directory"));
    fs_err::remove_file(&result).unwrap();
    fs_err::create_dir(&result).unwrap();
    assert!(fixture_error(&root).contains("is not a regular file"));
    fs_err::remove_dir(&result).unwrap();
    let large = fs_err::File::create(&result).unwrap();
    large.set_len(super::RESULT_BYTES + 1).unwrap();
    assert!(fixture_error(&root).contains("llem reads at most"));
    // A link that stays inside is somebody's way to keep files.
    fs_err::remove_file(&result).unwrap();
    fs_err::write(root.join("kept.json"), fixture.result.to_string()).unwrap();
    fs_err::os::unix::fs::symlink(root.join("kept.json"), &result).unwrap();
    let files = StudyFiles::open(&root).unwrap();
    assert!(files.run(&files.study().experiments[0].runs[0]).unwrap().is_some());
}

fn fixture_error(root: &Path) -> String {
    let files = StudyFiles::open(root).unwrap();
    files.run(&files.study().experiments[0].runs[0]).unwrap_err().to_string()
}

#[test]
fn long_names_are_cut_in_messages() {
    let mut fixture = Fixture::new();
    fixture.row()["run_id"] = json!(format!("{}/\u{1b}[31m", "x".repeat(10_000)));
    let error = fixture.error();
    assert!(error.len() < 500 && !error.contains('\u{1b}'), "{error}");
}

/// Figures that were changed in both files, with what is said of them twice.
#[test]
fn energies_that_their_sensors_or_components_contradict_are_refused() {
    type Change<'c> = &'c dyn Fn(&mut Value);
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/report/energy/study.json");
    let study: Value = serde_json::from_slice(&fs_err::read(recorded).unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let open = |change: &dyn Fn(&mut Value)| {
        let mut changed = study.clone();
        change(&mut changed["experiments"][0]["runs"][0]["metrics"]["energy"]);
        fs_err::write(directory.path().join("study.json"), changed.to_string()).unwrap();
        StudyFiles::open(directory.path())
    };
    assert!(open(&|_| {}).is_ok());
    let halve = |energy: &mut Value, figures: &[&str]| {
        for figure in figures {
            energy[*figure] = json!(energy[*figure].as_f64().unwrap() / 2.0);
        }
    };
    let cases: [(Change<'_>, &str); 8] = [
        (
            &|energy| halve(energy, &["energy_j", "energy_per_output_token_j", "mean_power_w", "co2_g"]),
            "as energy_j, and",
        ),
        (&|energy| halve(energy, &["mean_power_w"]), "as mean_power_w, and"),
        (&|energy| halve(energy, &["co2_g"]), "as co2_g, and"),
        (&|energy| halve(energy, &["energy_raw_j"]), "as energy_raw_j, and"),
        (&|energy| halve(energy, &["energy_net_j", "energy_net_per_output_token_j"]), "as energy_net_j, and"),
        (&|energy| halve(&mut energy["uncertainty"], &["expanded_j"]), "what its components make together"),
        (&|energy| halve(&mut energy["net_uncertainty"], &["combined_j"]), "what its components make together"),
        (&|energy| energy["domains"][1]["uncertainty"]["edge_j"] = json!(-1.0), "what its components make together"),
    ];
    for (change, part) in cases {
        let error = open(change).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("restore it, or run the study again"), "{part}: {error}");
    }
}
