//! What is run, in which order, and what it will cost.

pub mod estimate;
pub mod order;
