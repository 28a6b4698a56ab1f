//! The built agent against a driver that speaks the real protocol, well and badly.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

mod faults;
mod gpu;
mod gpu_compile;
mod gpu_counter;
mod gpu_devices;
mod gpu_faults;
mod gpu_split;
mod gpu_state;
mod gpu_trials;
mod harness;
mod interruption;
mod measured;
mod memory;
mod portable;
mod refused;
