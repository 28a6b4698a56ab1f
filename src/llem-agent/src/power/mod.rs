//! Power and energy: the sources, the thread that reads them, and the arithmetic between two edges.

mod align;
mod baseline;
mod cross_check;
mod curve;
mod energy;
mod gpu_facts;
mod judge;
mod nvml;
mod rapl;
mod raw_nvml;
mod recording;
mod sampler;
mod settle;
mod share;
mod split;

use std::path::Path;
use std::time::Duration;

use llem_protocol::{CurveKind, PowerDomain, Reason, ReasonCode};

use crate::fault::Fault;
use curve::Point;

pub(crate) use baseline::baseline;
pub(crate) use energy::Work;
pub(crate) use gpu_facts::GpuFacts;
pub(crate) use judge::Judged;
pub(crate) use nvml::visible_gpus;
pub(crate) use recording::Recording;
pub(crate) use sampler::{Edge, Sampler};
pub(crate) use settle::{SPAN_S as SETTLE_SPAN_S, unsettled};
pub(crate) use share::{Shared, share_out};
pub(crate) use split::split_by_stamps;

/// Why a sensor gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PowerError {
    /// NVIDIA's management library said no.
    #[error("NVML: {0}")]
    Nvml(#[from] nvml_wrapper::error::NvmlError),
    /// A file could not be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A file or value is not what it should be.
    #[error("unexpected value `{value}` of {sensor}")]
    Value {
        /// What was read.
        sensor: String,
        /// What it gave.
        value: String,
    },
    /// A counter went backwards by more than a wrap-around.
    #[error("the energy counter of {sensor} was reset")]
    Reset {
        /// The sensor.
        sensor: String,
    },
    /// The sensor answered without a value.
    #[error("the sensor gave no reading")]
    NoReading,
}

/// What a device was doing at a moment. Absent is `None`, never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct DeviceState {
    /// The driver's moving average of power over one second in watts.
    pub(crate) power_average_w: Option<f64>,
    /// Memory in use in bytes.
    pub(crate) memory_used_bytes: Option<u64>,
    /// Clock of the compute units in megahertz.
    pub(crate) clock_mhz: Option<u32>,
    /// Clock of the memory in megahertz.
    pub(crate) memory_clock_mhz: Option<u32>,
    /// Temperature in degrees Celsius.
    pub(crate) temperature_c: Option<u32>,
    /// Clocks-event reasons as a bit mask.
    pub(crate) throttle_reasons: Option<u64>,
}

/// A hardware energy counter at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counter {
    /// When reading it was over.
    pub(crate) t_ns: u64,
    /// Energy in joules since an arbitrary start, wrap-arounds already undone.
    pub(crate) energy_j: f64,
}

/// Sensors of one interface. Owned by the sampling thread.
pub(crate) trait PowerSource: Send {
    /// What it covers; the position is the domain's number in the other calls.
    fn domains(&self) -> Vec<PowerDomain>;

    /// What the points of a domain's curve mean.
    fn curve_kind(&self, domain: usize) -> CurveKind;

    /// How often power has to be asked for, where the source knows better than the job.
    fn pace(&self, domain: usize) -> Option<Duration>;

    /// Appends the points of the curve since the last call.
    fn power(&mut self, domain: usize, points: &mut Vec<Point>) -> Result<(), PowerError>;

    /// Clocks, temperature and the like; `None` for sensors that know of nothing but power.
    fn state(&mut self, domain: usize) -> Option<DeviceState>;

    /// Reads the energy counter; `None` when the domain has none. May take milliseconds: called at edges.
    fn counter(&mut self, domain: usize) -> Result<Option<Counter>, PowerError>;

    /// Time between two refreshes of the counters.
    fn counter_period(&self) -> Duration;
}

/// The sources of a run, and what could not be had.
pub(crate) struct Sources {
    /// Those that answered.
    pub(crate) opened: Vec<Box<dyn PowerSource>>,
    /// Why energy is absent or wider than the experiment.
    pub(crate) reasons: Vec<Reason>,
    /// The experiment's graphics processors, as NVML describes them.
    pub(crate) gpus: GpuFacts,
}

/// Opens what the machine offers: NVML for exactly these GPUs, and RAPL. Without GPUs NVML is not touched. A GPU in MIG mode is refused
/// unless `allow_mig`.
pub(crate) fn open_sources(gpus: &[String], powercap: Option<&Path>, allow_mig: bool) -> Result<Sources, Fault> {
    let mut found = Sources { opened: Vec::new(), reasons: Vec::new(), gpus: GpuFacts::default() };
    if !gpus.is_empty() {
        match nvml::open(gpus) {
            Ok((source, facts)) => {
                found.reasons.extend(facts.reasons(allow_mig)?);
                found.opened.push(Box::new(source));
                found.gpus = facts;
            }
            Err(error) => found.reasons.push(no_gpu_source(gpus, &error)),
        }
    }
    match (rapl::Rapl::open(powercap), gpus.is_empty()) {
        (Ok(source), on_processor) => {
            found.reasons.extend(on_processor.then(|| wider_scope(&source.domains())));
            found.opened.push(Box::new(source));
        }
        (Err(looked_for), true) => found.reasons.push(Reason::new(ReasonCode::NoPowerSource, looked_for)),
        (Err(looked_for), false) => {
            found.reasons.push(Reason::new(ReasonCode::ProcessorEnergyUnavailable, looked_for));
        }
    }
    Ok(found)
}

fn no_gpu_source(gpus: &[String], error: &nvml_wrapper::error::NvmlError) -> Reason {
    let happened = format!("the power of {} cannot be read: NVML: {error}", gpus.join(", "));
    Reason::new(ReasonCode::NoGpuPowerSource, happened)
}

fn wider_scope(domains: &[PowerDomain]) -> Reason {
    let names: Vec<&str> = domains.iter().map(|domain| domain.id.as_str()).collect();
    let happened = format!("{} cover the whole processor and its memory", names.join(", "));
    Reason::new(ReasonCode::ScopeWiderThanExperiment, happened)
}
