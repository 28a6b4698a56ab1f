//! llem measures what an LLM deployment costs in energy and time, reproducibly.

pub mod analysis;
pub mod config;
pub mod engine_cache;
mod files;
pub mod gpu_watch;
mod hash_notes;
pub mod host;
pub mod hub;
pub mod model;
mod part_directory;
pub mod plan;
pub mod preflight;
mod printable;
pub mod report;
pub mod result;
pub mod runner;
pub mod schema;
pub mod study;
mod sweep;
#[cfg(test)]
mod testing;
pub mod workload;
