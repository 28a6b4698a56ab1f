//! What the driver or the engine does not do, it says, with a class or in words that the agent knows.

use std::path::Path;
use std::process::Command;

use llem_protocol::{EngineSpec, FailureClass, Message, Request};
use serde_json::{Value, json};

use crate::harness::{Kitchen, error, root, workload};

/// The class of a refusal and a part of its text.
type Expected = (Option<FailureClass>, &'static str);

const UNSUPPORTED: Option<FailureClass> = Some(FailureClass::Unsupported);
const INVALID: Option<FailureClass> = Some(FailureClass::InvalidConfig);

#[track_caller]
fn is_refused(kitchen: &Kitchen, engine: EngineSpec, (class, said): Expected) {
    let (found, text) = kitchen.refusal(engine);
    assert!(text.contains(said), "{text}");
    assert_eq!(found, class, "{text}");
}

#[test]
fn options_that_are_not_done_are_named() {
    let Some(kitchen) = Kitchen::new() else { return };
    let cases: [(Value, Expected); 8] = [
        (json!({"builder_opt": 3}), (UNSUPPORTED, "`tensorrt.builder_opt` is not done")),
        (json!({"build": {}}), (UNSUPPORTED, "`tensorrt.build` is for `tensorrt.engine: tensorrt` only")),
        (json!({"engine": "tensorrt", "cuda_graph": {}}), (UNSUPPORTED, "is for `tensorrt.engine: pytorch` only")),
        (json!({"engine": "autodeploy"}), (UNSUPPORTED, "`tensorrt.engine: autodeploy` is not done")),
        // The engine's own refusals; the agent knows their words.
        (json!({"kv_cache": {"max_token": 4}}), (None, "1 validation error for KvCacheConfig")),
        (json!({"moe_backend": "MAGIC"}), (None, "validation error for MoeConfig")),
        (json!({"speculative": {"decoding_type": "Medusa"}}), (None, "does not support backend pytorch")),
        (
            json!({"engine": "tensorrt", "kv_cache": {"dtype": "fp8"}}),
            (None, "is not supported by the TensorRT backend"),
        ),
    ];
    for (options, expected) in cases {
        is_refused(&kitchen, kitchen.engine(options), expected);
    }
    let policy = json!({"scheduler": {"capacity_scheduler_policy": "LUCKY"}});
    is_refused(&kitchen, kitchen.engine(policy), (UNSUPPORTED, "has no `LUCKY`"));
}

#[test]
fn extra_is_passed_on_and_refused_where_it_has_a_place_of_its_own() {
    let Some(kitchen) = Kitchen::new() else { return };
    let cases: [(Value, Expected); 6] = [
        (json!({"no_such_argument": 1}), (None, "LLM got invalid argument: no_such_argument")),
        (json!({"max_batch_size": 1}), (INVALID, "has a field of its own: `tensorrt.max_batch_size`")),
        (json!({"stream_interval": 8}), (INVALID, "is set by the driver itself")),
        (json!({"enable_lora": true}), (UNSUPPORTED, "merge them and point `model:`")),
        (json!({"quant_config": {"quant_algo": "FP8"}}), (None, "specific to TensorRT backend")),
        (
            json!({"kv_cache_config": {"max_tokens": 9}}),
            (INVALID, "`tensorrt.extra.kv_cache_config.max_tokens` is set twice"),
        ),
    ];
    for (extra, expected) in cases {
        let mut engine = kitchen.engine(json!({"kv_cache": {"max_tokens": 4096}}));
        engine.extra.clone_from(extra.as_object().unwrap());
        is_refused(&kitchen, engine, expected);
    }
}

#[test]
fn models_that_no_path_reads_are_refused() {
    let Some(kitchen) = Kitchen::new() else { return };
    for method in ["bitsandbytes", "awq", "gptq"] {
        kitchen.write_model(&json!({"quantization_config": {"quant_method": method}}));
        is_refused(&kitchen, kitchen.engine(json!({})), (UNSUPPORTED, "quantise it with NVIDIA ModelOpt"));
    }
    kitchen.write_model(&json!({"quantization_config": {"quant_method": "fp8"}}));
    let mut driver = kitchen.driver();
    driver.loads(&kitchen.load(kitchen.engine(json!({})), &workload(&[(4, 2)]), true));
    let mut other_type = kitchen.engine(json!({}));
    other_type.dtype = "float16".to_owned();
    is_refused(&kitchen, other_type, (UNSUPPORTED, "computes in the checkpoint's type, bfloat16, not float16"));
    let mut adapter = kitchen.engine(json!({}));
    adapter.lora = json!({"adapter": "/a"}).as_object().cloned();
    is_refused(&kitchen, adapter, (UNSUPPORTED, "`lora` is not done by the tensorrt driver"));
    kitchen.write_model(&json!({"max_position_embeddings": 5}));
    is_refused(&kitchen, kitchen.engine(json!({})), (INVALID, "request 0 has 6 tokens of prompt and output"));
}

#[test]
fn the_machine_is_told_from_the_image() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    kitchen.script = json!({"gpus": []});
    is_refused(&kitchen, kitchen.engine(json!({})), (Some(FailureClass::NoGpu), "computes on GPUs only"));
    kitchen.script = json!({});
    let two = kitchen.engine(json!({"tensor_parallel_size": 2}));
    is_refused(&kitchen, two, (Some(FailureClass::NoGpu), "2 GPUs are asked for, and 1 are there"));
    kitchen.script = json!({"fail": {"import": "driver"}});
    let (class, text) = error(kitchen.start());
    assert_eq!(class, Some(FailureClass::NoGpu), "{text}");
    kitchen.script = json!({"needs_libraries": "/nowhere"});
    let (class, text) = error(kitchen.start());
    assert_eq!((class, text.contains("libnvinfer.so.10")), (Some(FailureClass::EngineMissing), true), "{text}");
}

#[test]
fn failures_of_the_engine_keep_its_words() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    kitchen.script = json!({"fail": {"load": "oom"}});
    is_refused(&kitchen, kitchen.engine(json!({})), (None, "insufficient GPU memory"));
    kitchen.script = json!({"fail": {"load": "worker"}});
    is_refused(&kitchen, kitchen.engine(json!({})), (None, "Executor worker returned error"));
    assert!(kitchen.log().contains("CUDA out of memory"), "the cause is in the log");
    kitchen.script = json!({"fail": {"generate": "oom"}});
    let mut driver = kitchen.driver();
    driver.loads(&kitchen.load(kitchen.engine(json!({})), &workload(&[(4, 2)]), true));
    driver.send(&Request::Pass { pass: 0, record: false, prefill_only: false });
    let (class, text) = error(driver);
    assert_eq!((class, text.contains("RequestError")), (None, true), "{text}");
}

/// Fewer tokens than asked: the driver counts what there is, and the agent compares.
#[test]
fn tokens_that_are_missing_are_not_made_up() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    kitchen.script = json!({"fail": {"generate": "short"}});
    let mut driver = kitchen.driver();
    driver.loads(&kitchen.load(kitchen.engine(json!({})), &workload(&[(4, 8)]), true));
    assert_eq!(driver.pass(0, true, false).output_tokens, 7);
    assert_eq!(driver.records().0[0].output_ids.len(), 7);
}

/// NVIDIA's images name the libraries in a start-up file of the shell only, and the driver is started without one.
#[test]
fn libraries_are_found_where_the_images_keep_them() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    let libraries = kitchen.path("libraries");
    fs_err::create_dir(&libraries).unwrap();
    let images = root().join("images");
    let driver = fs_err::read_to_string(images.join("tensorrt/driver.py")).unwrap();
    let place = "LIBRARIES = \"/usr/local/tensorrt/lib\"";
    assert!(driver.contains(place));
    kitchen.script = json!({"needs_libraries": libraries, "log": kitchen.path("log")});
    let script = kitchen.path("driver.py");
    fs_err::write(&script, driver.replace(place, &format!("LIBRARIES = {:?}", libraries.display().to_string())))
        .unwrap();
    let paths = ["images/common", "images/tensorrt", "tests/tensorrt/standin"].map(|part| root().join(part));
    for before in [None, Some("/somewhere")] {
        let mut command = Command::new("python3");
        command.args(["-B", "-u"]).arg(&script).env("PYTHONPATH", std::env::join_paths(&paths).unwrap());
        command.env("LLEM_STANDIN", kitchen.script.to_string()).env_remove("LD_LIBRARY_PATH");
        command.envs(before.map(|before| ("LD_LIBRARY_PATH", before)));
        let output = command.output().unwrap();
        let hello: Message = serde_json::from_slice(&output.stdout).unwrap();
        assert!(matches!(hello, Message::Hello { .. }), "{hello:?}");
    }
    assert_eq!(kitchen.told("import").len(), 2, "started anew once, before anything is imported");
}

/// The parts without an engine, by the unit tests of their own language.
#[test]
fn options_and_engines_in_python() {
    if Kitchen::new().is_none() {
        return;
    }
    let paths = ["images/common", "images/tensorrt"].map(|part| root().join(part));
    let tests: &Path = &root().join("tests/tensorrt/parts.py");
    let output = Command::new("python3")
        .arg("-B")
        .arg(tests)
        .env("PYTHONPATH", std::env::join_paths(paths).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
