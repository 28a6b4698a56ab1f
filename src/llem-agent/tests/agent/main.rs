//! The built agent against a driver that speaks the real protocol, well and badly.

mod faults;
mod harness;
mod interruption;
mod measured;
mod portable;
mod refused;
