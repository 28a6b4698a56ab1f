//! Measures what an LLM deployment costs in energy and time, reproducibly.

pub mod config;
pub mod plan;
mod sweep;
