//! A stand-in for `libnvidia-ml.so.1` that replays scripted GPUs. Tests only.
//!
//! The shared library reads a [`Script`] from the file that `FAKE_NVML` names and answers as an H100 with driver
//! 580.159.04 was measured to: the energy counter moves every 100 ms and its call takes 3 ms, power is a mean over the
//! last second or the last 25 ms, and the driver keeps a ring of power samples without gaps. Every answer follows from the
//! script and the moment of the call, so a test can compute the truth with [`Script::true_energy_j`].
//!
//! What a test does:
//!
//! ```no_run
//! use fake_nvml::{Device, Power, Script, Square};
//!
//! let dir = std::path::Path::new("somewhere/temporary");
//! let power = Power::Square(Square { high_w: 600.0, ..Square::default() });
//! let script = Script { devices: vec![Device { power, ..Device::default() }], ..Script::starting_now() };
//! let environment = fake_nvml::stage(dir, &script)?;
//! let status = std::process::Command::new("llem-agent").envs(environment).status()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clock;
mod ffi;
mod install;
mod load;
mod script;
mod sensor;
mod shape;
mod truth;
mod world;

pub use clock::{monotonic_ns, realtime_offset_ns};
pub use install::{InstallError, LIBRARY_NAME, install, library_path, stage};
pub use load::{Busy, Load, mark_load};
pub use script::{
    Affected, Clocks, Counter, Curve, Device, EnergySamples, Failure, Grace, Limits, Memory, MemoryUse, Meter, Origin,
    Pid, Process, ProcessKind, Script, ScriptError, Span, Throttle, code,
};
pub use sensor::samples::Sample;
pub use shape::{Power, Ramp, Square, Step, Triangle};
