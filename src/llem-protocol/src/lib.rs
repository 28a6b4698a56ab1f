//! What crosses a boundary between llem's processes, as serde types and nothing else.
//!
//! ```text
//! controller ── Job (job.json) ─────────► agent ── Request (stdin lines) ──► driver
//! controller ◄─ Event (stdout lines) ──── agent ◄─ Message (stdout lines) ── driver
//! controller ◄─ Report, RequestRecord, PowerSample (files) ── agent
//! ```
//!
//! All times named `*_ns` are nanoseconds of `CLOCK_MONOTONIC`, which host, containers and processes of
//! one machine share. Lines are JSON objects in UTF-8, one a line, at most [`MAX_LINE_BYTES`] long.

mod cpus;
mod device;
mod driver;
mod energy;
mod event;
mod failure;
mod job;
mod phase;
mod reason;
mod report;

pub use cpus::{CpuList, CpuPinning, NotACpuList};
pub use device::{Device, DeviceKind, VisibleGpus};
pub use driver::{Message, Request, RequestRecord};
pub use energy::{
    BaselinePower, BaselineRecord, CrossCheck, CrossCheckBasis, CurveKind, DeviceEnergy, EdgeRecord, EnergyMethod,
    EnergyReport, EnergySplit, PowerDomain, PowerSample, PowerScope, PowerSourceKind,
};
pub use event::{Event, EventBody, LogLevel, decode_event};
pub use failure::{Failure, FailureClass};
pub use job::{DriverCommand, EngineSpec, Job, MeasurementSpec, ModelLocation, WorkloadLine, WorkloadRef};
pub use phase::Phase;
pub use reason::{Reason, ReasonCode, Severity};
pub use report::{
    ClockPair, EngineReport, EnvironmentReport, GateOutcome, PassRecord, PhaseRecord, PrefillRecord, Report, SelfUsage,
    Stretch, ThermalGateRecord, WarmupRecord, WindowRecord,
};

/// Version of the messages between controller, agent and drivers. Both sides refuse another one.
pub const PROTOCOL_VERSION: u32 = 2;

/// Version of `job.json`.
pub const JOB_SCHEMA_VERSION: u32 = 2;

/// Version of the files that the agent writes.
pub const REPORT_SCHEMA_VERSION: u32 = 2;

/// The longest line that a reader accepts, in bytes. Longer ones are a fault of the writer, never memory of the reader.
pub const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// File names that the agent writes into [`Job::output_dir`].
pub mod files {
    /// One [`crate::Report`], written last: its presence means that the run finished or failed in order.
    pub const REPORT: &str = "report.json";
    /// One [`crate::RequestRecord`] a line.
    pub const REQUESTS: &str = "requests.jsonl";
    /// One [`crate::PowerSample`] a line.
    pub const SAMPLES: &str = "samples.jsonl";
    /// Everything that the driver and its children wrote to stdout and stderr.
    pub const DRIVER_LOG: &str = "driver.log";
    /// Written by the controller before the start; holds [`crate::Job::nonce`]. An agent that cannot read it is not
    /// looking at the controller's volume.
    pub const NONCE: &str = ".llem-nonce";
}
