//! Bundles where there is no Docker: in containers on the nodes of a SLURM, and with podman.

use serde_json::json;

use super::{AirGapped, bundled, connected, of_an_image};
use crate::apptainer_runner::{identity, leaves_no_scratch, with_temporary};
use crate::slurm_runner::site::Site;
use crate::support::{
    Bench, ENGINE_PATIENCE, PYTORCH_IMAGE, Podman, apptainer_answers, docker_text, engine_answers, has_image, sif_of,
};

/// The other side is a cluster whose nodes make containers, with caches of its own and no container engine. SLURM itself needs a network
/// card, so its network is not taken away.
fn cluster(site: &Site, name: &str) -> Bench {
    let mut bench = with_temporary(site.bench(name)).patient(ENGINE_PATIENCE);
    bench.user["slurm"]["node_runner"] = json!("apptainer");
    bench.user["cache_dir"] = json!(bench.path("cache"));
    bench.variables.insert("HOME", bench.path("").display().to_string());
    bench.variables.insert("HF_HUB_OFFLINE", "1".to_owned());
    bench.docker_host = Some("unix:///nowhere.sock".to_owned());
    bench
}

/// A study of PyTorch in an image that the user config names as a file.
fn of_pytorch(name: &str) -> Bench {
    let mut bench = connected(name).patient(ENGINE_PATIENCE);
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!("pytorch");
    bench.study["pytorch"] = json!({"device_map": "cpu", "num_threads": 1});
    bench.study["sweep"] = json!({"pytorch.batch_size": [1, 2]});
    bench.user = json!({"images": {"pytorch": sif_of(PYTORCH_IMAGE)}});
    bench
}

#[test]
fn pytorch_in_a_sif_file_of_a_bundle_is_the_same_without_a_network_and_on_the_nodes_of_a_cluster() {
    if !engine_answers() || !apptainer_answers() || !has_image(PYTORCH_IMAGE) {
        return;
    }
    let Some(site) = Site::start() else { return };
    let bench = of_pytorch("bundle-pytorch");
    let unbundled = bench.run(&["--runner", "apptainer"]);
    unbundled.exits(0);
    let file = bundled(&bench, &["--runner", "apptainer"]);
    fs_err::rename(bench.path("originals"), bench.path("taken-away")).unwrap();

    if let Some(mut there) = AirGapped::with("bundle-pytorch-there", &file) {
        there.bench.docker_host = Some("unix:///nowhere.sock".to_owned());
        there.bench = there.bench.patient(ENGINE_PATIENCE);
        let finished = there.run(&[]);
        finished.exits(0);
        assert_eq!(identity(&finished), identity(&unbundled));
        let source = finished.results()[0].container.clone().unwrap().image_source.unwrap();
        assert_eq!(source.reference, PYTORCH_IMAGE);
    }

    let mut there = cluster(&site, "bundle-pytorch-slurm");
    // The bundle's file counts, not that of this machine.
    there.user["images"] = json!({"pytorch": "/nowhere.sif"});
    there.run_file(&file, &["--dry-run"]).exits(0).says(&["slurm: 2 jobs in 1 array"]);
    let on_nodes = there.run_file(&file, &[]);
    on_nodes.exits(0).says(&["runner slurm+apptainer"]);
    assert_eq!(identity(&on_nodes), identity(&unbundled));
    for (result, local) in on_nodes.results().into_iter().zip(unbundled.results()) {
        let (found, expected) = (result.container.unwrap(), local.container.unwrap());
        assert_eq!((found.image_id, found.image_source), (expected.image_id, expected.image_source));
        assert_eq!(result.slurm.unwrap().node_runner, "apptainer");
    }
    site.is_idle();
    leaves_no_scratch(&there);
    // What ran in containers does not become plain processes.
    there.user["slurm"]["node_runner"] = json!("process");
    there.run_file(&file, &[]).exits(2).says(&["was made for the runner `apptainer`", "slurm.node_runner"]);
}

#[test]
fn a_bundle_for_a_cluster_has_what_its_nodes_need() {
    if !engine_answers() || !apptainer_answers() {
        return;
    }
    let Some(site) = Site::start() else { return };
    let mut bench = of_an_image("bundle-for-slurm");
    let reference = bench.study["candle"]["image"].as_str().unwrap().to_owned();
    bench.user["slurm"] = json!({"node_runner": "apptainer"});
    let unbundled = bench.run(&["--runner", "docker"]);
    let archives = bench.path("archives.llem.tar");
    fs_err::rename(bundled(&bench, &["--runner", "docker"]), &archives).unwrap();
    let file = bundled(&bench, &["--runner", "slurm"]);
    docker_text(&["rmi", &reference]);
    unbundled.exits(0);
    let mut there = cluster(&site, "bundle-for-slurm-there");
    there.user["env"] = bench.user["env"].clone();
    let finished = there.run_file(&file, &[]);
    finished.exits(0).says(&["runner slurm+apptainer"]);
    assert_eq!(identity(&finished), identity(&unbundled));
    // Nodes have no container engine for what it saved.
    there
        .run_file(&archives, &[])
        .exits(2)
        .says(&["was made for the runner `docker`", "llem bundle --runner apptainer"]);
    there.user["slurm"]["node_runner"] = json!("process");
    there.run_file(&file, &[]).exits(2).says(&["was made for the runner `slurm`", "slurm.node_runner"]);
    site.is_idle();
}

#[test]
fn the_embedded_backend_of_a_bundle_runs_on_nodes_as_they_are() {
    if !apptainer_answers() {
        return;
    }
    let Some(site) = Site::start() else { return };
    let mut bench = connected("bundle-slurm-candle");
    let unbundled = bench.run(&["--runner", "process"]);
    unbundled.exits(0);
    // Made where nodes start one kind, it is for nodes that do the same.
    for (node_runner, other) in [("process", "apptainer"), ("apptainer", "process")] {
        bench.user["slurm"] = json!({"node_runner": node_runner});
        let file = bundled(&bench, &["--runner", "slurm", "--force"]);
        let mut there = cluster(&site, &format!("bundle-slurm-candle-{node_runner}"));
        there.user["slurm"]["node_runner"] = json!(node_runner);
        let finished = there.run_file(&file, &[]);
        finished.exits(0);
        assert_eq!(identity(&finished), identity(&unbundled), "{node_runner}");
        there.user["slurm"]["node_runner"] = json!(other);
        there.run_file(&file, &[]).exits(2).says(&["slurm.node_runner", &format!("llem bundle --runner {other}")]);
    }
    site.is_idle();
}

/// Podman saves an image into a bundle, and another podman takes it out of it.
#[test]
fn a_bundle_goes_from_one_podman_to_another() {
    if !engine_answers() {
        return;
    }
    let (Some(here), Some(elsewhere)) = (Podman::start(), Podman::start()) else { return };
    let mut bench = of_an_image("bundle-podman");
    let reference = bench.study["candle"]["image"].as_str().unwrap().to_owned();
    let unbundled = bench.run(&["--runner", "docker"]);
    let by_docker = bundled(&bench, &["--runner", "docker"]);
    let saved = bench.path("saved.tar").display().to_string();
    docker_text(&["save", &reference, "-o", &saved]);
    docker_text(&["rmi", &reference]);
    unbundled.exits(0);
    here.text(&["load", "-i", &saved]);
    bench.docker_host = Some(here.address());
    let moved = bench.path("docker.llem.tar");
    fs_err::rename(by_docker, &moved).unwrap();
    let by_podman = bundled(&bench, &["--runner", "docker"]);
    for (file, name) in [(by_podman, "bundle-podman-podman"), (moved, "bundle-docker-podman")] {
        let Some(mut there) = AirGapped::with(name, &file) else { return };
        there.bench.user = bench.user.clone();
        there.bench.docker_host = Some(elsewhere.address());
        let finished = there.run(&[]);
        finished.exits(0).says(&[&format!("loading image {reference}")]);
        assert_eq!(identity(&finished), identity(&unbundled));
        elsewhere.text(&["rmi", "--force", &reference]);
    }
}
