//! Geometry against published models, and against configurations that no model has.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use llem_model::{Architecture, Geometry, GeometryError, RopeScaling};
use serde_json::{Value, json};

fn read(config: &Value) -> Result<Geometry, GeometryError> {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("config.json"), config.to_string()).unwrap();
    Geometry::read(dir.path())
}

fn llama_2_7b() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 32000,
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_scaling": null, "eos_token_id": 2,
        "tie_word_embeddings": false, "torch_dtype": "float16",
    })
}

fn with(key: &str, value: Value) -> Value {
    let mut config = llama_2_7b();
    config[key] = value;
    config
}

fn mistral() -> Value {
    let mut config = with("model_type", json!("mistral"));
    config["architectures"] = json!(["MistralForCausalLM"]);
    config
}

#[test]
fn llama_2_7b_has_its_published_number_of_parameters() {
    let geometry = read(&llama_2_7b()).unwrap();
    assert_eq!(geometry.parameters(), 6_738_415_616);
    assert_eq!((geometry.kv_heads, geometry.head_dim), (32, 128));
    assert_eq!((geometry.rope_theta, geometry.dtype.as_deref()), (10_000.0, Some("float16")));
    assert_eq!(geometry.eos_ids, [2]);
    assert_eq!(geometry.kv_bytes_per_token(2), 524_288);
}

#[test]
fn llama_3_1_8b_is_read_in_both_spellings_of_its_rotary_parameters() {
    let mut config = with("vocab_size", json!(128_256));
    config["intermediate_size"] = json!(14_336);
    config["num_key_value_heads"] = json!(8);
    config["max_position_embeddings"] = json!(131_072);
    config["eos_token_id"] = json!([128_001, 128_008, 128_009]);
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    config["rope_theta"] = json!(500_000.0);
    config["rope_scaling"] = scaling.clone();
    let classic = read(&config).unwrap();
    assert_eq!(classic.parameters(), 8_030_261_248);
    assert_eq!(classic.eos_ids, [128_001, 128_008, 128_009]);

    let object = config.as_object_mut().unwrap();
    object.remove("rope_theta");
    object.remove("rope_scaling");
    config["rope_parameters"] = scaling;
    config["rope_parameters"]["rope_theta"] = json!(500_000.0);
    assert_eq!(read(&config).unwrap(), classic);
    assert!(matches!(classic.rope_scaling, Some(RopeScaling::Llama3 { .. })));

    // The fastest frequency stays, the slowest is divided by the factor, one between is between.
    let scaled = classic.rotary_frequencies();
    let plain = Geometry { rope_scaling: None, ..classic }.rotary_frequencies();
    assert_eq!(scaled.len(), 64);
    assert!((scaled[0] - 1.0).abs() < 1e-12);
    assert!((scaled[63] * 8.0 / plain[63] - 1.0).abs() < 1e-12);
    assert!(scaled.iter().zip(&plain).any(|(scaled, plain)| (0.2..0.9).contains(&(scaled / plain))));
}

#[test]
fn qwen_2_5_half_a_billion_has_biases_and_one_table() {
    let geometry = read(&json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "vocab_size": 151_936,
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000,
        "tie_word_embeddings": true, "use_sliding_window": false, "dtype": "bfloat16",
    }));
    let geometry = geometry.unwrap();
    assert_eq!(geometry.architecture, Architecture::Qwen2);
    assert_eq!(geometry.parameters(), 494_032_768);
    assert!(geometry.qkv_bias && !geometry.output_bias);
}

#[test]
fn the_listed_tensors_hold_exactly_the_parameters() {
    let attention_bias = with("attention_bias", json!(true));
    for config in [llama_2_7b(), attention_bias, with("tie_word_embeddings", json!(true)), with("head_dim", json!(96))]
    {
        let geometry = read(&config).unwrap();
        let values: usize = geometry.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        assert_eq!(values as u64, geometry.parameters());
    }
}

#[test]
fn generation_config_goes_before_config() {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("config.json"), llama_2_7b().to_string()).unwrap();
    fs_err::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [5, 6]}"#).unwrap();
    assert_eq!(Geometry::read(dir.path()).unwrap().eos_ids, [5, 6]);
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    for (config, words) in [
        (
            with("model_type", json!("qwen2")),
            "`model_type: qwen2` and `architectures: [LlamaForCausalLM]` name different",
        ),
        (with("architectures", json!(["MixtralForCausalLM"])), "[MixtralForCausalLM]"),
        (
            mistral(),
            "`MistralForCausalLM` is none of those that llem computes itself: LlamaForCausalLM and Qwen2ForCausalLM",
        ),
        (with("rope_scaling", json!({"type": "yarn", "factor": 4.0})), "yarn"),
        (with("hidden_act", json!("gelu")), "gelu"),
        (with("mlp_bias", json!(true)), "mlp_bias"),
        (with("use_sliding_window", json!(true)), "use_sliding_window"),
        (with("rope_parameters", json!({"partial_rotary_factor": 0.5})), "partial_rotary_factor"),
    ] {
        let text = read(&config).unwrap_err().to_string();
        assert!(text.contains(words) && text.contains("config.json"), "{text}");
    }
}

#[test]
fn impossible_numbers_are_refused_with_their_key() {
    for (key, value) in [
        ("vocab_size", json!(0)),
        ("vocab_size", json!(null)),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", json!(4097)),
        ("num_hidden_layers", json!(1_000_000)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(5)),
        ("head_dim", json!(33)),
        ("rms_norm_eps", json!(0.0)),
        ("rope_theta", json!(-1.0)),
        ("eos_token_id", json!(32_000)),
        ("eos_token_id", json!([1, -1])),
    ] {
        let text = read(&with(key, value.clone())).unwrap_err().to_string();
        assert!(text.contains(key), "{key}: {value}: {text}");
    }
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    assert!(matches!(Geometry::read(dir.path()), Err(GeometryError::Read(_))));
    for content in ["", "[1]", "{\"vocab_size\": \"many\"}", "{\"vocab_size\": -5}", "\u{0}"] {
        fs_err::write(&path, content).unwrap();
        assert!(matches!(Geometry::read(dir.path()), Err(GeometryError::Json { .. })), "{content}");
    }
    fs_err::write(&path, " ".repeat(5 * 1024 * 1024)).unwrap();
    assert!(matches!(Geometry::read(dir.path()), Err(GeometryError::Read(_))));
    fs_err::write(&path, "[".repeat(100_000)).unwrap();
    assert!(matches!(Geometry::read(dir.path()), Err(GeometryError::Json { .. })));
}
