//! Images: looked into before the first run, baked, compared, and the controller in one of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use llem::runner::docker::ImageFacts;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Bench, Finished, bare_image, docker, docker_text, eventually, fault_image};

/// torch and transformers 5, made by `tests/images/pytorch-cpu/build`.
pub(crate) const PYTORCH: &str = "llem-tests/pytorch-cpu:2";

/// The same with transformers 4, made by `tests/images/pytorch-older/build`.
const OLDER: &str = "llem-tests/pytorch-older:1";

/// The repository.
pub(crate) fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A study of PyTorch on the processor, with a cache of its own; `None`, with a line that says so, where an engine or image is missing.
fn bench(name: &str, images: &[&str]) -> Option<Bench> {
    let mut bench = Bench::docker(name)?;
    if let Some(image) = images.iter().find(|image| !docker(&["image", "inspect", image]).status.success()) {
        let _ =
            writeln!(std::io::stderr(), "skipped: the container engine has no image {image} (tests/images/*/build)");
        return None;
    }
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!("pytorch");
    bench.study["pytorch"] = json!({"device_map": "cpu", "num_threads": 1, "batch_size": 3});
    bench.study["workload"] = json!({"dataset": "synthetic", "n": 4, "input_tokens": 12, "output_tokens": 6});
    bench.user = json!({"cache_dir": bench.path("own-cache")});
    Some(bench)
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let read = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), read(&output.stdout), read(&output.stderr))
}

/// The cache's entries of images.
fn entries(bench: &Bench) -> Vec<PathBuf> {
    let listed = fs_err::read_dir(bench.path("own-cache/images")).into_iter().flatten();
    listed.map(|entry| entry.unwrap().path()).collect()
}

/// Containers of an image that no other test has, those of probes among them.
fn containers_of_image(image: &str) -> String {
    docker_text(&["ps", "-aq", "--filter", &format!("ancestor={image}")])
}

#[test]
fn a_probe_says_what_an_image_holds_and_is_kept() {
    let Some(bench) = bench("probe", &[PYTORCH]) else { return };
    let probe = |arguments: &[&str]| {
        text(&bench.command(&[&["image", "probe", PYTORCH], arguments].concat()).output().unwrap())
    };
    let (code, json, stderr) = probe(&["--format", "json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let facts: ImageFacts = serde_json::from_str(&json).unwrap();
    assert_eq!(facts.id, docker_text(&["image", "inspect", "-f", "{{.Id}}", PYTORCH]).trim());
    assert_eq!(facts.versions.torch.as_deref(), Some("2.13.0+cpu"));
    assert_eq!(facts.versions.transformers.as_deref(), Some("5.19.0"));
    assert_eq!((facts.versions.vllm, facts.versions.torch_cuda), (None, None));
    assert!(facts.versions.python.unwrap().starts_with("3.11."));
    assert!(facts.versions.libc.unwrap().starts_with("glibc 2."));
    assert!(facts.agent.version.unwrap().starts_with("llem-agent "));
    assert!(facts.labels.contains_key("io.llem.tests.recipe"));

    let entry = entries(&bench).pop().unwrap();
    let kept = fs_err::read_to_string(&entry).unwrap();
    // What is kept is believed: with another version in the file, that is what the next probe says …
    fs_err::write(&entry, kept.replace("\"5.19.0\"", "\"5.99.0\"")).unwrap();
    let (_, table, _) = probe(&[]);
    assert!(table.contains("transformers  5.99.0"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    // … unless it is asked for anew, or the file is not whole.
    assert!(probe(&["--refresh"]).1.contains("transformers  5.19.0"));
    fs_err::write(&entry, &kept[..kept.len() / 2]).unwrap();
    assert!(probe(&[]).1.contains("transformers  5.19.0"));
    assert_eq!(fs_err::read_to_string(&entry).unwrap().len(), kept.len());
}

#[test]
fn what_cannot_be_probed_is_told_by_the_exit_code() {
    let Some(bench) = Bench::docker("probe-refused") else { return };
    let probe = |arguments: &[&str]| text(&bench.command(&[&["image", "probe"], arguments].concat()).output().unwrap());
    let (code, _, stderr) = probe(&["llem-test/never-made:1"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("has no image `llem-test/never-made:1`"), "{stderr}");
    let (code, _, stderr) = probe(&["Not//a-reference"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert_eq!(probe(&["x:1", "--backend", "sglang"]).0, Some(2));
    // No C library and no Python: the image answers nothing, and that is said.
    let (code, table, stderr) = probe(&[&bare_image()]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(table.contains("does not start") && table.contains("no Python answers: `python3`"), "{table}");
}

/// An engine may be in a directory that the machine's owner adds to every container. No id covers what is in there.
#[test]
fn a_probe_sees_what_the_user_config_adds_to_containers() {
    let Some(mut bench) = bench("probe-additions", &[PYTORCH]) else { return };
    let site = bench.path("site");
    bench.user["mounts"] = json!([{"source": site, "target": "/extra"}]);
    bench.user["env"] = json!({"PYTHONPATH": "/extra"});
    for version in ["99.1", "99.2"] {
        let package = site.join("peft-1.dist-info");
        fs_err::create_dir_all(&package).unwrap();
        fs_err::write(package.join("METADATA"), format!("Metadata-Version: 2.1\nName: peft\nVersion: {version}\n"))
            .unwrap();
        let (code, json, stderr) =
            text(&bench.command(&["image", "probe", PYTORCH, "--format", "json"]).output().unwrap());
        assert_eq!(code, Some(0), "{stderr}");
        let facts: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(facts["versions"]["peft"], version, "{json}");
    }
    bench.user["env"] = json!({});
    let (_, json, _) = text(&bench.command(&["image", "probe", PYTORCH, "--format", "json"]).output().unwrap());
    assert!(!json.contains("99.2"), "without the variable, Python does not find it: {json}");
}

/// Its Python never comes to an end.
#[test]
fn a_signal_ends_a_probe_and_its_container() {
    let Some(mut bench) = bench("probe-signal", &[PYTORCH]) else { return };
    let (image, context) = ("llem-tests/pytorch-slow:1", bench.path("context"));
    fs_err::create_dir(&context).unwrap();
    let python = "mkdir -p /usr/local/bin && printf '#!/bin/sh\\nexec sleep 600\\n' > /usr/local/bin/python3 && chmod 755 /usr/local/bin/python3";
    fs_err::write(context.join("Slow"), format!("FROM {PYTORCH}\nRUN {python}\n")).unwrap();
    build(&context, "Slow", &["-t", image]);
    bench.study["pytorch"]["image"] = json!(image);
    let study = bench.path("study.yaml").display().to_string();
    fs_err::write(&study, bench.study.to_string()).unwrap();
    for arguments in [&["image", "probe", image][..], &["run", &study, "--runner", "docker"]] {
        let mut llem = bench.command(arguments).spawn().unwrap();
        eventually("a probe that runs", || {
            let running = docker_text(&["ps", "-q", "--filter", &format!("ancestor={image}")]);
            (!running.is_empty()).then_some(())
        });
        let pid = Pid::from_child(&llem);
        kill_process(pid, Signal::INT).unwrap();
        assert_eq!(llem.wait().unwrap().code(), Some(130), "{arguments:?}");
        assert_eq!(containers_of_image(image), "", "{arguments:?}");
    }
    assert!(!bench.output.exists());
}

#[test]
fn an_image_that_cannot_run_its_experiment_is_refused_before_the_first_run() {
    let Some(mut bench) = bench("unfit", &[PYTORCH]) else { return };
    bench.study["sweep"] = json!({"pytorch.image": [PYTORCH, fault_image()]});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(2).says(&["pytorch.image: no Python answers in `llem-test/faults", "--> ", "study.yaml:1:"]);
    assert!(!bench.output.exists(), "nothing was started, so nothing is there");

    let mut study = bench.study.clone();
    study["backend"] = json!("vllm");
    for key in ["sweep", "pytorch"] {
        study.as_object_mut().unwrap().remove(key);
    }
    study["vllm"] = json!({"image": PYTORCH});
    bench.study = study;
    // The dry run starts nothing: it knows the image by the run above.
    let finished = bench.run(&["--dry-run"]);
    finished
        .exits(2)
        .says(&["`llem-tests/pytorch-cpu:2` has no vLLM (/usr/bin/python3 has transformers 5.19.0, torch 2.13.0+cpu)"]);
    fs_err::remove_dir_all(bench.path("own-cache/images")).unwrap();
    let finished = bench.run(&["--dry-run", "--vram-gib", "80"]);
    finished.exits(0);
    assert!(finished.stdout.contains("present, not looked into yet"), "{}", finished.stdout);
    assert!(entries(&bench).is_empty());
}

/// The ids that a run generated.
fn output_ids(finished: &Finished, run: usize) -> String {
    let name = &finished.results()[run].run_id;
    let file = fs_err::File::open(finished.study_dir().join("runs").join(name).join("requests.parquet")).unwrap();
    let batches = ParquetRecordBatchReaderBuilder::try_new(file.into_parts().0).unwrap().build().unwrap();
    // Every pass generates the same; how many there are is a matter of time.
    let first =
        batches.map(|batch| format!("{:?}", batch.unwrap().column_by_name("output_ids").unwrap().slice(0, 4))).next();
    first.unwrap()
}

#[test]
fn a_baked_image_gives_what_injection_gives() {
    let Some(mut bench) = bench("baked", &[PYTORCH]) else { return };
    let context = bench.path("context");
    for directory in ["bin", "images/common", "images/pytorch"] {
        fs_err::create_dir_all(context.join(directory)).unwrap();
    }
    let agent = Path::new(env!("CARGO_BIN_EXE_llem")).with_file_name("llem-agent");
    fs_err::copy(agent, context.join("bin/llem-agent")).unwrap();
    for directory in ["images/common", "images/pytorch"] {
        for entry in fs_err::read_dir(top().join(directory)).unwrap().map(Result::unwrap) {
            if entry.path().is_file() {
                fs_err::copy(entry.path(), context.join(directory).join(entry.file_name())).unwrap();
            }
        }
    }
    let image = "llem-tests/pytorch-baked:1";
    build(&context, "images/pytorch/Dockerfile", &["--build-arg", &format!("BASE={PYTORCH}"), "-t", image]);
    bench.study["sweep"] = json!({"pytorch.image": [PYTORCH, image]});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0).leaves_no_container();
    let results = finished.results();
    let containers: Vec<_> = results.iter().map(|result| result.container.clone().unwrap()).collect();
    assert_eq!(
        containers.iter().map(|c| (c.image.as_str(), c.baked)).collect::<Vec<_>>(),
        [(PYTORCH, false), (image, true)]
    );
    assert_eq!(containers[1].image_labels["io.llem.image"], "pytorch");
    assert_eq!(output_ids(&finished, 0), output_ids(&finished, 1));

    // Another agent or driver than llem's own is not used.
    let stale = "llem-tests/pytorch-stale:1";
    fs_err::write(
        context.join("Stale"),
        format!("FROM {image}\nRUN echo 'raise SystemExit(7)' > /llem/driver/driver.py\n"),
    )
    .unwrap();
    build(&context, "Stale", &["-t", stale]);
    bench.study["sweep"] = json!({"pytorch.image": [stale]});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0);
    assert!(!finished.results()[0].container.clone().unwrap().baked);
    assert_eq!(containers_of_image(image), "");
}

/// The classic builder: no plugin is needed.
fn build(context: &Path, file: &str, arguments: &[&str]) {
    let mut command = Command::new("docker");
    command.env("DOCKER_BUILDKIT", "0").env_remove("DOCKER_HOST").args(["build", "-q", "--network", "none"]);
    command.args(["--build-arg", "BIN=bin", "-f"]).arg(if context.join(file).exists() {
        context.join(file)
    } else {
        top().join(file)
    });
    let output = command.args(arguments).arg(context).output().unwrap();
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn two_versions_of_an_engine_are_compared_by_their_images() {
    let Some(mut bench) = bench("versions", &[PYTORCH, OLDER]) else { return };
    bench.study["sweep"] = json!({"pytorch.image": [PYTORCH, OLDER]});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0).leaves_no_container();
    let id = |image: &str| docker_text(&["image", "inspect", "-f", "{{.Id}}", image]).trim().to_owned();
    let expected = [(PYTORCH, "5.19.0"), (OLDER, "4.57.3")];
    for (result, (image, version)) in finished.results().iter().zip(expected) {
        let container = result.container.clone().unwrap();
        assert_eq!((container.image.as_str(), container.image_id), (image, id(image)));
        assert_eq!(container.image_versions.unwrap().transformers.as_deref(), Some(version));
        // The engine, by its own account, says the same.
        assert_eq!(result.engine.clone().unwrap().libraries["transformers"], version);
        assert!(container.image_labels.contains_key("io.llem.tests.recipe"));
    }
    let study = finished.study();
    let recorded: Vec<_> =
        study.images.iter().map(|i| (i.image.as_str(), i.image_versions.transformers.as_deref())).collect();
    assert_eq!(recorded, expected.map(|(image, version)| (image, Some(version))));
    for (image, version) in expected {
        assert!(finished.stdout.contains(&format!("image {image} (")), "{}", finished.stdout);
        assert!(finished.stdout.contains(&format!("transformers {version}")), "{}", finished.stdout);
    }
}

/// A directory with the binaries under test in `bin`, to build the controller's own image from.
pub(crate) fn controller_context(bench: &Bench) -> PathBuf {
    let context = bench.path("controller");
    fs_err::create_dir_all(context.join("bin")).unwrap();
    for name in ["llem", "llem-agent", "llem-candle"] {
        let from = Path::new(env!("CARGO_BIN_EXE_llem")).with_file_name(name);
        fs_err::copy(from, context.join("bin").join(name)).unwrap();
    }
    context
}

/// The controller's own image, of the binaries under test.
fn controller(bench: &Bench) -> &'static str {
    let image = "llem-tests/controller:1";
    let context = controller_context(bench);
    let base = format!("BASE={PYTORCH}");
    build(&context, "images/controller/Dockerfile", &["--target", "prebuilt", "--build-arg", &base, "-t", image]);
    image
}

/// Runs the controller in a container beside the engine; `volumes` as `-v` takes them.
fn in_container(image: &str, volumes: &[String], arguments: &[&str]) -> Output {
    let mut command = Command::new("docker");
    command.env_remove("DOCKER_HOST").args([
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        "/var/run/docker.sock:/var/run/docker.sock",
    ]);
    for volume in volumes {
        command.args(["-v", volume]);
    }
    command.arg(image).args(arguments).output().unwrap()
}

#[test]
fn the_controller_runs_in_a_container_beside_the_engine() {
    let Some(mut bench) = bench("beside", &[PYTORCH]) else { return };
    bench.study["backend"] = json!(["candle", "pytorch"]);
    bench.study["pytorch"]["image"] = json!(PYTORCH);
    let image = controller(&bench);
    fs_err::write(bench.path("study.yaml"), bench.study.to_string()).unwrap();
    for directory in ["host-results", "host-cache"] {
        fs_err::create_dir(bench.path(directory)).unwrap();
    }
    let at = |name: &str, inside: &str| format!("{}:{inside}", bench.path(name).display());
    let (study, cache) = (at("study.yaml", "/work/study.yaml:ro"), at("host-cache", "/work/cache"));
    let results = at("host-results", "/work/results");
    let run = ["run", "/work/study.yaml", "--runner", "docker"];

    let (code, stdout, stderr) = text(&in_container(image, &[study.clone(), cache.clone(), results.clone()], &run));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    // What it left is on the host, where nobody calls it /work.
    let directory = fs_err::read_dir(bench.path("host-results")).unwrap().next().unwrap().unwrap().path();
    let found: Value = serde_json::from_slice(&fs_err::read(directory.join("study.json")).unwrap()).unwrap();
    assert_eq!((&found["status"], found["experiments"].as_array().unwrap().len()), (&json!("completed"), 2));
    assert_eq!(fs_err::read_dir(directory.join("runs")).unwrap().count(), 2);

    for (volumes, place) in
        [(vec![study.clone(), cache], "/work/results: "), (vec![study, results], "/work/cache/llem: ")]
    {
        let (code, _, stderr) = text(&in_container(image, &volumes, &run));
        assert_eq!(code, Some(2), "{stderr}");
        let says = ["beside the container engine", "-v /host/directory:/work/"];
        assert!(stderr.contains(place) && says.iter().all(|part| stderr.contains(part)), "{stderr}");
    }
}
