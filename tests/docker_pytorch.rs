//! A real PyTorch on the processor, through the whole program.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use llem_protocol::{FailureClass, Phase};
use serde_json::{Value, json};

use crate::support::{Bench, ENGINE_PATIENCE, PYTORCH_IMAGE, has_image};

/// A study of PyTorch on the processor; `None`, with a line that says so, where there is no engine or image.
fn study(name: &str) -> Option<Bench> {
    let mut bench = Bench::docker(name)?.patient(ENGINE_PATIENCE);
    if !has_image(PYTORCH_IMAGE) {
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
    bench.user = json!({"images": {"pytorch": PYTORCH_IMAGE}});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0).leaves_no_container();
    let result = finished.results().remove(0);
    let engine = result.engine.unwrap();
    assert_eq!((engine.engine.as_str(), engine.dtype.as_deref()), ("pytorch", Some("float32")));
    assert_eq!(engine.parameters, result.model.parameters);
    assert_eq!(engine.settings["num_threads"], json!(1));
    let window = result.window.unwrap();
    for pass in &window.passes {
        let asked = (result.workload.prompt_tokens, result.workload.output_tokens);
        assert_eq!((pass.prompt_tokens, pass.output_tokens), asked);
    }
    assert_eq!(result.container.unwrap().image, PYTORCH_IMAGE);
}

/// A model directory that can be damaged, beside the study.
fn model(bench: &Bench) -> PathBuf {
    let spec = llem_model::SyntheticSpec {
        layers: 1,
        hidden: 64,
        intermediate: 96,
        heads: 4,
        kv_heads: 2,
        vocab: 512,
        ..llem_model::SyntheticSpec::default()
    };
    llem_model::ensure(&spec, &bench.path("models")).unwrap().dir
}

/// Makes the model one of an architecture that no engine has heard of.
pub(crate) fn rename_architecture(model: &Path) {
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    config["model_type"] = json!("unheard_of");
    config["architectures"] = json!(["UnheardOfForCausalLM"]);
    fs_err::write(path, config.to_string()).unwrap();
}

/// Leaves half of the weights, as a broken copy does.
pub(crate) fn cut_weights(model: &Path) {
    let path = model.join("model.safetensors");
    let content = fs_err::read(&path).unwrap();
    fs_err::write(&path, &content[..content.len() / 2]).unwrap();
}

/// Each with the real engine: what it says differs from version to version, the class must not.
#[test]
fn failures_of_the_engine_have_their_class_and_advice() {
    type Change = fn(&mut Bench, &Path);
    let cases: [(&str, Change, FailureClass); 6] = [
        (
            "weights-missing",
            |_, model| fs_err::remove_file(model.join("model.safetensors")).unwrap(),
            FailureClass::ModelMissing,
        ),
        ("weights-cut", |_, model| cut_weights(model), FailureClass::ModelMissing),
        ("architecture", |_, model| rename_architecture(model), FailureClass::UnsupportedArchitecture),
        (
            "attention",
            |bench, _| {
                bench.study["dtype"] = json!("bfloat16");
                bench.study["pytorch"]["attn"] = json!({"implementation": "flash_attention_2"});
            },
            FailureClass::Unsupported,
        ),
        (
            "argument",
            |bench, _| bench.study["pytorch"]["extra"] = json!({"no_such_argument": 1}),
            FailureClass::InvalidConfig,
        ),
        (
            "no-gpu",
            |bench, _| _ = bench.study["pytorch"].as_object_mut().unwrap().remove("device_map"),
            FailureClass::NoGpu,
        ),
    ];
    for (name, change, class) in cases {
        let Some(mut bench) = study(&format!("pytorch-{name}")) else { return };
        bench.user = json!({"images": {"pytorch": PYTORCH_IMAGE}});
        let model = model(&bench);
        bench.study["model"] = json!(model);
        change(&mut bench, &model);
        let finished = bench.run(&["--runner", "docker"]);
        finished.fails_with(class, Phase::Load);
        finished.says(&[class.advice()]);
    }
}

/// Importing torch alone needs more than this limit. The kernel throws out the pages of its libraries, reads them again for minutes, and
/// then kills; the phase's own limit may come first.
#[test]
fn a_container_without_memory_for_the_engine_names_the_setting() {
    let Some(mut bench) = study("pytorch-memory") else { return };
    bench.user = json!({"images": {"pytorch": PYTORCH_IMAGE}});
    bench.study["execution"]["memory_gib"] = json!(0.125);
    bench.study["execution"]["timeouts_s"] = json!({"import": 40});
    let finished = bench.run(&["--runner", "docker"]);
    finished.fails_with(FailureClass::HostOutOfMemory, Phase::Import);
    finished.says(&["main memory ran out in phase `import`", "hint: raise `execution.memory_gib`"]);
}

/// Directories beside the model reach the engine: an adapter that PEFT cannot read, and a model that drafts.
#[test]
fn an_adapter_and_an_assistant_are_brought_to_the_engine() {
    let Some(mut bench) = study("pytorch-companions") else { return };
    bench.user = json!({"images": {"pytorch": PYTORCH_IMAGE}});
    let model = model(&bench);
    bench.study["model"] = json!(model);
    bench.study["pytorch"]["batch_size"] = json!(1);
    bench.study["pytorch"]["speculative"] = json!({"assistant_model": model, "num_assistant_tokens": 2});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0);
    let settings = finished.results().remove(0).engine.unwrap().settings;
    assert_eq!(settings["speculative"]["assistant_model"], json!("/llem/draft"));

    bench.study["lora"] = json!({"adapter": "./adapter"});
    bench.run(&["--runner", "docker"]).exits(2).says(&["no such directory, or no adapter_config.json in it"]);
    let adapter = bench.path("adapter");
    fs_err::create_dir(&adapter).unwrap();
    let config = json!({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]});
    fs_err::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    // No tensors: PEFT would go on with an adapter that does nothing.
    fs_err::write(adapter.join("adapter_model.safetensors"), [&2_u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
    bench.output = bench.path("second");
    let failure = bench.run(&["--runner", "docker"]).fails_with(FailureClass::InvalidConfig, Phase::Load);
    assert!(failure.message.contains("the LoRA adapter does not fit the model: it has no weights for"), "{failure}");
}

#[test]
fn an_image_without_the_named_interpreter_says_what_was_tried() {
    let Some(mut bench) = study("pytorch-interpreter") else { return };
    bench.user = json!({"images": {"pytorch": PYTORCH_IMAGE}, "python": {"pytorch": "/opt/torch/bin/python3"}});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(2).says(&["no Python answers in", "`/opt/torch/bin/python3`", "in the user config"]);
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
