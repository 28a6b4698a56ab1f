//! What is run, and in which order.

pub mod order;
