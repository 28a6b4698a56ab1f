//! The defaults of measurement and execution: this file is the only place that has them.
//!
//! Order of precedence, lowest first: the profile, the study file, `--set`. The library and the command line share them.

use std::collections::BTreeMap;

use llem_protocol::Phase;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::execution::{CycleOrder, ExecutionConfig};
use super::experiment::MeasurementConfig;

/// A set of defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Three interleaved cycles, windows of at least 10 s: results that can be compared.
    #[default]
    Standard,
    /// One cycle, a short window, no idle baseline: does it work at all?
    Quick,
    /// Five cycles, windows of a minute, rests in between: results to publish.
    Publication,
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 3] = [Self::Standard, Self::Quick, Self::Publication];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Quick => "quick",
            Self::Publication => "publication",
        }
    }

    /// How experiments are measured unless the file says otherwise.
    pub fn measurement(self) -> MeasurementConfig {
        let standard = MeasurementConfig {
            warmup_passes: 3,
            thermal_floor_seconds: 60.0,
            thermal_gate_timeout_seconds: 300.0,
            min_seconds: 10.0,
            min_passes: 1,
            baseline_seconds: 5.0,
            prefill_min_seconds: 5.0,
            sample_hz: 10.0,
            allow_mig: false,
        };
        match self {
            Self::Standard => standard,
            Self::Quick => MeasurementConfig {
                warmup_passes: 1,
                thermal_floor_seconds: 0.0,
                thermal_gate_timeout_seconds: 0.0,
                min_seconds: 2.0,
                baseline_seconds: 0.0,
                prefill_min_seconds: 0.0,
                ..standard
            },
            Self::Publication => {
                MeasurementConfig { min_seconds: 60.0, baseline_seconds: 30.0, prefill_min_seconds: 20.0, ..standard }
            }
        }
    }

    /// How a study is carried out unless the file says otherwise.
    pub fn execution(self) -> ExecutionConfig {
        let standard = ExecutionConfig {
            n_cycles: 3,
            cycle_order: CycleOrder::Interleaved,
            shuffle_seed: 42,
            experiment_gap_seconds: 0.0,
            cycle_gap_seconds: 0.0,
            memory_gib: None,
            shm_gib: 1.0,
            pids_limit: 4_096,
            timeouts_s: phase_timeouts_s(),
            strict: false,
            max_retries: 2,
            retry_wait_seconds: 10.0,
            max_consecutive_failures: 5,
        };
        match self {
            Self::Standard => standard,
            Self::Quick => ExecutionConfig { n_cycles: 1, ..standard },
            Self::Publication => {
                ExecutionConfig { n_cycles: 5, experiment_gap_seconds: 30.0, cycle_gap_seconds: 60.0, ..standard }
            }
        }
    }

    /// Both as the JSON that a file is laid over.
    pub(crate) fn base(self) -> Value {
        json!({ "measurement": self.measurement(), "execution": self.execution() })
    }
}

/// Seconds after which each phase is given up. The baseline ends by itself. The thermal gate ends by itself too, between two passes; this is
/// for a pass that never ends.
fn phase_timeouts_s() -> BTreeMap<Phase, f64> {
    BTreeMap::from([
        (Phase::Start, 60.0),
        (Phase::Environment, 30.0),
        (Phase::Import, 300.0),
        (Phase::Load, 1_800.0),
        (Phase::Warmup, 3_600.0),
        (Phase::ThermalGate, 3_600.0),
        (Phase::Window, 7_200.0),
        (Phase::Prefill, 3_600.0),
        (Phase::Collect, 600.0),
        (Phase::Shutdown, 60.0),
        (Phase::Write, 300.0),
    ])
}
