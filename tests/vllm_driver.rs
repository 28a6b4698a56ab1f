//! The driver of vLLM, spoken to as the agent does, in a container of a real vLLM on the processor.
//!
//! Needs the image that `tests/images/vllm-cpu/build` makes; without it each test prints that it is skipped.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

#[expect(dead_code, reason = "shared with the tests of PyTorch's driver, which need more of it")]
#[path = "pytorch/conversation.rs"]
mod conversation;
#[path = "vllm/generation.rs"]
mod generation;
#[expect(dead_code, reason = "shared with the tests of PyTorch's driver, which need more of it")]
#[path = "pytorch/harness.rs"]
mod harness;
#[path = "vllm/refusals.rs"]
mod refusals;
