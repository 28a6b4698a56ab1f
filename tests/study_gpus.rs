//! What `llem` makes of the processes on a run's GPU: a whole study with a scripted NVML, and a script in the agent's place whose child
//! stands for the engine.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

mod scripted_agent;
mod study_gpus_busy;

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
        let locks = directory.path().join("locks");
        let llem = Self::command(directory.path(), &locks, "wait").spawn().unwrap();
        Self::under_way(directory, llem)
    }

    /// Waits until the engine runs.
    fn under_way(directory: TempDir, llem: Child) -> Self {
        let engine =
            eventually(|| fs_err::read_to_string(directory.path().join("engine")).ok()).trim().parse().unwrap();
        Self { directory, llem, engine }
    }

    /// `llem` for a study in `directory`, with the machine's locks in `locks`.
    fn command(directory: &Path, locks: &Path, when_busy: &str) -> Command {
        let path = |name: &str| directory.join(name);
        place_llem(directory, AGENT);
        let model = json!({"layers": 1, "hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "vocab": 512});
        let study = json!({
            "name": "gpus", "model": {"synthetic": model}, "backend": "pytorch",
            "workload": {"dataset": "synthetic", "n": 1, "input_tokens": 8, "output_tokens": 2},
            "execution": {"n_cycles": 1},
        });
        fs_err::write(path("study.yaml"), study.to_string()).unwrap();
        let gpu = json!({"devices": ["GPU-0"], "lock_dir": locks, "when_busy": when_busy});
        fs_err::write(path("user.yaml"), json!({ "gpu": gpu }).to_string()).unwrap();
        let device = |number: u32| {
            let pid = Pid::File(path(&number.to_string()).display().to_string());
            let processes = vec![Process { pid, bytes: Some(900 << 20), ..Process::default() }];
            Device { uuid: format!("GPU-{number}"), processes, ..Device::default() }
        };
        let script = Script { devices: vec![device(0), device(1)], ..Script::starting_now() };
        let nvml = path("nvml");
        fs_err::create_dir(&nvml).unwrap();
        let mut command = Command::new(path("llem"));
        command
            .args(["run", "study.yaml", "--runner", "process"])
            .envs(fake_nvml::stage(&nvml, &script).unwrap())
            .envs([("XDG_CACHE_HOME", path("cache")), ("LLEM_CONFIG", path("user.yaml"))])
            .env_remove("LLEM_OUTPUT")
            .env_remove("RUST_LOG")
            .current_dir(directory)
            .stdout(Stdio::null());
        command
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
        self.hand_out(start_ns, end_ns, more);
        assert!(self.llem.wait().unwrap().success());
        let run = only(&only(&self.path("results")).join("runs"));
        RunResult::from_json(&fs_err::read(run.join("result.json")).unwrap()).unwrap()
    }

    /// Lets the agent hand out a report, in every run from here on.
    fn hand_out(&self, start_ns: u64, end_ns: u64, more: &Value) {
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
    }
}

impl Drop for Study {
    fn drop(&mut self) {
        let _ = self.llem.kill();
        let _ = self.llem.wait();
    }
}

/// A study that is started while another one has the GPU.
struct Second {
    directory: TempDir,
    command: Command,
}

impl Second {
    fn new(locks: &Path, when_busy: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Study::command(directory.path(), locks, when_busy);
        command.stderr(fs_err::File::create(directory.path().join("stderr")).unwrap().into_file());
        Self { directory, command }
    }

    fn said(&self) -> String {
        fs_err::read_to_string(self.directory.path().join("stderr")).unwrap()
    }
}

#[test]
fn a_second_study_on_a_gpu_waits_or_ends_as_told() {
    let mut first = Study::start();
    let locks = first.path("locks");
    let holder = format!("GPU GPU-0 is in use by another study (process {}", first.llem.id());
    let mut refused = Second::new(&locks, "refuse");
    assert_eq!(refused.command.status().unwrap().code(), Some(1));
    let said = refused.said();
    assert!(said.contains(&holder) && said.contains("nothing was started"), "{said}");
    assert!(!refused.directory.path().join("results").exists());

    let mut waiting = Second::new(&locks, "wait");
    let llem = waiting.command.spawn().unwrap();
    eventually(|| waiting.said().contains(&format!("{holder} of user ")).then_some(()));
    assert!(waiting.said().contains("waiting for its end") && !waiting.directory.path().join("engine").exists());
    let start_ns = monotonic_ns();
    first.put(0, &[first.engine]);
    first.finish(start_ns);
    // What was told to the first one is told to the second one: its engine is alone on the GPU.
    let mut second = Study::under_way(waiting.directory, llem);
    let start_ns = monotonic_ns();
    second.put(0, &[second.engine]);
    assert!(second.finish(start_ns).metrics.is_some());
}

#[test]
fn the_lock_of_a_study_that_was_killed_is_free() {
    let mut first = Study::start();
    let locks = first.path("locks");
    first.llem.kill().unwrap();
    first.llem.wait().unwrap();
    let mut second = Second::new(&locks, "refuse");
    let llem = second.command.spawn().unwrap();
    drop(Study::under_way(second.directory, llem));
}

#[test]
fn studies_of_two_users_keep_each_other_off_a_gpu() {
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    if !rustix::process::getuid().is_root() {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: only root can become somebody else\n");
        return;
    }
    // The other user came first and made the directory of the locks; then it is root's turn to wait, and the other way round.
    let shared = tempfile::tempdir().unwrap();
    fs_err::set_permissions(shared.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let locks = shared.path().join("locks");
    let as_nobody = |study: &mut Second| {
        std::os::unix::fs::chown(study.directory.path(), Some(NOBODY), None).unwrap();
        study.command.uid(NOBODY).gid(NOBODY);
    };
    let mut theirs = Second::new(&locks, "wait");
    as_nobody(&mut theirs);
    let llem = theirs.command.spawn().unwrap();
    let first = Study::under_way(theirs.directory, llem);
    let mut ours = Second::new(&locks, "refuse");
    assert_eq!(ours.command.status().unwrap().code(), Some(1));
    assert!(ours.said().contains(&format!("(process {} of user {NOBODY})", first.llem.id())), "{}", ours.said());
    drop(first);
    let mut ours = Second::new(&locks, "refuse");
    let llem = ours.command.spawn().unwrap();
    let first = Study::under_way(ours.directory, llem);
    let mut theirs = Second::new(&locks, "refuse");
    as_nobody(&mut theirs);
    assert_eq!(theirs.command.status().unwrap().code(), Some(1));
    assert!(theirs.said().contains(&format!("(process {} of user 0)", first.llem.id())), "{}", theirs.said());
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
