//! A real vLLM on the processor, through the whole program.

use std::path::Path;

use llem::config::Backend;
use llem_protocol::{FailureClass, Phase};
use serde_json::json;

use crate::docker_pytorch::{cut_weights, rename_architecture};
use crate::docker_results::{output_ids, run_dirs};
use crate::support::{Bench, ENGINE_PATIENCE, VLLM_IMAGE, has_image};

/// A study of vLLM on the processor; `None`, with a line that says so, where there is no engine or image.
fn study(name: &str) -> Option<Bench> {
    let mut bench = Bench::docker(name)?.patient(ENGINE_PATIENCE);
    if !has_image(VLLM_IMAGE) {
        return None;
    }
    bench.study.as_object_mut().unwrap().remove("candle");
    // vLLM's kernels for processors have heads of 32 values and more.
    let model = json!({"layers": 2, "hidden": 64, "intermediate": 128, "heads": 2, "kv_heads": 1, "vocab": 512});
    bench.study["model"] = json!({"synthetic": model});
    bench.study["backend"] = json!("vllm");
    bench.study["vllm"] =
        json!({"device": "cpu", "enforce_eager": true, "kv_cache_memory_bytes": 1 << 26, "max_num_seqs": 3});
    bench.study["workload"] = json!({
        "dataset": "synthetic", "n": 6, "input_tokens": {"min": 5, "max": 40}, "output_tokens": {"min": 3, "max": 24},
    });
    let env = json!({"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"});
    bench.user = json!({"images": {"vllm": VLLM_IMAGE}, "env": env});
    Some(bench)
}

#[test]
fn a_study_of_vllm_is_measured_and_its_tokens_are_those_of_candle() {
    let Some(mut bench) = study("vllm") else { return };
    bench.study["backend"] = json!(["candle", "vllm"]);
    bench.study["execution"] = json!({"n_cycles": 2});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0).leaves_no_container();
    let runs = run_dirs(&finished);
    let of = |backend| runs.iter().filter(move |(result, _)| result.config.backend == backend);
    for (result, _) in of(Backend::Vllm) {
        let engine = result.engine.as_ref().unwrap();
        assert_eq!((engine.engine.as_str(), engine.dtype.as_deref()), ("vllm", Some("float32")));
        assert_eq!(engine.parameters, None, "weights for processors are packed");
        assert!(engine.engine_version.starts_with("0.") && engine.libraries.contains_key("torch"), "{engine:?}");
        let expected = [("device", json!("cpu")), ("max_num_seqs", json!(3)), ("engine_core", json!("in_process"))];
        for (key, value) in expected {
            assert_eq!(engine.settings[key], value, "{key}");
        }
        let asked = (result.workload.prompt_tokens, result.workload.output_tokens);
        for pass in &result.window.as_ref().unwrap().passes {
            assert_eq!((pass.prompt_tokens, pass.output_tokens), asked);
        }
        let metrics = result.metrics.as_ref().unwrap();
        assert!(metrics.peak_memory_bytes.is_some_and(|bytes| bytes > 50_000_000), "{metrics:?}");
        assert_eq!(result.container.as_ref().unwrap().image, VLLM_IMAGE);
    }
    let ids: Vec<_> = of(Backend::Vllm).map(|(_, directory)| output_ids(directory)).collect();
    assert_eq!((ids.len(), ids[0].len()), (2, 6));
    assert_eq!(ids[0], ids[1], "cycles do the same work");
    let candle = of(Backend::Candle).map(|(_, directory)| output_ids(directory)).next().unwrap();
    let lengths = |ids: &[(u64, Vec<u32>)]| ids.iter().map(|(index, ids)| (*index, ids.len())).collect::<Vec<_>>();
    assert_eq!(lengths(&ids[0]), lengths(&candle));
    let pairs = ids[0].iter().zip(&candle).flat_map(|((_, ours), (_, theirs))| ours.iter().zip(theirs).take(16));
    let equal: Vec<bool> = pairs.map(|(ours, theirs)| ours == theirs).collect();
    let share = equal.iter().filter(|equal| **equal).count() * 100 / equal.len();
    assert!(share >= 95, "{share} % of the first 16 tokens are those of candle");
}

#[test]
fn an_option_of_another_version_is_refused_before_anything_starts() {
    let Some(mut bench) = study("vllm-option") else { return };
    bench.study["vllm"]["extra"] = json!({"swap_space": 4});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(2).says(&["vllm.extra.swap_space: vLLM 0.32.0", "has no option `swap_space`"]);
}

/// Texts are as long as they are: only the driver knows.
#[test]
fn a_limit_below_the_longest_request_is_named_with_it() {
    let Some(mut bench) = study("vllm-length") else { return };
    fs_err::write(bench.path("prompts.jsonl"), "{\"prompt\": \"one two three four five six seven eight nine\"}\n")
        .unwrap();
    bench.study["workload"] = json!({"dataset": "./prompts.jsonl", "n": 1, "output_tokens": 6});
    bench.study["vllm"]["max_model_len"] = json!(8);
    let finished = bench.run(&["--runner", "docker"]);
    let failure = finished.fails_with(FailureClass::InvalidConfig, Phase::Load);
    assert!(failure.message.contains("vLLM takes 8 in all; raise `vllm.max_model_len`"), "{failure}");
}

#[test]
fn a_cache_that_is_too_small_for_one_request_is_out_of_memory() {
    let Some(mut bench) = study("vllm-memory") else { return };
    bench.study["vllm"]["kv_cache_memory_bytes"] = json!(4096);
    let finished = bench.run(&["--runner", "docker"]);
    let failure = finished.fails_with(FailureClass::OutOfMemory, Phase::Load);
    finished.says(&["hint: "]);
    assert!(
        failure.message.to_lowercase().contains("kv cache") || failure.message.contains("cache blocks"),
        "{failure}"
    );
}

#[test]
fn a_quantisation_that_does_not_exist_is_unsupported() {
    let Some(mut bench) = study("vllm-quantization") else { return };
    bench.study["vllm"]["quantization"] = json!("int3");
    let finished = bench.run(&["--runner", "docker"]);
    finished.fails_with(FailureClass::Unsupported, Phase::Load);
}

#[test]
fn what_is_wrong_with_a_model_has_its_class() {
    type Change = fn(&Path);
    let cases: [(&str, Change, FailureClass); 2] = [
        ("architecture", rename_architecture, FailureClass::UnsupportedArchitecture),
        ("weights-cut", cut_weights, FailureClass::ModelMissing),
    ];
    for (name, change, class) in cases {
        let Some(mut bench) = study(&format!("vllm-{name}")) else { return };
        let spec: llem_model::SyntheticSpec =
            serde_json::from_value(bench.study["model"]["synthetic"].clone()).unwrap();
        let model = llem_model::ensure(&spec, &bench.path("models")).unwrap().dir;
        change(&model);
        bench.study["model"] = json!(model);
        let finished = bench.run(&["--runner", "docker"]);
        finished.fails_with(class, Phase::Load);
        finished.says(&[class.advice()]);
    }
}

#[test]
fn a_run_that_wants_a_gpu_does_not_end_on_the_processor() {
    let Some(mut bench) = study("vllm-no-gpu") else { return };
    bench.study["vllm"] = json!({"enforce_eager": true});
    let finished = bench.run(&["--runner", "docker"]);
    let failure = finished.fails_with(FailureClass::NoGpu, Phase::Load);
    assert!(failure.message.contains("set `vllm.device: cpu`"), "{failure}");
}
