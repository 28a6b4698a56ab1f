//! The whole program, as a user starts it, against real containers and everything that can go wrong with them.
//!
//! Needs `cargo build --workspace`, for `llem-agent` and `llem-candle` lie beside `llem`. Without a container engine each test prints
//! that it is skipped; where `CI` is set it fails instead.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at what it does not expect")]

mod apptainer_export;
mod apptainer_images;
mod apptainer_runner;
mod bundle;
mod docker_architectures;
mod docker_compose;
mod docker_containers;
mod docker_cpus;
mod docker_drivers;
mod docker_engine;
mod docker_engine_cache;
mod docker_faults;
mod docker_host_load;
mod docker_hostile;
mod docker_images;
mod docker_orphans;
mod docker_policy;
mod docker_powercap;
mod docker_pytorch;
mod docker_restart;
mod docker_results;
mod docker_resume;
mod docker_signals;
mod docker_user_config;
mod docker_vllm;
mod docker_volume;
mod gpu_watch;
mod model_access;
mod podman;
mod process_runner;
mod resume_hostile;
mod same_work;
mod slurm_containers;
mod slurm_runner;
mod support;
mod token_secrecy;
mod user_config_fields;
