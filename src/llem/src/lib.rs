//! Measures what an LLM deployment costs in energy and time.

pub mod hub;
pub mod workload;
