//! Workloads and the Hugging Face chain, against real files and a real HTTP server on this machine.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail like tests")]

#[path = "workload/built_in.rs"]
mod built_in;
#[path = "workload/fixtures.rs"]
mod fixtures;
#[path = "workload/hub_faults.rs"]
mod hub_faults;
#[path = "workload/own_files.rs"]
mod own_files;
#[path = "workload/server.rs"]
mod server;
#[path = "workload/synthetic.rs"]
mod synthetic;
#[path = "workload/token.rs"]
mod token;
