//! Energy and power, with what is known about how sure they are.
//!
//! Uncertainties are standard uncertainties in the sense of JCGM 100:2008 (*Guide to the expression of uncertainty in measurement*):
//! one standard deviation; a bound of ±a without further knowledge counts as a/√3.

use serde::{Deserialize, Serialize};

/// Where a power figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PowerSourceKind {
    /// NVIDIA's management library.
    Nvml,
    /// The processor's running average power limit counters.
    Rapl,
}

/// Which part of the hardware a sensor covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PowerScope {
    /// One GPU with its memory (NVML's scope id 0).
    #[default]
    Gpu,
    /// A whole superchip module, processor included (NVML's scope id 1, Grace boards).
    Module,
    /// One processor package.
    Package,
    /// Main memory of one package.
    Memory,
}

/// What a sensor covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PowerDomain {
    /// The interface.
    pub source: PowerSourceKind,
    /// `GPU-…` for NVML; `package-0`, `dram-0` … for RAPL.
    pub id: String,
    /// The part of the hardware.
    #[serde(default)]
    pub scope: PowerScope,
}

/// What one point of a power curve means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CurveKind {
    /// Mean over the stretch since the point before, without gaps: the driver's own sample buffer, differences of a counter.
    Mean,
    /// Power at a moment, or over a small part of the stretch.
    Instant,
    /// A moving average over one second.
    MovingAverage,
    /// Samples of the driver's own buffer whose distances are not those of GPUs on which they were seen to be means without gaps: power
    /// at their stamps, with the uncertainty of that.
    Samples,
}

/// Energy between two edges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EnergyReport {
    /// One entry per sensor domain. Empty when nothing could be read; the reasons say why.
    pub devices: Vec<DeviceEnergy>,
}

/// How the energy of a stretch was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EnergyMethod {
    /// Difference of the hardware counter between its edges, less the curve's energy in lead and tail.
    Counter,
    /// Integral of the power curve: the device has no counter.
    Curve,
    /// Part of a stretch: the hardware counter's difference over all of it, shared out as the power curve has it.
    CounterShare,
}

/// What decides how far counter and curve may be apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CrossCheckBasis {
    /// 1 % of the counter: nothing that the curve says of itself allows more, or the load was steady for 10 s, when a curve misses nothing.
    OnePercent,
    /// Twice the curve's own standard uncertainty, which is more than 1 %.
    CurveUncertainty,
}

/// Counter and curve of one sensor, compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CrossCheck {
    /// The curve over the counter less 1, in percent.
    pub difference_percent: f64,
    /// How far they may be apart, in percent of the counter.
    pub allowed_percent: f64,
    /// What decided that.
    pub basis: CrossCheckBasis,
    /// Whether they are no further apart.
    pub agrees: bool,
}

/// One edge of a stretch for one sensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EdgeRecord {
    /// When: at a tick of the counter if aligned.
    pub t_ns: u64,
    /// Whether the counter was seen to change at this moment.
    pub aligned: bool,
    /// How long before `t_ns` the counter may have got its value: the time between the last read with the old value and the first with
    /// the new one, or, when not aligned, the refresh period.
    pub bracket_ms: f64,
    /// The counter's value in joules since an arbitrary start; null without a counter, and when it could not be read.
    pub counter_j: Option<f64>,
}

/// Energy of one sensor domain over a stretch of work, with edges around it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceEnergy {
    /// What the sensor covers.
    pub domain: PowerDomain,
    /// The edge at or before the work's beginning.
    pub start: EdgeRecord,
    /// The edge at or after the work's end.
    pub end: EdgeRecord,
    /// Energy of the work in joules; null when nothing can tell it, and for stretches of less than ten refreshes of the counter.
    pub energy_j: Option<f64>,
    /// How `energy_j` was found.
    pub method: Option<EnergyMethod>,
    /// Standard uncertainty of `energy_j` from the edges: when the ticks were, and what belongs to the work around them.
    pub edge_u_j: Option<f64>,
    /// Standard uncertainty of `energy_j` from what sampling may have missed; 0 for a counter, which misses nothing.
    pub sampling_u_j: Option<f64>,
    /// Difference of the hardware counter between the edges in joules.
    pub counter_j: Option<f64>,
    /// Integral of the power curve between the same edges in joules; null with fewer than two samples.
    pub curve_j: Option<f64>,
    /// Standard uncertainty of `curve_j` from sampling, and from how well the curve's times are known at the edges.
    pub curve_u_j: Option<f64>,
    /// What the points of the curve mean.
    pub curve_kind: Option<CurveKind>,
    /// Counter and curve compared; null for phases, without one of both, and for less than a second.
    #[serde(default)]
    pub cross_check: Option<CrossCheck>,
    /// Energy between the opening edge and the work in joules, by the curve; null where that is too coarse to tell.
    pub lead_j: Option<f64>,
    /// Energy between the work and the closing edge in joules, by the curve; null where that is too coarse to tell.
    pub tail_j: Option<f64>,
    /// `energy_j` over the length of the work, in watts.
    pub mean_w: Option<f64>,
    /// Highest point of the curve during the work in watts.
    pub peak_w: Option<f64>,
    /// Points of the curve between the edges.
    pub samples: u64,
}

/// Energy of prefill and decode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EnergySplit {
    /// What the sensor covers.
    pub domain: PowerDomain,
    /// From handing a batch over to its first token, summed over all batches, in joules.
    pub prefill_j: f64,
    /// From the first token to the last one of a batch, summed, in joules.
    pub decode_j: f64,
    /// What lies between batches and passes, in joules.
    pub other_j: f64,
    /// Seconds of prefill.
    pub prefill_s: f64,
    /// Seconds of decode.
    pub decode_s: f64,
    /// Standard uncertainty of `prefill_j` and `decode_j` (what one gains the other loses) from how well the curve's times are known at
    /// the boundaries.
    pub boundary_u_j: f64,
    /// Standard uncertainty of `prefill_j` from what the curve did not see, without the sensor's gain.
    #[serde(default)]
    pub prefill_sampling_u_j: f64,
    /// The same of `decode_j`.
    #[serde(default)]
    pub decode_sampling_u_j: f64,
}

/// Idle power.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BaselineRecord {
    /// Its beginning.
    pub start_ns: u64,
    /// Its end.
    pub end_ns: u64,
    /// One entry per sensor domain that gave power.
    pub devices: Vec<BaselinePower>,
}

/// Idle power of one sensor domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BaselinePower {
    /// What the sensor covers.
    pub domain: PowerDomain,
    /// Mean power in watts.
    pub mean_w: f64,
    /// Standard deviation of the means over stretches of one second, in watts; null with fewer than two of them.
    pub spread_w: Option<f64>,
    /// Standard uncertainty of the mean from its spread, in watts; without the sensor's gain.
    pub mean_u_w: Option<f64>,
}

/// One reading of one sensor domain. One JSON object a line in `samples.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PowerSample {
    /// When it was taken.
    pub t_ns: u64,
    /// What the sensor covers.
    pub domain: PowerDomain,
    /// Power in watts; null when the reading failed, and in readings of everything else.
    pub power_w: Option<f64>,
    /// What `power_w` means.
    pub curve_kind: Option<CurveKind>,
    /// The driver's moving average over one second in watts: never mixed with `power_w`.
    pub power_average_w: Option<f64>,
    /// Temperature in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Clock of the compute units in megahertz.
    pub clock_mhz: Option<f64>,
    /// Clock of the device's memory in megahertz.
    pub memory_clock_mhz: Option<f64>,
    /// Memory in use on the device in bytes.
    pub memory_used_bytes: Option<u64>,
    /// NVML's clocks-event reasons (`nvmlClocksEventReason*` of nvml.h) as a bit mask.
    pub throttle_reasons: Option<u64>,
}
