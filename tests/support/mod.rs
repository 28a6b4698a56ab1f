//! What the whole-program tests share: studies, the program under way, the engine, images with faults, a breakable socket.

mod apptainer;
mod bench;
mod engine;
mod faults;
mod finished;
mod hub;
mod image;
mod own_engine;
mod podman;
mod program;
mod proxy;
mod standin;

use std::time::{Duration, Instant};

pub(crate) use apptainer::{apptainer_answers, sif_of};
pub(crate) use bench::Bench;
pub(crate) use engine::{
    ENGINE_PATIENCE, PYTORCH_IMAGE, VLLM_IMAGE, containers_of, docker, docker_text, engine_answers, has_image,
};
pub(crate) use faults::fault_library;
pub(crate) use finished::Finished;
pub(crate) use hub::{Access, COMMIT, Repository, StandInHub};
pub(crate) use image::{bare_image, fault_image};
pub(crate) use own_engine::OwnEngine;
pub(crate) use podman::Podman;
pub(crate) use program::{Program, alone, is_alive};
pub(crate) use proxy::Proxy;
pub(crate) use standin::{compiler_image, tensorrt_image};

/// How long anything may take that takes a second on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `condition` gives something; fails with `what` after [`PATIENCE`].
pub(crate) fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, condition)
}

/// As [`eventually`] with another limit.
pub(crate) fn eventually_within<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether there is a program of that name.
fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}
