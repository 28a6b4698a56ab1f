//! podman through its Docker-compatible socket.

use std::path::{Path, PathBuf};

use llem::config::GpuAccess;
use llem::runner::Gpu;
use llem::runner::docker::{CandleImage, Engine, GpuProbeSpec, ProbeSpec, probe_gpus};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::apptainer_runner::{Identity, identity, two_experiments};
use crate::support::{Bench, ENGINE_PATIENCE, PYTORCH_IMAGE, Podman, docker_text, engine_answers, has_image};

/// The same study with llem's engine at another socket.
pub(crate) fn under_podman(bench: &mut Bench, podman: &Podman) -> Vec<Identity> {
    bench.docker_host = Some(podman.address());
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0);
    assert_eq!(podman.text(&["ps", "-aq"]), "", "containers are left");
    let container = finished.results().remove(0).container.unwrap();
    assert!(container.image_id.len() > 60, "{container:?}");
    bench.docker_host = None;
    identity(&finished)
}

#[test]
fn a_study_under_podman_is_the_one_of_plain_processes() {
    let Some(podman) = Podman::start() else { return };
    let mut bench = two_experiments("podman");
    let by_podman = under_podman(&mut bench, &podman);
    let finished = bench.run(&["--runner", "process"]);
    finished.exits(0);
    assert_eq!(by_podman, identity(&finished));
}

#[test]
fn pytorch_under_podman_generates_what_it_does_in_docker() {
    if !engine_answers() || !has_image(PYTORCH_IMAGE) {
        return;
    }
    let Some(podman) = Podman::start() else { return };
    let mut bench = Bench::new("podman-pytorch").patient(ENGINE_PATIENCE);
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!("pytorch");
    bench.study["pytorch"] = json!({"device_map": "cpu", "num_threads": 1, "batch_size": 2});
    bench.user = json!({"images": {"pytorch": PYTORCH_IMAGE}});
    let by_docker = bench.run(&["--runner", "docker"]);
    by_docker.exits(0);
    let saved = bench.path("saved.tar").display().to_string();
    docker_text(&["save", PYTORCH_IMAGE, "-o", &saved]);
    podman.text(&["load", "-i", &saved]);
    assert_eq!(under_podman(&mut bench, &podman), identity(&by_docker));
}

/// What is root in such a container is an ordinary user outside, and results belong to that user.
#[test]
fn a_study_under_rootless_podman_belongs_to_its_user() {
    let Some(mut bench) = two_experiments("rootless").for_nobody() else { return };
    let Some(podman) = Podman::start_as(bench.user_and_group.map(|(user, _)| user)) else { return };
    let by_podman = under_podman(&mut bench, &podman);
    let finished = bench.run(&["--runner", "process"]);
    finished.exits(0);
    assert_eq!(by_podman, identity(&finished));
}

/// podman 4 creates and starts such a container as if nothing had been asked for.
#[test]
fn a_gpu_request_that_the_engine_ignores_is_noticed_inside() {
    let Some(podman) = Podman::start() else { return };
    let beside = |name: &str| -> PathBuf { Path::new(env!("CARGO_BIN_EXE_llem")).with_file_name(name) };
    let (agent, candle) = (beside("llem-agent"), beside("llem-candle"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let seen = runtime.block_on(async {
        let engine = Engine::connect(Some(&podman.address())).await.unwrap();
        let image = CandleImage::from_host(&candle, &agent).unwrap();
        llem::runner::docker::build_candle(&engine, &image).await.unwrap();
        let spec = GpuProbeSpec {
            image: ProbeSpec {
                reference: &image.reference,
                interpreters: &[],
                agent: &agent,
                mounts: &[],
                env: &[].into(),
            },
            access: GpuAccess::Nvidia,
            gpus: vec![Gpu { uuid: "GPU-11111111-2222-3333-4444-555555555555".to_owned(), minor: 0 }],
        };
        probe_gpus(&engine, &spec, &CancellationToken::new()).await.unwrap()
    });
    // Either is refused before the first run: an engine that refuses, or a container without NVML.
    match seen {
        Err(refused) => assert!(!refused.is_empty()),
        Ok(seen) => assert!(seen.uuids.is_empty() && seen.problem.is_some(), "{seen:?}"),
    }
    assert_eq!(podman.text(&["ps", "-aq"]), "", "containers are left");
}
