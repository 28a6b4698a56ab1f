//! The `process` runner: agents as plain processes of this machine.

use std::path::Path;

use llem_protocol::{FailureClass, Phase};
use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::support::{Bench, Finished, Program, eventually, is_alive};

/// Every process below `pid`.
pub(crate) fn descendants(pid: Pid) -> Vec<Pid> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        found.extend(children(parent));
    }
    found.split_off(1)
}

fn children(pid: Pid) -> Vec<Pid> {
    let tasks = Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("task");
    let Ok(tasks) = fs_err::read_dir(tasks) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| fs_err::read_to_string(task.path().join("children")).ok());
    let text = lists.collect::<Vec<_>>().concat();
    text.split_whitespace().map(|word| Pid::from_raw(word.parse().unwrap()).unwrap()).collect()
}

/// A study in its window, with its agent and its driver.
fn in_window(name: &str) -> (Bench, Program, Vec<Pid>) {
    let mut bench = Bench::new(name).long_window();
    bench.study["execution"]["max_retries"] = json!(0);
    let mut program = bench.start(&["--runner", "process"]);
    program.until_window();
    let processes = descendants(program.pid());
    assert_eq!(processes.len(), 2, "agent and driver");
    (bench, program, processes)
}

/// The phase in which the run ended. The end of the warm-up is all that can be waited for; the window opens right after it.
fn near_window(finished: &Finished) -> Phase {
    let phase = finished.results()[0].failure.as_ref().unwrap().phase;
    assert!(matches!(phase, Phase::Warmup | Phase::Window), "{phase}");
    phase
}

fn all_gone(processes: &[Pid]) {
    eventually(&format!("processes {processes:?} are gone"), || {
        processes.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}

#[test]
fn a_signal_ends_agent_and_driver() {
    for signals in [1, 2] {
        let (_bench, program, processes) = in_window("process-signal");
        for _ in 0..signals {
            program.signal(Signal::INT);
        }
        let finished = program.finish();
        finished.exits(130);
        assert!(processes.iter().all(|pid| !is_alive(*pid)), "{processes:?} when llem had ended");
        finished.is_interrupted_in(near_window(&finished));
    }
}

#[test]
fn a_killed_agent_takes_its_driver_with_it_and_the_run_has_failed() {
    let (_bench, program, processes) = in_window("agent-killed");
    rustix::process::kill_process(processes[0], Signal::KILL).unwrap();
    let finished = program.finish();
    let phase = near_window(&finished);
    let failure = finished.fails_with(FailureClass::ContainerKilled, phase);
    assert!(failure.message.contains("signal: 9"), "{failure}");
    all_gone(&processes);
}

#[test]
fn agent_and_driver_of_a_killed_controller_leave_by_themselves() {
    let (_bench, program, processes) = in_window("process-killed");
    program.kill();
    all_gone(&processes);
}
