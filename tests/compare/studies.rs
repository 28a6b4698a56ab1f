//! Studies that were never run: `study.json` as llem writes it, with figures that a test chooses.

use std::path::{Path, PathBuf};
use std::process::Command;

use llem::config::{Profile, StudyConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Generated tokens of every run.
const TOKENS: f64 = 4096.0;

/// The GPU of every run.
pub(crate) const GPU: &str = "GPU-11111111-2222-3333-4444-555555555555";

/// Relative scatter of three or more runs, its mean about 0.
pub(crate) const SCATTER: [f64; 5] = [-0.004, 0.003, 0.001, -0.002, 0.002];

/// A study in memory.
#[derive(Clone)]
pub(crate) struct Study(pub(crate) Value);

impl Study {
    /// Experiments of batch sizes 1, 2, 4 … with `cycles` valid runs each on one GPU: 0.5 J per token and 100 tokens/s for the first, half and
    /// twice of that for the next.
    pub(crate) fn new(id: &str, experiments: usize, cycles: usize) -> Self {
        Self::of(id, experiments, cycles, "")
    }

    /// As [`Study::new`] with further lines of the study file.
    pub(crate) fn of(id: &str, experiments: usize, cycles: usize, more: &str) -> Self {
        let sizes: Vec<String> = (0..experiments).map(|i| (1u64 << i).to_string()).collect();
        let text = format!(
            "name: ci\nmodel: synthetic\nbackend: candle\nsweep: {{candle.batch_size: [{}]}}\n{more}",
            sizes.join(", ")
        );
        let study = StudyConfig::from_text(Path::new("ci.yaml"), &text, &[], Profile::Standard).unwrap();
        let each = study.experiments.iter().enumerate();
        let experiments = each.map(|(index, experiment)| {
            let runs: Vec<Value> = (0..cycles).map(|cycle| run(&experiment.id, index, cycle)).collect();
            json!({
                "experiment_id": experiment.id, "label": experiment.label, "varied": experiment.varied,
                "config": experiment.config, "runs": runs, "summary": {"runs": cycles, "valid": true},
            })
        });
        Self(json!({
            "schema_version": llem::result::SCHEMA_VERSION, "name": "ci", "study_id": id, "directory": "/nowhere",
            "design_hash": study.design_hash(), "status": "completed", "started": "2026-11-22T04:23:55Z",
            "finished": "2026-11-22T04:33:55Z", "llem_version": "0.1.0", "profile": "standard", "overrides": [],
            "execution": study.execution, "varied_keys": study.varied_keys, "experiments": experiments.collect::<Vec<_>>(),
            "merged": [],
        }))
    }

    /// The run of an experiment.
    pub(crate) fn run(&mut self, experiment: usize, cycle: usize) -> &mut Value {
        &mut self.0["experiments"][experiment]["runs"][cycle]
    }

    /// Every run.
    pub(crate) fn each_run(&mut self, mut change: impl FnMut(&mut Value)) -> &mut Self {
        for experiment in self.0["experiments"].as_array_mut().unwrap() {
            experiment["runs"].as_array_mut().unwrap().iter_mut().for_each(&mut change);
        }
        self
    }

    /// Makes every run take `share` more energy in the same time.
    pub(crate) fn with_energy(mut self, share: f64) -> Self {
        self.each_run(|run| {
            let energy_j = run["metrics"]["energy"]["energy_j"].as_f64().unwrap() * (1.0 + share);
            set_energy(run, energy_j);
        });
        self
    }

    /// Takes all energies away, as on a machine without sensors.
    pub(crate) fn without_energy(mut self) -> Self {
        self.each_run(|run| run["metrics"]["energy"] = json!({"domains": []}));
        self
    }

    /// Puts the runs on another GPU.
    pub(crate) fn on_gpu(mut self, uuid: &str) -> Self {
        self.each_run(|run| {
            run["identity"]["gpus"][0]["uuid"] = json!(uuid);
            run["metrics"]["energy"]["domains"][0]["domain"]["id"] = json!(uuid);
        });
        self
    }
}

/// Sets an energy and what follows from it.
pub(crate) fn set_energy(run: &mut Value, energy_j: f64) {
    let window_s = run["metrics"]["window_s"].as_f64().unwrap();
    let energy = &mut run["metrics"]["energy"];
    energy["energy_j"] = json!(energy_j);
    energy["energy_raw_j"] = json!(energy_j);
    energy["energy_per_output_token_j"] = json!(energy_j / TOKENS);
    energy["mean_power_w"] = json!(energy_j / window_s);
    let gain_j = 0.02887 * energy_j;
    energy["uncertainty"] = json!({
        "gain_j": gain_j, "edge_j": 1.0, "sampling_j": 0.0, "baseline_j": null, "combined_j": gain_j.hypot(1.0),
        "expanded_j": 2.0 * gain_j.hypot(1.0), "coverage_factor": 2.0, "comparison_j": 1.0, "combined_percent": 2.9,
        "expanded_percent": 5.8, "comparison_percent": 0.1,
    });
}

fn run(experiment_id: &str, experiment: usize, cycle: usize) -> Value {
    let scale = f64::from(1u32 << experiment);
    let scatter = 1.0 + SCATTER[cycle % SCATTER.len()];
    let window_s = TOKENS / (100.0 * scale * scatter);
    let latency =
        |ms: f64| json!({"n": 64, "mean": ms, "min": ms, "p50": ms, "p90": ms, "p95": ms, "p99": ms, "max": ms});
    let mut run = json!({
        "run_id": format!("{:03}-{experiment_id}-c{}", 10 * experiment + cycle + 1, cycle + 1),
        "label": "", "cycle": cycle + 1, "status": "completed", "valid": true, "reasons": [], "failure": null,
        "metrics": {
            "window_s": window_s, "passes": 4, "requests": 64, "prompt_tokens": 2048, "output_tokens": TOKENS as u64,
            "output_tokens_per_s": TOKENS / window_s, "requests_per_s": 64.0 / window_s,
            "ttft_ms": latency(20.0 * scatter), "itl_ms": latency(10.0 * scatter), "e2e_ms": latency(600.0 * scatter),
            "energy": {"domains": [{
                "domain": {"source": "nvml", "id": GPU, "scope": "gpu"}, "counted": true, "samples": 100,
            }]},
            "peak_memory_bytes": 6_750_208,
        },
        "identity": {
            "runner": "docker", "workload_sha256": "a".repeat(64), "model": "synthetic", "model_revision": "m1",
            "engine": "candle", "engine_version": "0.11.1", "dtype": "float32", "image_id": format!("sha256:{}", "b".repeat(64)),
            "cpu_model": "A processor", "cpus": 16, "engine_cpus": "0-15", "agent_cpus": "0-15", "memory_bytes": 68_719_476_736_u64, "cpu_governor": "performance",
            "gpus": [{"uuid": GPU, "name": "NVIDIA H100", "power_limit_w": 700.0}], "gpu_driver": "580.1", "llem_version": "0.1.0",
        },
    });
    set_energy(&mut run, 0.5 * TOKENS / scale * scatter);
    run
}

/// A directory with files, and `llem` started in it.
pub(crate) struct Place(TempDir);

/// What `llem` answered.
pub(crate) struct Answer {
    code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, study: &Study) -> &Self {
        fs_err::write(self.path(name), study.0.to_string()).unwrap();
        self
    }

    pub(crate) fn llem(&self, arguments: &[&str]) -> Answer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llem"));
        let command = command.args(arguments).current_dir(self.0.path()).env_remove("COLUMNS").env_remove("RUST_LOG");
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Answer { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// `llem compare a.json b.json` with further arguments.
    pub(crate) fn compare(&self, a: &Study, b: &Study, arguments: &[&str]) -> Answer {
        self.write("a.json", a).write("b.json", b);
        self.llem(&[&["compare", "a.json", "b.json"], arguments].concat())
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// Checks that all parts are on stdout.
    #[track_caller]
    pub(crate) fn shows(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stdout.contains(part), "no `{part}` in:\n{}", self.stdout);
        }
        self
    }

    /// Checks that all parts are on stderr.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "no `{part}` in:\n{}", self.stderr);
        }
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}
