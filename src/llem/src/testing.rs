//! What several unit tests need.

use llem_protocol::Job;
use serde_json::json;

/// A small job of run `001-a-c1`.
pub(crate) fn job() -> Job {
    let job = json!({
        "schema_version": 1, "protocol_version": 1, "run_id": "001-a-c1", "nonce": "0123456789abcdef", "output_dir": "/llem/out",
        "driver": {"programs": ["x"], "args": [], "env": {}},
        "engine": {"backend": "candle", "model": {"directory": "/m"}, "dtype": "auto", "options": {}, "extra": {},
            "sampling": {}, "random_seed": "42"},
        "workload": {"path": "/w", "sha256": "0", "requests": 1, "ignore_eos": true},
        "measurement": {"baseline_s": 0.0, "warmup_passes": 1, "thermal_floor_s": 0.0, "thermal_gate_timeout_s": 0.0, "prefill_min_s": 0.0, "allow_mig": false, "window_min_s": 1.0,
            "window_min_passes": 1, "sample_hz": 10.0},
        "timeouts_s": {}, "gpus": []
    });
    serde_json::from_value(job).unwrap()
}
