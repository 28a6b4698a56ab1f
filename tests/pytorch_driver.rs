//! The driver of PyTorch, spoken to as the agent does, in a container of a real PyTorch on the processor.
//!
//! Needs the image that `tests/images/pytorch-cpu/build` makes; without it each test prints that it is skipped.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

#[path = "pytorch/conversation.rs"]
mod conversation;
#[path = "pytorch/generation.rs"]
mod generation;
#[path = "pytorch/harness.rs"]
mod harness;
#[path = "pytorch/options.rs"]
mod options;
#[path = "pytorch/refusals.rs"]
mod refusals;
