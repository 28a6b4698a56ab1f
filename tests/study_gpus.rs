//! What `llem` makes of the processes on a run's GPU: a whole study with a scripted NVML, and a script in the agent's place whose child
//! stands for the engine.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

mod scripted_agent;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fake_nvml::{Device, Pid, Process, Script, monotonic_ns};
use llem::result::RunResult;
use llem_protocol::{REPORT_SCHEMA_VERSION, ReasonCode, Severity};
use serde_json::{Value, json};
use tempfile::TempDir;

use scripted_agent::place_llem;

/// Longer than two looks take.
const LOOKS: Duration = Duration::from_millis(700);

/// Starts an engine, and hands out the report when it is there.
const AGENT: &str = r#"#!/bin/sh
here=$(dirname "$0")
field() { sed -n "s/^ *\"$1\": \"\(.*\)\",*\$/\1/p" "$job"; }
job=$1
run=$(field run_id)
out=$(field output_dir)
sleep 300 >/dev/null 2>&1 &
engine=$!
echo $engine > "$here/engine.new" && mv "$here/engine.new" "$here/engine"
while [ ! -e "$here/go" ]; do sleep 0.05; done
kill $engine
sed "s/RUN_ID/$run/" "$here/report.json" > "$out/report.json"
cp "$here/requests.jsonl" "$out/"
: > "$out/samples.jsonl"
sha=$(sha256sum "$out/report.json" | cut -d" " -f1)
printf '{"seq":0,"t_ns":0,"event":"hello","protocol_version":%s,"agent_version":"0","run_id":"%s","pid":1,"realtime_ns":0}\n' \
    "$(cat "$here/protocol")" "$run"
printf '{"seq":1,"t_ns":0,"event":"done","report_sha256":"%s"}\n' "$sha"
"#;

/// `llem` under way on a machine with GPU-0, which the study is given, and GPU-1. The files `0` and `1` list their processes.
struct Study {
    directory: TempDir,
    llem: Child,
    engine: u32,
}

impl Study {
    fn start() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = |name: &str| directory.path().join(name);
        place_llem(directory.path(), AGENT);
        let model = json!({"layers": 1, "hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "vocab": 512});
        let study = json!({
            "name": "gpus", "model": {"synthetic": model}, "backend": "pytorch",
            "workload": {"dataset": "synthetic", "n": 1, "input_tokens": 8, "output_tokens": 2},
            "execution": {"n_cycles": 1},
        });
        fs_err::write(path("study.yaml"), study.to_string()).unwrap();
        fs_err::write(path("user.yaml"), json!({"gpu": {"devices": ["GPU-0"]}}).to_string()).unwrap();
        let device = |number: u32| {
            let pid = Pid::File(path(&number.to_string()).display().to_string());
            let processes = vec![Process { pid, bytes: Some(900 << 20), ..Process::default() }];
            Device { uuid: format!("GPU-{number}"), processes, ..Device::default() }
        };
        let script = Script { devices: vec![device(0), device(1)], ..Script::starting_now() };
        let nvml = path("nvml");
        fs_err::create_dir(&nvml).unwrap();
        let llem = Command::new(path("llem"))
            .args(["run", "study.yaml", "--runner", "process"])
            .envs(fake_nvml::stage(&nvml, &script).unwrap())
            .envs([("XDG_CACHE_HOME", path("cache")), ("LLEM_CONFIG", path("user.yaml"))])
            .env_remove("LLEM_OUTPUT")
            .env_remove("RUST_LOG")
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let engine = eventually(|| fs_err::read_to_string(path("engine")).ok()).trim().parse().unwrap();
        Self { directory, llem, engine }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts processes on a GPU in place of those that are there, and lets them be seen.
    fn put(&self, gpu: u32, pids: &[u32]) {
        let text: Vec<String> = pids.iter().map(u32::to_string).collect();
        replace(&self.path(&gpu.to_string()), &text.join("\n"));
        std::thread::sleep(LOOKS);
    }

    /// Ends the run, whose window lasted from `start_ns` until now.
    fn finish(&mut self, start_ns: u64) -> RunResult {
        self.finish_with(start_ns, monotonic_ns(), &json!({}))
    }

    /// Ends the run, whose window lasted from `start_ns` until `end_ns` and whose report has `more`.
    fn finish_with(&mut self, start_ns: u64, end_ns: u64, more: &Value) -> RunResult {
        std::thread::sleep(LOOKS);
        let clock = json!({"monotonic_ns": 1, "realtime_ns": 2});
        let mut report = json!({
            "schema_version": REPORT_SCHEMA_VERSION, "run_id": "RUN_ID", "agent_version": "0", "clock_start": clock,
            "clock_end": clock, "environment": {"gpus": []}, "phases": [], "reasons": [], "request_records": 1,
            "power_samples": 0,
            "window": {"start_ns": start_ns, "end_ns": end_ns, "energy": {"devices": [gpu_energy(start_ns, end_ns, 1000.0)]}, "split": [],
                "passes": [{"pass": 3, "start_ns": start_ns, "end_ns": end_ns, "prompt_tokens": 8, "output_tokens": 2}],
                "agent": {"cpu_s": 0.1, "cpu_share": 0.005, "resident_bytes": 1}},
        });
        for (field, value) in more.as_object().unwrap() {
            report[field] = value.clone();
        }
        let request = json!({"pass": 3, "index": 0, "batch": 0, "prompt_tokens": 8, "submit_ns": start_ns,
            "token_ns": [start_ns + 1, end_ns], "output_ids": [1, 2]});
        fs_err::write(self.path("report.json"), report.to_string()).unwrap();
        fs_err::write(self.path("requests.jsonl"), format!("{request}\n")).unwrap();
        replace(&self.path("go"), "");
        assert!(self.llem.wait().unwrap().success());
        let run = only(&only(&self.path("results")).join("runs"));
        RunResult::from_json(&fs_err::read(run.join("result.json")).unwrap()).unwrap()
    }
}

impl Drop for Study {
    fn drop(&mut self) {
        let _ = self.llem.kill();
        let _ = self.llem.wait();
    }
}

/// Energy of GPU-0 between two edges.
fn gpu_energy(start_ns: u64, end_ns: u64, joules: f64) -> Value {
    let edge = |t_ns: u64| json!({"t_ns": t_ns, "aligned": true, "bracket_ms": 6.0, "counter_j": 5.0});
    json!({"domain": {"source": "nvml", "id": "GPU-0", "scope": "gpu"}, "start": edge(start_ns), "end": edge(end_ns),
        "energy_j": joules, "method": "counter", "edge_u_j": 3.0, "sampling_u_j": 0.0, "counter_j": joules,
        "curve_j": joules, "curve_u_j": 1.0, "curve_kind": "mean", "lead_j": 0.0, "tail_j": 0.0, "mean_w": 500.0,
        "peak_w": 600.0, "samples": 200})
}

/// Readers see all of it or nothing.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs_err::write(&new, text).unwrap();
    fs_err::rename(&new, path).unwrap();
}

fn only(directory: &Path) -> PathBuf {
    let mut entries: Vec<PathBuf> = fs_err::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0)
}

fn eventually<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "the agent was not started");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Codes against the run.
fn against(result: &RunResult) -> Vec<ReasonCode> {
    result.reasons.iter().filter(|reason| reason.severity == Severity::Invalid).map(|reason| reason.code).collect()
}

#[test]
fn a_stranger_in_the_window_makes_the_run_invalid() {
    let mut stranger = Command::new("sleep").arg("300").spawn().unwrap();
    let mut study = Study::start();
    study.put(0, &[study.engine]);
    let start_ns = monotonic_ns();
    study.put(0, &[study.engine, stranger.id()]);
    study.put(0, &[study.engine]);
    let result = study.finish(start_ns);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!((against(&result), result.valid), (vec![ReasonCode::ForeignProcess], false), "{:?}", result.reasons);
    let seen: Vec<_> = result.gpu_processes.iter().map(|process| (process.pid, process.own)).collect();
    assert_eq!(seen, [(study.engine, Some(true)), (stranger.id(), Some(false))]);
    let gpus = result.host.unwrap().nvidia.unwrap();
    assert_eq!((gpus.gpus[0].uuid.as_str(), gpus.gpus.len(), gpus.other_gpus), ("GPU-0", 1, 1));
}

#[test]
fn a_run_alone_is_valid_and_one_that_used_another_gpu_is_not() {
    let cases = [(0, vec![]), (1, vec![ReasonCode::WrongDevice, ReasonCode::GpuNotUsed])];
    for (gpu, expected) in cases {
        let mut study = Study::start();
        study.put(gpu, &[study.engine]);
        let start_ns = monotonic_ns();
        std::thread::sleep(LOOKS);
        let result = study.finish(start_ns);
        // In a PID namespace of its own, llem need not see all processes, and says no GPU idle.
        let sees_all = !result.reasons.iter().any(|reason| reason.message.contains("PID namespace"));
        let expected: Vec<_> =
            expected.into_iter().filter(|code| sees_all || *code != ReasonCode::GpuNotUsed).collect();
        assert_eq!((result.valid, against(&result)), (expected.is_empty(), expected), "{:?}", result.reasons);
    }
}

#[test]
fn a_stranger_beside_the_window_spoils_what_it_was_there_for_and_nothing_else() {
    let mut stranger = Command::new("sleep").arg("300").spawn().unwrap();
    // In the baseline, in the passes of prefill alone, and nowhere.
    for place in [Some(0), Some(1), None] {
        let mut study = Study::start();
        let strangers = |now: usize| if place == Some(now) { vec![stranger.id()] } else { Vec::new() };
        let baseline_start = monotonic_ns();
        study.put(0, &strangers(0));
        let baseline_end = monotonic_ns();
        study.put(0, &[study.engine]);
        let start_ns = monotonic_ns();
        std::thread::sleep(LOOKS);
        let end_ns = monotonic_ns();
        // A look counts until the next one.
        std::thread::sleep(LOOKS);
        let prefill_start = monotonic_ns();
        study.put(0, &[vec![study.engine], strangers(1)].concat());
        let prefill_end = monotonic_ns();
        let idle = json!({"domain": {"source": "nvml", "id": "GPU-0", "scope": "gpu"}, "mean_w": 70.0, "spread_w": 0.1,
            "mean_u_w": 0.1});
        let pass = json!({"pass": 4, "start_ns": prefill_start, "end_ns": prefill_end, "prompt_tokens": 8,
            "output_tokens": 1});
        let more = json!({
            "baseline": {"start_ns": baseline_start, "end_ns": baseline_end, "devices": [idle]},
            "prefill": {"start_ns": prefill_start, "end_ns": prefill_end, "passes": [pass],
                "energy": {"devices": [gpu_energy(prefill_start, prefill_end, 100.0)]}},
        });
        let result = study.finish_with(start_ns, end_ns, &more);
        assert!(result.valid, "{:?}", result.reasons);
        let energy = result.metrics.unwrap().energy;
        assert_eq!((energy.energy_j, energy.energy_per_output_token_j), (Some(1000.0), Some(500.0)));
        let net = [energy.energy_net_j, energy.energy_net_per_output_token_j, energy.baseline_power_w];
        assert!(net.iter().all(|figure| figure.is_some() == (place != Some(0))), "{place:?}: {net:?}");
        assert_eq!(energy.split_by_prefill_pass.is_some(), place != Some(1), "{place:?}: {:?}", result.reasons);
        let told = |code| result.reasons.iter().any(|reason| reason.code == code);
        assert_eq!(told(ReasonCode::BaselineDisturbed), place == Some(0), "{:?}", result.reasons);
        assert_eq!(told(ReasonCode::PrefillDisturbed), place == Some(1), "{:?}", result.reasons);
        assert!(result.baseline.is_some() && result.prefill.is_some(), "what was measured stays in the record");
    }
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
