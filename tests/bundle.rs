//! Bundles through the whole program: made on one side, moved, and run on the other, where there is no network, no cache and nothing of what the
//! study was made from.

mod damage;
mod hostile;
mod making;
mod models;
mod sites;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use llem_model::SyntheticSpec;
use serde_json::{Value, json};

use crate::apptainer_runner::identity;
use crate::support::{Bench, OwnEngine, apptainer_answers, docker_text, engine_answers, fault_image};

/// The side with a network: a study of a model in a directory elsewhere, and of a data set beside it.
fn connected(name: &str) -> Bench {
    let mut bench = Bench::new(name);
    let spec: SyntheticSpec = serde_json::from_value(bench.study["model"]["synthetic"].clone()).unwrap();
    let made = llem_model::ensure(&spec, &bench.path("made")).unwrap();
    fs_err::create_dir(bench.path("originals")).unwrap();
    fs_err::rename(made.dir, model(&bench)).unwrap();
    let prompts = ["a first prompt", "and a second one that is longer", "a third"];
    let text = prompts.map(|text| json!({"prompt": text}).to_string()).join("\n");
    fs_err::write(bench.path("originals/my prompts.jsonl"), text).unwrap();
    bench.study["model"] = json!(model(&bench));
    bench.study["workload"] = json!({"dataset": "./originals/my prompts.jsonl", "output_tokens": 6});
    bench.study["candle"] = json!({});
    bench.study["sweep"] = json!({"candle.batch_size": [1, 3]});
    bench
}

fn model(bench: &Bench) -> PathBuf {
    bench.path("originals/model")
}

/// Makes a bundle of the bench's study.
fn bundle(bench: &Bench, arguments: &[&str]) -> (PathBuf, Output) {
    fs_err::write(bench.path("study.yaml"), bench.study.to_string()).unwrap();
    let (file, target) = (bench.path("study.yaml").display().to_string(), bench.path("study.llem.tar"));
    let shown = target.display().to_string();
    let output = bench.command(&[&["bundle", &file, "-o", &shown], arguments].concat()).output().unwrap();
    (target, output)
}

/// As [`bundle`], which must be made.
#[track_caller]
fn bundled(bench: &Bench, arguments: &[&str]) -> PathBuf {
    let (target, output) = bundle(bench, arguments);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), target.display().to_string());
    target
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The other side, with the bundle on it: no network but the loopback interface, a home and a cache without anything.
struct AirGapped {
    bench: Bench,
    bundle: PathBuf,
}

impl AirGapped {
    /// `None`, with a line that says so, where nobody may take the network away.
    fn with(name: &str, bundle: &Path) -> Option<Self> {
        let isolated = Command::new("unshare").args(["--net", "true"]).output();
        if !isolated.is_ok_and(|output| output.status.success()) {
            assert!(std::env::var_os("CI").is_none(), "CI must be able to run `unshare --net`");
            let _ = writeln!(std::io::stderr(), "skipped: only root may run `unshare --net`");
            return None;
        }
        let mut bench = Bench::new(name);
        let program = bench.path("llem");
        let script = format!("#!/bin/sh\nexec unshare --net {} \"$@\"\n", bench.program.display());
        fs_err::write(&program, script).unwrap();
        fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        bench.program = program;
        for (variable, place) in [("HOME", "home"), ("XDG_CACHE_HOME", "cache"), ("TMPDIR", "tmp")] {
            fs_err::create_dir(bench.path(place)).unwrap();
            bench.variables.insert(variable, bench.path(place).display().to_string());
        }
        let moved = bench.path("moved.llem.tar");
        fs_err::copy(bundle, &moved).unwrap();
        Some(Self { bench, bundle: moved })
    }

    fn run(&self, arguments: &[&str]) -> crate::support::Finished {
        self.bench.run_file(&self.bundle, arguments)
    }

    /// Where the bundle is unpacked.
    fn unpacked(&self) -> PathBuf {
        let mut found = fs_err::read_dir(self.bench.path("cache/llem/bundles-v1")).unwrap();
        let only = found.next().unwrap().unwrap().path();
        assert!(found.next().is_none(), "one bundle, and nothing half done");
        only
    }
}

/// Runs a study as it is, bundles it, takes everything away that it was made from, and runs the bundle elsewhere.
fn is_the_same_elsewhere(name: &str, runner: &str, engine: Option<&OwnEngine>) {
    let bench = connected(name);
    let unbundled = bench.run(&["--runner", runner]);
    unbundled.exits(0);
    let expected = identity(&unbundled);
    let file = bundled(&bench, &["--runner", runner]);
    let Some(mut there) = AirGapped::with(&format!("{name}-there"), &file) else { return };
    there.bench.docker_host = engine.map(OwnEngine::address);
    fs_err::rename(bench.path("originals"), bench.path("taken-away")).unwrap();
    fs_err::remove_file(bench.path("study.yaml")).unwrap();
    // Which runner is in the bundle.
    let finished = there.run(&[]);
    finished.exits(0);
    assert_eq!(identity(&finished), expected);
    assert_eq!(finished.results()[0].runner, runner);
    let design: Value =
        serde_json::from_slice(&fs_err::read(finished.study_dir().join("design.json")).unwrap()).unwrap();
    assert_eq!(design["bundle"]["path"], json!(there.bundle));
    // Once more by its directory alone, with a cycle that is still to be measured.
    there.run(&["--resume", "--set", "execution.n_cycles=2"]).exits(0).says(&["(2 measured before)"]);
    let directory = finished.study_dir().display().to_string();
    let again = there.bench.command(&["run", "--resume", &directory]).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    assert!(said(&again).contains("(4 measured before)"), "{}", said(&again));
}

#[test]
fn a_bundled_study_is_the_same_as_a_process_elsewhere() {
    is_the_same_elsewhere("bundle-process", "process", None);
}

/// The other side has an engine of its own, which has no image at all.
#[test]
fn a_bundled_study_is_the_same_in_containers_of_another_engine() {
    if !engine_answers() {
        return;
    }
    let Some(engine) = OwnEngine::start() else { return };
    is_the_same_elsewhere("bundle-docker", "docker", Some(&engine));
}

#[test]
fn a_bundled_study_is_the_same_under_apptainer_elsewhere() {
    if apptainer_answers() {
        is_the_same_elsewhere("bundle-apptainer", "apptainer", None);
    }
}

/// A study of an image of the engine; the reference is nobody else's.
fn of_an_image(name: &str) -> Bench {
    let mut bench = connected(name);
    let reference = format!("llem-test/{name}:{}", std::process::id());
    docker_text(&["tag", fault_image(), &reference]);
    bench.study["candle"]["image"] = json!(reference);
    bench.user = json!({"env": {"FAULT": "none"}});
    bench
}

fn image_of(bench: &Bench) -> (String, String) {
    let reference = bench.study["candle"]["image"].as_str().unwrap().to_owned();
    let id = docker_text(&["image", "inspect", "--format", "{{.Id}}", &reference]).trim().to_owned();
    (reference, id)
}

#[test]
fn an_image_comes_out_of_the_bundle_into_an_engine_that_never_saw_it() {
    if !engine_answers() {
        return;
    }
    let Some(engine) = OwnEngine::start() else { return };
    let bench = of_an_image("bundle-archive");
    let (reference, id) = image_of(&bench);
    let unbundled = bench.run(&["--runner", "docker"]);
    let file = bundled(&bench, &["--runner", "docker"]);
    docker_text(&["rmi", &reference]);
    unbundled.exits(0);
    let Some(mut there) = AirGapped::with("bundle-archive-there", &file) else { return };
    there.bench.user = bench.user.clone();
    there.bench.docker_host = Some(engine.address());
    // Its image is not missing: it is in the bundle.
    there.run(&["--dry-run"]).exits(0);
    let finished = there.run(&[]);
    finished.exits(0).says(&[&format!("loading image {reference}")]);
    assert_eq!(identity(&finished), identity(&unbundled));
    let container = finished.results().remove(0).container.unwrap();
    assert_eq!((container.image, container.image_id), (reference.clone(), id));
    let again = there.run(&["--resume"]);
    again.exits(0);
    assert!(!again.stderr.contains("loading image"), "{}", again.stderr);
    // Its name stays with what has it.
    engine.docker(&["rmi", &reference]);
    let other = engine.docker(&["image", "ls", "-q", "llem/candle"]);
    let other = String::from_utf8(other.stdout).unwrap();
    let import = format!(
        "tar -c -C {} study.lock.json | docker -H {} import - {reference}",
        there.unpacked().display(),
        engine.address()
    );
    assert!(Command::new("sh").args(["-c", &import]).status().unwrap().success(), "{other}");
    there.run(&[]).exits(1).says(&[&format!("has another image `{reference}`"), "docker tag"]);
}

#[test]
fn an_image_becomes_a_sif_file_in_the_bundle() {
    if !engine_answers() || !apptainer_answers() {
        return;
    }
    let bench = of_an_image("bundle-sif");
    let (reference, id) = image_of(&bench);
    let unbundled = bench.run(&["--runner", "docker"]);
    let file = bundled(&bench, &["--images", "sif"]);
    docker_text(&["rmi", &reference]);
    unbundled.exits(0);
    let Some(mut there) = AirGapped::with("bundle-sif-there", &file) else { return };
    there.bench.user = bench.user.clone();
    // No engine: the bundle says that Apptainer is to be used.
    there.bench.docker_host = Some("unix:///nowhere.sock".to_owned());
    let finished = there.run(&[]);
    finished.exits(0);
    assert_eq!(identity(&finished), identity(&unbundled));
    let container = finished.results().remove(0).container.unwrap();
    let source = container.image_source.unwrap();
    assert_eq!((container.image.as_str(), source.reference.as_str(), source.id), (&*reference, &*reference, id));
    there.run(&["--runner", "docker"]).exits(2).says(&["was made for the runner `apptainer`"]);
    there.run(&["--runner", "process"]).exits(2).says(&["was made for the runner `apptainer`"]);
}
