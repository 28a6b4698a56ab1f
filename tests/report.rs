//! `llem report` on two studies that are kept beside this file (tests/report/make makes them): `energy` has figures of a scripted agent, 4
//! experiments in 5 cycles with one run that is not valid; `quick` is a look by `--profile quick`, without a valid run.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

#[path = "report/browser.rs"]
mod browser;
#[path = "report/grown.rs"]
mod grown;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use llem::result::StudyResult;
use serde_json::{Value, json};

use grown::Grown;

/// Where the studies are.
fn studies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/report")
}

fn llem(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llem"));
    command.arg("report").args(arguments).current_dir(studies()).env_remove("COLUMNS").env_remove("RUST_LOG");
    command.output().unwrap()
}

/// What it prints when it succeeds, and says nothing else.
#[track_caller]
fn report(arguments: &[&str]) -> String {
    let output = llem(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn analysis(study: &str) -> Value {
    serde_json::from_str(&report(&[study, "--format", "json"])).unwrap()
}

/// Exit code and the error.
fn refused(study: &Path) -> (Option<i32>, String) {
    let output = llem(&[study.to_str().unwrap()]);
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[track_caller]
fn same_as_kept(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(studies().join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn tables_fit_and_say_what_they_said() {
    for study in ["energy", "quick"] {
        let table = report(&[study]);
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        same_as_kept(&format!("{study}-table"), &table);
        same_as_kept(&format!("{study}-markdown"), &report(&[study, "--format", "markdown"]));
        same_as_kept(&format!("{study}-csv"), &report(&[study, "--format", "csv"]));
    }
}

/// The rows of a CSV without quoted cells, by their columns.
fn rows(csv: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = csv.split("\r\n").filter(|line| !line.is_empty());
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert!(!csv.contains('"'));
    let row = |line: &str| head.iter().map(|h| (*h).to_owned()).zip(line.split(',').map(str::to_owned)).collect();
    lines.map(row).collect()
}

#[test]
fn figures_are_those_of_the_runs_whatever_the_format() {
    let study = StudyResult::from_json(&fs_err::read(studies().join("energy/study.json")).unwrap()).unwrap();
    let said = analysis("energy");
    let csv = rows(&report(&["energy", "--format", "csv"]));
    let html = report(&["energy", "--format", "html"]);
    // Student's t at 97.5 % with n − 1 degrees of freedom.
    let t = BTreeMap::from([(4, 3.182_446_305_284_263), (5, 2.776_445_105_197_79)]);
    for (place, experiment) in study.experiments.iter().enumerate() {
        let valid: Vec<_> = experiment.runs.iter().filter(|run| run.valid).collect();
        let n = valid.len() as f64;
        let values: Vec<f64> = valid.iter().map(|r| r.metrics.as_ref().unwrap().output_tokens_per_s).collect();
        let mean = values.iter().sum::<f64>() / n;
        let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        let half = t[&valid.len()] * sd / n.sqrt();
        let figures = said["experiments"][place]["figures"].as_array().unwrap();
        let figure = figures.iter().find(|f| f["figure"] == "output_tokens_per_s").unwrap();
        let number = |value: &Value| value.as_f64().unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9 * b.abs(), "{a} {b}");
        close(number(&figure["mean"]), mean);
        close(number(&figure["sd"]), sd);
        close(number(&figure["interval"]["low"]), mean - half);
        close(number(&figure["interval"]["high"]), mean + half);
        assert_eq!((&figure["interval"]["method"], figure["n"].as_u64()), (&json!("t"), Some(valid.len() as u64)));
        assert_eq!(figure["bca"].is_null(), valid.len() < 5);
        for figure in figures {
            let name = figure["figure"].as_str().unwrap();
            let row = &csv[place];
            assert_eq!(row[name].parse::<f64>().unwrap().to_bits(), number(&figure["mean"]).to_bits());
            assert_eq!(row[&format!("{name}_ci_low")].parse::<f64>().ok(), figure["interval"]["low"].as_f64());
            assert!(html.contains(&format!("data-v=\"{}\">", number(&figure["mean"]))), "{name}");
        }
    }
    // The standing in study.json, which `llem run` wrote, is the one that is reported.
    let written: Vec<Value> = study.pareto.unwrap().experiments.iter().map(|entry| json!(entry.standing)).collect();
    let reported: Vec<Value> =
        said["experiments"].as_array().unwrap().iter().map(|experiment| experiment["standing"].clone()).collect();
    assert_eq!(written, reported);
    assert_eq!(reported, [json!("dominated"), json!("dominated"), json!("frontier"), json!("dominated")]);
}

#[test]
fn a_run_that_is_not_valid_is_left_out_and_named_and_odd_ones_stay() {
    let said = analysis("energy");
    assert_eq!(said["runs"], json!({"done": 20, "completed": 20, "valid": 19, "failed": 0, "interrupted": 0}));
    let last = &said["experiments"][3];
    assert_eq!(last["left_out"][0]["codes"], json!(["sources_disagree"]));
    let energy = |place: usize| said["experiments"][place]["figures"][0].clone();
    assert_eq!((energy(3)["figure"].as_str(), energy(3)["n"].as_u64()), (Some("energy_per_output_token_j"), Some(4)));
    // Cycle 4 of the first experiment took 9 % more power.
    assert_eq!(energy(0)["n"].as_u64(), Some(5));
    assert!(energy(0)["outlier"].as_str().unwrap().ends_with("-c4"));
    // The gain of the sensors, ±5 %, does not get smaller with runs; joules per token have the budget of the energy.
    let uncertainty = &energy(2)["uncertainty"];
    let percent = uncertainty["expanded_percent"].as_f64().unwrap();
    assert!((5.77..6.5).contains(&percent), "{uncertainty}");
    // Latencies have intervals of their own, from enough requests on.
    let ttft = &said["experiments"][0]["latencies"][0];
    assert_eq!(
        (ttft["latency"].as_str(), ttft["percentiles"][0]["interval"]["method"].as_str()),
        (Some("ttft_ms"), Some("order_statistics"))
    );
    assert!(ttft["percentiles"][3]["interval"].is_null() && ttft["percentiles"][3]["value"].is_f64());
}

#[test]
fn figures_of_runs_that_are_not_valid_are_no_statement() {
    let said = analysis("quick");
    for experiment in said["experiments"].as_array().unwrap() {
        assert_eq!((&experiment["valid"], &experiment["standing"]), (&json!(false), &Value::Null));
        for figure in experiment["figures"].as_array().unwrap() {
            assert!(figure["mean"].is_f64() && figure["interval"].is_null() && figure["uncertainty"].is_null());
        }
    }
    let html = report(&["quick", "--format", "html"]);
    assert!(html.contains("None of 2 runs is valid") && !html.contains("Most tokens per second"));
    assert_eq!(html.matches("<tr data-e=").count(), html.matches("class=\"invalid\"").count());
}

#[test]
fn requests_that_are_not_those_of_the_figures_are_refused() {
    let copy = Grown::of(&studies().join("energy"), 1, |_| ());
    let study = fs_err::read_to_string(copy.path().join("study.json")).unwrap();
    let runs = copy.path().join("runs");
    let of = |experiment: usize| {
        let study: Value = serde_json::from_str(&study).unwrap();
        runs.join(study["experiments"][experiment]["runs"][0]["run_id"].as_str().unwrap()).join("requests.parquet")
    };
    // The requests of another experiment: four times as many at once.
    fs_err::copy(of(2), of(0)).unwrap();
    let (code, said) = refused(copy.path());
    assert!(code == Some(1) && said.contains("requests.parquet: has 76 as n of ttft_ms"), "{said}");
}

#[test]
fn what_is_hidden_in_a_mean_is_told() {
    let grown = Grown::of(&studies().join("energy"), 1, |study| {
        for run in study["experiments"][0]["runs"].as_array_mut().unwrap().iter_mut().take(2) {
            run["metrics"]["energy"] = json!({"domains": []});
        }
        for run in study["experiments"][1]["runs"].as_array_mut().unwrap() {
            for (key, value) in [("status", json!("failed")), ("valid", json!(false)), ("metrics", Value::Null)] {
                run[key] = value;
            }
            run["failure"] = json!({"class": "died_at_import", "phase": "import", "message": "No module named vllm"});
        }
        let name = "/models/".to_owned() + &"long".repeat(30);
        for (place, ending) in [(2, "/=v1"), (3, "/=v2")] {
            study["experiments"][place]["varied"][0][1] = json!(format!("{name}{ending}"));
        }
        study["experiments"][0]["label"] = json!("=HYPERLINK(1)");
    });
    for run in fs_err::read_dir(grown.path().join("runs")).unwrap() {
        fs_err::remove_dir_all(run.unwrap().path()).unwrap();
    }
    let directory = grown.path().to_str().unwrap();
    // Names share what numbers leave, and no number is cut.
    let table = report(&[directory]);
    let rows = table.lines().take_while(|line| !line.starts_with("mean ±"));
    assert!(rows.clone().count() > 8 && rows.clone().all(|line| line.chars().count() <= 80), "{table}");
    assert!(rows.clone().any(|line| line.contains("1.869") || line.contains("1.868")), "{table}");
    let markdown = report(&[directory, "--format", "markdown"]);
    assert!(markdown.contains("lack the figure: J/token of") && markdown.contains("(3 of 5)"), "{markdown}");
    assert!(
        markdown.contains("died\\_at\\_import (5 runs)") && markdown.contains("No module named vllm"),
        "{markdown}"
    );
    assert!(markdown.contains("=v1") && markdown.contains("=v2"), "{markdown}");
    let csv = report(&[directory, "--format", "csv"]);
    assert!(csv.contains(",'=HYPERLINK(1),") && csv.contains("energy_per_output_token_j_n"), "{csv}");
    let html = report(&[directory, "--format", "html"]);
    assert!(html.contains("No module named vllm") && !html.contains("Lock file"));
    fs_err::write(grown.path().join("study.lock.json"), "{\"weights\": \"<b>07f6</b>\"}").unwrap();
    assert!(report(&[directory, "--format", "html"]).contains("&lt;b&gt;07f6&lt;/b&gt;"));
}

#[test]
fn objectives_can_be_chosen() {
    let said: Value = serde_json::from_str(&report(&[
        "energy",
        "--format",
        "json",
        "--objectives",
        "ttft_p50_ms,output_tokens_per_s",
    ]))
    .unwrap();
    let standing: Vec<&str> =
        said["experiments"].as_array().unwrap().iter().map(|e| e["standing"].as_str().unwrap()).collect();
    assert_eq!(standing, ["frontier", "dominated", "frontier", "dominated"]);
    assert_eq!(said["objectives"][1], json!({"figure": "output_tokens_per_s", "direction": "maximise"}));
    let output = llem(&["energy", "--objectives", "speed"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no such figure; there are energy_per_output_token_j"));
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let html = report(&["energy", "--format", "html"]);
    let policy = "http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ";
    assert!(html.find(policy).unwrap() < html.find("<style>").unwrap());
    for loader in
        ["src=", "href=\"http", "url(", "@import", "fetch(", "XMLHttpRequest", "import(", "WebSocket", "innerHTML"]
    {
        assert!(!html.contains(loader), "{loader}");
    }
    // The name of SVG's namespace is the only address.
    assert_eq!(
        html.matches("http").count(),
        html.matches("http-equiv").count() + html.matches("http://www.w3.org/2000/svg").count()
    );
    for id in [
        "summary",
        "experiments",
        "pareto",
        "main-effects",
        "latency",
        "power",
        "validity",
        "environment",
        "study-file",
    ] {
        assert_eq!(html.matches(&format!(" id=\"{id}\"")).count(), 1, "{id}");
        assert_eq!(html.matches(&format!("href=\"#{id}\"")).count(), 1 + usize::from(id == "experiments"), "{id}");
    }
    assert!(html.contains("workload.input_tokens: [32, 128]") && html.contains("sources_disagree"));
    assert!(html.len() < 150_000, "{}", html.len());
}

/// A page's data.
fn data(html: &str) -> Value {
    let (_, rest) = html.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn curves_keep_their_peaks_and_phases() {
    let html = report(&["energy", "--format", "html"]);
    let data = data(&html);
    let runs = data["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 20);
    let study = StudyResult::from_json(&fs_err::read(studies().join("energy/study.json")).unwrap()).unwrap();
    for run in runs {
        let names: Vec<u64> = run["p"].as_array().unwrap().iter().map(|p| p[0].as_u64().unwrap()).collect();
        assert_eq!(names.len(), 7);
        let row = study.experiments.iter().flat_map(|e| &e.runs).find(|row| row.run_id == run["r"].as_str().unwrap());
        let window = run["w"][1].as_f64().unwrap() - run["w"][0].as_f64().unwrap();
        assert!((window - row.unwrap().metrics.as_ref().unwrap().window_s).abs() < 2e-3, "{run}");
        assert_eq!(run["d"].as_array().unwrap().len(), 2);
    }
    let package = data["domains"].as_array().unwrap().iter().position(|d| d == "rapl:package-0").unwrap();
    // Bursts of prefill at 1.18 times the mean power of 96 W or more, with noise of 1 %.
    for run in runs {
        let curve = run["d"].as_array().unwrap().iter().find(|d| d["n"] == package).unwrap();
        assert!(curve["m"].as_f64().unwrap() > 105.0, "{curve}");
    }
}

#[test]
fn markup_and_endless_names_of_files_are_text() {
    let hostile = "</script><img src=x onerror=alert(1)>|`*[a](http://x)\u{1b}[31m";
    let grown = Grown::of(&studies().join("energy"), 1, |study| {
        study["name"] = json!(hostile);
        study["profile"] = json!(hostile);
        let experiments = study["experiments"].as_array_mut().unwrap();
        experiments[0]["label"] = json!("x".repeat(10_000));
        experiments[1]["label"] = json!(hostile);
        experiments[1]["varied"][0][1] = json!(hostile);
        experiments[2]["varied"][0][1] = json!("y".repeat(10_000));
        experiments[3]["runs"][2]["reasons"][0]["message"] = json!(hostile);
    });
    fs_err::write(grown.path().join("study.yaml"), hostile).unwrap();
    let directory = grown.path().to_str().unwrap().to_owned();
    let html = report(&[&directory, "--format", "html"]);
    assert!(!html.contains("<img") && html.matches("</script>").count() == 2 && !html.contains('\u{1b}'));
    assert!(html.contains("&lt;img src=x onerror=alert(1)&gt;") && !html.contains(&"x".repeat(200)));
    assert!(html.len() < 200_000);
    let table = report(&[&directory]);
    assert!(!table.contains('\u{1b}') && !table.contains(&"x".repeat(200)));
    let markdown = report(&[&directory, "--format", "markdown"]);
    assert!(!markdown.contains('<') && !markdown.contains(&"y".repeat(200)));
    browser::check(&html, &[(1280, 900)], |page| {
        assert_eq!(page.matches("<tr data-e=").count(), 4);
        assert!(!page.contains("<img"));
    });
}

#[test]
fn what_cannot_be_read_is_an_error_with_path_and_advice() {
    let place = tempfile::tempdir().unwrap();
    let (code, said) = refused(&place.path().join("absent"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("absent") && said.contains("is not there; give a directory that `llem run` made"), "{said}");
    let copy = Grown::of(&studies().join("energy"), 1, |_| ());
    let study = copy.path().join("study.json");
    let whole = fs_err::read_to_string(&study).unwrap();
    fs_err::write(&study, &whole[..whole.len() / 2]).unwrap();
    let (code, said) = refused(copy.path());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("study.json") && said.contains("cut off"), "{said}");
    fs_err::write(&study, &whole).unwrap();
    let requests = copy.path().join("runs").join(first_run(&whole)).join("requests.parquet");
    fs_err::write(&requests, "PAR1").unwrap();
    let (code, said) = refused(copy.path());
    assert!(code == Some(1) && said.contains("requests.parquet: not a table of llem"), "{said}");
    fs_err::remove_file(&requests).unwrap();
    let table = report(&[copy.path().to_str().unwrap()]);
    assert!(table.contains("1 file of the study's directory"), "{table}");
}

fn first_run(study: &str) -> String {
    let study: Value = serde_json::from_str(study).unwrap();
    study["experiments"][0]["runs"][0]["run_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_file_is_written_whole() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("report.md");
    let output = llem(&["energy", "--format", "markdown", "--output", path.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert_eq!(fs_err::read_to_string(&path).unwrap(), report(&["energy", "--format", "markdown"]));
    let output = llem(&["energy", "--output", place.path().join("no/such").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_thousand_experiments_are_a_page_of_less_than_5_mb_that_works() {
    let grown = Grown::of(&studies().join("energy"), 250, |study| {
        for experiment in study["experiments"].as_array_mut().unwrap() {
            experiment["runs"].as_array_mut().unwrap().truncate(1);
        }
    });
    let html = report(&[grown.path().to_str().unwrap(), "--format", "html"]);
    assert!(html.len() < 5_000_000, "{}", html.len());
    assert_eq!(html.matches("<tr data-e=").count(), 1000);
    assert_eq!(data(&html)["runs"].as_array().unwrap().len(), 1000);
    browser::check(&html, &[(1280, 900)], |page| {
        assert_eq!(page.matches("<tr data-e=").count(), 1000);
        assert!(page.contains("id=\"filter\"") && page.contains("aria-label=\"Power of "));
    });
}

#[test]
fn a_browser_draws_every_plot_without_a_word() {
    for (study, plots) in [("energy", 2), ("quick", 1)] {
        let html = report(&[study, "--format", "html"]);
        browser::check(&html, &[(1280, 900), (500, 844)], |page| {
            let page = page.split("<script").next().unwrap();
            let drawn = page.matches("arrow keys go through the points").count();
            assert_eq!(drawn, plots, "{study}");
            assert!(page.contains("aria-label=\"Distribution of ttft_ms") && page.contains("aria-label=\"Power of "));
            assert!(page.contains("aria-label=\"Mean ") && page.contains("<button type=\"button\">tokens/s</button>"));
            assert!(!page.contains("NaN") && !page.contains("undefined"), "{study}");
        });
    }
}
