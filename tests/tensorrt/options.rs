//! Every field of the section reaches the object of the engine that it is for.

use serde_json::{Value, json};

use crate::harness::{Kitchen, workload};

/// What the stand-in's arguments were: those of the load, or of the build.
fn arguments(options: Value, extra: &Value, event: &str) -> Option<Value> {
    let kitchen = Kitchen::new()?;
    let mut engine = kitchen.engine(options);
    engine.extra.clone_from(extra.as_object().unwrap());
    if event == "build" {
        "float16".clone_into(&mut engine.dtype);
    }
    let mut driver = kitchen.driver();
    driver.loads(&kitchen.load(engine, &workload(&[(4, 2)]), true));
    driver.pass(0, true, false);
    assert!(driver.close().success());
    Some(kitchen.told(event)[0]["arguments"].clone())
}

#[track_caller]
fn holds(arguments: &Value, expected: &[(&str, Value)]) {
    for (pointer, value) in expected {
        assert_eq!(arguments.pointer(pointer), Some(value), "{pointer} in {arguments}");
    }
}

#[test]
fn options_of_the_pytorch_path() {
    let options = json!({
        "engine": "pytorch", "max_batch_size": 16, "max_input_len": 100, "max_seq_len": 120, "max_num_tokens": 512,
        "enable_chunked_prefill": true, "load_format": "dummy", "attn_backend": "FLASHINFER", "trust_remote_code": true,
        "sampler_type": "TorchSampler", "disable_overlap_scheduler": true, "enable_autotuner": false,
        "allreduce_strategy": "NCCL", "moe_backend": "CUTLASS", "torch_compile": true, "enable_attention_dp": false,
        "kv_cache": {"free_gpu_memory_fraction": 0.5, "dtype": "fp8", "tokens_per_block": 64,
            "max_attention_window": [64], "host_cache_size": 1024, "enable_partial_reuse": false, "max_tokens": 2048},
        "scheduler": {"capacity_scheduler_policy": "MAX_UTILIZATION", "context_chunking_policy": "EQUAL_PROGRESS"},
        "cuda_graph": {"enabled": true, "batch_sizes": [1, 2, 16], "enable_padding": true},
        "speculative": {"decoding_type": "MTP", "max_draft_len": 2},
    });
    let extra = json!({"kv_cache_config": {"use_uvm": true}, "garbage_collection_gen0_threshold": 5});
    let Some(found) = arguments(options, &extra, "load") else { return };
    holds(
        &found,
        &[
            ("/max_batch_size", json!(16)),
            ("/max_input_len", json!(100)),
            ("/max_seq_len", json!(120)),
            ("/max_num_tokens", json!(512)),
            ("/enable_chunked_prefill", json!(true)),
            ("/load_format", json!("dummy")),
            ("/attn_backend", json!("FLASHINFER")),
            ("/sampler_type", json!("TorchSampler")),
            ("/disable_overlap_scheduler", json!(true)),
            ("/enable_autotuner", json!(false)),
            ("/allreduce_strategy", json!("NCCL")),
            ("/moe_config/backend", json!("CUTLASS")),
            ("/torch_compile_config/enable_fullgraph", json!(true)),
            ("/trust_remote_code", json!(true)),
            ("/skip_tokenizer_init", json!(true)),
            ("/kv_cache_config/free_gpu_memory_fraction", json!(0.5)),
            ("/kv_cache_config/dtype", json!("fp8")),
            ("/kv_cache_config/tokens_per_block", json!(64)),
            ("/kv_cache_config/max_attention_window", json!([64])),
            ("/kv_cache_config/host_cache_size", json!(1024)),
            ("/kv_cache_config/enable_partial_reuse", json!(false)),
            ("/kv_cache_config/max_tokens", json!(2048)),
            ("/kv_cache_config/use_uvm", json!(true)),
            ("/kv_cache_config/enable_block_reuse", json!(false)),
            ("/scheduler_config/capacity_scheduler_policy", json!("MAX_UTILIZATION")),
            ("/scheduler_config/context_chunking_policy", json!("EQUAL_PROGRESS")),
            ("/cuda_graph_config/batch_sizes", json!([1, 2, 16])),
            ("/cuda_graph_config/enable_padding", json!(true)),
            ("/speculative_config/num_nextn_predict_layers", json!(2)),
            ("/garbage_collection_gen0_threshold", json!(5)),
        ],
    );
}

#[test]
fn switches_can_be_off() {
    let options = json!({"cuda_graph": {"enabled": false}, "torch_compile": false});
    let Some(found) = arguments(options, &json!({}), "load") else { return };
    holds(&found, &[("/cuda_graph_config", json!(null)), ("/torch_compile_config", json!(null))]);
}

#[test]
fn options_of_a_compiled_engine() {
    let options = json!({
        "engine": "tensorrt", "fast_build": true, "batching_type": "static", "multi_block_mode": false,
        "build": {"max_batch_size": 4, "max_input_len": 64, "max_seq_len": 96, "max_num_tokens": 256, "opt_batch_size": 2,
            "opt_num_tokens": 128, "max_beam_width": 1, "kv_cache_type": "paged", "strongly_typed": true, "max_draft_len": 3,
            "weight_streaming": true, "weight_sparsity": true, "use_refit": true, "use_strip_plan": true,
            "plugin": {"gemm_plugin": "auto", "use_paged_context_fmha": false, "tokens_per_block": 64,
                "multiple_profiles": true}},
        "quant": {"quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": "INT8", "group_size": 64, "exclude_modules": ["lm_head"]},
        "calib": {"device": "cpu", "calib_batches": 8, "calib_dataset": "/data", "random_seed": 7},
        "speculative": {"decoding_type": "Medusa", "max_draft_len": 3, "speculative_model_dir": "/heads"},
        "scheduler": {"capacity_scheduler_policy": "STATIC_BATCH"},
    });
    let extra = json!({"build_config": {"profiling_verbosity": "detailed", "plugin_config": {"streamingllm": true}}});
    let Some(found) = arguments(options, &extra, "build") else { return };
    holds(
        &found,
        &[
            ("/dtype", json!("float16")),
            ("/fast_build", json!(true)),
            ("/batching_type", json!("STATIC")),
            ("/extended_runtime_perf_knob_config/multi_block_mode", json!(false)),
            ("/build_config/max_batch_size", json!(4)),
            ("/build_config/max_input_len", json!(64)),
            ("/build_config/max_seq_len", json!(96)),
            ("/build_config/max_num_tokens", json!(256)),
            ("/build_config/opt_batch_size", json!(2)),
            ("/build_config/opt_num_tokens", json!(128)),
            ("/build_config/kv_cache_type", json!("PAGED")),
            ("/build_config/max_draft_len", json!(3)),
            ("/build_config/weight_streaming", json!(true)),
            ("/build_config/weight_sparsity", json!(true)),
            ("/build_config/use_refit", json!(true)),
            ("/build_config/use_strip_plan", json!(true)),
            ("/build_config/profiling_verbosity", json!("detailed")),
            ("/build_config/plugin_config/gemm_plugin", json!("auto")),
            ("/build_config/plugin_config/use_paged_context_fmha", json!(false)),
            ("/build_config/plugin_config/tokens_per_block", json!(64)),
            ("/build_config/plugin_config/multiple_profiles", json!(true)),
            ("/build_config/plugin_config/streamingllm", json!(true)),
            ("/quant_config/quant_algo", json!("W4A16_AWQ")),
            ("/quant_config/kv_cache_quant_algo", json!("INT8")),
            ("/quant_config/group_size", json!(64)),
            ("/quant_config/exclude_modules", json!(["lm_head"])),
            ("/calib_config/device", json!("cpu")),
            ("/calib_config/calib_batches", json!(8)),
            ("/calib_config/calib_dataset", json!("/data")),
            ("/calib_config/random_seed", json!(7)),
            ("/speculative_config/max_draft_len", json!(3)),
            ("/speculative_config/speculative_model_dir", json!("/heads")),
            ("/scheduler_config/capacity_scheduler_policy", json!("STATIC_BATCH")),
        ],
    );
}

/// The engine runs in parts; without `mpirun`, which would make every part build.
#[test]
fn several_gpus_are_the_engines_own_matter() {
    let Some(mut kitchen) = Kitchen::new() else { return };
    kitchen.script = json!({"gpus": ["a", "b"]});
    let mut driver = kitchen.driver();
    let options = json!({"engine": "tensorrt", "tensor_parallel_size": 2});
    let loaded = driver.loads_as_sent(&kitchen.load(kitchen.engine(options), &workload(&[(4, 2)]), true));
    let uuids: Vec<_> = loaded["devices"].as_array().unwrap().iter().map(|device| &device["uuid"]).collect();
    assert_eq!(uuids, [&json!("GPU-a"), &json!("GPU-b")]);
    assert_eq!(kitchen.told("build").len(), 1);
    assert_eq!(loaded["settings"]["pretrained_config"]["mapping"]["tp_size"], 2);
}
