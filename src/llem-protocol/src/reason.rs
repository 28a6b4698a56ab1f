use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether a reason makes a run's numbers unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; the numbers stand.
    Note,
    /// The run is not valid: its numbers must not be compared or published.
    Invalid,
}

/// Makes [`ReasonCode`] and what is known of each code: name, severity, why it matters, what to do.
macro_rules! reason_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $severity:ident, $why:literal, $advice:literal;)*) => {
        /// Why a figure is absent, or a run is not valid. Codes, not free text, so that programs can select on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub enum ReasonCode {
            $($(#[$doc])* #[serde(rename = $code)] $variant,)*
        }

        impl ReasonCode {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in files and events.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// Whether the code invalidates a run. There is no other severity: who gets a reason from elsewhere goes by its code.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// Why it matters, as a fragment.
            pub const fn why(self) -> &'static str {
                match self { $(Self::$variant => $why,)* }
            }

            /// What to do, as a fragment.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

reason_codes! {
    /// The window is shorter than 10 s.
    WindowTooShort = "window_too_short", Invalid,
        "its edges weigh too much", "raise `measurement.min_seconds`";
    /// An edge of the window is not at a tick of the energy counter.
    EdgeNotAligned = "edge_not_aligned", Invalid,
        "the counter's value may be a tenth of a second old", "run it again on a machine with less load on its GPU driver";
    /// Counter and power curve of one sensor differ by more than they may.
    SourcesDisagree = "sources_disagree", Invalid,
        "one of the two is wrong, and nothing tells which", "run it again; if it stays, report driver version and GPU";
    /// No energy counter or power sensor could be read; energy is null.
    NoPowerSource = "no_power_source", Note,
        "energy is null", "make a sensor readable as the message says, or use the times only";
    /// The energy of the experiment's GPUs could not be read; energy is null.
    NoGpuPowerSource = "no_gpu_power_source", Invalid,
        "a run on GPUs without their energy is no measurement of energy", "make them readable as the message says";
    /// The processor's energy could not be read beside that of the GPUs.
    ProcessorEnergyUnavailable = "processor_energy_unavailable", Note,
        "the result has the energy of the GPUs only", "make its counters readable as the message says, where it matters";
    /// The device has no energy counter; its energy is the integral of the power curve.
    NoEnergyCounter = "no_energy_counter", Note,
        "the curve sees less than a counter does", "mind the larger uncertainty";
    /// A sensor that was there at the start stopped answering.
    PowerSourceLost = "power_source_lost", Invalid,
        "part of the energy was not measured", "run it again; after a driver or daemon reload, in a new container";
    /// An energy counter went backwards by more than a wrap-around.
    CounterReset = "counter_reset", Invalid,
        "its difference means nothing", "run it again; counters are set back when the driver is reloaded";
    /// Power samples are missing for more than three sampling periods.
    SamplesMissing = "samples_missing", Note,
        "the power curve has a hole; energy by counter is not touched", "run it on a less busy machine";
    /// The sensor covers more than the experiment's devices (e.g. the whole processor package).
    ScopeWiderThanExperiment = "scope_wider_than_experiment", Note,
        "other programs on it are measured too", "compare only runs on an idle machine";
    /// A GPU of the experiment is divided by MIG.
    MigEnabled = "mig_enabled", Invalid,
        "its power is that of all instances together", "switch MIG off, or use a GPU that is not divided";
    /// A GPU's clocks were held down by heat or a hardware slowdown.
    Throttled = "throttled", Invalid,
        "the work ran slower than the GPU can", "improve the cooling or the power supply and run it again";
    /// A GPU ran into the power limit that it has by default: that is what it is built to do.
    PowerLimitReached = "power_limit_reached", Note,
        "time and energy are those of this limit", "compare only with runs under the same limit";
    /// A GPU's clocks were held down by a power limit below its default.
    PowerCapped = "power_capped", Invalid,
        "time and energy are those of this limit", "compare only with runs under the same limit, or restore the default limit";
    /// A GPU grew warmer or colder during the window.
    TemperatureDrift = "temperature_drift", Invalid,
        "leakage, and with it power, depends on temperature", "warm up for longer: raise `measurement.thermal_floor_seconds`";
    /// Clocks or temperatures had not settled when the thermal gate's time was over.
    ThermalGateTimedOut = "thermal_gate_timed_out", Invalid,
        "the window did not begin in a steady state", "raise `measurement.thermal_gate_timeout_seconds` or improve the cooling";
    /// Nobody looked whether clocks and temperatures had settled.
    ThermalGateOff = "thermal_gate_off", Note,
        "the device may not have been in a steady state", "set `measurement.thermal_gate_timeout_seconds` for results that count";
    /// Warm-up had less than the thermal floor of 30 s.
    ThermalFloorShortened = "thermal_floor_shortened", Note,
        "the device may not have been warm", "use another profile than `quick` for results that count";
    /// Warm-up was shorter than three passes.
    WarmupShortened = "warmup_shortened", Note,
        "caches and clocks may not have settled", "raise `measurement.warmup_passes`";
    /// Idle power changed while it was measured.
    BaselineUnstable = "baseline_unstable", Note,
        "what idling takes is not known, so that net energy is null; gross energy is not touched",
        "see that nothing else uses the GPU, or raise `measurement.baseline_seconds`";
    /// The driver forgets a GPU's state when nobody uses it.
    PersistenceOff = "persistence_off", Note,
        "idle power and load times depend on who else holds the GPU open", "`nvidia-smi -pm 1` as root switches persistence on";
    /// A process that does not belong to the run was on one of its GPUs.
    ForeignProcess = "foreign_process", Invalid,
        "its work is in the measured energy", "end it, or use another GPU, and run it again";
    /// A process that does not belong to the run was on one of its GPUs before or after what is measured.
    ForeignProcessOutside = "foreign_process_outside_window", Note,
        "its work is not in the window's energy", "see that nothing else uses the GPU";
    /// A process that does not belong to the run was on one of its GPUs while idle power was measured.
    BaselineDisturbed = "baseline_disturbed", Note,
        "idle power holds its work, so that net energy is null; gross energy is not touched",
        "end it, and run it again where net energy matters";
    /// Something speaks against the passes of prefill alone.
    PrefillDisturbed = "prefill_disturbed", Note,
        "the split by prefill passes is null; the window is not touched", "run it again where that split matters";
    /// Something speaks against a sensor that the experiment's energy does not hold.
    UncountedSensor = "uncounted_sensor", Note,
        "the experiment's energy does not hold this sensor", "mind it where the sensor's own figures are used";
    /// A calibration of the user config is for a sensor that the run did not have.
    CalibrationUnmatched = "calibration_unmatched", Note,
        "it corrected nothing in this run", "compare its `device` with the sensors that the result names";
    /// Whether foreign processes were on the GPUs could not be found out.
    ForeignCheckUnavailable = "foreign_check_unavailable", Note,
        "a foreign process would not have been noticed", "run llem where it sees the host's processes and NVML";
    /// The engine's own device is not one that the experiment asked for.
    WrongDevice = "wrong_device", Invalid,
        "the energy of another device was measured", "check the engine's device settings and `CUDA_VISIBLE_DEVICES`";
    /// A GPU of the experiment held nothing of the engine.
    GpuNotUsed = "gpu_not_used", Invalid,
        "an idle GPU was measured", "check the engine's device settings, or give the experiment fewer GPUs";
    /// The agent used more than 1 % of a core in the window.
    AgentOverhead = "agent_overhead", Note,
        "it may have disturbed what it measured", "make the workload larger when passes are very short, or lower `measurement.sample_hz`";
    /// The host was overloaded in the window: others used its processors, or its hypervisor took them.
    HostBusy = "host_busy", Note,
        "the engine may have waited for the processor", "run on an idle machine";
    /// What else the host did in the window could not be found out.
    HostLoadUnknown = "host_load_unknown", Note,
        "other work on the machine would not have been noticed", "run it again with one controller from its beginning to its end";
    /// The token totals that the driver gave for a pass differ from the sums of its request records.
    TokenCountMismatch = "token_count_mismatch", Invalid,
        "padding may have been counted", "report it: the backend's driver is wrong";
    /// Prefill and decode could not be told apart by the power curve.
    SplitNotResolved = "split_not_resolved", Note,
        "stretches of prefill are shorter than the curve resolves", "use the split by the prefill-only pass";
    /// What compiling took of the load could not be told by the power curve.
    CompileNotResolved = "compile_not_resolved", Note,
        "energy of compiling and of the rest of the load is null; their times stand", "use the energy of both together, which the message has";
    /// The number of parameters that a token meets is not known.
    FlopsUnknown = "flops_unknown", Note,
        "the reference number of operations is null", "work it out from the model's description where it matters";
    /// No carbon intensity was given.
    NoCarbonIntensity = "no_carbon_intensity", Note,
        "CO2 is null: llem invents no number", "set `carbon.intensity_g_per_kwh` and `carbon.pue` in the user config";
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// A code with its particulars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reason {
    /// The code.
    pub code: ReasonCode,
    /// Whether it makes the run invalid.
    pub severity: Severity,
    /// What happened with the numbers, why it matters, and what to do.
    pub message: String,
}

impl Reason {
    /// A reason with the severity of its code. `happened` says what happened, with the numbers, as a fragment.
    pub fn new(code: ReasonCode, happened: impl fmt::Display) -> Self {
        let message = format!("{happened}; {}; {}", code.why(), code.advice());
        Self { code, severity: code.severity(), message }
    }

    /// What happened, without why it matters and what to do.
    pub fn happened(&self) -> &str {
        let rest = format!("; {}; {}", self.code.why(), self.code.advice());
        self.message.strip_suffix(&rest).unwrap_or(&self.message)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}
