//! What `llem` makes of the energy that an agent reports: files, table, exit code. In the agent's place is a script that hands out
//! reports with known numbers, so that no sensor is needed.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

mod scripted_agent;
mod user_config;
mod user_config_fields;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use fake_nvml::{Device, Script};
use llem::result::{FlopsReference, ParametersSource, RunResult, RunStatus, StudyResult, StudyStatus};
use llem_protocol::{FailureClass, Phase, REPORT_SCHEMA_VERSION, ReasonCode, Severity};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;

use scripted_agent::place_llem;

const S: u64 = 1_000_000_000;

/// Hands out `report-c1.json` in cycle 1, and so on.
const AGENT: &str = r#"#!/bin/sh
here=$(dirname "$0")
field() { sed -n "s/^ *\"$1\": \"\(.*\)\",*\$/\1/p" "$job"; }
job=$1
run=$(field run_id)
out=$(field output_dir)
sed "s/RUN_ID/$run/" "$here/report-${run##*-}.json" > "$out/report.json"
cp "$here/requests.jsonl" "$out/"
: > "$out/samples.jsonl"
sha=$(sha256sum "$out/report.json" | cut -d" " -f1)
printf '{"seq":0,"t_ns":0,"event":"hello","protocol_version":%s,"agent_version":"0","run_id":"%s","pid":1,"realtime_ns":0}\n' \
    "$(cat "$here/protocol")" "$run"
printf '{"seq":1,"t_ns":0,"event":"done","report_sha256":"%s"}\n' "$sha"
"#;

/// `llem` with the script beside it.
struct Bench {
    directory: TempDir,
    study: Value,
    user: Value,
    /// Further variables of `llem`'s environment.
    variables: Vec<(&'static str, PathBuf)>,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = |name: &str| directory.path().join(name);
        place_llem(directory.path(), AGENT);
        let requests = (0..2).fold(String::new(), |lines, index| format!("{lines}{}\n", request(index)));
        fs_err::write(path("requests.jsonl"), requests).unwrap();
        let model = json!({"layers": 1, "hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "vocab": 512});
        let study = json!({
            "name": "energy", "model": {"synthetic": model}, "backend": "candle",
            "workload": {"dataset": "synthetic", "n": 2, "input_tokens": 8, "output_tokens": 5},
            "execution": {"n_cycles": 2},
        });
        let bench = Self { directory, study, user: json!({}), variables: Vec::new() };
        for (cycle, package_j) in [(1, 900.0), (2, 940.0)] {
            bench.report(cycle, package_j, &json!([]));
        }
        bench
    }

    /// A machine with this GPU, for a backend that computes on it.
    fn with_gpu(uuid: &str) -> Self {
        let mut bench = Self::new();
        let nvml = bench.path("nvml");
        fs_err::create_dir(&nvml).unwrap();
        let device = Device { uuid: uuid.to_owned(), ..Device::default() };
        let script = Script { devices: vec![device], ..Script::starting_now() };
        bench.variables = fake_nvml::stage(&nvml, &script).unwrap().to_vec();
        bench.study["backend"] = json!("pytorch");
        bench.user = json!({"gpu": {"devices": [uuid], "lock_dir": bench.path("locks")}});
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the agent will say in a cycle.
    fn report(&self, cycle: u32, package_j: f64, reasons: &Value) {
        let report = report(package_j, reasons).to_string();
        fs_err::write(self.path(&format!("report-c{cycle}.json")), report).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        fs_err::write(self.path("study.yaml"), self.study.to_string()).unwrap();
        self.llem(&[&["run", "study.yaml", "--runner", "process"], arguments].concat())
    }

    fn llem(&self, arguments: &[&str]) -> Output {
        fs_err::write(self.path("user.yaml"), self.user.to_string()).unwrap();
        let mut command = Command::new(self.path("llem"));
        command.args(arguments);
        command.current_dir(self.directory.path()).env("XDG_CACHE_HOME", self.path("cache"));
        command.env("LLEM_CONFIG", self.path("user.yaml")).env_remove("LLEM_OUTPUT").env_remove("RUST_LOG");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.output().unwrap()
    }

    fn study_dir(&self) -> PathBuf {
        only(&self.path("results"))
    }

    fn study(&self) -> StudyResult {
        StudyResult::from_json(&fs_err::read(self.study_dir().join("study.json")).unwrap()).unwrap()
    }

    /// The result of the first run.
    fn first(&self) -> RunResult {
        let run_id = self.study().experiments[0].runs[0].run_id.clone();
        let path = self.study_dir().join("runs").join(run_id).join("result.json");
        RunResult::from_json(&fs_err::read(path).unwrap()).unwrap()
    }
}

fn only(directory: &Path) -> PathBuf {
    let mut entries: Vec<PathBuf> = fs_err::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0)
}

/// Five tokens between 10 and 30 s.
fn request(index: u64) -> Value {
    let token_ns: Vec<u64> = (0..5).map(|token| (11 + 3 * token + index) * S).collect();
    json!({"pass": 3, "index": index, "batch": 0, "prompt_tokens": 8, "submit_ns": 10 * S, "token_ns": token_ns,
        "output_ids": [1, 2, 3, 4, 5]})
}

/// Package and memory between two edges; memory takes 100 J and both are unsure by 3 J.
fn energy(package_j: f64) -> Value {
    let edge = |t_ns: u64| json!({"t_ns": t_ns, "aligned": true, "bracket_ms": 1.0, "counter_j": 5.0});
    let device = |id: &str, scope: &str, joules: f64| {
        json!({"domain": {"source": "rapl", "id": id, "scope": scope}, "start": edge(10 * S), "end": edge(30 * S),
            "energy_j": joules, "method": "counter", "edge_u_j": 3.0, "sampling_u_j": 0.0, "counter_j": joules,
            "curve_j": joules, "curve_u_j": 1.0, "curve_kind": "mean", "lead_j": 0.0, "tail_j": 0.0,
            "mean_w": joules / 20.0, "peak_w": 60.0, "samples": 200})
    };
    json!({"devices": [device("package-0", "package", package_j), device("dram-0", "memory", 100.0)]})
}

/// A window of 20 s with one pass, after 5 s of idling at 10 W and 1 W.
fn report(package_j: f64, reasons: &Value) -> Value {
    let clock = json!({"monotonic_ns": 1, "realtime_ns": 2});
    let idle = |id: &str, scope: &str, watts: f64| json!({"domain": {"source": "rapl", "id": id, "scope": scope}, "mean_w": watts, "spread_w": 0.1, "mean_u_w": 0.05});
    json!({
        "schema_version": REPORT_SCHEMA_VERSION, "run_id": "RUN_ID", "agent_version": "0", "clock_start": clock,
        "clock_end": clock, "environment": {"gpus": []},
        "phases": [{"phase": "load", "start_ns": S, "end_ns": 3 * S, "energy": energy(50.0)}],
        "baseline": {"start_ns": 0, "end_ns": 5 * S,
            "devices": [idle("package-0", "package", 10.0), idle("dram-0", "memory", 1.0)]},
        "window": {"start_ns": 10 * S, "end_ns": 30 * S, "energy": energy(package_j), "split": [],
            "passes": [{"pass": 3, "start_ns": 10 * S, "end_ns": 30 * S, "prompt_tokens": 16, "output_tokens": 10}],
            "agent": {"cpu_s": 0.1, "cpu_share": 0.005, "resident_bytes": 1}},
        "prefill": {"start_ns": 31 * S, "end_ns": 36 * S, "energy": energy(100.0),
            "passes": vec![json!({"pass": 4, "start_ns": 31 * S, "end_ns": 36 * S, "prompt_tokens": 16, "output_tokens": 2}); 2]},
        "reasons": reasons, "request_records": 2, "power_samples": 0,
    })
}

#[track_caller]
fn close(a: Option<f64>, b: f64) {
    let a = a.unwrap();
    assert!((a - b).abs() <= 1e-9 * b.abs(), "{a} {b}");
}

#[test]
fn energy_reaches_every_file_and_the_table() {
    let mut bench = Bench::new();
    let calibration = json!({"device": "package-0", "factor": 1.1, "relative_uncertainty": 0.01, "date": "2026-11-22",
        "method": "wall meter"});
    let carbon = json!({"intensity_g_per_kwh": 360.0, "pue": 1.5, "source": "grid"});
    bench.user = json!({"calibration": [calibration], "carbon": carbon});
    let output = bench.run(&[]);
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{stdout}\n{stderr}");

    let result = bench.first();
    let metrics = result.metrics.unwrap();
    let figures = metrics.energy;
    close(figures.energy_raw_j, 1_000.0);
    // 1.1 * 900 + 100
    close(figures.energy_j, 1_090.0);
    // less 20 s of 1.1 * 10 W + 1 W
    close(figures.energy_net_j, 850.0);
    close(figures.energy_per_output_token_j, 109.0);
    close(figures.co2_g, 1_090.0 / 3.6e6 * 1.5 * 360.0);
    let gain_j = 0.01 * 990.0 + 0.05 / 3.0_f64.sqrt() * 100.0;
    close(figures.uncertainty.map(|u| u.gain_j), gain_j);
    let split = figures.split_by_prefill_pass.unwrap();
    // Half of 1.1 * 100 + 100.
    close(Some(split.prefill_j), 105.0);
    close(Some(split.decode_j), 985.0);
    assert_eq!(figures.domains[0].calibration.as_ref().unwrap().method, "wall meter");
    close(result.phase_energy[0].energy_j, 155.0);
    assert!(result.baseline.is_some() && result.prefill.is_some());
    let parameters = 2 * 512 * 64 + (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64;
    let FlopsReference { parameters: counted, parameters_source, prefill, decode, .. } = result.flops.unwrap();
    assert_eq!((counted, parameters_source), (parameters, ParametersSource::SafetensorsHeaders));
    close(Some(prefill), 2.0 * parameters as f64 * 16.0);
    close(Some(decode), 2.0 * parameters as f64 * 8.0);

    // The second run took 1.1 * 40 J more: the gain stays, the scatter is 44 / sqrt(2) / sqrt(2).
    let summary = &bench.study().experiments[0].summary;
    close(summary.energy_j.map(|s| s.mean), 1_112.0);
    let mean = summary.energy_j_uncertainty.unwrap();
    close(Some(mean.gain), gain_j + 0.01 * 22.0);
    close(mean.repeatability, 22.0);
    close(Some(mean.within_runs), (2.0 * (3.3_f64 * 3.3 + 9.0)).sqrt() / 2.0);
    close(Some(mean.comparison), 22.0);
    close(Some(mean.expanded), 2.0 * mean.gain.hypot(22.0));
    close(summary.energy_per_output_token_j_uncertainty.map(|u| u.expanded), mean.expanded / 10.0);

    let file = fs_err::File::open(bench.study_dir().join("experiments.parquet")).unwrap().into_parts().0;
    let table = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().next().unwrap().unwrap();
    let cell = |column: &str| Some(table[column].as_primitive::<Float64Type>().value(0));
    close(cell("energy_net_j"), 872.0);
    close(cell("co2_g"), 1_112.0 / 3.6e6 * 1.5 * 360.0);
    close(cell("energy_j_expanded_u"), mean.expanded);
    close(cell("energy_per_output_token_j_comparison_u"), 2.2);

    assert!(stderr.contains("109.0 J/token"), "{stderr}");
    for part in ["111.2 ± 3.1", "J/token is gross", "±4.6 %", "±4.0 % without"] {
        assert!(stdout.contains(part), "no `{part}` in\n{stdout}");
    }
    assert!(stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
    assert!(!stdout.contains("no_carbon_intensity"), "{stdout}");
}

#[test]
fn a_missing_carbon_intensity_is_said_once() {
    let bench = Bench::new();
    let output = bench.run(&[]);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert_eq!(text.matches("no_carbon_intensity").count(), 1, "{text}");
    assert!(text.contains("no_carbon_intensity (2 runs)"), "{text}");
    let result = bench.first();
    assert!(result.valid && result.reasons.iter().any(|r| r.code == ReasonCode::NoCarbonIntensity));
    let figures = result.metrics.unwrap().energy;
    assert_eq!((figures.co2_g, figures.carbon), (None, None));
}

#[test]
fn a_strict_study_fails_by_a_run_that_is_not_valid_and_keeps_its_figures() {
    let mut bench = Bench::new();
    let throttled = json!([{"code": "throttled", "severity": "invalid", "message": "too hot"}]);
    bench.report(1, 900.0, &throttled);
    bench.user = json!({"carbon": {"intensity_g_per_kwh": 1.0, "pue": 1.0, "source": "x"}});
    for (strict, exit, status) in [(false, 0, RunStatus::Completed), (true, 1, RunStatus::Failed)] {
        bench.study["execution"]["strict"] = json!(strict);
        let output = bench.run(&[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(exit), "{stderr}");
        let result = bench.first();
        assert_eq!((result.status, result.valid, result.metrics.is_some()), (status, false, true));
        if strict {
            let failure = result.failure.unwrap();
            assert_eq!((failure.class, failure.phase), (FailureClass::NotValid, Phase::Window));
            assert!(failure.message.contains("throttled"), "{failure}");
            assert!(stderr.contains("failed") && stderr.contains("100.0 J/token"), "{stderr}");
            let study = bench.study();
            assert_eq!((study.status, study.counts()), (StudyStatus::Failed, (1, 1, 0)));
            assert_eq!((study.experiments[0].summary.runs, study.experiments[0].summary.valid), (1, true));
        }
        fs_err::remove_dir_all(bench.path("results")).unwrap();
    }
}

/// The agent stands beside the engine and may be wrong with it: the host holds the records against the workload once more.
#[test]
fn records_of_other_work_fail_the_run_with_request_and_both_numbers() {
    let bench = Bench::new();
    let mut short = request(1);
    for list in ["token_ns", "output_ids"] {
        short[list].as_array_mut().unwrap().pop();
    }
    fs_err::write(bench.path("requests.jsonl"), format!("{}\n{short}\n", request(0))).unwrap();
    for cycle in ["c1", "c2"] {
        let path = bench.path(&format!("report-{cycle}.json"));
        let report = fs_err::read_to_string(&path).unwrap().replacen("\"output_tokens\":10", "\"output_tokens\":9", 1);
        fs_err::write(path, report).unwrap();
    }
    let output = bench.run(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let result = bench.first();
    assert_eq!((result.status, result.metrics), (RunStatus::Failed, None));
    let failure = result.failure.unwrap();
    assert_eq!((failure.class, failure.phase), (FailureClass::WrongWork, Phase::Collect));
    assert_eq!(failure.message, "request 1 in pass 3: 4 generated tokens, asked exactly 5");
}

#[test]
fn a_reason_is_as_severe_as_its_code_whatever_the_container_says() {
    let bench = Bench::new();
    bench.report(1, 900.0, &json!([{"code": "throttled", "severity": "note", "message": "it was nothing"}]));
    bench.report(2, 900.0, &json!([{"code": "host_busy", "severity": "invalid", "message": "a little"}]));
    assert!(bench.run(&[]).status.success());
    let runs = bench.study().experiments[0].runs.clone();
    let of = |run: usize, code| runs[run].reasons.iter().find(|reason| reason.code == code).unwrap().severity;
    assert_eq!((runs[0].valid, of(0, ReasonCode::Throttled)), (false, Severity::Invalid));
    assert_eq!((runs[1].valid, of(1, ReasonCode::HostBusy)), (true, Severity::Note));
}

/// The failure of the first run, whose report was changed.
fn refused(change: impl Fn(&mut Value)) -> String {
    let bench = Bench::new();
    let mut changed = report(900.0, &json!([]));
    change(&mut changed);
    fs_err::write(bench.path("report-c1.json"), changed.to_string()).unwrap();
    assert_eq!(bench.run(&[]).status.code(), Some(1));
    let result = bench.first();
    assert_eq!((result.status, result.metrics), (RunStatus::Failed, None));
    let failure = result.failure.unwrap();
    assert_eq!(failure.class, FailureClass::Protocol);
    failure.message
}

#[test]
fn a_report_with_an_unknown_reason_or_impossible_numbers_is_refused() {
    let unknown = json!([{"code": "all_is_well", "severity": "note", "message": "trust me"}]);
    assert!(refused(|report| report["reasons"] = unknown.clone()).contains("all_is_well"));
    let device = "/phases/0/energy/devices/0";
    let message = refused(|report| *report.pointer_mut(&format!("{device}/edge_u_j")).unwrap() = json!(-3.0));
    assert!(message.contains("rapl:package-0"), "{message}");
    let message = refused(|report| *report.pointer_mut("/window/energy/devices/1/lead_j").unwrap() = json!(1e300));
    assert!(message.contains("rapl:dram-0"), "{message}");
    let window = "/window/energy/devices";
    let message = refused(|report| *report.pointer_mut(&format!("{window}/0/energy_j")).unwrap() = json!(-5_000.0));
    assert!(message.contains("rapl:package-0"), "{message}");
    let again = |report: &mut Value| {
        let devices = report.pointer_mut(window).unwrap().as_array_mut().unwrap();
        devices.push(devices[1].clone());
    };
    assert!(refused(again).contains("rapl:dram-0"));
    let message = refused(|report| report["phases"][0]["end_ns"] = json!(1));
    assert!(message.contains("`load`"), "{message}");
}

#[test]
fn a_calibration_that_no_sensor_has_is_told_once_and_in_every_result() {
    let mut bench = Bench::new();
    let calibration = |device: &str| json!({"device": device, "factor": 1.1, "relative_uncertainty": 0.01, "date": "2026-11-22", "method": "wall meter"});
    bench.user = json!({"calibration": [calibration("package-0"), calibration("package-1")]});
    let output = bench.run(&[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.matches("package-1").count(), 1, "{stderr}");
    assert!(stderr.contains("package-0, dram-0"), "{stderr}");
    for run in &bench.study().experiments[0].runs {
        let told = run.reasons.iter().find(|reason| reason.code == ReasonCode::CalibrationUnmatched).unwrap();
        assert!(run.valid && told.severity == Severity::Note && !told.message.contains("of package-0"), "{told}");
    }
    bench.user = json!({"calibration": [calibration("package-0")]});
    fs_err::remove_dir_all(bench.path("results")).unwrap();
    bench.run(&[]);
    assert!(bench.first().reasons.iter().all(|reason| reason.code != ReasonCode::CalibrationUnmatched));
}

#[test]
fn compiling_is_a_phase_of_the_result() {
    let bench = Bench::new();
    let mut with = report(900.0, &json!([]));
    let stretch = |start: f64, end: f64| json!({"start_ns": (start * 1e9) as u64, "end_ns": (end * 1e9) as u64});
    with["phases"][0]["stretches"] = json!([stretch(1.0, 1.5), stretch(2.0, 3.0)]);
    let compile = json!({"phase": "compile", "start_ns": 3 * S / 2, "end_ns": 2 * S, "stretches": [stretch(1.5, 2.0)],
        "energy": energy(20.0)});
    with["phases"].as_array_mut().unwrap().push(compile);
    fs_err::write(bench.path("report-c1.json"), with.to_string()).unwrap();
    assert!(bench.run(&[]).status.success());
    let phases: Vec<_> = bench.first().phase_energy.iter().map(|p| (p.phase, p.seconds, p.energy_j)).collect();
    assert_eq!(phases, [(Phase::Load, Some(1.5), Some(150.0)), (Phase::Compile, Some(0.5), Some(120.0))]);
}
