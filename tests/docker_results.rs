//! A study that goes well: every file of its directory, the container as it is made, the same tokens in every runner.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use llem::result::{RunResult, RunStatus, SCHEMA_VERSION, StudyResult, StudyStatus};
use llem::runner::docker::host_powercap;
use llem_protocol::Job;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::support::{Bench, Finished, docker_text, fault_image};

/// A study over three batch sizes with prompts and outputs of different lengths.
fn ragged(name: &str) -> Bench {
    let mut bench = Bench::new(name);
    bench.study["workload"] = json!({
        "dataset": "synthetic", "n": 10,
        "input_tokens": {"min": 5, "max": 40}, "output_tokens": {"min": 3, "max": 12},
    });
    bench.study["candle"] = json!({});
    bench.study["sweep"] = json!({"candle.batch_size": [1, 4, 7]});
    bench
}

fn table(path: &Path) -> Vec<RecordBatch> {
    let file = fs_err::File::open(path).unwrap().into_parts().0;
    ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap).collect()
}

fn rows(path: &Path) -> usize {
    table(path).iter().map(RecordBatch::num_rows).sum()
}

/// Generated ids of every request of the window's first pass, in the order of the workload.
pub(crate) fn output_ids(directory: &Path) -> Vec<(u64, Vec<u32>)> {
    let mut ids = Vec::new();
    for batch in table(&directory.join("requests.parquet")) {
        let passes = batch["pass"].as_primitive::<UInt32Type>();
        let indices = batch["request_index"].as_primitive::<UInt64Type>();
        let lists = batch["output_ids"].as_list::<i32>();
        let first = (0..batch.num_rows()).filter(|row| passes.value(*row) == 1);
        ids.extend(
            first.map(|row| (indices.value(row), lists.value(row).as_primitive::<UInt32Type>().values().to_vec())),
        );
    }
    ids.sort();
    ids
}

pub(crate) fn run_dirs(finished: &Finished) -> Vec<(RunResult, std::path::PathBuf)> {
    let runs = finished.study_dir().join("runs");
    finished.results().into_iter().map(|result| (result.clone(), runs.join(result.run_id))).collect()
}

#[test]
fn every_file_of_a_study_is_there_and_says_the_same() {
    let Some(_) = Bench::docker("files") else { return };
    let bench = ragged("files");
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0).leaves_no_container();
    let directory = finished.study_dir();
    let study = finished.study();
    assert_eq!(
        (study.status, study.schema_version, study.counts()),
        (StudyStatus::Completed, SCHEMA_VERSION, (3, 0, 0))
    );
    assert_eq!(fs_err::read_to_string(directory.join("study.yaml")).unwrap(), bench.study.to_string());
    assert_eq!(rows(&directory.join("experiments.parquet")), 3);
    assert!(!directory.join(".lock").exists());
    let events: Vec<Value> = finished.journal().into_iter().map(|line| line["event"].clone()).collect();
    let one = ["run_started", "run_finished"];
    assert_eq!(json!(events), json!([&["study_started"][..], &one, &one, &one, &["study_finished"]].concat()));
    for (result, directory) in run_dirs(&finished) {
        check_run(&study, &result, &directory);
    }
}

fn check_run(study: &StudyResult, result: &RunResult, directory: &Path) {
    assert_eq!(
        (result.status, result.runner.as_str(), result.schema_version),
        (RunStatus::Completed, "docker", SCHEMA_VERSION)
    );
    let mut names: Vec<_> =
        fs_err::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = ["agent.log", "driver.log", "job.json", "requests.parquet", "result.json", "timeseries.parquet"];
    assert_eq!(names, expected);
    for name in names {
        let owner = fs_err::metadata(directory.join(&name)).unwrap().uid();
        assert_eq!(owner, rustix::process::getuid().as_raw(), "{name}");
    }
    let job: Job = serde_json::from_slice(&fs_err::read(directory.join("job.json")).unwrap()).unwrap();
    assert_eq!((&job.run_id, &job.workload.sha256), (&result.run_id, &result.workload.sha256));
    check_counts(result, directory);
    let row = study.experiments.iter().flat_map(|e| &e.runs).find(|row| row.run_id == result.run_id).unwrap();
    assert_eq!((&row.metrics, row.valid), (&result.metrics, result.valid));
    let host = result.host.as_ref().unwrap();
    assert!(host.kernel.is_some() && host.memory_bytes > Some(1 << 26), "{host:?}");
    assert_eq!((&host.nvidia, &result.gpu_processes), (&None, &Vec::new()), "a run without GPUs");
    let container = result.container.as_ref().unwrap();
    assert_eq!((container.exit_code, container.oom_killed), (Some(0), false));
    assert!(container.image_id.starts_with("sha256:"), "{container:?}");
}

/// Every prompt and every output has its exact length, without padding, whatever the batch size.
fn check_counts(result: &RunResult, directory: &Path) {
    let window = result.window.as_ref().unwrap();
    let metrics = result.metrics.as_ref().unwrap();
    for pass in &window.passes {
        let asked = (result.workload.prompt_tokens, result.workload.output_tokens);
        assert_eq!((pass.prompt_tokens, pass.output_tokens), asked);
    }
    assert_eq!(rows(&directory.join("requests.parquet")), window.passes.len() * 10);
    let generated: usize = output_ids(directory).iter().map(|(_, ids)| ids.len()).sum();
    assert_eq!(generated as u64, result.workload.output_tokens);
    assert_eq!(metrics.output_tokens, result.workload.output_tokens * window.passes.len() as u64);
    assert!((30..=120).contains(&result.workload.output_tokens) && (50..=400).contains(&result.workload.prompt_tokens));
}

#[test]
fn the_files_of_an_ordinary_user_are_that_users() {
    let Some(bench) = Bench::docker("ordinary").and_then(Bench::for_ordinary_user) else { return };
    let user = bench.user_and_group.unwrap().0;
    // The driver locks a directory of the results volume against everybody but root.
    let finished = bench.with_fault(fault_image(), "locked").run(&["--runner", "docker"]);
    finished.exits(0).leaves_no_container();
    for (_, directory) in run_dirs(&finished) {
        assert!(!directory.join(".volume").exists());
        for entry in fs_err::read_dir(directory).unwrap() {
            assert_eq!(entry.as_ref().unwrap().metadata().unwrap().uid(), user, "{entry:?}");
        }
    }
}

#[test]
fn greedy_output_is_the_same_in_both_runners_and_all_batch_sizes() {
    let Some(_) = Bench::docker("greedy") else { return };
    let mut outputs = Vec::new();
    for runner in ["docker", "process"] {
        let finished = ragged(&format!("greedy-{runner}")).run(&["--runner", runner, "-q"]);
        finished.exits(0);
        assert_eq!(finished.stderr, "");
        for (result, directory) in run_dirs(&finished) {
            assert_eq!(result.runner, runner);
            outputs.push(output_ids(&directory));
        }
    }
    assert_eq!((outputs.len(), outputs[0].len()), (6, 10));
    assert!(outputs.iter().all(|output| *output == outputs[0]), "{outputs:?}");
}

#[test]
fn stdout_has_the_result_and_nothing_else() {
    let Some(bench) = Bench::docker("stdout") else { return };
    let finished = bench.run(&["--runner", "docker", "--format", "json"]);
    finished.exits(0).says(&["runner docker", "[1/1]"]);
    let printed: StudyResult = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(printed, finished.study());
}

#[test]
fn the_container_is_locked_down_and_labelled() {
    let Some(mut bench) = Bench::docker("locked-down") else { return };
    bench.study["execution"]["memory_gib"] = json!(0.5);
    bench.study["execution"]["shm_gib"] = json!(0.125);
    bench.study["execution"]["pids_limit"] = json!(64);
    let mut program = bench.long_window().start(&["--runner", "docker"]);
    program.until_window();
    let id = program.container();
    let inspected: Value = serde_json::from_str(&docker_text(&["inspect", &id])).unwrap();
    let (host, config) = (&inspected[0]["HostConfig"], &inspected[0]["Config"]);
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
    assert_eq!(
        (&host["NetworkMode"], &host["Privileged"], &host["Init"]),
        (&json!("none"), &json!(false), &json!(true))
    );
    assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(512 << 20), &json!(512 << 20)));
    assert_eq!((&host["ShmSize"], &host["PidsLimit"]), (&json!(128 << 20), &json!(64)));
    let study_dir = program.study_dir();
    assert_eq!(config["Labels"]["io.llem.study"], json!(study_dir.file_name().unwrap().to_str()));
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    assert_eq!(config["User"], json!(format!("{uid}:{gid}")));
    check_mounts(&inspected[0]["Mounts"], &study_dir);
    let status = docker_text(&["exec", &id, "/usr/local/bin/llem-candle", "--help"]);
    assert!(status.contains("hello"), "a second process starts within the limits: {status}");
    program.signal(rustix::process::Signal::INT);
    program.finish().exits(130).leaves_no_container();
}

/// Only the run's own volume is writable.
fn check_mounts(mounts: &Value, study_dir: &Path) {
    for mount in mounts.as_array().unwrap() {
        let writable = mount["RW"] == json!(true);
        let source = mount["Source"].as_str().unwrap();
        assert_eq!(writable, mount["Destination"] == json!("/llem/out"), "{mount}");
        assert!(!writable || (Path::new(source).starts_with(study_dir) && source.ends_with("/.volume")), "{mount}");
    }
    let zones = usize::from(host_powercap().is_some());
    assert_eq!(mounts.as_array().unwrap().len(), 2 + zones, "{mounts}");
}
