//! Containers see the host's energy counters, and cannot write to them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use llem::runner::docker::{Engine, MachineConfig};
use llem::runner::{DockerRunner, DriverFiles, HostFiles, Limits, RunSpec, Runner, Stop};
use llem_protocol::{JOB_SCHEMA_VERSION, PROTOCOL_VERSION};
use serde_json::json;

use crate::support::{engine_answers, fault_image};

/// In the place of the agent: reads a counter, tries to write it and to add a file.
const SCRIPT: &str = "#!/bin/sh
cd /llem/powercap || exit 9
read -r energy < intel-rapl:0/energy_uj
echo \"energy $energy\"
(echo 7 > intel-rapl:0/energy_uj) 2>/dev/null && echo written
touch new 2>/dev/null && echo added
exit 0
";

/// A run whose agent is the script.
fn spec(directory: &Path) -> RunSpec {
    let path = |name: &str| directory.join(name);
    for name in ["out", "model"] {
        fs_err::create_dir(path(name)).unwrap();
    }
    let job = json!({
        "schema_version": JOB_SCHEMA_VERSION, "protocol_version": PROTOCOL_VERSION, "run_id": "001-powercap-c1",
        "nonce": format!("{:016x}", std::process::id()), "output_dir": "/llem/out",
        "driver": {"programs": ["x"], "args": [], "env": {}},
        "engine": {"backend": "candle", "model": {"directory": "/m"}, "dtype": "auto", "options": {}, "extra": {},
            "sampling": {}, "random_seed": "42"},
        "workload": {"path": "/w", "sha256": "0", "requests": 1, "ignore_eos": true},
        "measurement": {"baseline_s": 0.0, "warmup_passes": 1, "thermal_floor_s": 0.0, "thermal_gate_timeout_s": 0.0,
            "window_min_s": 1.0, "window_min_passes": 1, "prefill_min_s": 0.0, "sample_hz": 10.0, "allow_mig": false},
        "timeouts_s": {}, "gpus": [],
    });
    for (name, content) in [("job.json", job.to_string().as_str()), ("agent", SCRIPT), ("candle", ""), ("workload", "")]
    {
        fs_err::write(path(name), content).unwrap();
    }
    fs_err::set_permissions(path("agent"), PermissionsExt::from_mode(0o755)).unwrap();
    RunSpec {
        study_id: "powercap".into(),
        study_lock: path(".lock"),
        image: fault_image().to_owned(),
        files: HostFiles {
            output_dir: path("out"),
            workload: path("workload"),
            model_dir: Some(path("model")),
            adapter_dir: None,
            draft_dir: None,
            agent: path("agent"),
            driver: DriverFiles::Program(path("candle")),
            engine: None,
        },
        job: serde_json::from_value(job).unwrap(),
        job_file: path("job.json"),
        env: BTreeMap::new(),
        limits: Limits { memory_bytes: None, shm_bytes: 1 << 20, pids: 64 },
        facts: None,
    }
}

#[tokio::test]
async fn energy_counters_are_mounted_to_be_read() {
    if !engine_answers() {
        return;
    }
    let directory = tempfile::tempdir_in(fs_err::canonicalize(env!("CARGO_TARGET_TMPDIR")).unwrap()).unwrap();
    let zones = directory.path().join("intel-rapl");
    fs_err::create_dir_all(zones.join("intel-rapl:0")).unwrap();
    fs_err::write(zones.join("intel-rapl:0/energy_uj"), "123456\n").unwrap();
    let machine = MachineConfig { powercap: Some(zones.clone()), ..MachineConfig::default() };
    let runner = DockerRunner::new(Engine::connect(None).await.unwrap(), machine);
    let spec = spec(directory.path());
    assert_eq!(runner.places(&spec.files).powercap.as_deref(), Some(Path::new("/llem/powercap")));
    let (events, _received) = tokio::sync::mpsc::unbounded_channel();
    let outcome = runner.run(&spec, &events, &Stop::default()).await;
    let log = String::from_utf8(outcome.agent_log.clone()).unwrap();
    assert_eq!(log, "energy 123456\n", "{outcome:?}");
    assert_eq!(fs_err::read_to_string(zones.join("intel-rapl:0/energy_uj")).unwrap(), "123456\n");
    assert!(!outcome.container_left, "{outcome:?}");
}
