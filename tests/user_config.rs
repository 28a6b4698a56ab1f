//! Every field of the user config changes something that a user can see. A field without a case fails the test.

use serde_json::{Value, json};

use super::Bench;
use super::user_config_fields::{IN_CONTAINER, all};

const NO_SOCKET: &str = "unix:///nowhere/docker.sock";

#[test]
fn every_field_of_the_user_config_has_an_effect() {
    let fields = all();
    assert!(fields.len() > 25, "{fields:?}");
    assert!(IN_CONTAINER.iter().all(|field| fields.contains(*field)), "{fields:?}");
    for field in fields.iter().filter(|field| !IN_CONTAINER.contains(&field.as_str())) {
        effect(field);
    }
}

fn effect(field: &str) {
    let (section, last) = field.rsplit_once('.').unwrap_or(("", field));
    match section {
        "runners" => {
            let with = json!({"runner": "process", "runners": {last: "docker"}, "docker_host": NO_SOCKET});
            assert_eq!(check(&with, "container engine")["state"], "fails", "{field}");
        }
        "images" => image(last),
        "python" => python(last),
        "calibration" => calibration(last),
        "carbon" => carbon(last),
        "slurm" => slurm(last),
        _ => other(field),
    }
}

fn other(field: &str) {
    let process = json!({"runner": "process"});
    let found = |user: Value, what: &str| check(&user, what)["found"].as_str().unwrap().to_owned();
    let engines = |user: Value| found(user, "engine cache");
    match field {
        "runner" => assert_eq!(found(process, "container engine"), "not used: `runner: process`"),
        "docker_host" => {
            let said = found(json!({"docker_host": NO_SOCKET}), "container engine");
            assert!(said.contains(NO_SOCKET), "{said}");
        }
        "gpu.access" => {
            let said = found(json!({"runner": "process", "gpu": {"access": "none"}}), "GPUs");
            assert_eq!(said, "none, by `gpu.access: none`");
        }
        "gpu.devices" => {
            assert_eq!(job(&Bench::with_gpu("GPU-1b2c"))["gpus"], json!(["GPU-1b2c"]));
        }
        "gpu.lock_dir" => {
            let bench = Bench::with_gpu("GPU-1b2c");
            bench.run(&[]);
            assert!(bench.path("locks/GPU-1b2c.lock").is_file());
        }
        "gpu.when_busy" => {
            let mut bench = Bench::with_gpu("GPU-1b2c");
            bench.user["gpu"]["when_busy"] = json!("refuse");
            fs_err::create_dir(bench.path("locks")).unwrap();
            let busy = fs_err::File::create(bench.path("locks/GPU-1b2c.lock")).unwrap();
            busy.file().lock().unwrap();
            let output = bench.run(&[]);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.code() == Some(1) && said.contains("GPU GPU-1b2c is in use by"), "{said}");
        }
        "cpus.engine" => {
            let mut bench = Bench::new();
            bench.user = json!({"cpus": {"engine": "0"}});
            assert_eq!(job(&bench)["cpus"], json!({"engine": "0", "agent": "0"}));
        }
        "cpus.agent" => {
            let said = found(json!({"runner": "process", "cpus": {"engine": "0", "agent": "1"}}), "processors of runs");
            assert!(said.starts_with("engine 0, agent 1"), "{said}");
        }
        "cache_dir" => {
            let said = found(json!({"runner": "process", "cache_dir": "/tmp/a/b"}), "cache");
            assert!(said.starts_with("/tmp/a/b, "), "{said}");
        }
        "engine_cache_dir" => {
            let said = engines(json!({"runner": "process", "engine_cache_dir": "/tmp/c/d"}));
            assert!(said.starts_with("/tmp/c/d, "), "{said}");
        }
        "engine_cache_max_gb" => {
            let said = engines(json!({"runner": "process", "engine_cache_max_gb": 7.5}));
            assert!(said.contains("; at most 7.5 GB;") && engines(process).contains("; no limit;"), "{said}");
        }
        "engine_cache_wait_seconds" => {
            let said = engines(json!({"runner": "process", "engine_cache_wait_seconds": 17}));
            assert!(said.ends_with("wait 17 s for one that another builds"), "{said}");
        }
        _ => panic!("no case for `{field}`: show what it changes"),
    }
}

/// One of the checks that `llem config` prints.
fn check(user: &Value, what: &str) -> Value {
    let mut bench = Bench::new();
    bench.user = user.clone();
    let output = bench.llem(&["config", "--format", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = report["checks"].as_array().unwrap().iter().find(|check| check["what"] == what);
    found.unwrap_or_else(|| panic!("no check of {what}: {report:#}")).clone()
}

/// What `llem config` says of the batch system, whether or not there is one.
fn slurm(field: &str) {
    let found = |slurm: Value| {
        let said = check(&json!({"runner": "slurm", "slurm": slurm}), "slurm");
        said["found"].as_str().unwrap().to_owned()
    };
    let (value, said) = match field {
        "partition" | "account" | "qos" | "gres" | "constraint" => (json!("x-1"), format!("--{field}=x-1")),
        "exclusive" => {
            assert!(found(json!({})).contains("--exclusive") && !found(json!({field: false})).contains("--exclusive"));
            return;
        }
        "node_runner" => (json!("apptainer"), "a job, carried out by `apptainer`".to_owned()),
        "max_parallel" => (json!(7), "--array=0-0%7".to_owned()),
        "time_limit_minutes" => (json!(77), "--time=77".to_owned()),
        "prologue" => (json!(["module load x"]), "after `module load x`".to_owned()),
        "poll_seconds" => (json!(33), "one squeue every 33 s".to_owned()),
        "tasks_per_job" => (json!(5), "at most 5 runs a job".to_owned()),
        _ => panic!("no case for `slurm.{field}`: show what it changes"),
    };
    let (without, with) = (found(json!({})), found(json!({field: value})));
    assert!(with.contains(&said) && !without.contains(&said), "{field}: {with}");
}

/// Needs an engine that says that it does not have the image.
fn image(backend: &str) {
    let user = json!({"images": {backend: "example/none:1"}});
    if check(&user, "container engine")["state"] != "ok" {
        assert!(std::env::var_os("CI").is_none(), "no container engine answers");
        return;
    }
    let found = check(&user, &format!("image of {backend}"));
    assert_eq!(
        (found["state"].as_str(), found["found"].as_str()),
        (Some("warning"), Some("example/none:1 is missing"))
    );
}

fn python(backend: &str) {
    let mut bench = Bench::new();
    bench.study["backend"] = json!(backend);
    bench.user = json!({"python": {backend: "/opt/engine/bin/python3"}});
    assert_eq!(job(&bench)["driver"]["programs"], json!(["/opt/engine/bin/python3"]));
}

/// What the agent of the first run was told.
fn job(bench: &Bench) -> Value {
    let output = bench.run(&[]);
    let runs = bench.study_dir().join("runs");
    let first = fs_err::read_dir(&runs).unwrap().map(|run| run.unwrap().path()).min();
    let path = first.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr))).join("job.json");
    serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
}

/// The figures of a run with a user config.
fn metrics(user: Value) -> Value {
    let mut bench = Bench::new();
    bench.user = user;
    bench.run(&[]);
    serde_json::to_value(bench.first().metrics).unwrap()
}

fn calibration(field: &str) {
    let base = json!({"device": "package-0", "factor": 1.05, "relative_uncertainty": 0.01, "date": "2026-11-22", "method": "a"});
    let mut other = base.clone();
    other[field] = match field {
        "device" => json!("dram-0"),
        "factor" => json!(1.1),
        "relative_uncertainty" => json!(0.02),
        "date" => json!("2026-01-02"),
        "method" => json!("another meter"),
        _ => panic!("no case for `calibration.{field}`: show what it changes"),
    };
    assert_ne!(metrics(json!({"calibration": [base]})), metrics(json!({"calibration": [other]})), "{field}");
}

fn carbon(field: &str) {
    let base = json!({"intensity_g_per_kwh": 300, "pue": 1.2, "source": "a"});
    let mut other = base.clone();
    other[field] = match field {
        "intensity_g_per_kwh" => json!(400),
        "pue" => json!(1.5),
        "source" => json!("another grid"),
        _ => panic!("no case for `carbon.{field}`: show what it changes"),
    };
    let (one, two) = (metrics(json!({"carbon": base})), metrics(json!({"carbon": other})));
    assert_ne!(one["energy"]["carbon"], two["energy"]["carbon"], "{field}");
}
