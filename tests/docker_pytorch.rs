//! A real PyTorch on the processor, through the whole program.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use llem_protocol::{FailureClass, Phase};
use serde_json::json;

use crate::support::{Bench, docker};

/// An image with python3, torch and transformers, made by `tests/images/pytorch-cpu/build`.
const IMAGE: &str = "llem-tests/pytorch-cpu:1";

/// A study of PyTorch on the processor; `None`, with a line that says so, where there is no engine or image.
fn study(name: &str) -> Option<Bench> {
    let mut bench = Bench::docker(name)?;
    if !docker(&["image", "inspect", IMAGE]).status.success() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: the container engine has no image {IMAGE} (tests/images/pytorch-cpu/build)"
        );
        return None;
    }
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!("pytorch");
    bench.study["pytorch"] = json!({"device_map": "cpu", "num_threads": 1, "batch_size": 3});
    bench.study["workload"] = json!({
        "dataset": "synthetic", "n": 5, "input_tokens": {"min": 5, "max": 40}, "output_tokens": {"min": 3, "max": 12},
    });
    Some(bench)
}

#[test]
fn a_study_of_pytorch_is_measured_in_the_users_image() {
    let Some(mut bench) = study("pytorch") else { return };
    bench.user = json!({"images": {"pytorch": IMAGE}});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0).leaves_no_container();
    let result = finished.results().remove(0);
    let engine = result.engine.unwrap();
    assert_eq!((engine.engine.as_str(), engine.dtype.as_deref()), ("pytorch", Some("float32")));
    assert_eq!(engine.parameters, Some(result.model.parameters));
    assert_eq!(engine.settings["num_threads"], json!(1));
    let window = result.window.unwrap();
    for pass in &window.passes {
        let asked = (result.workload.prompt_tokens, result.workload.output_tokens);
        assert_eq!((pass.prompt_tokens, pass.output_tokens), asked);
    }
    assert_eq!(result.container.unwrap().image, IMAGE);
}

#[test]
fn an_image_without_the_named_interpreter_says_what_was_tried() {
    let Some(mut bench) = study("pytorch-interpreter") else { return };
    bench.user = json!({"images": {"pytorch": IMAGE}, "python": {"pytorch": "/opt/torch/bin/python3"}});
    let finished = bench.run(&["--runner", "docker"]);
    let failure = finished.fails_with(FailureClass::DriverMissing, Phase::Import);
    assert!(failure.message.contains("`/opt/torch/bin/python3`"), "{failure}");
    finished.says(&["`python` in the user config"]);
}

#[test]
fn without_an_image_nothing_is_started() {
    let Some(bench) = study("pytorch-imageless") else { return };
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(2).says(&["none is named: set `pytorch.image` in the study, or `images: {pytorch: NAME}`"]);
}

/// The process runner takes what is installed here: a stand-in that shows what it was given.
#[test]
fn without_containers_the_interpreter_of_the_user_config_starts_the_driver() {
    let mut bench = Bench::new("pytorch-process");
    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!("pytorch");
    bench.study["pytorch"] = json!({"device_map": "cpu"});
    let interpreter = bench.path("python");
    let script = "#!/bin/sh\necho \"gpus=[$CUDA_VISIBLE_DEVICES]\" >&2\nhead -n 1 \"$1\" >&2\nexit 7\n";
    fs_err::write(&interpreter, script).unwrap();
    fs_err::set_permissions(&interpreter, std::fs::Permissions::from_mode(0o755)).unwrap();
    bench.user = json!({"python": {"pytorch": interpreter}});
    let finished = bench.run(&["--runner", "process"]);
    let failure = finished.fails_with(FailureClass::DiedAtImport, Phase::Import);
    assert_eq!(failure.log_tail[0], "gpus=[]");
    assert!(failure.log_tail[1].contains("llem's driver of PyTorch"), "{failure}");
}
