//! The agent is stopped from outside: by a signal, or by a controller that goes away.

use std::io::{BufRead, BufReader, Write};
use std::time::{Duration, Instant};

use llem_protocol::{EventBody, FailureClass, Phase};

use crate::harness::{Bench, bench, is_alive, signal};

#[test]
fn a_signal_in_any_phase_leaves_a_report_within_five_seconds() {
    for (phase, fault) in [
        (Phase::Baseline, "none"),
        (Phase::Import, "hang_at_import"),
        (Phase::Load, "hang_in_load"),
        (Phase::Warmup, "none"),
        (Phase::Window, "hang_in_window"),
        (Phase::Collect, "hang_in_collect"),
        (Phase::Shutdown, "slow_to_leave"),
    ] {
        let Some(mut bench) = bench(fault) else { return };
        if phase == Phase::Baseline {
            bench.with_sensor();
            bench.job.measurement.baseline_s = 60.0;
        }
        if phase == Phase::Warmup {
            bench.with_sensor();
            bench.job.measurement.thermal_floor_s = 60.0;
        }
        let reached = Instant::now();
        let outcome =
            bench.run_until(|body| matches!(body, EventBody::PhaseStarted { phase: begun, .. } if *begun == phase));
        assert!(reached.elapsed() < Duration::from_secs(8), "{phase}: {:?}", reached.elapsed());
        let failure = outcome.failure();
        assert_eq!((failure.class, failure.phase), (FailureClass::Interrupted, phase));
        assert!(failure.message.contains("SIGTERM"), "{failure}");
        assert_eq!(bench.report().unwrap().failure, Some(failure));
    }
}

#[test]
fn a_second_signal_ends_the_agent_and_the_driver_at_once() {
    let Some(mut bench) = bench("grandchild") else { return };
    let pid_file = bench.path("pid");
    bench.job.driver.env.insert("PID_FILE".to_owned(), pid_file.display().to_string());
    bench.with_sensor();
    bench.job.measurement.thermal_floor_s = 60.0;
    let mut child = bench.command().spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"warmup\"")));
    signal(child.id(), rustix::process::Signal::TERM);
    std::thread::sleep(Duration::from_millis(200));
    let second = Instant::now();
    signal(child.id(), rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(second.elapsed() < Duration::from_secs(1), "{:?}", second.elapsed());
    let pid: u32 = fs_err::read_to_string(pid_file).unwrap().parse().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!is_alive(pid));
}

#[test]
fn an_agent_that_is_killed_takes_the_driver_with_it() {
    let Some(mut bench) = bench("tells_its_pid") else { return };
    let pid_file = bench.path("pid");
    bench.job.driver.env.insert("PID_FILE".to_owned(), pid_file.display().to_string());
    let mut child = bench.command().spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"load\"")));
    let pid: u32 = fs_err::read_to_string(pid_file).unwrap().parse().unwrap();
    assert!(is_alive(pid));
    child.kill().unwrap();
    child.wait().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!is_alive(pid), "process {pid} lives");
}

#[test]
fn an_agent_stuck_in_a_pipe_that_nobody_reads_still_obeys_a_signal() {
    let bench = Bench::new("none");
    let (reader, mut writer) = std::io::pipe().unwrap();
    // The capacity of a pipe (pipe(7)): the agent's first event does not fit any more.
    writer.write_all(&vec![b'\n'; 65536]).unwrap();
    let mut child = bench.command().stdout(writer).spawn().unwrap();
    let started = Instant::now();
    while !is_sleeping_in_a_write(child.id()) {
        assert!(started.elapsed() < Duration::from_secs(10), "the agent does not write");
        std::thread::sleep(Duration::from_millis(20));
    }
    let stopped = Instant::now();
    signal(child.id(), rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(stopped.elapsed() < Duration::from_secs(6), "{:?}", stopped.elapsed());
    drop(reader);
}

/// Whether the process's main thread is in write(2), system call 1 on x86-64.
fn is_sleeping_in_a_write(pid: u32) -> bool {
    fs_err::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|call| call.starts_with("1 "))
}

#[test]
fn a_controller_that_goes_away_ends_the_run_even_in_a_silent_phase() {
    let Some(bench) = bench("hang_in_load") else { return };
    let mut child = bench.command().spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"load\"")));
    let gone = Instant::now();
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());
    let failure = bench.report().unwrap().failure.unwrap();
    assert_eq!((failure.class, failure.phase), (FailureClass::Interrupted, Phase::Load));
    assert!(failure.message.contains("closed"), "{failure}");
}
