use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether a reason makes a run's numbers unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; the numbers stand.
    Note,
    /// The run is not valid: its numbers must not be compared or published.
    Invalid,
}

/// Why a figure is absent, or a run is not valid. Codes, not free text, so that programs can select on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// The window is shorter than 10 s.
    WindowTooShort,
    /// No energy counter or power sensor could be read; energy is null.
    NoPowerSource,
    /// A sensor that was there at the start stopped answering.
    PowerSourceLost,
    /// An energy counter went backwards by more than a wrap-around.
    CounterReset,
    /// Power samples are missing for more than three sampling periods.
    SamplesMissing,
    /// The sensor covers more than the experiment's devices (e.g. the whole processor package).
    ScopeWiderThanExperiment,
    /// The engine's own device is not one that the experiment asked for.
    WrongDevice,
    /// Warm-up was shorter than three passes.
    WarmupShortened,
    /// The agent used more than 1 % of a core in the window.
    AgentOverhead,
    /// The host's CPU was busy with other work in the window.
    HostBusy,
    /// The token totals that the driver gave for a pass differ from the sums of its request records.
    TokenCountMismatch,
}

impl ReasonCode {
    /// Whether the code invalidates a run.
    pub const fn severity(self) -> Severity {
        match self {
            Self::NoPowerSource
            | Self::ScopeWiderThanExperiment
            | Self::WarmupShortened
            | Self::SamplesMissing
            | Self::AgentOverhead
            | Self::HostBusy => Severity::Note,
            Self::WindowTooShort
            | Self::PowerSourceLost
            | Self::CounterReset
            | Self::WrongDevice
            | Self::TokenCountMismatch => Severity::Invalid,
        }
    }

    /// The name in files and events.
    pub const fn code(self) -> &'static str {
        match self {
            Self::WindowTooShort => "window_too_short",
            Self::NoPowerSource => "no_power_source",
            Self::PowerSourceLost => "power_source_lost",
            Self::CounterReset => "counter_reset",
            Self::SamplesMissing => "samples_missing",
            Self::ScopeWiderThanExperiment => "scope_wider_than_experiment",
            Self::WrongDevice => "wrong_device",
            Self::WarmupShortened => "warmup_shortened",
            Self::AgentOverhead => "agent_overhead",
            Self::HostBusy => "host_busy",
            Self::TokenCountMismatch => "token_count_mismatch",
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// A code with its particulars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The code.
    pub code: ReasonCode,
    /// Whether it makes the run invalid.
    pub severity: Severity,
    /// What happened with the numbers, why it matters, and what to do.
    pub message: String,
}

impl Reason {
    /// A reason with the severity of its code.
    pub fn new(code: ReasonCode, message: impl Into<String>) -> Self {
        Self { code, severity: code.severity(), message: message.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}
