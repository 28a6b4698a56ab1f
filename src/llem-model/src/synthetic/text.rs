use serde_json::{Value, json};

use crate::geometry::Geometry;

use super::tokenizer::{BOS_ID, EOS_ID, PAD_ID};

/// `config.json` in the spelling that transformers 4 and 5 and vLLM all read.
pub(super) fn config_json(geometry: &Geometry) -> Value {
    json!({
        "architectures": [geometry.architecture.class_name()],
        "model_type": geometry.architecture.model_type(),
        "attention_bias": geometry.output_bias,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        "head_dim": geometry.head_dim,
        "hidden_act": "silu",
        "hidden_size": geometry.hidden,
        "intermediate_size": geometry.intermediate,
        "max_position_embeddings": geometry.max_positions,
        "num_attention_heads": geometry.heads,
        "num_hidden_layers": geometry.layers,
        "num_key_value_heads": geometry.kv_heads,
        "rms_norm_eps": geometry.rms_norm_eps,
        "rope_scaling": null,
        "rope_theta": geometry.rope_theta,
        "tie_word_embeddings": geometry.tie_word_embeddings,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "use_sliding_window": false,
        "vocab_size": geometry.vocab,
    })
}

/// `generation_config.json`: greedy, with the special tokens.
pub(super) fn generation_config_json() -> Value {
    json!({"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID, "do_sample": false})
}
