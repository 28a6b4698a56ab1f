//! Published geometries: the values of each model's `config.json`, and figures worked out by hand from them.

use std::path::Path;

use llem_model::{Checkpoint, ModelConfig};
use serde_json::{Value, json};

use super::{CONTEXT_BYTES, MemoryEstimate, Surroundings, Verdict, gpu_memory};
use crate::config::{ExperimentConfig, Profile, StudyConfig};
use crate::plan::estimate::{ModelFacts, StoredWeights};

const GIB: u64 = 1 << 30;

/// A published model.
struct Published {
    name: &'static str,
    config: Value,
    /// Values of all matrices, by hand; the arithmetic is beside each model.
    values: u64,
    /// The number of parameters that the model's page gives, normalisations and biases included.
    parameters: u64,
    /// Bytes of keys and values for one token in 16 bits: 2 · layers · kv heads · head width · 2.
    kv_bytes_per_token: u64,
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn published() -> Vec<Published> {
    let dense = |model_type: &str, [hidden, intermediate, layers, heads, kv, vocab]: [u64; 6]| {
        json!({"model_type": model_type, "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab, "torch_dtype": "bfloat16"})
    };
    let with = |mut config: Value, more: Value| {
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let untied = json!({"tie_word_embeddings": false});
    vec![
        Published {
            name: "meta-llama/Llama-3.1-8B",
            config: with(dense("llama", [4096, 14336, 32, 32, 8, 128_256]), untied.clone()),
            // 32 · (2·4096·128·(32+8) + 3·4096·14336) + 2·128256·4096
            //   = 32 · (41,943,040 + 176,160,768) + 1,050,673,152
            values: 8_029_995_008,
            parameters: 8_030_261_248,
            kv_bytes_per_token: 131_072,
        },
        Published {
            name: "meta-llama/Llama-3.1-70B",
            config: with(dense("llama", [8192, 28672, 80, 64, 8, 128_256]), untied.clone()),
            // 80 · (2·8192·128·72 + 3·8192·28672) + 2·128256·8192 = 80 · (150,994,944 + 704,643,072) + 2,101,346,304
            values: 70_552_387_584,
            parameters: 70_553_706_496,
            kv_bytes_per_token: 327_680,
        },
        Published {
            name: "Qwen/Qwen2.5-0.5B",
            config: with(dense("qwen2", [896, 4864, 24, 14, 2, 151_936]), json!({"tie_word_embeddings": true})),
            // 24 · (2·896·64·16 + 3·896·4864) + 151936·896 = 24 · (1,835,008 + 13,074,432) + 136,134,656
            values: 493_961_216,
            parameters: 494_032_768,
            kv_bytes_per_token: 12_288,
        },
        Published {
            name: "Qwen/Qwen2.5-7B",
            config: with(dense("qwen2", [3584, 18944, 28, 28, 4, 152_064]), untied.clone()),
            // 28 · (2·3584·128·32 + 3·3584·18944) + 2·152064·3584 = 28 · (29,360,128 + 203,685,888) + 1,089,994,752
            values: 7_615_283_200,
            parameters: 7_615_616_512,
            kv_bytes_per_token: 57_344,
        },
        Published {
            name: "Qwen/Qwen2.5-72B",
            config: with(dense("qwen2", [8192, 29568, 80, 64, 8, 152_064]), untied.clone()),
            // 80 · (150,994,944 + 3·8192·29568) + 2·152064·8192 = 80 · (150,994,944 + 726,663,168) + 2,491,416,576
            values: 72_704_065_536,
            parameters: 72_706_203_648,
            kv_bytes_per_token: 327_680,
        },
        Published {
            name: "mistralai/Mistral-7B-v0.1",
            config: with(
                dense("mistral", [4096, 14336, 32, 32, 8, 32_000]),
                json!({"tie_word_embeddings": false, "sliding_window": 4096}),
            ),
            // 32 · 218,103,808 + 2·32000·4096
            values: 7_241_465_856,
            parameters: 7_241_732_096,
            kv_bytes_per_token: 131_072,
        },
        Published {
            name: "mistralai/Mixtral-8x7B-v0.1",
            config: with(
                dense("mixtral", [4096, 14336, 32, 32, 8, 32_000]),
                json!({"tie_word_embeddings": false, "num_local_experts": 8, "num_experts_per_tok": 2}),
            ),
            // 32 · (41,943,040 + 8 · 176,160,768 + router 8·4096) + 262,144,000
            values: 46_702_526_464,
            parameters: 46_702_792_704,
            kv_bytes_per_token: 131_072,
        },
        Published {
            name: "google/gemma-2-9b",
            // The file does not say that the table is shared: Gemma's class does.
            config: with(dense("gemma2", [3584, 14336, 42, 16, 8, 256_000]), json!({"head_dim": 256})),
            // 42 · (2·3584·256·24 + 3·3584·14336) + 256000·3584 = 42 · (44,040,192 + 154,140,672) + 917,504,000
            values: 9_241_100_288,
            parameters: 9_241_705_984,
            kv_bytes_per_token: 344_064,
        },
        Published {
            name: "microsoft/Phi-3-mini-4k-instruct",
            config: with(dense("phi3", [3072, 8192, 32, 32, 32, 32_064]), untied.clone()),
            // 32 · (2·3072·96·64 + 3·3072·8192) + 2·32064·3072 = 32 · (37,748,736 + 75,497,472) + 197,001,216
            values: 3_820_879_872,
            parameters: 3_821_079_552,
            kv_bytes_per_token: 393_216,
        },
        Published {
            name: "openai-community/gpt2",
            // Other names, four times the width as its class has it, no gate, a shared table; 0.7 % are learned positions and biases.
            config: json!({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50_257,
                "n_positions": 1024}),
            // 12 · (2·768·64·24 + 2·768·3072) + 50257·768 = 12 · (2,359,296 + 4,718,592) + 38,597,376
            values: 123_532_032,
            parameters: 124_439_808,
            kv_bytes_per_token: 36_864,
        },
        Published {
            name: "Qwen/Qwen3-30B-A3B",
            config: with(
                dense("qwen3_moe", [2048, 6144, 48, 32, 4, 151_936]),
                json!({"tie_word_embeddings": false, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
                    "moe_intermediate_size": 768}),
            ),
            // 48 · (2·2048·128·36 + 128·3·2048·768 + 128·2048) + 2·151936·2048
            //   = 48 · (18,874,368 + 603,979,776 + 262,144) + 622,329,856
            values: 30_531_911_680,
            parameters: 30_532_122_624,
            kv_bytes_per_token: 98_304,
        },
    ]
}

fn facts(config: &Value) -> ModelFacts {
    let directory = tempfile::tempdir().unwrap();
    fs_err::write(directory.path().join("config.json"), config.to_string()).unwrap();
    ModelFacts::of_config(&ModelConfig::read(directory.path()).unwrap())
}

fn facts_of(name: &str) -> ModelFacts {
    facts(&published().into_iter().find(|model| model.name == name).unwrap().config)
}

fn experiment(text: &str) -> ExperimentConfig {
    let text = format!("model: a/b\n{text}");
    let mut study = StudyConfig::from_text(Path::new("s.yaml"), &text, &[], Profile::Standard).unwrap();
    study.experiments.remove(0).config
}

fn estimate(model: &ModelFacts, text: &str, gpu_memory_bytes: Option<u64>) -> MemoryEstimate {
    let around = Surroundings { model, beside_bytes: Some(0), gpu_memory_bytes, gpus_present: None };
    gpu_memory(&experiment(text), around)
}

#[test]
fn weights_and_key_value_cache_of_published_models_are_those_worked_out_by_hand() {
    for model in published() {
        let facts = facts(&model.config);
        // Eight requests of 100 + 28 tokens, all at once, in whole blocks of 16.
        let text = "backend: vllm\ndtype: bfloat16\nworkload: {n: 8, input_tokens: 100, output_tokens: 28}\n";
        let found = estimate(&facts, text, None);
        assert_eq!(found.weights_bytes, Some(2 * model.values), "{}", model.name);
        assert_eq!(found.kv_cache_bytes, Some(8 * 128 * model.kv_bytes_per_token), "{}", model.name);
        assert_eq!(found.unknown, [""; 0], "{}", model.name);
        let missed = (model.parameters - model.values) as f64 / model.parameters as f64;
        assert!((0.0..0.01).contains(&missed), "{}: {missed}", model.name);
    }
}

#[test]
fn vllm_takes_its_share_and_makes_a_cache_of_what_is_left() {
    let model = facts_of("meta-llama/Llama-3.1-8B");
    let text = "backend: vllm\ndtype: bfloat16\nworkload: {n: 64, input_tokens: 1000, output_tokens: 24}\n";
    let found = estimate(&model, text, Some(80 * GIB));
    assert_eq!(found.weights_bytes, Some(16_059_990_016));
    // 64 requests · 64 blocks of 16 · 131,072
    assert_eq!(found.kv_cache_bytes, Some(8 * GIB));
    // 16384 tokens · (2·4096 + 3·14336) · 2 bytes + 1024 rows · 128256 · (2 + 8) bytes
    assert_eq!(found.activations_bytes, Some(1_677_721_600 + 1_313_341_440));
    // context and graphs
    assert_eq!(found.overhead_bytes, CONTEXT_BYTES + GIB);
    assert_eq!(found.needed_bytes, Some(29_520_035_840));
    // 0.92 · 80 GiB = 79,027,398,246; less 29,520,035,840 − 8 GiB
    assert_eq!((found.taken_bytes, found.kv_pool_bytes), (Some(79_027_398_246), Some(58_097_296_998)));
    assert_eq!((found.verdict, found.why), (Verdict::Fits, None));
    // On 40 GiB the defaults are 8192 tokens and 256 requests, half and a quarter of the activations.
    let small = estimate(&model, text, Some(40 * GIB));
    assert_eq!(small.activations_bytes, Some(838_860_800 + 328_335_360));
    let fixed = format!("{text}vllm: {{kv_cache_memory_bytes: 4294967296, enforce_eager: true}}\n");
    let fixed = estimate(&model, &fixed, Some(80 * GIB));
    assert_eq!((fixed.kv_pool_bytes, fixed.overhead_bytes), (Some(4 * GIB), CONTEXT_BYTES));
    // 4 GiB hold half of the 64 requests.
    assert_eq!(fixed.verdict, Verdict::Tight);
    assert!(fixed.why.unwrap().contains("holds 32 requests at once; others wait"));
}

#[test]
fn parallel_gpus_share_weights_heads_and_layers() {
    let model = facts_of("meta-llama/Llama-3.1-70B");
    let of = |section: &str| {
        let work = "workload: {n: 1, input_tokens: 16, output_tokens: 16}";
        estimate(&model, &format!("backend: vllm\ndtype: bfloat16\n{work}\nvllm: {{{section}}}\n"), Some(80 * GIB))
    };
    // 141,104,775,168 / 4, and two of eight heads: 2·80·2·128·2 = 81,920 bytes for each of 32 tokens
    let four = of("tensor_parallel_size: 4");
    assert_eq!((four.gpus, four.weights_bytes, four.kv_cache_bytes), (Some(4), Some(35_276_193_792), Some(2_621_440)));
    assert_eq!(four.overhead_bytes, CONTEXT_BYTES + GIB / 2 + GIB, "with NCCL's buffers");
    // No head can be cut: 16 GPUs hold each of the eight twice. 2·80·1·128·2·32
    assert_eq!(of("tensor_parallel_size: 16").kv_cache_bytes, Some(1_310_720));
    // Three stages: 27 of 80 layers, 68,451,041,280 · 2 · 27/80, and both tables: 2,101,346,304 · 2
    let three = of("pipeline_parallel_size: 3");
    assert_eq!(three.weights_bytes, Some(46_204_452_864 + 4_202_692_608));
    let one = of("tensor_parallel_size: 1");
    assert_eq!(one.verdict, Verdict::Impossible);
    assert_eq!(one.why.unwrap(), "the weights alone take 131.4 GiB of a GPU with 80.0 GiB");
    // Half of the weights is 65.7 GiB; 0.5 · 80 GiB are allowed.
    let share = of("tensor_parallel_size: 2, gpu_memory_utilization: 0.5");
    assert_eq!(share.verdict, Verdict::Impossible);
    assert!(share.why.unwrap().ends_with("`vllm.gpu_memory_utilization: 0.5` allows 40.0 GiB"));
}

#[test]
fn tensorrt_takes_its_share_of_what_is_free() {
    let model = facts_of("meta-llama/Llama-3.1-8B");
    let text = "backend: tensorrt\nworkload: {n: 8, input_tokens: 100, output_tokens: 28}\n";
    let found = estimate(&model, text, Some(80 * GIB));
    // 8192 · 51200 · 2 + 8 · 128256 · 10
    assert_eq!(found.activations_bytes, Some(838_860_800 + 10_260_480));
    let rest = 16_059_990_016 + 849_121_280 + (GIB + CONTEXT_BYTES);
    assert_eq!(found.needed_bytes, Some(rest + 8 * 128 * 131_072));
    // 0.9 · (85,899,345,920 − 18,788,159,488)
    assert_eq!(found.kv_pool_bytes, Some(60_400_067_788));
    let quantised =
        "backend: tensorrt\ntensorrt: {engine: tensorrt, quant: {quant_algo: W4A16_AWQ, kv_cache_quant_algo: INT8}}\n";
    let quantised = estimate(&model, quantised, None);
    // 6,979,321,856 · (0.5 + 2/128) + 1,050,673,152 · 2
    assert_eq!(quantised.weights_bytes, Some(3_598_712_832 + 2_101_346_304));
    // 8 requests · 128 tokens · half of 131,072
    assert_eq!(quantised.kv_cache_bytes, Some(8 * 128 * 65_536));
}

#[test]
fn transformers_has_a_static_batch() {
    let model = facts_of("meta-llama/Llama-3.1-8B");
    let of = |more: &str| {
        estimate(
            &model,
            &format!("backend: pytorch\nworkload: {{n: 8, input_tokens: 100, output_tokens: 28}}\n{more}\n"),
            None,
        )
    };
    let batch = of("pytorch: {batch_size: 4}");
    assert_eq!(batch.kv_cache_bytes, Some(4 * 128 * 131_072));
    // 4 · 100 · 51200 · 2 + 4 · 128256 · 10
    assert_eq!(batch.activations_bytes, Some(40_960_000 + 5_130_240));
    assert_eq!((batch.kv_pool_bytes, batch.overhead_bytes), (None, CONTEXT_BYTES));
    assert_eq!(of("pytorch: {batch_size: 64}").kv_cache_bytes, Some(8 * 128 * 131_072), "there are 8 requests");
    let long = of("pytorch: {batch_size: 4, cache: {implementation: static, max_cache_len: 1024}}");
    assert_eq!(long.kv_cache_bytes, Some(4 * 1024 * 131_072));
    // Two of 32 layers.
    let offloaded = of("pytorch: {batch_size: 4, cache: {implementation: offloaded}}");
    assert_eq!(offloaded.kv_cache_bytes, Some(4 * 128 * 8_192));
    // 6,979,321,856 · (0.5 + 4/64) + 1,050,673,152 · 2
    let four_bits = of("pytorch: {quantization: {load_in_4bit: true}}");
    assert_eq!(four_bits.weights_bytes, Some(3_925_868_544 + 2_101_346_304));
    assert_eq!(of("dtype: float32").weights_bytes, Some(4 * 8_029_995_008));
}

/// Memory that NVML counted for the engine's process on an H100 of 85,520,809,984 bytes: docs/measurements/2026-11-22-h100-engines.
#[test]
fn estimates_are_what_was_measured_on_a_gpu() {
    let untied = |[hidden, intermediate, layers, heads, kv, vocab]: [u64; 6]| {
        facts(
            &json!({"model_type": "qwen2", "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab, "tie_word_embeddings": false}),
        )
    };
    let half_billion = untied([896, 4864, 24, 14, 2, 151_936]);
    let seven_billion = untied([3584, 18944, 28, 28, 4, 152_064]);
    for (model, output, batch, measured_bytes) in [
        (&half_billion, 128, 1, 2_042_626_048_u64),
        (&half_billion, 128, 8, 2_111_832_064),
        (&half_billion, 128, 32, 2_262_827_008),
        (&half_billion, 128, 256, 4_032_823_296),
        (&seven_billion, 64, 1, 16_030_629_888),
        (&seven_billion, 64, 8, 16_242_442_240),
        (&seven_billion, 64, 32, 16_873_684_992),
        (&seven_billion, 64, 256, 23_165_140_992),
    ] {
        let work = format!("workload: {{n: {batch}, input_tokens: 128, output_tokens: {output}}}");
        let text = format!("backend: pytorch\ndtype: bfloat16\n{work}\npytorch: {{batch_size: {batch}}}\n");
        let ratio = estimate(model, &text, None).needed_bytes.unwrap() as f64 / measured_bytes as f64;
        assert!((0.97..1.25).contains(&ratio), "batch {batch}: {ratio:.3} of what was measured");
    }
    for (batch, measured_bytes) in
        [(1, 78_278_295_552_u64), (8, 76_776_734_720), (32, 77_261_176_832), (256, 79_370_911_744)]
    {
        let work = format!("workload: {{n: {batch}, input_tokens: 128, output_tokens: 64}}");
        let text =
            format!("backend: vllm\ndtype: bfloat16\n{work}\nvllm: {{max_num_seqs: {batch}, enforce_eager: true}}\n");
        let taken = estimate(&seven_billion, &text, Some(85_520_809_984)).taken_bytes.unwrap();
        let ratio = taken as f64 / measured_bytes as f64;
        assert!((0.97..1.04).contains(&ratio), "{batch} sequences: {ratio:.3} of what was measured");
    }
}

#[test]
fn what_is_not_known_is_null_with_its_reason() {
    let nothing = estimate(&ModelFacts::default(), "backend: vllm\ndtype: bfloat16\n", Some(80 * GIB));
    assert_eq!((nothing.weights_bytes, nothing.needed_bytes, nothing.taken_bytes), (None, None, None));
    assert_eq!(nothing.verdict, Verdict::Unknown);
    assert_eq!(nothing.unknown, ["the model's description is not on this machine yet"]);
    let other = json!({"model_type": "mamba9", "hidden_size": 64, "num_hidden_layers": 2, "torch_dtype": "float16"});
    let other = estimate(&facts(&other), "backend: vllm\n", Some(80 * GIB));
    assert_eq!((other.weights_bytes, other.needed_bytes), (None, None));
    assert!(other.unknown[0].contains("its family is not one whose rule is known"), "{:?}", other.unknown);
    let model = facts_of("Qwen/Qwen2.5-0.5B");
    let text = estimate(&model, "backend: vllm\nworkload: {dataset: aienergyscore}\n", Some(80 * GIB));
    assert_eq!((text.weights_bytes, text.kv_cache_bytes), (Some(987_922_432), None));
    assert!(text.unknown[0].starts_with("the prompts are text without `workload.input_tokens`"));
    let latent = ModelFacts { compressed_kv: true, ..model.clone() };
    let latent = estimate(&latent, "backend: vllm\n", None);
    assert!(latent.kv_cache_bytes.is_none() && latent.unknown[0].contains("multi-head latent attention"));
    let spread = estimate(&model, "backend: pytorch\npytorch: {device_map: auto}\n", Some(80 * GIB));
    assert_eq!((spread.gpus, spread.weights_bytes, spread.verdict), (None, None, Verdict::Unknown));
    let packed = ModelFacts { quantization: Some("awq".to_owned()), ..model };
    let packed = estimate(&packed, "backend: vllm\n", None);
    assert!(packed.weights_bytes.is_none() && packed.unknown[0].contains("only its headers"));
}

#[test]
fn a_run_on_the_processor_needs_no_gpu() {
    let found = estimate(&ModelFacts::default(), "backend: candle\n", Some(80 * GIB));
    assert_eq!((found.gpus, found.verdict, found.gpu_memory_bytes), (Some(0), Verdict::NoGpu, None));
    assert!(found.unknown.is_empty());
}

/// The headers of real files, and the geometry that they were made from.
#[test]
fn headers_and_geometry_agree() {
    let cache = tempfile::tempdir().unwrap();
    let model = llem_model::ensure(&llem_model::SyntheticSpec::default(), cache.path()).unwrap();
    let stored = StoredWeights::of(&Checkpoint::open(&model.dir).unwrap());
    assert_eq!(stored.layer_values + stored.other_values, model.parameters);
    // Two tables of 4096 · 256, and the last normalisation.
    assert_eq!(stored.other_values, 2 * 4096 * 256 + 256);
    assert_eq!(
        (stored.layer_bytes + stored.other_bytes, stored.dtype.as_deref()),
        (2 * model.parameters, Some("BF16"))
    );
    let described = ModelFacts::of_config(&ModelConfig::read(&model.dir).unwrap());
    let with_headers = ModelFacts { stored: Some(stored), ..described.clone() };
    let of = |facts: &ModelFacts| estimate(facts, "backend: vllm\n", None).weights_bytes.unwrap();
    // The geometry alone leaves out nine normalisations of 256.
    assert_eq!((of(&with_headers), of(&with_headers) - of(&described)), (2 * model.parameters, 2 * 9 * 256));
}
