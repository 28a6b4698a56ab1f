//! What the driver does not do, it says, with a class.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use llem_model::Checkpoint;
use llem_protocol::{EngineSpec, FailureClass, ModelLocation};
use serde_json::{Value, json};

use crate::harness::{Kitchen, workload};

#[test]
fn refusals_have_a_class_and_name_what_is_wrong() {
    let Some(kitchen) = Kitchen::new() else { return };
    let engine = |change: &dyn Fn(&mut EngineSpec)| {
        let mut engine = kitchen.batches(1);
        change(&mut engine);
        engine
    };
    let option = |key: &str, value: Value| engine(&|engine| _ = engine.options.insert(key.to_owned(), value.clone()));
    let cases = [
        (option("tensor", json!(2)), Some(FailureClass::Unsupported), "`pytorch.tensor` is not done"),
        (
            option("compile", json!({})),
            Some(FailureClass::EngineMissing),
            "torch.compile needs a C compiler with Python's headers, which the image has not",
        ),
        (option("compile", json!({"backend": "fast"})), None, "Invalid backend: 'fast'"),
        (
            option("cache", json!({"implementation": "static", "max_cache_len": 5})),
            Some(FailureClass::InvalidConfig),
            "the workload's longest batch needs 6",
        ),
        (
            option("cache", json!({"implementation": "quantized"})),
            Some(FailureClass::EngineMissing),
            "`optimum-quanto`",
        ),
        (
            option("quantization", json!({"method": "quanto", "bits": 8})),
            Some(FailureClass::EngineMissing),
            "`pytorch.quantization.method: quanto` needs the package `optimum-quanto`",
        ),
        (
            option("quantization", json!({"method": "gptq"})),
            Some(FailureClass::InvalidConfig),
            "its config.json has no `quantization_config`",
        ),
        (
            option("experts_implementation", json!("eager")),
            Some(FailureClass::InvalidConfig),
            "the model has no experts",
        ),
        (option("use_kernels", json!(true)), Some(FailureClass::EngineMissing), "needs the package `kernels`"),
        (
            engine(&|engine| engine.model = ModelLocation::Directory("/nowhere".into())),
            Some(FailureClass::ModelMissing),
            "the model directory /nowhere does not exist",
        ),
        (
            engine(&|engine| _ = engine.options.remove("device_map")),
            Some(FailureClass::NoGpu),
            "set `pytorch.device_map: cpu`",
        ),
        (
            engine(&|engine| _ = engine.extra.insert("num_hidden_layers".to_owned(), json!(1))),
            Some(FailureClass::InvalidConfig),
            "`pytorch.extra.num_hidden_layers` changes the model's description",
        ),
        // The engine's own refusal; the agent knows its signature.
        (
            engine(&|engine| _ = engine.extra.insert("no_such_argument".to_owned(), json!(1))),
            None,
            "unexpected keyword argument 'no_such_argument'",
        ),
    ];
    for (engine, class, text) in cases {
        is_refused(&kitchen, engine, (4, 2), class, text);
    }
    let text = "needs 120 prompt and 30 output tokens, the model has 128 positions";
    is_refused(&kitchen, kitchen.batches(1), (120, 30), Some(FailureClass::InvalidConfig), text);
}

#[track_caller]
fn is_refused(kitchen: &Kitchen, engine: EngineSpec, length: (usize, u32), class: Option<FailureClass>, text: &str) {
    let mut driver = kitchen.pytorch();
    driver.send(&kitchen.load(engine, &workload(&[length]), true));
    let (found, kind, said) = driver.error();
    assert_eq!(found, class, "{said}");
    assert!(said.contains(text), "{said}");
    assert_eq!(kind == "llem_channel.DriverError", class.is_some(), "{kind}");
}

#[test]
fn weights_that_are_missing_are_not_made_up() {
    let Some(kitchen) = Kitchen::new() else { return };
    let path = kitchen.model.join("model.safetensors");
    assert!(Checkpoint::open(&kitchen.model).is_ok());
    // Another name of the same length: the file is sound, the tensor is gone.
    let content = fs_err::read(&path).unwrap();
    let (name, other) = (b"model.layers.1.mlp.up_proj", b"model.layers.1.mlp.no_proj");
    let place = content.windows(name.len()).position(|window| window == name).unwrap();
    let changed = [&content[..place], other, &content[place + name.len()..]].concat();
    fs_err::write(&path, changed).unwrap();
    let (class, text) =
        (Some(FailureClass::ModelMissing), "missing_keys: model.layers.1.mlp.up_proj.weight (1 in all)");
    is_refused(&kitchen, kitchen.batches(1), (4, 2), class, text);
}

/// The parts without an engine, by the unit tests of their own language.
#[test]
fn settings_and_channel_in_python() {
    let old = "import sys; sys.exit(sys.version_info < (3, 10))";
    if !Command::new("python3").args(["-c", old]).status().is_ok_and(|status| status.success()) {
        let _ = writeln!(std::io::stderr(), "skipped: there is no python3 of version 3.10 or later");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = ["images/common", "images/pytorch"].map(|part| root.join(part).display().to_string()).join(":");
    let output = Command::new("python3")
        .arg("-B")
        .arg(root.join("tests/pytorch/parts.py"))
        .env("PYTHONPATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
