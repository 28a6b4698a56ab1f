//! Models of architectures that llem knows nothing about, made by the real transformers, through the whole program.

use llem::result::ParametersSource;
use llem_protocol::ReasonCode;
use serde_json::json;

use crate::support::{Bench, ENGINE_PATIENCE, PYTORCH_IMAGE, docker_text, has_image};

/// Makes models with random weights and prints the number of parameters of each.
const MAKE: &str = r#"
import transformers as t
sizes = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, vocab_size=512,
             max_position_embeddings=128)
models = {
    "gpt2": t.GPT2LMHeadModel(t.GPT2Config(n_embd=64, n_layer=1, n_head=2, n_positions=128, vocab_size=512, eos_token_id=1)),
    "mistral": t.MistralForCausalLM(t.MistralConfig(**sizes)),
    "mixtral": t.MixtralForCausalLM(t.MixtralConfig(**sizes, num_local_experts=4)),
}
for name, model in models.items():
    model.save_pretrained(f"/models/{name}")
    print(sum(parameter.numel() for parameter in model.parameters()))
"#;

/// A study with the three models beside it, and their numbers of parameters by transformers' account.
fn study(name: &str) -> Option<(Bench, Vec<u64>)> {
    let mut bench = Bench::docker(name)?.patient(ENGINE_PATIENCE);
    if !has_image(PYTORCH_IMAGE) {
        return None;
    }
    let models = bench.path("models");
    fs_err::create_dir(&models).unwrap();
    let user = format!("{}:{}", rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let volume = format!("{}:/models", models.display());
    let run = ["run", "--rm", "--network", "none", "--user", &user, "--env", "HOME=/tmp", "--volume", &volume];
    let counts = docker_text(&[&run[..], &[PYTORCH_IMAGE, "python3", "-c", MAKE]].concat());
    bench.user = json!({"images": {"pytorch": PYTORCH_IMAGE}});
    bench.study["workload"] = json!({"dataset": "synthetic", "n": 4, "input_tokens": 20, "output_tokens": 6});
    Some((bench, counts.lines().map(|count| count.parse().unwrap()).collect()))
}

#[test]
fn an_engine_runs_what_llem_knows_nothing_about_and_the_embedded_one_refuses_it() {
    let Some((mut bench, counts)) = study("architectures") else { return };
    bench.study["model"] = json!("./models/mistral");
    bench.run(&["--runner", "docker"]).exits(2).says(&[
        "`MistralForCausalLM` is none of those that llem computes itself: LlamaForCausalLM and Qwen2ForCausalLM",
        "set `backend: pytorch`, `vllm` or `tensorrt` for this model",
    ]);

    bench.study.as_object_mut().unwrap().remove("candle");
    bench.study["backend"] = json!("pytorch");
    bench.study["pytorch"] = json!({"device_map": "cpu", "num_threads": 1, "batch_size": 4});
    bench.study["model"] = json!("./models/gpt2");
    bench.study["workload"]["input_tokens"] = json!(125);
    bench.run(&["--runner", "docker"]).exits(2).says(&["its longest request has 131 tokens", "the model holds 128"]);

    bench.study["workload"]["input_tokens"] = json!(20);
    bench.study["sweep"] = json!({"model": ["./models/gpt2", "./models/mistral", "./models/mixtral"]});
    let finished = bench.run(&["--runner", "docker"]);
    finished.exits(0).leaves_no_container();
    let results = finished.results();
    for (result, count) in results.iter().zip(&counts) {
        assert_eq!(result.model.parameters, Some(*count), "{:?}", result.model);
        assert_eq!(result.engine.as_ref().unwrap().parameters, Some(*count));
        assert_eq!(result.metrics.as_ref().unwrap().output_tokens % 24, 0);
    }
    let names: Vec<_> = results.iter().map(|result| result.model.architecture.as_deref().unwrap()).collect();
    assert_eq!(names, ["GPT2LMHeadModel", "MistralForCausalLM", "MixtralForCausalLM"]);
    let flops = results[1].flops.as_ref().unwrap();
    assert_eq!((flops.parameters, flops.parameters_source), (counts[1], ParametersSource::SafetensorsHeaders));
    // Of a mixture of experts, a token meets some of the parameters only.
    assert_eq!(results[2].flops, None);
    assert!(
        results[2].reasons.iter().any(|reason| reason.code == ReasonCode::FlopsUnknown),
        "{:?}",
        results[2].reasons
    );
}
