//! Files that somebody cut off, edited or invented: a clear error or an escaped text, never a wrong number.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::studies::{Place, Study, set_energy};
use llem::analysis::compare::{CompareOptions, Side, compare};

/// `llem compare` of a good study with a text.
fn against(text: &[u8], code: i32, parts: &[&str]) {
    let place = Place::new();
    place.write("a.json", &Study::new("a", 1, 3));
    fs_err::write(place.path("b.json"), text).unwrap();
    for arguments in [["compare", "a.json", "b.json"], ["compare", "b.json", "a.json"]] {
        place.llem(&arguments).exits(code).says(parts);
    }
}

#[test]
fn files_that_are_no_records_are_told() {
    let whole = Study::new("b", 1, 3).0.to_string();
    for length in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        against(&whole.as_bytes()[..length], 2, &["b.json", "not a result of llem"]);
    }
    against(
        &whole.replace("\"window_s\":", "\"window_s\": NaN, \"x\":").into_bytes(),
        2,
        &["b.json: not a result of llem"],
    );
    against(
        &whole.replace("\"window_s\":", "\"window_s\": Infinity, \"x\":").into_bytes(),
        2,
        &["not a result of llem"],
    );
    against(&whole.replace("\"window_s\":", "\"window_s\": 1e999, \"x\":").into_bytes(), 2, &["number out of range"]);
    against(b"\xff\xfe\x00", 2, &["not a result of llem"]);
    against(&b"[".repeat(100_000), 2, &["not a result of llem"]);
    against(b"null", 2, &["b.json"]);
    let newer = whole.replace("\"schema_version\":2", "\"schema_version\":3");
    against(newer.as_bytes(), 2, &["its schema version is 3, this llem knows 1 to 2; read it with a newer llem"]);
}

#[test]
fn what_is_not_a_file_is_not_read() {
    let place = Place::new();
    place.write("a.json", &Study::new("a", 1, 3));
    place.llem(&["compare", "a.json", "/dev/zero"]).exits(2).says(&["/dev/zero", "not a regular file"]);
    let huge = fs_err::File::create(place.path("huge.json")).unwrap();
    huge.set_len(1 << 40).unwrap();
    place.llem(&["compare", "a.json", "huge.json"]).exits(2).says(&["huge.json", "has 1099511627776 bytes"]);
}

#[test]
fn figures_that_cannot_be_true_are_no_figures() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut study = Study::new("b", 1, 3);
        change(study.run(0, 1));
        study.0.to_string().into_bytes()
    };
    against(&with(&|run| set_energy(run, -5.0)), 2, &["b.json", "energy"]);
    against(&with(&|run| run["metrics"]["window_s"] = json!(0)), 2, &["a window of 0 s"]);
    against(&with(&|run| run["metrics"]["output_tokens_per_s"] = json!(1e9)), 2, &["output_tokens_per_s"]);
    against(
        &with(&|run| run["metrics"]["energy"]["energy_per_output_token_j"] = json!(0.1)),
        2,
        &["energy_per_output_token_j"],
    );
    against(&with(&|run| run["cycle"] = json!(-1)), 2, &["not a result of llem"]);
    let failed = with(&|run| run["status"] = json!("failed"));
    against(&failed, 2, &["is called valid, though it failed"]);
    let against_it = with(&|run| run["reasons"] = json!([{"code": "throttled", "severity": "invalid", "message": ""}]));
    against(&against_it, 2, &["is called valid"]);
    // Energies of 0 have no ratio.
    let place = Place::new();
    let mut zero = Study::new("b", 1, 3);
    zero.each_run(|run| set_energy(run, 0.0));
    place.compare(&Study::new("a", 1, 3), &zero, &[]).exits(3).shows(&["a run of the candidate has 0"]);
}

#[test]
fn experiments_and_runs_are_there_once() {
    let mut twice = Study::new("b", 1, 3);
    let experiment = twice.0["experiments"][0].clone();
    twice.0["experiments"].as_array_mut().unwrap().push(experiment);
    against(twice.0.to_string().as_bytes(), 2, &["is there twice"]);
    let mut twice = Study::new("b", 1, 3);
    let run = twice.run(0, 0).clone();
    twice.0["experiments"][0]["runs"].as_array_mut().unwrap().push(run);
    against(twice.0.to_string().as_bytes(), 2, &["the run", "is there twice"]);
}

#[test]
fn the_summary_is_not_believed() {
    let (a, place) = (Study::new("a", 1, 5), Place::new());
    let mut b = Study::new("b", 1, 5).with_energy(0.1);
    b.0["experiments"][0]["summary"] =
        json!({"runs": 1000, "valid": true, "energy_per_output_token_j": {"n": 1000, "mean": 0.0001, "sd": 0.0}});
    place.compare(&a, &b, &[]).exits(1).shows(&["+10.0 %", "5 and 5 runs"]);
}

#[test]
fn names_are_text_everywhere() {
    let evil = "<script>alert(1)</script>\u{1b}[2J\u{1b}]0;x\u{7}|`x` @everyone ]]>\u{202e}&\n\u{0}";
    let long = "ü".repeat(10_000);
    let place = Place::new();
    for name in [evil, &long] {
        let mut study = Study::new("a", 1, 3);
        study.0["experiments"][0]["label"] = json!(name);
        study.0["study_id"] = json!(name);
        let mut other = study.clone();
        other.0["study_id"] = json!("b");
        other.0["profile"] = json!(name);
        other.each_run(|run| {
            run["identity"]["engine_version"] = json!(name);
            run["identity"]["gpu_driver"] = json!(name);
            run["identity"]["cpu_governor"] = json!(name);
        });
        for format in ["table", "markdown", "junit"] {
            let answer = place.compare(&study, &other, &["--format", format]).exits(0);
            let controls = answer.stdout.chars().filter(|c| c.is_control() && *c != '\n');
            assert_eq!(controls.count(), 0, "{format}: {:?}", answer.stdout);
            assert!(answer.stdout.len() < 10_000, "{format} has {} bytes", answer.stdout.len());
            if format == "junit" {
                assert!(!answer.stdout.contains("<script") && !answer.stdout.contains("]]>"), "{}", answer.stdout);
            }
            if format == "markdown" {
                outside_of_code(&answer.stdout);
            }
        }
        let json = place.compare(&study, &other, &["--format", "json"]).exits(0).json();
        assert_eq!(json["experiments"][0]["name"], json!(name));
        other.each_run(|run| run["identity"]["model_revision"] = json!(name));
        let refused = place.compare(&study, &other, &[]).exits(2);
        assert!(!refused.stderr.contains("\u{1b}[2J") && refused.stderr.len() < 2_000, "{:?}", refused.stderr);
    }
}

/// Nothing outside of code spans is markup, or mentions anybody.
#[track_caller]
fn outside_of_code(markdown: &str) {
    for line in markdown.lines() {
        let outside: String = line.split('`').step_by(2).collect();
        assert!(!outside.contains("<script") && !outside.contains("@everyone"), "{line}");
    }
}

#[test]
fn thousands_of_experiments_are_compared() {
    let place = Place::new();
    let one = Study::new("a", 1, 3);
    let mut many = one.clone();
    let template = one.0["experiments"][0].clone();
    let experiments = (0..2000u64).map(|index| {
        let mut experiment = template.clone();
        experiment["experiment_id"] = json!(format!("e{index}"));
        experiment["label"] = json!(format!("seed={index}"));
        experiment["config"]["random_seed"] = json!(index);
        for (cycle, run) in experiment["runs"].as_array_mut().unwrap().iter_mut().enumerate() {
            run["run_id"] = json!(format!("{index}-{cycle}"));
        }
        experiment
    });
    many.0["experiments"] = experiments.collect::<Vec<_>>().into();
    let mut others = many.clone();
    others.0["study_id"] = json!("b");
    let answer = place.compare(&many, &others, &[]).exits(0);
    answer.shows(&["seed=1999 · 3 and 3 runs", "passed: 2000 of 2000 rules"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any change of any value in a study ends in an error or in a comparison of finite numbers.
    #[test]
    fn no_edit_is_a_panic_or_a_number_that_is_none(at: prop::sample::Index, value in replacement(), cut: Option<prop::sample::Index>) {
        let mut study = Study::new("b", 1, 3);
        let mut places = Vec::new();
        leaves(&study.0, String::new(), &mut places);
        *study.0.pointer_mut(at.get::<String>(&places)).unwrap() = value;
        let mut text = study.0.to_string().into_bytes();
        if let Some(cut) = cut.filter(|cut| cut.index(10) == 0) {
            text.truncate(cut.index(text.len()));
        }
        let place = Place::new();
        place.write("a.json", &Study::new("a", 1, 3));
        fs_err::write(place.path("b.json"), text).unwrap();
        let a = Side::open(&place.path("a.json")).unwrap();
        let Ok(b) = Side::open(&place.path("b.json")) else { return Ok(()) };
        let options = CompareOptions { force: true, ..CompareOptions::default() };
        let Ok(comparison) = compare(&a, &b, &options) else { return Ok(()) };
        for figure in comparison.experiments.iter().flat_map(|experiment| &experiment.figures) {
            for number in [figure.baseline, figure.candidate, figure.relative_difference, figure.low, figure.high, figure.p_adjusted] {
                prop_assert!(number.is_none_or(f64::is_finite), "{figure:?}");
            }
            prop_assert!(figure.p_value.is_none_or(|p| (0.0..=1.0).contains(&p)), "{figure:?}");
        }
    }
}

fn replacement() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![0.0, -1.0, 1e308, -1e308, 1e-308, 5e-324]).prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
    ]
}

fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, field)| leaves(field, format!("{path}/{key}"), found)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| leaves(item, format!("{path}/{i}"), found));
        }
        _ => found.push(path),
    }
}
