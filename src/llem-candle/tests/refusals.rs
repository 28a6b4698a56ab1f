//! What the driver refuses, with which class and which words.

mod common;

use std::path::Path;

use common::{Driver, batch, edit_config, engine, model, small, workload};
use llem_model::Architecture;
use llem_protocol::{EngineSpec, FailureClass, Request, WorkloadLine};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

fn model_of(dir: &TempDir) -> std::path::PathBuf {
    model(dir, &small(Architecture::Llama, false))
}

fn refusal(dir: &Path, spec: EngineSpec, requests: &[WorkloadLine]) -> (Option<FailureClass>, String) {
    let mut driver = Driver::start();
    driver.load(dir, spec, requests, true);
    driver.error()
}

#[track_caller]
fn assert_refused(dir: &Path, spec: EngineSpec, class: FailureClass, words: &str) {
    let (found, text) = refusal(dir, spec, &workload(&[(3, 2)], 512));
    assert_eq!(found, Some(class), "{text}");
    assert!(text.contains(words), "{text}");
}

#[test]
fn settings_without_effect_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = model_of(&dir);
    let invalid = FailureClass::InvalidConfig;
    assert_refused(dir.path(), engine(&path, json!({"batch_sise": 4})), invalid, "candle.batch_sise");
    assert_refused(dir.path(), engine(&path, json!({"batch_size": 0})), invalid, "candle.batch_size");
    assert_refused(dir.path(), engine(&path, json!({"threads": "all"})), invalid, "candle.threads");
    let with = |change: fn(&mut EngineSpec)| {
        let mut spec = batch(&path, 1);
        change(&mut spec);
        spec
    };
    assert_refused(
        dir.path(),
        with(|spec| drop(spec.extra.insert("x".into(), Value::Null))),
        invalid,
        "candle.extra.x",
    );
    assert_refused(
        dir.path(),
        with(|spec| drop(spec.sampling.insert("beams".into(), 2.into()))),
        invalid,
        "sampling.beams",
    );
    assert_refused(dir.path(), with(|spec| spec.random_seed = "-1".into()), invalid, "random_seed");
    assert_refused(dir.path(), with(|spec| spec.backend = "vllm".into()), invalid, "vllm");
    let unsupported = FailureClass::Unsupported;
    assert_refused(dir.path(), with(|spec| spec.lora = Some(Map::new())), unsupported, "LoRA");
    assert_refused(dir.path(), with(|spec| spec.dtype = "float8".into()), unsupported, "float8");
}

#[test]
fn a_missing_model_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = FailureClass::ModelMissing;
    assert_refused(dir.path(), batch(Path::new("/nowhere"), 1), missing, "/nowhere");
    assert_refused(dir.path(), batch(dir.path(), 1), missing, "config.json");
    let path = model_of(&dir);
    fs_err::remove_file(path.join("model.safetensors")).unwrap();
    assert_refused(dir.path(), batch(&path, 1), missing, "model.safetensors");
}

#[test]
fn a_damaged_or_foreign_model_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let path = model_of(&dir);
    let weights = path.join("model.safetensors");
    let length = fs_err::metadata(&weights).unwrap().len();
    fs_err::OpenOptions::new().write(true).open(&weights).unwrap().set_len(length - 100).unwrap();
    assert_refused(dir.path(), batch(&path, 1), FailureClass::ModelMissing, "model.safetensors is damaged");

    let path = model_of(&dir);
    edit_config(&path, "intermediate_size", json!(97));
    assert_refused(dir.path(), batch(&path, 1), FailureClass::UnsupportedArchitecture, "mlp.gate_proj.weight");
    edit_config(&path, "quantization_config", json!({"quant_method": "gptq"}));
    assert_refused(dir.path(), batch(&path, 1), FailureClass::Unsupported, "gptq");
    edit_config(&path, "architectures", json!(["MixtralForCausalLM"]));
    assert_refused(dir.path(), batch(&path, 1), FailureClass::UnsupportedArchitecture, "MixtralForCausalLM");
}

#[test]
fn requests_that_do_not_fit_the_model_are_refused_at_load() {
    let dir = tempfile::tempdir().unwrap();
    let path = model_of(&dir);
    let refused = |line: WorkloadLine, class: FailureClass, words: &str| {
        let (found, text) = refusal(dir.path(), batch(&path, 1), &[line]);
        assert_eq!(found, Some(class), "{text}");
        assert!(text.contains(words), "{text}");
    };
    let line = |prompt_ids: Vec<u32>, output_tokens| WorkloadLine { index: 0, prompt_ids, output_tokens };
    refused(line(vec![1; 120], 9), FailureClass::InvalidConfig, "128 positions");
    refused(line(vec![512], 1), FailureClass::InvalidConfig, "token 512");
    refused(line(vec![], 1), FailureClass::InvalidConfig, "no prompt");
    refused(line(vec![1], 0), FailureClass::InvalidConfig, "no token to generate");
    refused(WorkloadLine { index: 1, ..line(vec![1], 1) }, FailureClass::WorkloadCorrupt, "line 1: its index is 1");
    // The longest request that fits is done.
    let mut driver = Driver::loaded(dir.path(), batch(&path, 1), &[line(vec![1; 120], 8)], true);
    assert_eq!(driver.pass(0, false).output_tokens, 8);
}

#[test]
fn the_protocol_is_held() {
    for text in ["garbage", "{\"request\":\"dance\"}", "", "{\"request\":\"pass\",\"pass\":0,\"record\":true}"] {
        let mut driver = Driver::start();
        driver.send_text(text);
        let (class, text) = driver.error();
        assert_eq!(class, Some(FailureClass::Protocol), "{text}");
    }
    let mut driver = Driver::start();
    driver.send(&Request::Load {
        engine: Box::new(batch(Path::new("/nowhere"), 1)),
        workload: "/nowhere.jsonl".into(),
        ignore_eos: true,
    });
    assert_eq!(driver.error().0, Some(FailureClass::ModelMissing));
}

#[test]
fn the_end_of_stdin_and_shutdown_are_orderly_ends() {
    assert_eq!(Driver::start().close().code(), Some(0));
    let mut driver = Driver::start();
    driver.send(&Request::Shutdown);
    assert_eq!(driver.close().code(), Some(0));
}
