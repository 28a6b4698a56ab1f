//! Controllers that die, and studies that go on beside each other.

use std::path::{Path, PathBuf};

use fs_err::File;
use llem::result::StudyStatus;
use rustix::process::Signal;

use crate::support::{Bench, alone, containers_of, docker_text};

/// What a controller left that was killed in its window.
struct Remains {
    /// Its study's directory.
    directory: PathBuf,
    /// The lock that it had: while somebody holds it nobody takes the container for an orphan, not even an `llem` of somebody else
    /// on this machine.
    lock: File,
    /// Keeps the other tests away.
    alone: File,
}

fn killed_controller(bench: &Bench) -> Remains {
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    program.container();
    let directory = program.study_dir();
    let alone = alone();
    let lock = File::open(directory.join(".lock")).unwrap();
    let waiting = std::thread::spawn(move || lock.file().lock_shared().map(|()| lock));
    program.kill();
    Remains { directory, lock: waiting.join().unwrap().unwrap(), alone }
}

fn is_running(directory: &Path) -> bool {
    let ids = containers_of(directory);
    assert_eq!(ids.len(), 1, "{ids:?}");
    docker_text(&["inspect", "-f", "{{.State.Running}}", &ids[0]]).trim() == "true"
}

#[test]
fn the_next_study_removes_what_a_killed_controller_left() {
    let Some(bench) = Bench::docker("orphan").map(Bench::long_window) else { return };
    let Remains { directory, lock, alone } = killed_controller(&bench);
    assert!(is_running(&directory), "a container outlives its controller");
    let next = Bench::new("heir");
    drop(lock);
    let finished = next.run_alone(alone, &["--runner", "docker"]);
    finished.exits(0).says(&["removed the container of 001-", "left by a controller that died"]);
    assert!(containers_of(&directory).is_empty());
}

#[test]
fn clean_removes_what_a_killed_controller_left() {
    let Some(bench) = Bench::docker("cleaned").map(Bench::long_window) else { return };
    let Remains { directory, lock, alone: _alone } = killed_controller(&bench);
    let short = &containers_of(&directory)[0][..12];
    drop(lock);
    let output = bench.command(&["clean"]).output().unwrap();
    let removed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && removed.contains(&format!("removed {short} (001-")), "{removed}");
    assert!(containers_of(&directory).is_empty());
}

#[test]
fn neither_a_second_study_nor_clean_touches_the_container_of_a_living_one() {
    let Some(bench) = Bench::docker("living").map(Bench::long_window) else { return };
    let mut program = bench.start(&["--runner", "docker"]);
    program.until_window();
    let directory = program.study_dir();
    Bench::new("neighbour").run(&["--runner", "docker"]).exits(0).leaves_no_container();
    assert!(is_running(&directory));
    assert!(bench.command(&["clean"]).output().unwrap().status.success());
    assert!(is_running(&directory));
    program.signal(Signal::INT);
    program.finish().exits(130).leaves_no_container();
}

#[test]
fn studies_that_start_together_get_directories_of_their_own() {
    let Some(bench) = Bench::docker("together") else { return };
    let programs = [bench.start(&["--runner", "docker"]), bench.start(&["--runner", "docker"])];
    for program in programs {
        program.finish().exits(0);
    }
    let directories: Vec<_> = fs_err::read_dir(&bench.output).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(directories.len(), 2, "{directories:?}");
    for directory in directories {
        let text = fs_err::read_to_string(directory.join("study.json")).unwrap();
        let study: llem::result::StudyResult = serde_json::from_str(&text).unwrap();
        assert_eq!((study.status, study.counts()), (StudyStatus::Completed, (1, 0, 0)));
        assert_eq!(Some(study.study_id.as_str()), directory.file_name().unwrap().to_str());
        assert!(containers_of(&directory).is_empty());
    }
}
