//! Power and energy: the sources, the thread that reads them, and the arithmetic between two edges.

mod energy;
mod nvml;
mod rapl;
mod sampler;

use std::path::Path;

use llem_protocol::{PowerDomain, Reason, ReasonCode};

pub(crate) use energy::Recording;
pub(crate) use nvml::GpuFacts;
pub(crate) use sampler::{Edge, Sampler};

/// Where the kernel shows the processor's energy counters.
const POWERCAP: &str = "/sys/class/powercap";

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
    /// The first reading of a sensor that needs two.
    #[error("no earlier reading to compare with")]
    NoEarlierReading,
}

/// One reading of one domain. Absent is `None`, never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// Power in watts.
    pub(crate) power_w: Option<f64>,
    /// Memory in use in bytes.
    pub(crate) memory_used_bytes: Option<u64>,
    /// Clock of the compute units in megahertz.
    pub(crate) clock_mhz: Option<u32>,
    /// Temperature in degrees Celsius.
    pub(crate) temperature_c: Option<u16>,
}

/// A hardware energy counter at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counter {
    /// When it was read.
    pub(crate) t_ns: u64,
    /// Energy in joules since an arbitrary start, wrap-arounds already undone.
    pub(crate) energy_j: f64,
}

/// Sensors of one interface. Owned by the sampling thread.
pub(crate) trait PowerSource: Send {
    /// What it covers; the position is the domain's number in the other calls.
    fn domains(&self) -> Vec<PowerDomain>;

    /// Reads power and what goes with it. Cheap: called at every sample.
    fn sample(&mut self, domain: usize) -> Result<Reading, PowerError>;

    /// Reads the energy counter; `None` when the domain has none. May take milliseconds: called at edges.
    fn counter(&mut self, domain: usize) -> Result<Option<Counter>, PowerError>;
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

/// Opens what the machine offers: NVML for exactly these GPUs, and RAPL. Without GPUs NVML is not touched.
pub(crate) fn open_sources(gpus: &[String]) -> Sources {
    let mut found = Sources { opened: Vec::new(), reasons: Vec::new(), gpus: GpuFacts::default() };
    if !gpus.is_empty() {
        match nvml::open(gpus) {
            Ok((source, facts)) => {
                found.opened.push(Box::new(source));
                found.gpus = facts;
            }
            Err(error) => found.reasons.push(no_source(&format!("{} of the experiment: {error}", gpus.join(", ")))),
        }
    }
    match rapl::Rapl::open(Path::new(POWERCAP)) {
        Ok(source) => {
            found.reasons.push(wider_scope(&source.domains()));
            found.opened.push(Box::new(source));
        }
        Err(looked_for) if gpus.is_empty() => found.reasons.push(no_source(&looked_for)),
        Err(_) => {}
    }
    found
}

fn no_source(looked_for: &str) -> Reason {
    let message = format!("{looked_for}; energy is null");
    Reason::new(ReasonCode::NoPowerSource, message)
}

fn wider_scope(domains: &[PowerDomain]) -> Reason {
    let names: Vec<&str> = domains.iter().map(|domain| domain.id.as_str()).collect();
    let message = format!(
        "{} cover the whole processor and its memory, other programs included; compare only runs on an idle machine",
        names.join(", ")
    );
    Reason::new(ReasonCode::ScopeWiderThanExperiment, message)
}
