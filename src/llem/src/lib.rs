//! llem measures what an LLM deployment costs in energy and time, reproducibly.
pub mod runner;
