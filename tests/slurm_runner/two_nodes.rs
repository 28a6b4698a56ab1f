//! What is only seen where there are several nodes.

use std::collections::BTreeSet;

use fake_nvml::{Device, Script};
use serde_json::{Value, json};

use super::runs;
use super::site::Site;

#[test]
fn comparisons_say_where_runs_were() {
    let Some(site) = Site::start_two("") else { return };
    let mut bench = site.bench("slurm-nodes");
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["sweep"] = json!({"candle.batch_size": [1, 4]});
    bench.study["execution"] = json!({"n_cycles": 2});
    // Shorter windows are not valid, and not compared.
    bench.study["measurement"]["min_seconds"] = json!(10.5);
    let apart = "not within one node: runs of one cycle are on different ones; n1 and n2";
    let together = "each cycle is within one node, cycles are on several: n1 and n2";
    for (tasks_per_job, says) in [(1, apart), (2, together)] {
        // Each job has its node to itself.
        bench.user["slurm"] = json!({"poll_seconds": 1, "tasks_per_job": tasks_per_job});
        let finished = bench.run(&[]);
        finished.exits(0);
        site.is_idle();
        let node = |run: &llem::result::RunResult| run.slurm.as_ref().unwrap().node.clone().unwrap();
        let nodes: Vec<String> = finished.results().iter().map(node).collect();
        assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), 2, "{nodes:?}");
        assert_eq!(nodes[0] == nodes[1] && nodes[2] == nodes[3], tasks_per_job == 2, "{nodes:?}");
        let study = finished.study_dir().display().to_string();
        let compared = bench.command(&["compare", &study, "--by", "candle.batch_size"]).output().unwrap();
        let said = String::from_utf8(compared.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(says), "{says}: {said}");
    }
}

#[test]
fn a_run_is_given_the_gpus_that_slurm_gave_its_job() {
    let Some(site) = Site::start_gpus() else { return };
    let mut bench = site.bench("slurm-gpus");
    let device = |number: u32| Device { uuid: format!("GPU-{number}"), ..Device::default() };
    let script = Script { devices: vec![device(0), device(1)], ..Script::starting_now() };
    fs_err::create_dir(bench.path("nvml")).unwrap();
    let staged = fake_nvml::stage(&bench.path("nvml"), &script).unwrap();
    bench.variables.extend(staged.map(|(name, path)| (name, path.display().to_string())));
    bench.study.as_object_mut().unwrap().remove("candle");
    // It ends before its engine is there: what its job was given is known by then.
    bench.study["backend"] = json!("pytorch");
    bench.study["execution"] = json!({"n_cycles": 2, "max_retries": 0});
    bench.user["python"] = json!({"pytorch": "/bin/false"});
    bench.user["slurm"]["gres"] = json!("gpu:1");
    bench.user["gpu"] = json!({"lock_dir": bench.path("locks")});
    let finished = bench.run(&[]);
    finished.exits(1);
    let given = |name: &str| -> Value {
        let job = finished.study_dir().join("runs").join(name).join("job.json");
        serde_json::from_slice::<Value>(&fs_err::read(job).unwrap()).unwrap()["gpus"].clone()
    };
    let gpus: BTreeSet<String> = runs(&finished.study_dir()).iter().map(|(name, _)| given(name).to_string()).collect();
    assert_eq!(gpus, [r#"["GPU-0"]"#.to_owned(), r#"["GPU-1"]"#.to_owned()].into(), "{}", finished.stderr);

    // Beside other jobs, GPUs that SLURM did not give to this one are not taken.
    bench.user["slurm"].as_object_mut().unwrap().remove("gres");
    let finished = bench.run(&[]);
    finished.exits(1).says(&["the job has 0 GPUs that llem may use", "set `slurm.gres`"]);
    site.is_idle();
}
