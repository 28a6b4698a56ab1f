//! The `apptainer` runner with the real Apptainer: the same work as under the other runners, and no way to get rid of llem that leaves
//! something behind.

use std::path::Path;

use llem_protocol::{FailureClass, Phase};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::docker_results::{output_ids, run_dirs};
use crate::process_runner::descendants;
use crate::support::{
    Bench, ENGINE_PATIENCE, Finished, PYTORCH_IMAGE, Program, apptainer_answers, engine_answers, eventually,
    fault_image, has_image, is_alive, sif_of,
};

/// What makes a run the same wherever it is carried out: its fields of identity, and the generated tokens.
pub(crate) type Identity = (Value, Vec<(u64, Vec<u32>)>);

/// Of all runs in their order.
pub(crate) fn identity(finished: &Finished) -> Vec<Identity> {
    let of = |(result, directory): (llem::result::RunResult, std::path::PathBuf)| {
        let fields = json!({
            "experiment": result.experiment_id, "cycle": result.cycle, "config": result.config, "workload": result.workload,
            "model": result.model, "agent": result.agent_sha256, "llem": result.llem_commit,
        });
        (fields, output_ids(&directory))
    };
    let mut all: Vec<Identity> = run_dirs(finished).into_iter().map(of).collect();
    for (fields, tokens) in &mut all {
        assert!(!tokens.is_empty(), "{fields}");
        // How often the window repeats the workload is a matter of speed.
        tokens.sort();
        tokens.dedup();
    }
    all
}

/// Two experiments of one short run each.
pub(crate) fn two_experiments(name: &str) -> Bench {
    let mut bench = Bench::new(name);
    bench.study["candle"] = json!({});
    bench.study["sweep"] = json!({"candle.batch_size": [1, 4]});
    bench
}

/// A bench with temporary files of its own.
pub(crate) fn with_temporary(mut bench: Bench) -> Bench {
    let temporary = bench.path("tmp");
    fs_err::create_dir(&temporary).unwrap();
    if let Some((user, group)) = bench.user_and_group {
        std::os::unix::fs::chown(&temporary, Some(user), Some(group)).unwrap();
    }
    bench.variables.insert("TMPDIR", temporary.display().to_string());
    bench
}

/// Nothing that a run needs for its time is left.
#[track_caller]
pub(crate) fn leaves_no_scratch(bench: &Bench) {
    let left: Vec<_> = fs_err::read_dir(bench.path("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_study_is_the_same_under_docker_process_and_apptainer() {
    if !apptainer_answers() || !engine_answers() {
        return;
    }
    let bench = with_temporary(two_experiments("all-runners"));
    let by_apptainer = bench.start(&["--runner", "apptainer"]).finish();
    by_apptainer.exits(0).says(&["apptainer version", "containers are made with"]);
    leaves_no_scratch(&bench);
    let expected = identity(&by_apptainer);
    let result = by_apptainer.results().remove(0);
    assert_eq!(result.runner, "apptainer");
    let container = result.container.unwrap();
    assert!(container.image.starts_with("llem/candle:") && container.image_id.starts_with("sha256:"), "{container:?}");
    assert!(container.engine_version.starts_with("apptainer version"), "{container:?}");
    assert_eq!((container.exit_code, container.gpu_access.as_str()), (Some(0), "none"));
    for runner in ["docker", "process"] {
        let finished = bench.run(&["--runner", runner]);
        finished.exits(0);
        assert_eq!(identity(&finished), expected, "{runner}");
    }
}

#[test]
fn an_ordinary_user_measures_too() {
    if !apptainer_answers() {
        return;
    }
    let Some(mut bench) = two_experiments("apptainer-nobody").for_nobody().map(with_temporary) else { return };
    let finished = bench.run(&["--runner", "apptainer"]);
    finished.exits(0);
    leaves_no_scratch(&bench);
    bench.user_and_group = None;
    let by_root = bench.run(&["--runner", "process"]);
    by_root.exits(0);
    assert_eq!(identity(&finished), identity(&by_root));
}

/// A study in its window, with everything that it has started.
fn in_window(bench: &Bench, runner: &str) -> (Program, Vec<Pid>) {
    let mut program = bench.start(&["--runner", runner]);
    program.until_window();
    let processes = descendants(program.pid());
    assert!(processes.len() >= 2, "agent and driver at least");
    (program, processes)
}

fn all_gone(processes: &[Pid]) {
    eventually(&format!("processes {processes:?} are gone"), || {
        processes.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}

#[test]
fn signals_end_the_whole_tree() {
    if !apptainer_answers() {
        return;
    }
    for signals in [1, 2] {
        let bench = with_temporary(Bench::new("apptainer-signal").long_window());
        let (program, processes) = in_window(&bench, "apptainer");
        for _ in 0..signals {
            program.signal(Signal::INT);
        }
        let finished = program.finish();
        finished.exits(130);
        all_gone(&processes);
        leaves_no_scratch(&bench);
        assert_eq!(finished.results()[0].failure.as_ref().unwrap().class, FailureClass::Interrupted);
    }
}

#[test]
fn what_a_killed_controller_leaves_goes_by_itself() {
    if !apptainer_answers() {
        return;
    }
    let bench = with_temporary(Bench::new("apptainer-killed").long_window());
    let (program, processes) = in_window(&bench, "apptainer");
    program.kill();
    all_gone(&processes);
}

/// What was being tried out or unpacked when llem was killed belongs to no run that is resumed.
#[test]
fn directories_that_a_killed_controller_left_go_at_the_next_start() {
    if !apptainer_answers() {
        return;
    }
    let mut bench = with_temporary(Bench::new("apptainer-left"));
    bench.user = json!({"cache_dir": bench.path("cache")});
    let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let left = [bench.path("tmp"), bench.path("cache/apptainer")]
        .map(|place| place.join(format!("llem-run-{}-x", &boot[..8])));
    for directory in &left {
        fs_err::create_dir_all(directory.join("root/bin")).unwrap();
    }
    bench.run(&["--runner", "apptainer"]).exits(0);
    assert!(left.iter().all(|directory| !directory.exists()), "{left:?}");
    leaves_no_scratch(&bench);
}

/// An agent that is stopped cannot notice that its controller is gone: it would come back to life beside the repeated run.
#[test]
fn resuming_ends_what_a_killed_controller_left_and_measures() {
    if !apptainer_answers() {
        return;
    }
    // Were they given to another session, the kernel would wake stopped processes with a hang-up.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    for runner in ["process", "apptainer"] {
        let mut bench = with_temporary(Bench::new("left-behind"));
        bench.study["measurement"]["min_seconds"] = json!(4);
        let (program, processes) = in_window(&bench, runner);
        for pid in &processes {
            let _ = kill_process(*pid, Signal::STOP);
        }
        program.kill();
        let finished = bench.run(&["--runner", runner, "--resume"]);
        finished.exits(0).says(&["ended process", "which its controller left"]);
        all_gone(&processes);
        leaves_no_scratch(&bench);
        let study = finished.study();
        let mut runs = study.experiments.iter().flat_map(|experiment| &experiment.runs);
        assert!(runs.all(|run| run.metrics.is_some()), "{runner}: {study:?}");
    }
}

#[test]
fn a_hanging_driver_is_ended_by_its_phases_limit() {
    if !apptainer_answers() || !engine_answers() {
        return;
    }
    let mut bench = with_temporary(Bench::new("apptainer-hang"));
    bench.study["candle"]["image"] = json!(sif_of(fault_image()));
    bench.user = json!({"env": {"FAULT": "hang_in_load"}});
    bench.study["execution"]["timeouts_s"] = json!({"load": 2.0});
    let program = bench.start(&["--runner", "apptainer"]);
    let finished = program.finish();
    let failure = finished.fails_with(FailureClass::Timeout, Phase::Load);
    assert!(failure.message.contains("limit of 2 s"), "{failure}");
    leaves_no_scratch(&bench);
    assert!(!anything_in(&bench.path("tmp")), "a process of the run lives");
}

/// Whether a process has a file below a directory open or mounted.
pub(crate) fn anything_in(directory: &Path) -> bool {
    let name = directory.display().to_string();
    let entries = fs_err::read_dir("/proc").unwrap().flatten();
    let mounts = entries.filter_map(|entry| fs_err::read_to_string(entry.path().join("mountinfo")).ok());
    mounts.into_iter().any(|text| text.contains(&name))
}

/// Neither beside nor below the run's own: a site's settings can take away what lies above.
#[test]
fn the_hosts_temporary_files_are_not_in_containers() {
    if !apptainer_answers() {
        return;
    }
    let bench = with_temporary(Bench::new("apptainer-tmp").long_window());
    let (program, processes) = in_window(&bench, "apptainer");
    let mounts = |pid: &Pid| fs_err::read_to_string(format!("/proc/{}/mountinfo", pid.as_raw_nonzero())).ok();
    let inside = processes.iter().filter_map(mounts).find(|text| text.contains(" /llem/out ")).unwrap();
    // proc_pid_mountinfo(5): the fourth field is what is mounted, the fifth where.
    let fields = inside.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let on_tmp: Vec<_> = fields.filter(|fields| fields[4] == "/tmp").map(|fields| fields[3].to_owned()).collect();
    assert!(!on_tmp.is_empty() && on_tmp.iter().all(|source| source.contains("/llem-run-")), "{on_tmp:?}");
    program.signal(Signal::INT);
    program.finish().exits(130);
    leaves_no_scratch(&bench);
}

/// As on a slow, shared file system: the signal comes before there is an agent that could tell of it.
#[test]
fn a_run_that_is_stopped_before_its_agent_lives_is_interrupted_and_not_refused() {
    if !apptainer_answers() {
        return;
    }
    let mut bench = with_temporary(Bench::new("apptainer-early"));
    let slow = bench.path("bin/apptainer");
    fs_err::create_dir(bench.path("bin")).unwrap();
    let here = bench.path("starting").display().to_string();
    let path = std::env::var("PATH").unwrap();
    // What starts a run's container names the job; tries of flags do not.
    let text = format!(
        "#!/bin/sh\nPATH='{path}'\ncase \"$*\" in *job.json*) : >'{here}'; exec sleep 30;; esac\nexec apptainer \"$@\"\n"
    );
    fs_err::write(&slow, text).unwrap();
    fs_err::set_permissions(&slow, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bench.variables.insert("PATH", format!("{}:{path}", bench.path("bin").display()));
    let program = bench.start(&["--runner", "apptainer"]);
    eventually("the container is being started", || bench.path("starting").exists().then_some(()));
    program.signal(Signal::INT);
    let finished = program.finish();
    finished.exits(130);
    assert_eq!(finished.results()[0].failure.as_ref().unwrap().class, FailureClass::Interrupted);
    leaves_no_scratch(&bench);
}

#[test]
fn pytorch_in_a_sif_file_generates_what_it_does_in_docker() {
    if !apptainer_answers() || !engine_answers() || !has_image(PYTORCH_IMAGE) {
        return;
    }
    let mut bench = with_temporary(Bench::new("apptainer-pytorch").patient(ENGINE_PATIENCE));
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!("pytorch");
    bench.study["pytorch"] = json!({"device_map": "cpu", "num_threads": 1, "batch_size": 2});
    bench.user = json!({"images": {"pytorch": PYTORCH_IMAGE}});
    let by_docker = bench.run(&["--runner", "docker"]);
    by_docker.exits(0);
    let image_id = by_docker.results().remove(0).container.unwrap().image_id;
    let expected = identity(&by_docker);
    let lock = by_docker.study_dir().join("study.lock.json").display().to_string();
    bench.user = json!({"images": {"pytorch": sif_of(PYTORCH_IMAGE)}});
    let by_apptainer = bench.run(&["--runner", "apptainer", "--locked", &lock]);
    by_apptainer.exits(0);
    leaves_no_scratch(&bench);
    assert_eq!(identity(&by_apptainer), expected);
    let result = by_apptainer.results().pop().unwrap();
    let container = result.container.unwrap();
    let source = container.image_source.unwrap();
    assert_eq!((source.reference.as_str(), source.id), (PYTORCH_IMAGE, image_id));
    assert!(container.image_versions.unwrap().torch.is_some());
}
