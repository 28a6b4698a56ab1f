//! The `slurm` runner whose nodes make containers: the real SLURM, the real Apptainer, and images as files.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use llem::result::{RunResult, StudyStatus};
use llem_protocol::FailureClass;
use serde_json::{Value, json};

use crate::apptainer_runner::{anything_in, identity, leaves_no_scratch, with_temporary};
use crate::slurm_runner::site::Site;
use crate::support::{
    Bench, ENGINE_PATIENCE, Finished, PYTORCH_IMAGE, Podman, Program, apptainer_answers, engine_answers, eventually,
    fault_image, has_image, sif_of,
};

/// A site whose nodes make containers, and a study of one short run for it.
fn site(name: &str) -> Option<(Site, Bench)> {
    if !apptainer_answers() {
        return None;
    }
    let site = Site::start()?;
    let mut bench = with_temporary(site.bench(name)).patient(ENGINE_PATIENCE);
    bench.user["slurm"]["node_runner"] = json!("apptainer");
    Some((site, bench))
}

/// The SIF file of the image that misbehaves, for tests that change it.
fn own_sif(bench: &mut Bench) -> std::path::PathBuf {
    let sif = bench.path("own.sif");
    fs_err::copy(sif_of(fault_image()), &sif).unwrap();
    bench.user["images"] = json!({"candle": sif});
    sif
}

fn only(finished: &Finished) -> RunResult {
    let mut results = finished.results();
    assert_eq!(results.len(), 1, "{}", finished.stderr);
    results.remove(0)
}

/// `llem run examples/quickstart.yaml` by everything that can carry it out.
#[test]
fn the_quickstart_is_the_same_wherever_it_runs() {
    if !engine_answers() {
        return;
    }
    let Some((site, mut bench)) = site("quickstart") else { return };
    let Some(podman) = Podman::start() else { return };
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart.yaml");
    let run = |bench: &Bench, runner: &str| {
        let finished = bench.run_file(&quickstart, &["--profile", "quick", "--runner", runner]);
        finished.exits(0);
        let runs = identity(&finished);
        assert_eq!(runs.len(), 4, "two batch sizes in two cycles");
        let lock: Value =
            serde_json::from_slice(&fs_err::read(finished.study_dir().join("study.lock.json")).unwrap()).unwrap();
        let study = [&lock["design_hash"], &lock["weights"], &lock["workloads"], &lock["llem"]].map(Clone::clone);
        (finished, (runs, study))
    };
    let (by_process, expected) = run(&bench, "process");
    assert_eq!(by_process.results()[0].runner, "process");
    for runner in ["docker", "apptainer"] {
        let (finished, found) = run(&bench, runner);
        assert_eq!(found, expected, "{runner}");
        assert_eq!(finished.results()[0].runner, runner);
    }
    bench.docker_host = Some(podman.address());
    let (_, found) = run(&bench, "docker");
    assert_eq!(found, expected, "podman");
    bench.docker_host = None;
    for (node_runner, name) in [("process", "slurm"), ("apptainer", "slurm+apptainer")] {
        bench.user["slurm"]["node_runner"] = json!(node_runner);
        let (finished, found) = run(&bench, "slurm");
        assert_eq!(found, expected, "slurm with {node_runner}");
        for result in finished.results() {
            let slurm = result.slurm.unwrap();
            assert_eq!((result.runner.as_str(), slurm.node_runner.as_str()), (name, node_runner));
            let image = result.container.map(|container| container.image);
            assert_eq!(image.is_some_and(|image| image.starts_with("llem/candle:")), node_runner == "apptainer");
        }
        site.is_idle();
    }
    leaves_no_scratch(&bench);
}

/// The machine that submits needs no Apptainer; the job gets it as sites give it: by a line of the prologue.
#[test]
fn jobs_run_pytorch_in_a_sif_file_as_this_machine_does() {
    if !engine_answers() || !has_image(PYTORCH_IMAGE) {
        return;
    }
    let Some((site, mut bench)) = site("slurm-pytorch") else { return };
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!("pytorch");
    bench.study["pytorch"] = json!({"device_map": "cpu", "num_threads": 1});
    bench.study["sweep"] = json!({"pytorch.batch_size": [1, 2]});
    bench.user["images"] = json!({"pytorch": sif_of(PYTORCH_IMAGE)});
    bench.user["slurm"]["tasks_per_job"] = json!(2);
    let here = bench.run(&["--runner", "apptainer"]);
    here.exits(0);
    let lock = here.study_dir().join("study.lock.json").display().to_string();

    let path = bench.path("bin");
    fs_err::create_dir(&path).unwrap();
    for name in ["sbatch", "squeue", "scancel", "scontrol"] {
        symlink(Path::new("/usr/bin").join(name), path.join(name)).unwrap();
    }
    bench.variables.insert("PATH", path.display().to_string());
    let without = bench.run(&["--locked", &lock]);
    without.exits(1).says(&["there is no `apptainer` in PATH of the job", "module load apptainer"]);
    assert_eq!(without.results()[0].failure.as_ref().unwrap().class, FailureClass::ContainerRefused);
    site.is_idle();

    bench.user["slurm"]["prologue"] = json!(["export PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
    // Nobody has looked into the image yet.
    bench.user["cache_dir"] = json!(bench.path("cache"));
    let on_nodes = bench.run(&["--locked", &lock]);
    on_nodes.exits(0).says(&["runner slurm+apptainer"]);
    assert_eq!(identity(&on_nodes), identity(&here));
    assert_eq!(on_nodes.study().images, here.study().images, "what the node found out is in the study");
    for (result, local) in on_nodes.results().into_iter().zip(here.results()) {
        let (found, expected) = (result.container.unwrap(), local.container.unwrap());
        assert!(found.image_versions.as_ref().is_some_and(|versions| versions.torch.is_some()), "{found:?}");
        assert_eq!(
            (&found.image_id, &found.image_source, &found.image_versions, &found.engine_version),
            (&expected.image_id, &expected.image_source, &expected.image_versions, &expected.engine_version)
        );
        assert_eq!(found.image_source.unwrap().reference, PYTORCH_IMAGE);
        let slurm = result.slurm.unwrap();
        assert_eq!((slurm.node_runner.as_str(), slurm.node.as_deref()), ("apptainer", Some("localhost")));
    }
    site.is_idle();
    leaves_no_scratch(&bench);
}

/// The prologue changes the file between the look of the machine that submitted it and that of the node.
#[test]
fn a_node_takes_no_other_file_than_the_one_that_was_looked_at() {
    if !engine_answers() {
        return;
    }
    let Some((site, mut bench)) = site("slurm-other-sif") else { return };
    let sif = own_sif(&mut bench);
    // Another time, the same content: the node reads it.
    bench.user["slurm"]["prologue"] = json!([format!("touch {}", sif.display())]);
    let touched = bench.run(&[]);
    touched.exits(0);
    let container = only(&touched).container.unwrap();
    assert_eq!((container.image, container.exit_code), (sif.display().to_string(), Some(0)));
    bench.user["slurm"]["prologue"] = json!([format!("printf x >> {}", sif.display())]);
    let other = bench.run(&[]);
    other.exits(1).says(&["is another one than on the machine that submitted the run"]);
    assert_eq!(only(&other).failure.unwrap().class, FailureClass::ContainerRefused);
    bench.user["slurm"]["prologue"] = json!([format!("rm {}", sif.display())]);
    let gone = bench.run(&[]);
    gone.exits(1).says(&["own.sif is not there"]);
    assert_eq!(only(&gone).failure.unwrap().class, FailureClass::ImageMissing);
    // What is no image is refused before anything is submitted.
    fs_err::write(&sif, vec![b'x'; 10_000]).unwrap();
    bench.run(&[]).exits(1).says(&["own.sif is no SIF file"]);
    site.is_idle();
    leaves_no_scratch(&bench);
}

/// Waits until the only run of a study is in its container. Before it, the job tries out how containers are made.
fn until_contained(bench: &Bench, program: &Program) {
    eventually("a container on the node", || {
        // The newest study, once it is there.
        let run = fs_err::read_dir(program.study_dir().join("runs")).ok()?.next()?.unwrap().path();
        (run.join(".process.json").exists() && anything_in(&bench.path("tmp"))).then_some(())
    });
}

#[track_caller]
fn nothing_is_left(site: &Site, bench: &Bench) {
    site.is_idle();
    eventually("no process in a container", || (!anything_in(&bench.path("tmp"))).then_some(()));
    leaves_no_scratch(bench);
}

#[test]
fn cancelled_jobs_and_time_limits_end_everything_in_a_container() {
    let Some((site, bench)) = site("slurm-tree") else { return };
    let mut bench = bench.long_window();
    bench.study["execution"]["max_retries"] = json!(0);
    let program = bench.start(&[]);
    until_contained(&bench, &program);
    let jobs = site.jobs("RUNNING");
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert!(site.command("scancel", &[&jobs[0]]).status.success());
    let cancelled = program.finish();
    cancelled.exits(1).says(&["was cancelled, and not by llem"]);
    nothing_is_left(&site, &bench);
    let result = only(&cancelled);
    assert_eq!(result.failure.unwrap().class, FailureClass::NodeLost);
    assert_eq!(result.slurm.unwrap().node_runner, "apptainer");

    let program = bench.start(&[]);
    until_contained(&bench, &program);
    program.signal(rustix::process::Signal::INT);
    let stopped = program.finish();
    stopped.exits(130).says(&["stopping: the study's jobs are cancelled"]);
    nothing_is_left(&site, &bench);
    assert_eq!(only(&stopped).failure.unwrap().class, FailureClass::Interrupted);

    bench.user["slurm"]["time_limit_minutes"] = json!(1);
    let late = bench.run(&[]);
    late.exits(1).says(&["reached its time limit"]);
    nothing_is_left(&site, &bench);
    assert_eq!(only(&late).failure.unwrap().class, FailureClass::TimeLimit);
}

/// One job at a time: the other cycles of the experiment wait in the queue when its first one ends.
#[test]
fn what_is_too_large_is_taken_out_of_the_queue() {
    if !engine_answers() {
        return;
    }
    let Some((site, mut bench)) = site("slurm-too-large") else { return };
    own_sif(&mut bench);
    bench.user["env"] = json!({"FAULT": "gpu_out_of_memory"});
    bench.user["slurm"]["max_parallel"] = json!(1);
    bench.study["candle"] = json!({});
    bench.study["sweep"] = json!({"candle.batch_size": [4, 1]});
    // Long enough for a look at the queue before the next job begins.
    bench.study["measurement"]["min_seconds"] = json!(8);
    bench.study["execution"] = json!({"n_cycles": 3, "max_consecutive_failures": 1});
    let finished = bench.run(&[]);
    finished.exits(1).says(&["the engine ran out of device memory; its other cycles are left out (2, 3)"]);
    site.is_idle();
    let study = finished.study();
    assert_eq!((study.status, study.counts()), (StudyStatus::Failed, (3, 1, 0)), "{}", finished.stderr);
    let skipped = study.experiments[0].skipped.as_ref().unwrap();
    assert_eq!((skipped.failure, &skipped.cycles[..]), (FailureClass::OutOfMemory, &[2, 3][..]));
    assert_eq!(finished.results().len(), 4, "what was left out leaves nothing");
    // Jobs with nothing to do were cancelled before they got a node.
    let logs = fs_err::read_dir(finished.study_dir().join("slurm")).unwrap().map(|entry| entry.unwrap().path());
    let said: String = logs.map(|log| fs_err::read_to_string(log).unwrap()).collect();
    assert!(!said.contains("is not asked for any more"), "{said}");
    leaves_no_scratch(&bench);
}

/// `squeue` of this site, which notes every call.
fn counted(bench: &mut Bench) -> std::path::PathBuf {
    let (path, calls) = (bench.path("bin"), bench.path("calls"));
    fs_err::create_dir(&path).unwrap();
    let script = format!("#!/bin/sh\ndate +%s.%N >> '{}'\nexec /usr/bin/squeue \"$@\"\n", calls.display());
    fs_err::write(path.join("squeue"), script).unwrap();
    fs_err::set_permissions(path.join("squeue"), PermissionsExt::from_mode(0o755)).unwrap();
    let old = std::env::var("PATH").unwrap();
    bench.variables.insert("PATH", format!("{}:{old}", path.display()));
    calls
}

/// Sixty jobs in two arrays.
#[test]
fn looking_at_the_queue_is_one_call_each_period_whatever_is_in_it() {
    let Some(site) = Site::start_with(&["localhost"], "MaxArraySize=31") else { return };
    let mut bench = site.bench("slurm-polling").patient(Duration::from_secs(420));
    let calls = counted(&mut bench);
    bench.user["slurm"]["poll_seconds"] = json!(2);
    bench.study["execution"] = json!({"n_cycles": 60});
    let finished = bench.run(&[]);
    finished.exits(0).says(&["31 jobs", "29 jobs"]);
    site.is_idle();
    let text = fs_err::read_to_string(&calls).unwrap();
    let times: Vec<f64> = text.lines().map(|line| line.parse().unwrap()).collect();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    // A period begins when what the last look said has been dealt with.
    assert!(times.len() >= 3 && gaps.clone().all(|gap| gap > 1.9), "{:?}", gaps.collect::<Vec<_>>());
}
