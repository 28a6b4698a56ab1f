//! Compiled engines: built, kept, loaded, and recognised when they are not for this machine.

use std::path::Path;

use llem_protocol::FailureClass;
use serde_json::{Value, json};

use crate::harness::{Kitchen, workload};

fn compiled(kitchen: &Kitchen) -> llem_protocol::EngineSpec {
    kitchen.engine(json!({"engine": "tensorrt", "build": {"max_batch_size": 4, "max_seq_len": 64}}))
}

/// Builds into a directory of the kitchen and gives the answer to the load.
fn build(kitchen: &mut Kitchen, name: &str) -> Value {
    fs_err::create_dir(kitchen.path(name)).unwrap();
    kitchen.env = [("LLEM_ENGINE_BUILD_DIR".to_owned(), kitchen.path(name).display().to_string())].into();
    let mut driver = kitchen.driver();
    let loaded = driver.loads_as_sent(&kitchen.load(compiled(kitchen), &workload(&[(9, 4), (3, 6)]), true));
    assert_eq!(driver.pass(0, true, false).output_tokens, 10);
    assert!(driver.close().success());
    kitchen.env = [("LLEM_ENGINE_DIR".to_owned(), kitchen.path(name).display().to_string())].into();
    loaded
}

fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs_err::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs_err::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn an_engine_is_built_once_and_loaded_from_where_it_was_kept() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    kitchen.script = json!({"build_seconds": 0.4});
    let built = build(&mut kitchen, "engine");
    let stretch = &built["compile"][0];
    let length_ns = stretch["end_ns"].as_u64().unwrap() - stretch["start_ns"].as_u64().unwrap();
    assert!(length_ns >= 400_000_000, "{stretch}");
    assert_eq!(built["compile"].as_array().unwrap().len(), 1);
    assert_eq!(built["settings"]["compiled_engine"], "built");
    assert_eq!(built["settings"]["build_config"]["max_batch_size"], 4);
    assert_eq!(built["settings"]["pretrained_config"]["architecture"], "LlamaForCausalLM");
    let kept = files(&kitchen.path("engine"));
    assert_eq!(kept.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["config.json", "rank0.engine"]);
    assert_eq!((kitchen.told("build").len(), kitchen.told("save").len()), (1, 1));

    let mut driver = kitchen.driver();
    let loaded = driver.loads_as_sent(&kitchen.load(compiled(&kitchen), &workload(&[(9, 4), (3, 6)]), true));
    assert_eq!(driver.pass(0, true, false).output_tokens, 10);
    assert_eq!((&loaded["compile"], &loaded["settings"]["compiled_engine"]), (&json!([]), &json!("loaded")));
    assert_eq!(loaded["settings"]["build_config"], built["settings"]["build_config"]);
    assert_eq!(kitchen.told("build").len(), 1, "nothing was built again");
    assert_eq!(files(&kitchen.path("engine")), kept, "nothing is written to a kept engine");
    assert_eq!(kitchen.temporary_files(), 0);
}

/// The memory of a build must not be there in the run: what built is another process.
#[test]
fn what_runs_is_not_what_built() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    build(&mut kitchen, "engine");
    let (builds, loads) = (kitchen.told("build"), kitchen.told("load"));
    let last = loads.last().unwrap();
    assert_ne!(builds[0]["process"], last["process"]);
    assert_eq!(last["directory"], json!(kitchen.path("engine")));
}

#[test]
fn an_engine_that_nobody_keeps_is_gone_at_the_end() {
    let Some(kitchen) = Kitchen::new() else { return };
    let mut driver = kitchen.driver();
    let loaded = driver.loads_as_sent(&kitchen.load(compiled(&kitchen), &workload(&[(9, 4)]), true));
    assert_eq!(loaded["compile"].as_array().unwrap().len(), 1);
    assert_eq!(kitchen.temporary_files(), 1);
    driver.pass(0, true, false);
    assert!(driver.close().success());
    assert_eq!(kitchen.temporary_files(), 0);
}

#[test]
fn an_engine_of_another_device_or_version_is_stale() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    build(&mut kitchen, "engine");
    let cases = [
        (json!({"compute": "8.9"}), "Failed to deserialize cuda engine"),
        (json!({"tensorrt": "10.9.0.34"}), "Failed to deserialize cuda engine"),
        (json!({"version": "1.2.0"}), "the engine was built by TensorRT-LLM 1.2.1, and this is 1.2.0"),
    ];
    for (script, said) in cases {
        kitchen.script = script;
        let (class, text) = kitchen.refusal(compiled(&kitchen));
        assert_eq!(class, Some(FailureClass::EngineStale), "{text}");
        assert!(text.contains(said), "{text}");
    }
    kitchen.script = json!({"compute": "8.9"});
    kitchen.refusal(compiled(&kitchen));
    assert!(kitchen.log().contains("generated on an incompatible device, expecting compute 8.9 got compute 9.0"));
    assert_eq!(kitchen.told("build").len(), 1, "a stale engine is the host's to build anew");
}

#[test]
fn what_is_no_whole_engine_is_stale() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    build(&mut kitchen, "engine");
    let (plan, config) = (kitchen.path("engine/rank0.engine"), kitchen.path("engine/config.json"));
    let whole = fs_err::read(&plan).unwrap();
    fs_err::write(&plan, &whole[..whole.len() / 2]).unwrap();
    let (class, text) = kitchen.refusal(compiled(&kitchen));
    assert_eq!(class, Some(FailureClass::EngineStale), "{text}");
    fs_err::remove_file(&plan).unwrap();
    let (class, text) = kitchen.refusal(compiled(&kitchen));
    assert_eq!((class, text.contains("lacks rank0.engine")), (Some(FailureClass::EngineStale), true), "{text}");
    fs_err::write(&config, "{").unwrap();
    let (class, text) = kitchen.refusal(compiled(&kitchen));
    assert_eq!((class, text.contains("describes no engine")), (Some(FailureClass::EngineStale), true), "{text}");
}

#[test]
fn a_build_that_fails_says_why() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    kitchen.script = json!({"fail": {"build": "oom"}});
    let (class, text) = kitchen.refusal(compiled(&kitchen));
    assert_eq!(class, None, "the agent knows its words: {text}");
    assert!(text.contains("RuntimeError: [TRT] [E] Requested amount of GPU memory"), "{text}");
    kitchen.script = json!({"fail": {"build": "crash"}});
    let (class, text) = kitchen.refusal(compiled(&kitchen));
    assert_eq!((class, text.contains("ended with signal 6")), (None, true), "{text}");
    kitchen.script = json!({"version": "1.3.0rc21"});
    let (class, text) = kitchen.refusal(compiled(&kitchen));
    assert_eq!(class, Some(FailureClass::Unsupported), "{text}");
    assert!(text.contains("1.3.0rc21 has no compiled engines; take an image of 1.2"), "{text}");
    assert_eq!(kitchen.temporary_files(), 0);
}

#[test]
fn directories_that_contradict_are_refused() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    let refused = |kitchen: &Kitchen, engine, said: &str| {
        let (class, text) = kitchen.refusal(engine);
        assert_eq!((class, text.contains(said)), (Some(FailureClass::InvalidConfig), true), "{text}");
    };
    build(&mut kitchen, "engine");
    refused(&kitchen, kitchen.engine(json!({})), "`tensorrt.engine` is pytorch");
    kitchen.env = [("LLEM_ENGINE_BUILD_DIR".to_owned(), kitchen.path("engine").display().to_string())].into();
    refused(&kitchen, compiled(&kitchen), "is not empty");
    let mut long = compiled(&kitchen);
    long.options["build"]["max_seq_len"] = json!(5);
    kitchen.env.clear();
    refused(&kitchen, long, "request 0 has 6 tokens of prompt and output, and the limit of `max_seq_len` is 5");
}
