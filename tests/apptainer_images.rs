//! Images of Apptainer that are missing, damaged or others than they should be.

use std::path::Path;

use llem_protocol::{FailureClass, Phase};
use serde_json::{Value, json};

use crate::apptainer_runner::with_temporary;
use crate::support::{Bench, PYTORCH_IMAGE, apptainer_answers, engine_answers, fault_image, has_image, sif_of};

/// Runs a study of an image by its path, which must be refused before anything is started; what llem said.
fn refused(name: &str, image: &Path, exit: i32) -> String {
    let mut bench = Bench::new(name);
    bench.study["candle"]["image"] = json!(image);
    let finished = bench.run(&["--runner", "apptainer"]);
    finished.exits(exit);
    assert!(!bench.output.exists(), "nothing was started");
    finished.stderr.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_no_image_is_refused_with_what_to_do() {
    if !apptainer_answers() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let garbage = place.path().join("garbage.sif");
    fs_err::write(&garbage, vec![b'x'; 10_000]).unwrap();
    let said = refused("sif-garbage", &garbage, 1);
    assert!(said.contains("garbage.sif is no SIF file") && said.contains("llem image export"), "{said}");
    let said = refused("sif-missing", &place.path().join("none.sif"), 1);
    assert!(said.contains("none.sif is not there") && said.contains("llem image export"), "{said}");
    let pipe = place.path().join("pipe.sif");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let said = refused("sif-pipe", &pipe, 1);
    assert!(said.contains("pipe.sif is no SIF file") && said.contains("it is no plain file"), "{said}");
    let said = refused("sif-reference", Path::new("vllm/vllm-openai:v1"), 2);
    assert!(said.contains("`llem image export vllm/vllm-openai:v1 --sif FILE`"), "{said}");
}

#[test]
fn without_apptainer_the_study_says_what_to_do() {
    let mut bench = Bench::new("no-apptainer");
    bench.variables.insert("PATH", "/nowhere".to_owned());
    let finished = bench.run(&["--runner", "apptainer"]);
    finished.exits(1).says(&["there is no `apptainer` in PATH", "module load apptainer"]);
    assert!(!bench.output.exists(), "nothing was started");
}

#[test]
fn a_file_for_apptainer_is_no_image_of_an_engine() {
    let Some(mut bench) = Bench::docker("sif-in-docker") else { return };
    bench.study["candle"]["image"] = json!("./x.sif");
    bench.run(&["--runner", "docker"]).exits(2).says(&["is a file for Apptainer", "--runner apptainer"]);
}

/// A plan starts nothing, so that any file will do.
#[test]
fn a_plan_lists_files_and_images_of_an_engine() {
    if !apptainer_answers() || !engine_answers() {
        return;
    }
    let mut bench = Bench::new("mixed-plan");
    let sif = bench.path("x.sif");
    fs_err::copy(sif_of(fault_image()), &sif).unwrap();
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!(["pytorch", "vllm"]);
    bench.study["vllm"] = json!({"image": fault_image()});
    bench.user = json!({"runner": "docker", "runners": {"pytorch": "apptainer"}, "images": {"pytorch": sif}, "cache_dir": bench.path("cache")});
    let finished = bench.run(&["--dry-run", "--format", "json"]);
    let plan: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{}", finished.stderr));
    let image = |line: &Value| (line["backend"].clone(), line["image"].clone(), line["state"].clone());
    let images: Vec<_> = plan["images"].as_array().unwrap().iter().map(image).collect();
    let unprobed = |backend: &str, image: Value| (json!(backend), image, json!("unprobed"));
    assert_eq!(images, [unprobed("pytorch", json!(sif)), unprobed("vllm", json!(fault_image()))]);
}

#[test]
fn a_locked_study_takes_no_other_sif_file() {
    if !apptainer_answers() || !engine_answers() {
        return;
    }
    let mut bench = Bench::new("sif-locked");
    let sif = bench.path("x.sif");
    fs_err::copy(sif_of(fault_image()), &sif).unwrap();
    bench.user = json!({"images": {"candle": sif}, "env": {"FAULT": "none"}});
    let first = bench.run(&["--runner", "apptainer"]);
    first.exits(0);
    let source = first.results().remove(0).container.unwrap().image_source.unwrap();
    assert_eq!(source.reference, fault_image());
    let lock = bench.path("locked.json");
    fs_err::copy(first.study_dir().join("study.lock.json"), &lock).unwrap();
    let lock = lock.display().to_string();
    let moved = bench.path("moved.sif");
    fs_err::rename(&sif, &moved).unwrap();
    bench.user["images"]["candle"] = json!(moved);
    bench.run(&["--runner", "apptainer", "--locked", &lock]).exits(0);
    // A byte behind the last object: it still starts, and is another file.
    let mut content = fs_err::read(&moved).unwrap();
    content.push(0);
    fs_err::write(&moved, content).unwrap();
    let finished = bench.run(&["--runner", "apptainer", "--locked", &lock]);
    finished.exits(1).says(&["is not kept, nothing was started", "image candle"]);
}

/// To whoever cannot mount SIF files, a damaged one is one that cannot be unpacked; a locked study does not come to that.
#[test]
fn a_locked_study_neither_starts_nor_unpacks_another_sif_file() {
    if !apptainer_answers() || !engine_answers() {
        return;
    }
    let Some(mut bench) = Bench::new("sif-locked-nobody").for_nobody().map(with_temporary) else { return };
    let sif = bench.path("x.sif");
    fs_err::copy(sif_of(fault_image()), &sif).unwrap();
    bench.user = json!({"images": {"candle": sif}, "env": {"FAULT": "none"}, "cache_dir": bench.path("cache")});
    let first = bench.run(&["--runner", "apptainer"]);
    first.exits(0);
    let lock = first.study_dir().join("study.lock.json").display().to_string();
    let mut content = fs_err::read(&sif).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs_err::write(&sif, content).unwrap();
    let before = unpacked(&bench);
    let finished = bench.run(&["--runner", "apptainer", "--locked", &lock]);
    let locked = first.results()[0].container.clone().unwrap().image_id;
    finished.exits(1).says(&["is not kept, nothing was started", &format!("locked  {locked}")]);
    assert_eq!(unpacked(&bench), before);
}

/// The last run of a study has no successor that would notice it.
#[test]
fn an_image_that_is_written_to_during_a_run_fails_it() {
    if !apptainer_answers() || !engine_answers() {
        return;
    }
    let mut bench = Bench::new("sif-written");
    let sif = bench.path("x.sif");
    fs_err::copy(sif_of(fault_image()), &sif).unwrap();
    bench.user = json!({"images": {"candle": sif}, "env": {"FAULT": "none"}});
    bench.study["measurement"]["min_seconds"] = json!(2);
    bench.study["execution"]["max_retries"] = json!(0);
    let mut program = bench.start(&["--runner", "apptainer"]);
    program.until_window();
    let mut file = fs_err::OpenOptions::new().append(true).open(&sif).unwrap();
    std::io::Write::write_all(&mut file, b"x").unwrap();
    let failure = program.finish().fails_with(FailureClass::ContainerRefused, Phase::Start);
    assert!(failure.message.contains("x.sif was written to while the run lasted"), "{failure}");
}

/// Names of what was unpacked into the cache.
fn unpacked(bench: &Bench) -> Vec<std::ffi::OsString> {
    let entries = fs_err::read_dir(bench.path("cache").join("apptainer")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// An engine may be in a directory that the machine's owner adds to every container; its image is looked into with all that runs have.
#[test]
fn a_look_into_a_sif_file_sees_what_the_user_config_adds() {
    if !apptainer_answers() || !engine_answers() || !has_image(PYTORCH_IMAGE) {
        return;
    }
    let mut bench = Bench::new("sif-additions");
    let (site, sif) = (bench.path("site"), sif_of(PYTORCH_IMAGE).display().to_string());
    let package = site.join("peft-1.dist-info");
    fs_err::create_dir_all(&package).unwrap();
    fs_err::write(package.join("METADATA"), "Metadata-Version: 2.1\nName: peft\nVersion: 99.1\n").unwrap();
    let seen = |bench: &Bench| {
        let arguments = ["image", "probe", &sif, "--backend", "pytorch", "--format", "json"];
        let output = bench.command(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        facts["versions"]["peft"].clone()
    };
    bench.user = json!({"mounts": [{"source": site, "target": "/extra"}], "env": {"PYTHONPATH": "/extra"}});
    assert_eq!(seen(&bench), "99.1");
    bench.user["env"] = json!({});
    assert_ne!(seen(&bench), "99.1", "without the variable, Python does not find it");
}
