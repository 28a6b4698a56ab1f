//! What a user of `llem compare` sees.

use serde_json::{Value, json};

use super::studies::{GPU, Place, Study};

const OTHER_GPU: &str = "GPU-99999999-2222-3333-4444-555555555555";

fn figure<'v>(comparison: &'v Value, experiment: usize, name: &str) -> &'v Value {
    let figures = comparison["experiments"][experiment]["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure["figure"] == name).unwrap()
}

fn close(value: &Value, expected: f64, tolerance: f64) {
    let value = value.as_f64().unwrap();
    assert!((value - expected).abs() < tolerance, "{value} is not {expected}");
}

#[test]
fn more_energy_fails_by_default_and_nothing_else_does() {
    let (a, place) = (Study::new("a", 2, 5), Place::new());
    place.compare(&a, &Study::new("b", 2, 5), &[]).exits(0).shows(&[
        "A: a.json (10 of 10 runs valid)",
        "batch_size=1 · 5 and 5 runs\n",
        "no difference seen",
        "passed    energy_per_output_token_j > 0 % · batch_size=1",
        "passed: 2 of 2 rules",
    ]);
    let more = Study::new("b", 2, 5).with_energy(0.03);
    place.compare(&a, &more, &[]).exits(1).shows(&[
        "FAILED    energy_per_output_token_j > 0 % · batch_size=2",
        "+3.0 %",
        "more",
        "failed: 2 of 2 rules",
    ]);
    // Less of it is no failure, and is seen.
    place.compare(&more, &a, &[]).exits(0).shows(&["-2.9 %", "less"]);
    let comparison = place.compare(&a, &more, &["--format", "json"]).exits(1).json();
    let energy = figure(&comparison, 0, "energy_per_output_token_j");
    close(&energy["relative_difference"], 0.03, 1e-9);
    // Welch by hand on logarithms: sd 0.002915 of 5 and 5 give a standard error of 0.001844 and 8 degrees, t 2.306.
    close(&energy["low"], 0.0256, 2e-4);
    close(&energy["high"], 0.0344, 2e-4);
    assert_eq!((&energy["method"], &energy["verdict"]), (&json!("welch_t"), &json!("more")));
    assert_eq!(comparison["outcome"], "failed");
}

#[test]
fn a_study_is_not_held_against_itself() {
    let (a, place) = (Study::new("a", 2, 3), Place::new());
    place.compare(&a, &a.clone(), &[]).exits(2).says(&["are the same measurement", "--by"]);
    place.compare(&a, &a.clone(), &["--fail-on", "none"]).exits(0).shows(&["no rules"]);
    place.compare(&a, &Study::new("b", 2, 3), &[]).exits(0);
}

#[test]
fn memory_is_read_in_gib_and_kept_in_bytes() {
    let (a, place) = (Study::new("a", 1, 3), Place::new());
    let rule = ["--fail-on", "peak_memory_bytes > 0%"];
    place.compare(&a, &Study::new("b", 1, 3), &rule).exits(0).shows(&["peak memory GiB", "0.00629"]);
    let json = place.compare(&a, &Study::new("b", 1, 3), &[&rule[..], &["--format", "json"]].concat()).exits(0).json();
    let memory = figure(&json, 0, "peak_memory_bytes");
    assert_eq!(memory["unit"], "B");
    close(&memory["baseline"], 6_750_208.0, 0.01);
}

#[test]
fn a_device_that_is_named_as_output_stays_one() {
    let (a, b, place) = (Study::new("a", 1, 3), Study::new("b", 1, 3), Place::new());
    let link = place.path("link.md");
    fs_err::os::unix::fs::symlink(place.path("report.md"), &link).unwrap();
    fs_err::write(place.path("report.md"), "").unwrap();
    place.compare(&a, &b, &["--format", "markdown", "--output", "link.md"]).exits(0);
    assert!(fs_err::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs_err::read_to_string(place.path("report.md")).unwrap().contains("llem compare"));
    let pipe = place.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs_err::read_to_string(pipe).unwrap()
    });
    place.compare(&a, &b, &["--format", "junit", "--output", "pipe"]).exits(0);
    assert!(reader.join().unwrap().contains("<testsuites"));
    assert!(!fs_err::metadata(&pipe).unwrap().is_file());
}

#[test]
fn without_energy_fewer_tokens_per_second_fail() {
    let place = Place::new();
    let a = Study::new("a", 1, 5).without_energy();
    let mut slow = Study::new("b", 1, 5).without_energy();
    slow.each_run(|run| {
        let metrics = &mut run["metrics"];
        for (figure, factor) in
            [("window_s", 1.04), ("output_tokens_per_s", 1.0 / 1.04), ("requests_per_s", 1.0 / 1.04)]
        {
            metrics[figure] = json!(metrics[figure].as_f64().unwrap() * factor);
        }
    });
    let same = Study::new("same", 1, 5).without_energy();
    place.compare(&a, &same, &[]).exits(0).shows(&["passed    output_tokens_per_s < 0 %"]);
    place.compare(&a, &slow, &[]).exits(1).shows(&["FAILED    output_tokens_per_s < 0 %", "-3.8 %"]);
    // A sensor that was lost must not change the question.
    let lost = place.compare(&Study::new("b", 1, 5), &a, &[]).exits(3);
    lost.shows(&["undecided energy_per_output_token_j > 0 %", "no valid run of the candidate has the figure"]);
}

#[test]
fn rules_fail_beyond_their_threshold() {
    let (a, b, place) = (Study::new("a", 1, 5), Study::new("b", 1, 5).with_energy(0.05), Place::new());
    place.compare(&a, &b, &["--fail-on", "energy_per_output_token_j > +3%"]).exits(1);
    // 5 % is not shown to be more than 4.9 %, and not more than 6 %.
    place.compare(&a, &b, &["--fail-on", "energy_per_output_token_j > +4.9%"]).exits(0);
    let both = ["--fail-on", "ttft_ms > +5%", "--fail-on", "mean_power_w>2%", "--fail-on", "output_tokens_per_s < -2%"];
    let answer = place.compare(&a, &b, &both).exits(1);
    answer.shows(&["passed    ttft_p50_ms > +5 %", "FAILED    mean_power_w > +2 %", "mean W", "failed: 1 of 3 rules"]);
    place.compare(&a, &b, &["--fail-on", "none"]).exits(0).shows(&["more", "no rules"]);
}

#[test]
fn rules_that_cannot_be_read_point_at_their_mistake() {
    let (a, place) = (Study::new("a", 1, 3), Place::new());
    let wrong = place.compare(&a, &a, &["--fail-on", "energy_per_token_j > 3%"]).exits(2);
    wrong.says(&["energy_per_token_j > 3%\n^ no figure is called `energy_per_token_j`; did you mean `energy_per_output_token_j`?"]);
    let wrong = place.compare(&a, &a, &["--fail-on", "ttft_ms > 3 ms"]).exits(2);
    wrong.says(&["ttft_ms > 3 ms\n            ^ `%` is expected"]);
    place.compare(&a, &a, &["--fail-on", "energy_j > 3%"]).exits(2).says(&["use `energy_per_output_token_j`"]);
}

#[test]
fn only_valid_runs_count_and_too_few_decide_nothing() {
    let (a, place) = (Study::new("a", 1, 3), Place::new());
    let mut b = Study::new("b", 1, 3).with_energy(0.5);
    let reason = json!([{"code": "throttled", "severity": "invalid", "message": "hot"}]);
    for cycle in [0, 1] {
        b.run(0, cycle)["valid"] = json!(false);
        b.run(0, cycle)["reasons"] = reason.clone();
    }
    let answer = place.compare(&a, &b, &[]).exits(3);
    answer.shows(&[
        "B: b.json (1 of 3 runs valid)",
        "undecided",
        "one valid run of the candidate has the figure, and a test needs 2",
        "(throttled)",
        "undecided: 1 of 1 rules",
    ]);
    place.compare(&a, &b, &["--fail-on", "none"]).exits(0);
    // A failed rule wins over one that is not decided.
    let mut two = Study::new("b", 2, 3).with_energy(0.5);
    two.0["experiments"][0]["runs"] = b.0["experiments"][0]["runs"].clone();
    place
        .compare(&Study::new("a", 2, 3), &two, &[])
        .exits(1)
        .shows(&["failed: 1 of 2 rules, and 1 could not be decided"]);
}

#[test]
fn an_experiment_that_disappears_does_not_pass() {
    let (a, b, place) = (Study::new("a", 3, 3), Study::new("b", 2, 3), Place::new());
    let answer = place.compare(&a, &b, &[]).exits(3);
    answer.shows(&["only in the baseline: batch_size=4", "the candidate does not have this experiment"]);
    place.compare(&a, &b, &["--allow-missing"]).exits(0);
    place.compare(&b, &a, &[]).exits(0).shows(&["only in the candidate: batch_size=4"]);
}

#[test]
fn what_is_not_comparable_is_refused_with_both_values() {
    let (a, place) = (Study::new("a", 1, 3), Place::new());
    let refused = |change: &dyn Fn(&mut Value), parts: &[&str]| {
        let mut b = Study::new("b", 1, 3);
        b.each_run(change);
        place.compare(&a, &b, &[]).exits(2).says(&["not comparable", "--force"]).says(parts);
        b
    };
    refused(
        &|run| run["identity"]["gpus"][0]["name"] = json!("NVIDIA L4"),
        &["GPU model: NVIDIA H100 in the baseline, NVIDIA L4 in the candidate"],
    );
    refused(&|run| run["identity"]["workload_sha256"] = json!("c".repeat(64)), &["workload: aaaa", "cccc"]);
    refused(&|run| run["identity"]["model_revision"] = json!("m2"), &["model revision: m1 in the baseline, m2 in the"]);
    refused(&|run| run["identity"]["dtype"] = json!("bfloat16"), &["data type of the weights: float32", "bfloat16"]);
    refused(
        &|run| run["metrics"]["prompt_tokens"] = json!(4096),
        &["tokens per request: 32.0000 prompt", "64.0000 prompt"],
    );
    refused(&|run| run["identity"]["gpus"][0]["power_limit_w"] = json!(350.0), &["power limit: 700 W", "350 W"]);
    refused(
        &|run| {
            run["metrics"]["energy"]["domains"][0]["calibration"] = json!({"device": GPU, "factor": 1.02, "relative_uncertainty": 0.01, "date": "2026-11-01", "method": "meter"});
        },
        &["calibration: none in the baseline, 1.02 of 2026-11-01 in the candidate"],
    );
    refused(
        &|run| run["identity"]["engine_cpus"] = json!("0-7"),
        &["processors that runs were kept to: 0-15 in the baseline, 0-7 (agent 0-15) in the candidate"],
    );
    // Jobs of a batch system are given others every time: as many are the same.
    let (mut one, mut other) = (a.clone(), Study::new("b", 1, 3));
    for (study, engine) in [(&mut one, "0-3"), (&mut other, "8,10,12,14")] {
        study.each_run(|run| {
            run["identity"]["node"] = json!("n1");
            run["identity"]["engine_cpus"] = json!(engine);
        });
    }
    place.compare(&one, &other, &[]).exits(0);
    other.each_run(|run| run["identity"]["engine_cpus"] = json!("8,10"));
    place.compare(&one, &other, &[]).exits(2).says(&["4 for the engine, 16 for the agent in the baseline, 2 for the"]);
    // An older llem did not note them.
    let mut b = Study::new("b", 1, 3);
    b.each_run(|run| drop(run["identity"].as_object_mut().unwrap().remove("engine_cpus")));
    place.compare(&a, &b, &[]).exits(0).shows(&["processors that runs were kept to: 0-15 in the baseline, not known"]);
    let processor = |study: &mut Study, name: &str| {
        study.each_run(|run| {
            run["identity"]["gpus"] = json!([]);
            run["identity"]["cpu_model"] = json!(name);
            run["metrics"]["energy"]["domains"][0]["domain"] =
                json!({"source": "rapl", "id": "package-0", "scope": "package"});
        });
    };
    let (mut one, mut other) = (a.clone(), Study::new("b", 1, 3));
    processor(&mut one, "X");
    processor(&mut other, "Y");
    place
        .compare(&one, &other, &[])
        .exits(2)
        .says(&["processor: X, 16 logical in the baseline, Y, 16 logical in the candidate"]);
    // What may matter is told, and does not keep anybody from comparing.
    let mut b = Study::new("b", 1, 3);
    b.each_run(|run| run["identity"]["gpu_driver"] = json!("590.2"));
    b.0["profile"] = json!("quick");
    place.compare(&a, &b, &[]).exits(0).shows(&["GPU driver: 580.1 in the", "other profile: standard in the"]);
}

#[test]
fn across_gpus_the_gain_is_part_of_the_interval() {
    let (a, place) = (Study::new("a", 1, 5), Place::new());
    let b = Study::new("b", 1, 5).with_energy(0.05).on_gpu(OTHER_GPU);
    place.compare(&a, &b, &[]).exits(2).says(&["GPU: GPU-11111111", "GPU-99999999"]);
    // On one GPU 5 % would be far beyond doubt. Two gains of 2.887 % are 4.083 % together.
    let forced = place.compare(&a, &b, &["--force"]).exits(0);
    forced.shows(&["†", "compared in spite of: GPU: GPU-11111111", "their gain is in the interval"]);
    let comparison = place.compare(&a, &b, &["--force", "--format", "json"]).exits(0).json();
    let energy = figure(&comparison, 0, "energy_per_output_token_j");
    close(&energy["gain_included"], 0.040_83, 1e-4);
    close(&energy["low"], -0.0310, 1e-3);
    close(&energy["high"], 0.1377, 1e-3);
    let speed = figure(&comparison, 0, "output_tokens_per_s");
    assert_eq!((&speed["gain_included"], &speed["verdict"]), (&Value::Null, &json!("no_difference_seen")));
    // Without a figure for the gain nothing can be said of energy.
    let mut unknown = b.clone();
    unknown.each_run(|run| run["metrics"]["energy"]["uncertainty"] = Value::Null);
    place.compare(&a, &unknown, &["--force"]).exits(3).shows(&["how sure their gain is is not known"]);
}

#[test]
fn runs_of_one_cycle_belong_together_in_one_interleaved_study_only() {
    let place = Place::new();
    let mut study = Study::of("s", 2, 5, "");
    // Both experiments take the same energy, and what changes from cycle to cycle is large and shared.
    for experiment in 0..2 {
        for cycle in 0..5 {
            let hour = 1.0 + 0.1 * cycle as f64;
            let own = 1.0 + 0.01 * experiment as f64 + 0.0005 * ((cycle * 7 + experiment) % 3) as f64;
            super::studies::set_energy(study.run(experiment, cycle), 1000.0 * hour * own);
        }
    }
    place.write("s.json", &study);
    let by = ["compare", "s.json", "--by", "candle.batch_size"];
    let answer = place.llem(&by).exits(1);
    let answer = answer.shows(&["5 and 5 runs, paired by cycle", "candle.batch_size 1 → 2", "+1.0 %", "FAILED"]);
    assert!(answer.stdout.contains("t on logarithms, paired by cycle"), "{}", answer.stdout);
    // One experiment after the other: the same figures say nothing.
    study.0["execution"]["cycle_order"] = json!("sequential");
    place.write("s.json", &study);
    place.llem(&by).exits(0).shows(&["Welch's t", "no difference seen"]);
    place.llem(&["compare", "s.json", "--by", "candle.batchsize"]).exits(2).says(&["did you mean candle.batch_size?"]);
    place.llem(&["compare", "s.json", "--by", "dtype"]).exits(2).says(&["no two experiments"]);
    place.llem(&["compare", "s.json"]).exits(2);
}

#[test]
fn another_image_is_what_engine_versions_are_compared_by() {
    let place = Place::new();
    let with_image = |id: &str, tag: &str| Study::of(id, 2, 3, &format!("candle: {{image: 'repo:{tag}'}}"));
    let (a, mut b) = (with_image("a", "v1"), with_image("b", "v2"));
    b.each_run(|run| run["identity"]["engine_version"] = json!("0.12.0"));
    let answer = place.compare(&a, &b, &[]).exits(0);
    answer.shows(&["candle.image repo:v1 → repo:v2", "engine: candle 0.11.1 → candle 0.12.0", "passed: 2 of 2 rules"]);
    // Anything else that differs is no pair, and is named.
    let other = Study::of("b", 2, 3, "dtype: bfloat16");
    place.compare(&Study::new("a", 2, 3), &other, &[]).exits(2).says(&["dtype: \"auto\" and \"bfloat16\"", "--by"]);
    let by = ["--by", "dtype", "--fail-on", "none"];
    place.compare(&Study::new("a", 2, 3), &other, &by).exits(0).shows(&["dtype auto → bfloat16"]);
}

#[test]
fn directories_files_and_single_runs_are_sides() {
    let place = Place::new();
    let study = Study::new("a", 1, 3);
    fs_err::create_dir(place.path("study")).unwrap();
    place.write("study/study.json", &study).write("baseline.json", &Study::new("b", 1, 3));
    place.llem(&["compare", "baseline.json", "study"]).exits(0);
    place.llem(&["compare", "study/study.json", "baseline.json"]).exits(0);
    place.llem(&["compare", "nowhere", "study"]).exits(2).says(&["nowhere", "is not there"]);
    // A single run decides nothing, and its figures are shown.
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/old-results/schema-1/result.json");
    let mut run: Value = serde_json::from_slice(&fs_err::read(old).unwrap()).unwrap();
    run["valid"] = json!(true);
    run["reasons"] = json!([]);
    fs_err::create_dir(place.path("run")).unwrap();
    fs_err::write(place.path("run/result.json"), run.to_string()).unwrap();
    run["study_id"] = json!("another");
    fs_err::write(place.path("another.json"), run.to_string()).unwrap();
    place.llem(&["compare", "run", "run/result.json"]).exits(2).says(&["are the same measurement"]);
    place.llem(&["compare", "run", "another.json"]).exits(3).shows(&[
        "1 and 1 runs",
        "tokens/s",
        " 0 %",
        "a test needs 2",
    ]);
}

#[test]
fn an_older_study_without_identities_is_compared_with_a_warning() {
    let place = Place::new();
    let (mut a, b) = (Study::new("a", 1, 5), Study::new("b", 1, 5).with_energy(0.05));
    a.each_run(|run| {
        run.as_object_mut().unwrap().remove("identity");
    });
    // Whether the sensors are the same is not known for certain: 5 % may be their gain.
    place.compare(&a, &b, &[]).exits(0).shows(&["the baseline does not say on which machine", "†"]);
    // The GPU is known all the same, by its sensor.
    place.compare(&a, &b.on_gpu(OTHER_GPU), &[]).exits(2).says(&["GPU: GPU-11111111"]);
}

#[test]
fn documents_go_to_a_file_and_the_table_to_stdout() {
    let (a, b, place) = (Study::new("a", 2, 5), Study::new("b", 2, 5).with_energy(0.03), Place::new());
    let junit = ["--format", "junit", "--output", "junit.xml"];
    place.compare(&a, &b, &junit).exits(1).shows(&["failed: 2 of 2 rules"]);
    let xml = fs_err::read_to_string(place.path("junit.xml")).unwrap();
    assert!(xml.contains("<testsuite name=\"llem compare\" tests=\"2\" failures=\"2\" errors=\"0\""), "{xml}");
    let case = "<testcase classname=\"batch_size=1\" name=\"energy_per_output_token_j &gt; 0 %\">";
    assert!(
        xml.contains(case) && xml.contains("<failure type=\"rule\" message=\"+3.0 % (+2.6 to +3.4 %), p &lt;0.001\">"),
        "{xml}"
    );
    let markdown = place.compare(&a, &b, &["--format", "markdown"]).exits(1);
    markdown.shows(&[
        "### llem compare: ❌ failed: 2 of 2 rules",
        "| ❌ | `energy_per_output_token_j > 0 %` | `batch_size=1` |",
        "| `batch_size=1` | J/token |",
        "**more** |",
    ]);
    place.compare(&a, &b, &["--format", "junit", "--output", "no/such/file"]).exits(2).says(&["no/such/file"]);
}

#[test]
fn tables_fit_into_80_columns() {
    let (a, b, place) = (Study::new("a", 3, 5), Study::new("b", 3, 5).with_energy(0.03), Place::new());
    let answer = place.compare(&a, &b, &["--fail-on", "e2e_p99_ms > +5%"]).exits(0);
    let widest = answer.stdout.lines().max_by_key(|line| line.chars().count()).unwrap();
    assert!(widest.chars().count() <= 80, "{widest}");
}
