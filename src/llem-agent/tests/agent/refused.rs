//! Jobs, volumes and arguments that the agent refuses.

use std::io::Write as _;
use std::process::Command;

use llem_protocol::{EventBody, Failure, FailureClass, Phase, files};

use crate::harness::{Bench, Outcome, bench, finish};

fn only_failure(outcome: &Outcome) -> Failure {
    match outcome.events.as_slice() {
        [event] => match &event.body {
            EventBody::Failed { failure } => failure.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn job_files_that_are_none_exit_with_2_and_say_why() {
    let bench = Bench::new("none");
    let command = || bench.command();
    let good = serde_json::to_value(&bench.job).unwrap();
    let changed = |field: &str, value: serde_json::Value| {
        let mut job = good.clone();
        job[field] = value;
        job.to_string()
    };
    for (text, expected) in [
        ("{".to_owned(), "not a job"),
        ("x".repeat(5 << 20), "longer than"),
        (changed("surprise", 1.into()), "surprise"),
        (changed("protocol_version", 9.into()), "protocol version 9"),
        (changed("timeouts_s", serde_json::json!({"load": -1.0})), "timeouts_s.load"),
    ] {
        let mut command = command();
        fs_err::write(bench.path("job.json"), text).unwrap();
        let outcome = finish(command.spawn().unwrap());
        assert_eq!(outcome.status, Some(2), "{expected}");
        assert!(outcome.stderr.contains(expected), "{expected}: {}", outcome.stderr);
        assert_eq!(only_failure(&outcome).class, FailureClass::Protocol);
        assert!(bench.report().is_none());
    }
}

#[test]
fn another_volume_is_not_written_to() {
    let mut bench = Bench::new("none");
    bench.job.nonce = "another".to_owned();
    let outcome = bench.run();
    assert_eq!((only_failure(&outcome).class, outcome.status), (FailureClass::OutputUnwritable, Some(3)));
    fs_err::remove_file(bench.job.output_dir.join(files::NONCE)).unwrap();
    let outcome = bench.run();
    assert!(only_failure(&outcome).message.contains(files::NONCE), "{}", outcome.stderr);
    assert!(bench.report().is_none());
}

#[test]
fn wrong_arguments_are_refused_and_the_version_is_told() {
    let agent = || Command::new(env!("CARGO_BIN_EXE_llem-agent"));
    let version = agent().arg("--version").output().unwrap();
    assert_eq!(version.stdout, format!("llem-agent {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    assert_eq!(agent().output().unwrap().status.code(), Some(2));
    assert_eq!(agent().args(["a", "b"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_full_volume_is_a_failure_that_is_still_told() {
    let Some(mut bench) = bench("none") else { return };
    let volume = bench.path("full");
    fs_err::create_dir(&volume).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&volume).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        let _ = writeln!(std::io::stderr(), "skipped: mounting a small tmpfs needs the rights of root");
        return;
    }
    fs_err::write(volume.join(files::NONCE), &bench.job.nonce).unwrap();
    // The rest of the volume, but for less than the results take.
    let _ = fs_err::write(volume.join("filler"), vec![0; 64 << 10]);
    bench.job.output_dir.clone_from(&volume);
    let outcome = bench.run();
    let unmounted = Command::new("umount").arg(&volume).status().unwrap();
    assert!(unmounted.success());
    let failure = outcome.failure();
    assert_eq!((failure.class, failure.phase), (FailureClass::OutputUnwritable, Phase::Write));
    assert!(failure.message.contains("No space left"), "{failure}");
}
