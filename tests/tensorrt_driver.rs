//! The driver of TensorRT-LLM, spoken to as the agent does, with a **stand-in** for TensorRT-LLM (`tests/tensorrt/standin`).
//!
//! The real engine needs an NVIDIA GPU and comes from an index of its own, so it has not run here. The stand-in has the names, arguments,
//! defaults and refusals that are public of version 1.2, rejects everything else, and computes nothing. The driver is the one that llem
//! carries. Needs python3 of version 3.10 or later; without it each test prints that it is skipped.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

#[expect(dead_code, reason = "shared with the tests of PyTorch's driver, which need more of it")]
#[path = "pytorch/conversation.rs"]
mod conversation;
#[path = "tensorrt/engines.rs"]
mod engines;
#[path = "tensorrt/generation.rs"]
mod generation;
#[path = "tensorrt/harness.rs"]
mod harness;
#[path = "tensorrt/options.rs"]
mod options;
#[path = "tensorrt/refusals.rs"]
mod refusals;
