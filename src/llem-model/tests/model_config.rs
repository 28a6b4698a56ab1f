//! What is read of the configurations of models that llem does not compute itself, and how many parameters their files hold.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::Path;

use llem_model::{Checkpoint, ModelConfig, Parameters, ParametersSource, SyntheticSpec, ensure};
use serde_json::{Map, Value, json};

fn read(config: &Value) -> ModelConfig {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("config.json"), config.to_string()).unwrap();
    ModelConfig::read(dir.path()).unwrap()
}

/// Name, data type and shape of a tensor.
type Stored<'a> = (&'a str, &'a str, &'a [u64]);

/// Writes a safetensors file with zeros of these names, types and shapes.
fn store(dir: &Path, tensors: &[Stored<'_>]) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, dtype, shape) in tensors {
        let begin = end;
        end += shape.iter().product::<u64>() * if *dtype == "F32" { 4 } else { 1 };
        header.insert((*name).to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}));
    }
    let header = Value::from(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + end as usize, 0);
    fs_err::write(dir.join("model.safetensors"), file).unwrap();
}

fn count(config: &Value, tensors: &[Stored<'_>]) -> Option<u64> {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("config.json"), config.to_string()).unwrap();
    store(dir.path(), tensors);
    Parameters::of(dir.path(), &ModelConfig::read(dir.path()).unwrap()).map(|parameters| parameters.count)
}

#[test]
fn gpt_2_has_names_of_its_own() {
    let config = read(&json!({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
        "n_positions": 1024, "vocab_size": 50257, "eos_token_id": 50256, "n_inner": null,
    }));
    assert_eq!(config.architecture.as_deref(), Some("GPT2LMHeadModel"));
    assert_eq!((config.hidden_size, config.num_hidden_layers, config.max_positions), (Some(768), Some(12), Some(1024)));
    assert_eq!((config.num_key_value_heads, config.head_dim), (Some(12), Some(64)));
    assert_eq!((config.vocab_size, config.intermediate_size), (Some(50257), None));
    assert_eq!(config.eos_ids, [50256]);
}

#[test]
fn the_part_for_text_goes_before_the_whole() {
    let config = read(&json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1, 106],
        "image_token_index": 262_144, "boi_token_index": 255_999, "hidden_size": 1,
        "text_config": {"hidden_size": 2560, "num_hidden_layers": 34, "max_position_embeddings": null},
        "vision_config": {"hidden_size": 1152}, "torch_dtype": "bfloat16",
    }));
    assert_eq!((config.hidden_size, config.num_hidden_layers), (Some(2560), Some(34)));
    assert_eq!((config.max_positions, config.vocab_size), (None, None));
    assert_eq!((config.eos_ids.as_slice(), config.other_media_ids.as_slice()), (&[1, 106][..], &[262_144][..]));
    assert!(!config.is_text_only);
    assert_eq!(config.dtype.as_deref(), Some("bfloat16"));
}

#[test]
fn mixtures_of_experts_are_told_by_all_three_names() {
    for key in ["num_local_experts", "num_experts", "n_routed_experts"] {
        assert_eq!(read(&json!({key: 8})).num_experts, Some(8), "{key}");
    }
}

#[test]
fn scaling_stretches_the_longest_context_where_the_file_does_not_count_it_in() {
    let positions =
        |scaling: Value| read(&json!({"max_position_embeddings": 32_768, "rope_scaling": scaling})).max_positions;
    assert_eq!(positions(Value::Null), Some(32_768));
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768});
    assert_eq!(positions(yarn), Some(131_072));
    assert_eq!(positions(json!({"rope_type": "linear", "factor": 2.0})), Some(65_536));
    let longrope = json!({"type": "longrope", "long_factor": [1.0], "original_max_position_embeddings": 4096});
    assert_eq!(positions(longrope), Some(32_768));
    assert_eq!(positions(json!({"type": "yarn"})), None);
}

#[test]
fn whatever_a_file_says_it_is_read() {
    for config in [
        json!({}),
        json!({"architectures": "LlamaForCausalLM", "vocab_size": "many", "hidden_size": -1, "n_head": 0.5}),
        json!({"text_config": [1], "eos_token_id": [-1, "x", 7_000_000_000_u64], "quantization_config": 4}),
        json!({"hidden_size": 4097, "num_attention_heads": 0, "rope_scaling": {"type": 3, "factor": "x"}}),
    ] {
        let read = read(&config);
        assert_eq!((read.vocab_size, read.head_dim, read.quantization), (None, None, None), "{config}");
        assert!(read.eos_ids.is_empty());
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(ModelConfig::read(dir.path()).is_err());
    fs_err::write(dir.path().join("config.json"), "[]").unwrap();
    assert!(ModelConfig::read(dir.path()).is_err());
}

#[test]
fn a_gated_feed_forward_layer_has_three_matrices() {
    // Embedding and output layer 512·64 each; a layer: q and o 64·64, k and v 64·32, three matrices of 64·128, two norms of 64; the
    // last norm 64.
    const BY_HAND: u64 = 2 * 512 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64;
    let spec: SyntheticSpec = serde_json::from_value(json!({
        "layers": 2, "hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "vocab": 512, "tie_word_embeddings": false,
    }))
    .unwrap();
    let cache = tempfile::tempdir().unwrap();
    let dir = ensure(&spec, cache.path()).unwrap().dir;
    let config = ModelConfig::read(&dir).unwrap();
    let of = |config: &ModelConfig| Parameters::of(&dir, config).map(|found| (found.count, found.source));
    assert_eq!(of(&config), Some((BY_HAND, ParametersSource::SafetensorsHeaders)));
    let packed = ModelConfig { quantization: Some("gptq".to_owned()), ..config };
    assert_eq!(of(&packed), Some((BY_HAND, ParametersSource::Config)));
}

#[test]
fn stored_tables_that_are_one_count_once_and_buffers_do_not_count() {
    let tables: [Stored<'_>; 2] = [("model.embed_tokens.weight", "F32", &[10, 4]), ("lm_head.weight", "F32", &[10, 4])];
    assert_eq!(count(&json!({"tie_word_embeddings": true}), &tables), Some(40));
    assert_eq!(count(&json!({"tie_word_embeddings": false}), &tables), Some(80));
    assert_eq!(count(&json!({"tie_word_embeddings": true}), &tables[1..]), Some(40));
    let gpt_2: [Stored<'_>; 5] = [
        ("wte.weight", "F32", &[10, 4]),
        ("h.0.attn.c_attn.bias", "F32", &[12]),
        ("h.0.attn.bias", "F32", &[1, 1, 8, 8]),
        ("h.0.attn.masked_bias", "F32", &[]),
        ("h.1.attn.bias", "BOOL", &[1, 1, 8, 8]),
    ];
    assert_eq!(count(&json!({"model_type": "gpt2"}), &gpt_2), Some(52));
    let packed = json!({"model_type": "mistral", "quantization_config": {"quant_method": "awq"}});
    assert_eq!(count(&packed, &tables), None, "packed weights of an unknown architecture");
}

#[test]
fn the_embedding_table_tells_the_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &[("a.norm.weight", "F32", &[4]), ("model.language_model.embed_tokens.weight", "F32", &[10, 4])]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().embedding_rows(), Some(10));
    store(dir.path(), &[("lm_head.weight", "F32", &[10, 4])]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().embedding_rows(), None);
}
