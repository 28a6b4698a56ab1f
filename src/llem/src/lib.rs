//! llem measures what an LLM deployment costs in energy and time, reproducibly.

pub mod config;
pub mod gpu_watch;
pub mod host;
pub mod hub;
pub mod model;
pub mod plan;
mod printable;
pub mod result;
pub mod runner;
pub mod study;
mod sweep;
#[cfg(test)]
mod testing;
pub mod workload;
