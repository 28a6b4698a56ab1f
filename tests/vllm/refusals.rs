//! What the driver does not do, it says, with a class.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use llem_protocol::{EngineSpec, FailureClass};
use serde_json::json;

use crate::generation::{VLLM, on_processor, refusal, write_adapter};
use crate::harness::Kitchen;

#[track_caller]
fn is_refused(kitchen: &Kitchen, engine: EngineSpec, length: (usize, u32), class: FailureClass, texts: &[&str]) {
    let (found, kind, said) = refusal(kitchen, engine, length).error();
    assert_eq!((found, kind.as_str()), (Some(class), "llem_channel.DriverError"), "{said}");
    for text in texts {
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn options_that_this_version_does_not_know_are_named() {
    let Some(kitchen) = Kitchen::of(&VLLM) else { return };
    let mut engine = on_processor(&kitchen, &json!({}));
    engine.extra.insert("max_logprob".to_owned(), json!(5));
    let texts = ["`vllm.extra.max_logprob`: vLLM 0.", "did you mean `max_logprobs`?"];
    is_refused(&kitchen, engine, (4, 2), FailureClass::Unsupported, &texts);
}

#[test]
fn a_run_without_a_gpu_asks_for_the_processor_by_name() {
    let Some(kitchen) = Kitchen::of(&VLLM) else { return };
    let mut engine = on_processor(&kitchen, &json!({}));
    engine.options.remove("device");
    let texts = ["vLLM finds no usable graphics processor", "set `vllm.device: cpu`"];
    is_refused(&kitchen, engine, (4, 2), FailureClass::NoGpu, &texts);
}

#[test]
fn requests_that_do_not_fit_are_refused_before_the_model_is_loaded() {
    let Some(kitchen) = Kitchen::of(&VLLM) else { return };
    let engine = on_processor(&kitchen, &json!({"max_model_len": 64}));
    let text = "request 0 needs 60 prompt and 30 output tokens, vLLM takes 64 in all";
    is_refused(&kitchen, engine, (60, 30), FailureClass::InvalidConfig, &[text, "`vllm.max_model_len`"]);
}

#[test]
fn an_adapter_of_too_high_a_rank_is_refused() {
    let Some(kitchen) = Kitchen::of(&VLLM) else { return };
    let mut engine = on_processor(&kitchen, &json!({}));
    engine.lora = json!({"adapter": write_adapter(&kitchen.model, 32, 0)}).as_object().cloned();
    let texts = ["rank 32, and vLLM prepares for 16", "`vllm.lora.max_lora_rank`"];
    is_refused(&kitchen, engine, (4, 2), FailureClass::InvalidConfig, &texts);
}

/// vLLM itself would go on without a word, and the bare model would be measured.
#[test]
fn an_adapter_of_another_model_is_refused() {
    let Some(kitchen) = Kitchen::of(&VLLM) else { return };
    let mut engine = on_processor(&kitchen, &json!({}));
    engine.lora = json!({"adapter": write_adapter(&kitchen.model, 8, 7)}).as_object().cloned();
    let texts = ["the model has no place for model.layers.7.self_attn.q_proj (1 in all)"];
    is_refused(&kitchen, engine, (4, 2), FailureClass::InvalidConfig, &texts);
}

/// The parts without an engine, by the unit tests of their own language.
#[test]
fn settings_and_environment_in_python() {
    let old = "import sys; sys.exit(sys.version_info < (3, 10))";
    if !Command::new("python3").args(["-c", old]).status().is_ok_and(|status| status.success()) {
        let _ = writeln!(std::io::stderr(), "skipped: there is no python3 of version 3.10 or later");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = ["images/common", "images/vllm"].map(|part| root.join(part).display().to_string()).join(":");
    let output = Command::new("python3")
        .arg("-B")
        .arg(root.join("tests/vllm/parts.py"))
        .env("PYTHONPATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
