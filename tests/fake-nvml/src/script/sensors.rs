//! How the fake driver measures: its counter, its meter, its ring of samples, and their faults.

use serde::{Deserialize, Serialize};

use super::{Span, code};

/// The energy counter, also as field 83. Defaults are what an H100 was measured to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Counter {
    /// Whether there is one: not before Volta.
    pub supported: bool,
    /// Milliseconds between refreshes.
    pub period_ms: f64,
    /// A moment of refresh, in milliseconds after the epoch.
    pub phase_ms: f64,
    /// A refresh has the energy up to this many milliseconds before it.
    pub lag_ms: f64,
    /// How long one call takes, in milliseconds.
    pub call_ms: f64,
    /// The part of a call after which its value is fixed, 0 to 1.
    pub latched_at: f64,
    /// Every so many calls one is slow; 0 for never. Calls are counted from 1 for each device and loaded library.
    pub slow_every: u64,
    /// How long a slow call takes, in milliseconds.
    pub slow_ms: f64,
    /// What the counter holds at the epoch, in millijoules. Before it, the counter is lower by what the GPU drew.
    pub start_mj: f64,
    /// At this second the counter falls to 0 and counts on from there.
    pub reset_at_s: Option<f64>,
    /// What the counter makes of one true joule: not 1 when sources are to disagree.
    pub gain: f64,
}

/// Power as `nvmlDeviceGetPowerUsage` and fields 185 and 186 tell it. Defaults are what an H100 was measured to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Meter {
    /// Whether `nvmlDeviceGetPowerUsage` works.
    pub supported: bool,
    /// Whether fields 185 and 186 work: not before Ampere.
    pub fields_supported: bool,
    /// Milliseconds between refreshes.
    pub period_ms: f64,
    /// A moment of refresh, in milliseconds after the epoch.
    pub phase_ms: f64,
    /// Power usage and field 185 are the mean over this many milliseconds before the refresh.
    pub mean_ms: f64,
    /// Field 186 is the mean over this many milliseconds before the refresh.
    pub instant_ms: f64,
    /// How long one call takes, in milliseconds.
    pub call_ms: f64,
    /// What the meter makes of one true watt: not 1 when sources are to disagree.
    pub gain: f64,
}

/// The driver's ring of power samples. Defaults are what an H100 was measured to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnergySamples {
    /// Whether there is one.
    pub supported: bool,
    /// How many samples the ring holds.
    pub capacity: usize,
    /// Chooses the irregular distances between samples: 8 ms to 47 ms, 20 ms on average.
    pub seed: u64,
    /// Makes those distances this many times as long: 1 for what was measured.
    pub spacing: u8,
    /// A sample is the mean over this many milliseconds before its stamp; absent, over all the time since the one before it.
    pub mean_ms: Option<f64>,
    /// A sample shows up this many milliseconds after its stamp.
    pub delay_ms: f64,
    /// Samples with a stamp in one of these are missing.
    pub lost: Vec<Span>,
    /// How long one call takes, in milliseconds.
    pub call_ms: f64,
    /// What a sample makes of one true watt: not 1 when sources are to disagree.
    pub gain: f64,
}

/// Calls that fail for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Failure {
    /// Which calls.
    pub affected: Affected,
    /// When.
    pub during: Span,
    /// What they return, see [`code`].
    pub code: u32,
}

/// A family of calls about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Affected {
    /// Power usage and fields 185 and 186.
    Power,
    /// The energy counter and field 83.
    Counter,
    /// The ring of power samples.
    Samples,
    /// Temperature.
    Temperature,
    /// Clocks and their limits.
    Clocks,
    /// Why clocks are held back.
    Throttle,
    /// Memory of the GPU.
    Memory,
    /// Processes on the GPU.
    Processes,
    /// Modes, limits, names.
    Settings,
}

impl Default for Counter {
    fn default() -> Self {
        Self {
            supported: true,
            period_ms: 100.0,
            phase_ms: 0.0,
            lag_ms: 5.0,
            call_ms: 3.0,
            latched_at: 0.5,
            slow_every: 0,
            slow_ms: 90.0,
            start_mj: 1e9,
            reset_at_s: None,
            gain: 1.0,
        }
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            supported: true,
            fields_supported: true,
            period_ms: 100.0,
            phase_ms: 0.0,
            mean_ms: 1000.0,
            instant_ms: 25.0,
            call_ms: 0.0,
            gain: 1.0,
        }
    }
}

impl Default for EnergySamples {
    fn default() -> Self {
        Self {
            supported: true,
            capacity: 119,
            seed: 0,
            spacing: 1,
            mean_ms: None,
            delay_ms: 100.0,
            lost: Vec::new(),
            call_ms: 0.0,
            gain: 1.0,
        }
    }
}

impl Default for Failure {
    fn default() -> Self {
        Self { affected: Affected::Power, during: Span::default(), code: code::UNKNOWN }
    }
}
