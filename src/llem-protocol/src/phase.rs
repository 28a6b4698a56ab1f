use std::fmt;

use serde::{Deserialize, Serialize};

/// One stretch of a run, in the order in which they happen. Each has its own time-out and its own energy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// From the start of the container to the agent's first event.
    Start,
    /// Reading the machine: devices, libraries, clocks.
    Environment,
    /// Idle power of the devices before the engine exists.
    Baseline,
    /// Driver process started, engine imported.
    Import,
    /// Model loaded; where the engine says when it compiled, without that.
    Load,
    /// The stretches of the load in which the engine built or compiled something.
    Compile,
    /// Full passes of the workload that are not measured.
    Warmup,
    /// Waiting until clocks and temperature have settled.
    ThermalGate,
    /// The measured window: whole passes of the workload.
    Window,
    /// Passes that generate one token per request: the energy of prefill alone.
    Prefill,
    /// Collecting the token stamps from the driver.
    Collect,
    /// Driver told to leave, its process group gone.
    Shutdown,
    /// Files written to the results volume.
    Write,
}

impl Phase {
    /// All phases in the order in which they happen.
    pub const ALL: [Self; 13] = [
        Self::Start,
        Self::Environment,
        Self::Baseline,
        Self::Import,
        Self::Load,
        Self::Compile,
        Self::Warmup,
        Self::ThermalGate,
        Self::Window,
        Self::Prefill,
        Self::Collect,
        Self::Shutdown,
        Self::Write,
    ];

    /// The name in files, events and time-out settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Environment => "environment",
            Self::Baseline => "baseline",
            Self::Import => "import",
            Self::Load => "load",
            Self::Compile => "compile",
            Self::Warmup => "warmup",
            Self::ThermalGate => "thermal_gate",
            Self::Window => "window",
            Self::Prefill => "prefill",
            Self::Collect => "collect",
            Self::Shutdown => "shutdown",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
