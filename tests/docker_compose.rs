//! `compose.yaml`: what it names, and the controller that it runs, by Docker's compose v2.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::docker_images::{PYTORCH, controller_context, top};
use crate::support::{Bench, docker, docker_text};

/// Where `.ci/install-compose` puts the plugin on machines without one.
const PLUGINS: &str = "/opt/llem-ci/docker";

/// `docker compose`; `None`, with a line that says so, where the engine, the plugin or the image is missing. In CI nothing may be.
fn compose() -> Option<Command> {
    let command = |config: Option<&str>| {
        let mut command = Command::new("docker");
        command.env_remove("DOCKER_HOST").envs(config.map(|config| ("DOCKER_CONFIG", config))).arg("compose");
        command
    };
    let answers = |config| command(config).arg("version").output().is_ok_and(|output| output.status.success());
    let image = docker(&["image", "inspect", PYTORCH]).status.success();
    let found = [None, Some(PLUGINS)].into_iter().find(|&config| image && answers(config));
    if found.is_none() {
        let missing =
            "`docker compose` (.ci/install-compose) or the image with PyTorch (tests/images/pytorch-cpu/build)";
        assert!(std::env::var_os("CI").is_none(), "not at hand: {missing}");
        let _ = writeln!(std::io::stderr(), "skipped: not at hand: {missing}");
    }
    found.map(command)
}

/// Removes what compose made of a project, also when the test fails.
struct Project(String);

impl Drop for Project {
    fn drop(&mut self) {
        let network = format!("{}_default", self.0);
        docker(&["network", "rm", &network]);
        docker(&["image", "rm", &self.0]);
    }
}

/// The commands of the documentation, with prebuilt binaries and a base image that is at hand, by a user who may only use the engine's socket.
#[test]
fn compose_builds_the_controller_and_runs_a_study_beside_the_engine() {
    const USER: u32 = 1000;
    let Some(bench) = Bench::docker("compose") else { return };
    let Some(mut command) = compose() else { return };
    let project = Project(format!("llem-tests-compose-{}", std::process::id()));
    let further = bench.path("compose.override.yaml");
    let build = json!({
        "context": controller_context(&bench),
        "dockerfile": top().join("images/controller/Dockerfile").canonicalize().unwrap(),
        "args": {"BASE": PYTORCH, "BIN": "bin"},
    });
    fs_err::write(&further, json!({"services": {"controller": {"image": project.0, "build": build}}}).to_string())
        .unwrap();
    command.arg("-f").arg(top().join("compose.yaml")).arg("-f").arg(&further).args(["-p", &project.0]);
    let socket = fs_err::metadata("/var/run/docker.sock").unwrap().gid();
    command.env("LLEM_USER", format!("{USER}:{USER}")).env("DOCKER_GID", socket.to_string());
    command.env("LLEM_CONTROLLER", "prebuilt");
    for name in ["RESULTS", "CACHE", "MODELS"] {
        let directory = bench.path(name);
        fs_err::create_dir_all(&directory).unwrap();
        chown(&directory, Some(USER), Some(USER)).unwrap();
        command.env(format!("LLEM_{name}"), directory);
    }
    let study = ["run", "/work/examples/quickstart.yaml", "--profile", "quick"];
    command.args([&["run", "--build", "--rm", "-T", "controller"], &study[..]].concat());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));

    let directory = fs_err::read_dir(bench.path("RESULTS")).unwrap().next().unwrap().unwrap().path();
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&fs_err::read(path).unwrap()).unwrap();
    let found = read(directory.join("study.json"));
    assert_eq!((&found["status"], found["experiments"].as_array().unwrap().len()), (&json!("completed"), 2));
    for run in fs_err::read_dir(directory.join("runs")).unwrap() {
        let path = run.unwrap().path().join("result.json");
        assert_eq!(fs_err::metadata(&path).unwrap().uid(), USER, "{}", path.display());
        assert_eq!(read(path)["runner"], "docker");
    }
    let left = format!("label=com.docker.compose.project={}", project.0);
    assert_eq!(docker_text(&["ps", "-aq", "--filter", &left]), "");
}

#[test]
fn the_compose_file_names_what_is_there() {
    let read = |path: PathBuf| fs_err::read_to_string(path).unwrap();
    let compose: Value = serde_yaml::from_str(&read(top().join("compose.yaml"))).unwrap();
    let services = compose["services"].as_object().unwrap();
    assert_eq!(services.keys().collect::<Vec<_>>(), ["controller", "pytorch", "tensorrt", "vllm"]);
    for (name, service) in services {
        let dockerfile = read(top().join(service["build"]["dockerfile"].as_str().unwrap()));
        assert!(dockerfile.contains("\nARG BASE=") && dockerfile.contains("\nFROM ${BASE}"), "{name}");
        if name != "controller" {
            assert!(dockerfile.contains(&format!("LABEL io.llem.image={name}\n")), "{name}");
            assert!(dockerfile.contains("COPY ${BIN}/llem-agent /llem/agent\n"), "{name}");
            assert!(dockerfile.contains(&format!("images/{name}/*.py /llem/driver/\n")), "{name}");
        }
    }
    // TensorRT-LLM's own entrypoint prepares its environment.
    assert!(!read(top().join("images/tensorrt/Dockerfile")).contains("\nENTRYPOINT"));
    let controller = &services["controller"];
    let stages = read(top().join("images/controller/Dockerfile"));
    for stage in ["source", "prebuilt"] {
        assert!(stages.contains(&format!(" AS {stage}\n")), "{stage}");
    }
    let volumes: Vec<&str> = controller["volumes"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    for inside in ["/var/run/docker.sock", "/work/results", "/work/cache"] {
        assert!(volumes.iter().any(|volume| volume.ends_with(&format!(":{inside}"))), "{inside}");
    }
    assert!(stages.contains("LLEM_OUTPUT=/work/results XDG_CACHE_HOME=/work/cache"));
}
