//! What engines get in their environment so that they stay on this machine.

/// Models are here before a run begins: a look-up, a download or a report to its makers in the middle of a run would be measured with it.
/// transformers 4 has a variable of its own for what the hub's library calls `HF_HUB_OFFLINE`.
pub(super) const OFFLINE: [(&str, &str); 7] = [
    ("DO_NOT_TRACK", "1"),
    ("HF_DATASETS_OFFLINE", "1"),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ("HF_HUB_OFFLINE", "1"),
    ("TRANSFORMERS_OFFLINE", "1"),
    ("VLLM_NO_USAGE_STATS", "1"),
];
