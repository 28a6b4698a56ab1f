//! Containers that somebody or something outside llem ends or stops.

use llem_protocol::{FailureClass, Phase};
use serde_json::json;

use crate::support::{Bench, Finished, docker_text};

/// Runs a study and does `command` to its container while the window is open.
fn disturbed(mut bench: Bench, command: &[&str]) -> Finished {
    // Open for long enough to be disturbed on a busy machine, and no longer than its limit.
    bench.study["measurement"]["min_seconds"] = json!(11.9);
    bench.study["execution"]["timeouts_s"] = json!({"window": 12.0});
    bench.study["execution"]["max_retries"] = json!(0);
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    let id = program.container();
    docker_text(&[command, &[&id]].concat());
    program.finish()
}

#[test]
fn a_killed_container_is_told_from_a_failed_driver() {
    for (name, command) in [("killed", &["kill"][..]), ("removed", &["rm", "-f"])] {
        let Some(bench) = Bench::docker(name) else { return };
        let finished = disturbed(bench, command);
        let failure = finished.fails_with(FailureClass::ContainerKilled, Phase::Window);
        // A removal begins with a kill: which of both is seen depends on the moment.
        assert!(failure.message.ends_with("from outside"), "{failure}");
        finished.says(&["hint: somebody or something outside llem killed the container"]);
    }
}

/// Takes three quarters of a minute: the controller gives the agent 30 s beyond the phase's own limit of 12 s.
#[test]
fn a_frozen_container_is_ended_by_the_controller() {
    let Some(bench) = Bench::docker("frozen") else { return };
    let finished = disturbed(bench, &["pause"]);
    let failure = finished.fails_with(FailureClass::Timeout, Phase::Window);
    assert!(failure.message.contains("stopped answering"), "{failure}");
}

#[test]
fn a_container_without_enough_memory_names_the_setting() {
    let Some(mut bench) = Bench::docker("memory") else { return };
    bench.study["model"]["synthetic"] = json!({"layers": 2, "hidden": 512, "intermediate": 2048, "vocab": 8192});
    bench.study["execution"]["memory_gib"] = json!(0.03);
    let finished = bench.run(&["--runner", "docker"]);
    finished.fails_with(FailureClass::HostOutOfMemory, Phase::Load);
    finished.says(&["hint: raise `execution.memory_gib`"]);
}
