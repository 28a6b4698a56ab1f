//! One workload, several engines in real containers: equal lengths, and in float32 the same greedy tokens.

use llem::result::COMPARED_TOKENS;
use llem_protocol::{FailureClass, Phase};
use serde_json::{Value, json};

use crate::support::{Bench, ENGINE_PATIENCE, PYTORCH_IMAGE, VLLM_IMAGE, fault_image, has_image};

/// An engine of this study: backend, image, settings, swept settings.
struct Engine {
    backend: &'static str,
    image: &'static str,
    section: Value,
    axes: Value,
}

/// PyTorch in batches of three sizes.
fn pytorch() -> Engine {
    Engine {
        backend: "pytorch",
        image: PYTORCH_IMAGE,
        section: json!({"device_map": "cpu", "num_threads": 1}),
        axes: json!({"pytorch.batch_size": [1, 4, 8]}),
    }
}

/// vLLM, whose batches are as the requests come and go.
fn vllm() -> Engine {
    Engine {
        backend: "vllm",
        image: VLLM_IMAGE,
        section: json!({"device": "cpu", "enforce_eager": true, "kv_cache_memory_bytes": 1 << 26, "max_num_seqs": 8}),
        axes: json!({}),
    }
}

/// A study of the embedded engine and others on ragged prompts.
fn study(name: &str, engines: &[Engine]) -> Option<Bench> {
    let mut bench = Bench::docker(name)?.patient(ENGINE_PATIENCE);
    if !engines.iter().all(|engine| has_image(engine.image)) {
        return None;
    }
    let backends: Vec<&str> = ["candle"].into_iter().chain(engines.iter().map(|engine| engine.backend)).collect();
    bench.study["backend"] = json!(backends);
    // vLLM's kernels for processors have heads of 32 values and more.
    let model = json!({"layers": 2, "hidden": 64, "intermediate": 128, "heads": 2, "kv_heads": 1, "vocab": 512});
    bench.study["model"] = json!({"synthetic": model});
    bench.study["dtype"] = json!("float32");
    bench.study["workload"] = json!({
        "dataset": "synthetic", "n": 12, "input_tokens": {"min": 3, "max": 60}, "output_tokens": {"min": 4, "max": 24},
    });
    bench.study["sweep"] = json!({});
    for engine in engines {
        bench.study[engine.backend] = engine.section.clone();
        bench.study[engine.backend]["image"] = json!(engine.image);
        let axes = engine.axes.as_object().unwrap().clone();
        bench.study["sweep"].as_object_mut().unwrap().extend(axes);
    }
    bench.user = json!({"env": {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}});
    Some(bench)
}

#[test]
fn engines_generate_the_same_greedy_tokens() {
    let engines = [pytorch(), vllm()];
    let Some(bench) = study("same-tokens", &engines) else { return };
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0).leaves_no_container();
    let hashes: std::collections::BTreeSet<_> =
        finished.results().into_iter().map(|result| result.workload.sha256).collect();
    assert_eq!(hashes.len(), 1, "the workload's hash is in every result, and the same");
    let study = finished.study();
    let [same] = study.same_work.as_slice() else { panic!("{:?}", study.same_work) };
    assert!(hashes.contains(&same.workload_sha256));
    assert!(same.lengths_equal && same.lengths_must_be_equal && same.length_differences.is_empty(), "{same:?}");
    let runs: usize = study.experiments.iter().map(|experiment| experiment.runs.len()).sum();
    assert_eq!((same.runs, same.requests, same.runs_not_compared), (runs as u64, 12, 0));
    let pairs = (1 + engines.len()) * engines.len() / 2;
    assert_eq!(same.outputs.len(), pairs, "{same:?}");
    for pair in &same.outputs {
        assert_eq!((pair.comparable, pair.compared_tokens), (true, COMPARED_TOKENS as u64));
        assert!(pair.equal_share >= 0.95 && pair.equal_share_mean >= pair.equal_share, "{pair:?}");
        let said = format!("same tokens: {} and {}: ", pair.variants[0], pair.variants[1]);
        assert!(unfolded(&finished.stdout).contains(&said), "{}", finished.stdout);
    }
    assert!(unfolded(&finished.stdout).contains("with the same prompts and equal lengths"), "{}", finished.stdout);
}

/// The notes under a table are folded to the terminal's width.
fn unfolded(text: &str) -> String {
    text.replace("\n  ", " ")
}

#[test]
fn other_precision_is_compared_for_information() {
    let Some(mut bench) = study("other-precision", &[pytorch()]) else { return };
    bench.study["sweep"] = json!({"dtype": ["float32", "bfloat16"]});
    bench.study["pytorch"]["batch_size"] = json!(4);
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0);
    let study = finished.study();
    let [same] = study.same_work.as_slice() else { panic!("{:?}", study.same_work) };
    let comparable: Vec<_> =
        same.outputs.iter().map(|pair| (pair.comparable, pair.variants[0].dtype == pair.variants[1].dtype)).collect();
    assert_eq!(comparable.len(), 4);
    assert!(comparable.iter().all(|(comparable, equal)| comparable == equal), "{same:?}");
}

#[test]
fn sampled_tokens_are_held_against_their_lengths_only() {
    let Some(mut bench) = study("sampled", &[pytorch()]) else { return };
    bench.study["sweep"] = json!({});
    bench.study["sampling"] = json!({"temperature": 0.8});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0);
    let study = finished.study();
    let [same] = study.same_work.as_slice() else { panic!("{:?}", study.same_work) };
    assert!(same.lengths_equal && same.outputs.is_empty(), "{same:?}");
}

/// An engine that generates less than it was asked. Where the end-of-sequence token is obeyed, that may be right: the comparison says it.
/// Where it is ignored, the run fails.
#[test]
fn other_lengths_of_one_engine_are_found() {
    let Some(mut bench) = study("other-lengths", &[pytorch()]) else { return };
    bench.study["sweep"] = json!({});
    bench.study["workload"]["ignore_eos"] = json!(false);
    bench.study["candle"]["image"] = json!(fault_image());
    bench.user = json!({"env": {"FAULT": "other_work"}});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0);
    let study = finished.study();
    let [same] = study.same_work.as_slice() else { panic!("{:?}", study.same_work) };
    assert!(!same.lengths_equal && !same.lengths_must_be_equal, "{same:?}");
    let first = &same.length_differences[0];
    assert_eq!(first.prompt_tokens[0], first.prompt_tokens[1]);
    assert!(first.output_tokens[0] == Some(2) && first.output_tokens[1] > Some(2), "{same:?}");
    let said = format!("lengths differ, as `ignore_eos` is false: request {} has", first.request_index);
    assert!(unfolded(&finished.stdout).contains(&said), "{}", finished.stdout);

    bench.study["workload"]["ignore_eos"] = json!(true);
    bench.study["backend"] = json!("candle");
    bench.study.as_object_mut().unwrap().remove("pytorch");
    let finished = bench.run(&["--runner", "docker"]);
    let failure = finished.fails_with(FailureClass::WrongWork, Phase::Collect);
    let (request, numbers) = (failure.message.contains("of request 0"), "2 generated tokens, asked exactly");
    assert!(request && failure.message.contains(numbers), "{failure}");
}
