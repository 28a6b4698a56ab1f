//! Container engines that go away, come back, or never were there.

use std::time::{Duration, Instant};

use llem::result::{RunStatus, StudyStatus};
use llem_protocol::{FailureClass, Phase};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Bench, Proxy, alone, containers_of, docker_text, eventually, fault_image};

#[test]
fn an_engine_that_goes_away_ends_the_study_and_the_next_start_clears_up() {
    let Some(mut bench) = Bench::docker("engine-lost").map(Bench::long_window) else { return };
    let proxy = Proxy::start(&bench.path("engine.sock"));
    bench.docker_host = Some(proxy.address());
    bench.study["execution"] = json!({"n_cycles": 2, "retry_wait_seconds": 1});
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    let id = program.container();
    let alone = alone();
    proxy.cut();
    let finished = program.finish();
    finished.exits(1).says(&["the container engine stopped answering", "next start"]);
    let result = finished.results().pop().unwrap();
    let failure = result.failure.unwrap();
    assert_eq!((failure.class, failure.phase), (FailureClass::ContainerEngineLost, Phase::Window));
    assert_eq!((result.status, finished.study().status), (RunStatus::Failed, StudyStatus::Failed));
    assert_eq!(finished.results().len(), 1, "no further run is tried");
    assert_eq!(containers_of(&finished.study_dir()), [id], "nobody could remove it");
    let directory = finished.study_dir();

    let next = Bench::new("engine-back");
    let second = next.run_alone(alone, &["--runner", "docker"]);
    second.exits(0).says(&["removed the container of", "left by a controller that died"]);
    assert!(containers_of(&directory).is_empty());
}

#[test]
fn a_run_survives_an_engine_that_comes_back_and_no_event_is_lost_or_doubled() {
    let Some(mut bench) = Bench::docker("engine-back-soon") else { return };
    let proxy = Proxy::start(&bench.path("engine.sock"));
    bench.docker_host = Some(proxy.address());
    bench.study["measurement"]["min_seconds"] = json!(5);
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    proxy.cut();
    // Shorter than the controller's patience with a silent engine, longer than one try.
    std::thread::sleep(Duration::from_secs(2));
    proxy.mend();
    let finished = program.finish();
    finished.exits(0).leaves_no_container();
    let phases = ["environment", "import", "load", "warm-up", "window", "collect", "shutdown", "write"];
    for phase in phases {
        let told = finished.stderr.lines().filter(|line| line.starts_with(&format!("  {phase} "))).count();
        assert_eq!(told, 1, "{phase} in {}", finished.stderr);
    }
    assert_eq!(finished.results()[0].status, RunStatus::Completed);
}

#[test]
fn a_run_that_ends_while_the_engine_is_away_is_not_lost() {
    let Some(mut bench) = Bench::docker("engine-away").map(|bench| bench.with_fault(fault_image(), "wait_in_import"))
    else {
        return;
    };
    let proxy = Proxy::start(&bench.path("engine.sock"));
    bench.docker_host = Some(proxy.address());
    let mut program = bench.start(&["--runner", "docker"]);
    program.until("  environment ");
    let id = program.container();
    proxy.cut();
    docker_text(&["exec", &id, "touch", "/tmp/go"]);
    eventually("the container's end", || {
        (docker_text(&["inspect", "-f", "{{.State.Running}}", &id]).trim() == "false").then_some(())
    });
    proxy.mend();
    program.finish().exits(0).leaves_no_container();
}

#[test]
fn the_second_signal_leaves_an_engine_that_does_not_answer() {
    let Some(mut bench) = Bench::docker("engine-stuck").map(Bench::long_window) else { return };
    let proxy = Proxy::start(&bench.path("engine.sock"));
    bench.docker_host = Some(proxy.address());
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    let alone = alone();
    proxy.silence();
    program.signal(Signal::INT);
    program.until("stopping: ");
    let second = Instant::now();
    program.signal(Signal::INT);
    let finished = program.finish();
    assert!(second.elapsed() < Duration::from_secs(20), "{:?}", second.elapsed());
    finished.exits(130).says(&["its container may be left; the next start removes it"]);
    assert_eq!(finished.study().status, StudyStatus::Interrupted);
    Bench::new("engine-unstuck").run_alone(alone, &["--runner", "docker"]).exits(0);
    finished.leaves_no_container();
}

#[test]
fn without_an_engine_a_run_is_a_process_and_says_so() {
    for (name, host, words) in [
        ("no-engine", "unix:///nonexistent/docker.sock", "no container engine answers at unix:///nonexistent"),
        ("far-engine", "tcp://127.0.0.1:1", "set DOCKER_HOST to a unix socket"),
    ] {
        let mut bench = Bench::new(name);
        bench.docker_host = Some(host.to_owned());
        let finished = bench.run(&["--runner", "auto"]);
        finished.exits(0).says(&[words, "running with the `process` runner, without containers"]);
        assert_eq!((finished.results()[0].runner.as_str(), &finished.results()[0].container), ("process", &None));
    }
}

#[test]
fn a_runner_that_was_asked_for_is_not_replaced() {
    for (name, host, words) in [
        ("must-docker", "unix:///nonexistent/docker.sock", "no container engine answers at unix:///nonexistent"),
        ("must-near", "tcp://127.0.0.1:1", "set DOCKER_HOST to a unix socket"),
    ] {
        let mut bench = Bench::new(name);
        bench.docker_host = Some(host.to_owned());
        let finished = bench.run(&["--runner", "docker"]);
        finished.exits(1).says(&["error: ", words]);
        assert!(!bench.output.exists(), "nothing was started");
    }
}
