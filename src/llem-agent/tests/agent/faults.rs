//! Drivers that fail: each with its class, its phase, and nothing left running.

use std::time::{Duration, Instant};

use llem_protocol::{Failure, FailureClass, Phase};

use crate::harness::{Bench, bench, finish, is_alive};

/// Runs to the failure and checks that event and report agree.
fn fail(bench: &Bench) -> Failure {
    let outcome = bench.run();
    let failure = outcome.failure();
    assert_eq!(bench.report().unwrap().failure.as_ref(), Some(&failure));
    failure
}

fn class_and_phase(fault: &str) -> Option<(FailureClass, Phase)> {
    let failure = fail(&bench(fault)?);
    Some((failure.class, failure.phase))
}

#[test]
fn a_driver_that_exits_at_import_fails_within_seconds() {
    let Some(bench) = bench("exit_at_import") else { return };
    let start = Instant::now();
    let failure = fail(&bench);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!((failure.class, failure.phase), (FailureClass::DiedAtImport, Phase::Import));
    assert!(failure.message.contains("exit status 3"), "{failure}");
    assert_eq!(failure.log_tail, ["ImportError: something is missing"]);
    assert!(bench.driver_log().contains("something is missing"));
}

#[test]
fn hangs_are_ended_by_the_phases_time_out() {
    for (fault, phase) in [
        ("hang_at_import", Phase::Import),
        ("hang_in_load", Phase::Load),
        ("hang_in_window", Phase::Window),
        ("hang_in_collect", Phase::Collect),
    ] {
        let Some(mut bench) = bench(fault) else { return };
        bench.job.timeouts_s.insert(phase, 1.5);
        let start = Instant::now();
        let failure = fail(&bench);
        assert_eq!((failure.class, failure.phase), (FailureClass::Timeout, phase), "{failure}");
        assert!(failure.message.contains("1.5 s"), "{failure}");
        assert!(start.elapsed() < Duration::from_secs(10), "{fault}: {:?}", start.elapsed());
    }
}

#[test]
fn a_driver_that_only_prints_is_a_time_out_that_says_so() {
    let Some(mut bench) = bench("only_prints") else { return };
    bench.job.timeouts_s.insert(Phase::Import, 1.0);
    let failure = fail(&bench);
    assert_eq!((failure.class, failure.phase), (FailureClass::Timeout, Phase::Import));
    assert!(failure.message.contains("3 lines"), "{failure}");
    assert_eq!(failure.log_tail, ["one", "two", "three"]);
}

#[test]
fn a_baseline_longer_than_its_limit_is_a_time_out() {
    let Some(mut bench) = bench("none") else { return };
    bench.with_sensor();
    bench.job.measurement.baseline_s = 60.0;
    bench.job.timeouts_s.insert(Phase::Baseline, 0.2);
    let failure = fail(&bench);
    assert_eq!((failure.class, failure.phase), (FailureClass::Timeout, Phase::Baseline));
}

#[test]
fn death_by_a_signal_names_it() {
    let Some(bench) = bench("die_in_window") else { return };
    let failure = fail(&bench);
    assert_eq!((failure.class, failure.phase), (FailureClass::DriverCrashed, Phase::Window));
    assert!(failure.message.contains("SIGSEGV"), "{failure}");
    assert_eq!(failure.log_tail, ["about to die"]);
}

#[test]
fn exit_status_137_is_lack_of_main_memory() {
    let Some(found) = class_and_phase("exit_137") else { return };
    assert_eq!(found, (FailureClass::HostOutOfMemory, Phase::Window));
}

#[test]
fn an_error_message_is_classified() {
    let Some(found) = class_and_phase("out_of_memory") else { return };
    assert_eq!(found, (FailureClass::OutOfMemory, Phase::Load));
}

#[test]
fn other_work_than_asked_is_refused() {
    for (fault, class) in [
        ("too_few_tokens", FailureClass::WrongWork),
        ("padding_in_records", FailureClass::WrongWork),
        ("forgets_a_record", FailureClass::WrongWork),
        ("record_twice", FailureClass::Protocol),
        ("stamps_backwards", FailureClass::Protocol),
    ] {
        let Some(found) = class_and_phase(fault) else { return };
        assert_eq!(found, (class, Phase::Collect), "{fault}");
    }
}

#[test]
fn an_endless_line_breaks_the_protocol_with_bounded_memory() {
    let Some(bench) = bench("endless_line") else { return };
    let child = bench.command().spawn().unwrap();
    let peak = peak_memory_while_running(child.id());
    let failure = finish(child).failure();
    assert_eq!((failure.class, failure.phase), (FailureClass::Protocol, Phase::Import));
    assert!(failure.message.contains("longer than"), "{failure}");
    assert!(peak < 64 << 20, "{peak} bytes");
}

#[test]
fn a_flood_of_log_is_bounded_in_memory_and_on_disk() {
    let Some(bench) = bench("flood") else { return };
    let child = bench.command().spawn().unwrap();
    let peak = peak_memory_while_running(child.id());
    assert_eq!(finish(child).status, Some(0));
    assert!(peak < 32 << 20, "{peak} bytes");
    let log = bench.driver_log();
    assert!(log.len() < 9 << 20 && log.contains("bytes of output dropped here"), "{} bytes", log.len());
    assert!(log.trim_end().ends_with("after the flood"));
}

#[test]
fn a_grandchild_that_ignores_term_in_its_own_session_is_gone() {
    let Some(mut bench) = bench("grandchild") else { return };
    let pid_file = bench.path("pid");
    bench.job.driver.env.insert("PID_FILE".to_owned(), pid_file.display().to_string());
    assert_eq!(bench.run().status, Some(0));
    let pid: u32 = fs_err::read_to_string(pid_file).unwrap().parse().unwrap();
    assert!(!is_alive(pid), "process {pid} lives");
}

#[test]
fn a_program_that_does_not_exist_names_all_that_were_tried() {
    let mut bench = Bench::new("none");
    bench.job.driver.programs = vec!["/nowhere/one".to_owned(), "no-such-program-two".to_owned()];
    let failure = fail(&bench);
    assert_eq!((failure.class, failure.phase), (FailureClass::DriverMissing, Phase::Import));
    assert!(failure.message.contains("/nowhere/one") && failure.message.contains("no-such-program-two"), "{failure}");
}

#[test]
fn a_changed_workload_is_noticed_before_the_driver_starts() {
    let mut bench = Bench::new("none");
    bench.job.driver.programs = vec!["/nowhere/one".to_owned()];
    let text = fs_err::read_to_string(&bench.job.workload.path).unwrap();
    fs_err::write(&bench.job.workload.path, text.replace("[1,2]", "[1,3]")).unwrap();
    let failure = fail(&bench);
    assert_eq!((failure.class, failure.phase), (FailureClass::WorkloadCorrupt, Phase::Import));
}

/// Highest resident memory in bytes, looked at until the process has ended.
fn peak_memory_while_running(pid: u32) -> u64 {
    let mut peak = 0;
    while is_alive(pid) {
        let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(peak > 0, "the agent was not seen");
    peak
}
