//! What a study will cost before anything is started: memory of GPUs and time, by stated rules.
//!
//! What the rules have no number for stays unknown, with the reason; nothing is guessed. [`memory`] and [`time`] are pure functions of the
//! experiment, of what is known about its model, and of the GPU.

mod facts;
pub mod memory;
mod precision;
pub mod time;
mod work;

pub use facts::{ModelFacts, StoredWeights};
