//! What is part of a key, and what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::config::{ExperimentConfig, Profile, StudyConfig};

fn experiment(backend: &str, section: &Value) -> ExperimentConfig {
    let study = json!({
        "model": "synthetic", "backend": backend, "dtype": "bfloat16", backend: section,
        "workload": {"dataset": "synthetic", "n": 1, "input_tokens": 8, "output_tokens": 4},
    });
    let study = StudyConfig::from_text(Path::new("s.yaml"), &study.to_string(), &[], Profile::Quick).unwrap();
    study.experiments[0].config.clone()
}

fn around() -> Surroundings {
    let known = |text: &str| Some(text.to_owned());
    Surroundings {
        software: Software {
            image_digest: known("sha256:1"),
            engine: known("1.2.1"),
            tensorrt: known("10.14.1"),
            cuda: known("13.1"),
            torch: known("2.9.1"),
            ..Software::default()
        },
        target: Target::Gpus(vec![GpuTarget {
            name: known("NVIDIA H100"),
            compute_capability: known("9.0"),
            cuda_cores: Some(16_896),
            memory_bytes: Some(85_520_809_984),
        }]),
        model: ModelIdentity { content_sha256: known("0"), label: "m".to_owned(), ..ModelIdentity::default() },
        draft_model: None,
        adapter: None,
        variables: BTreeMap::new(),
        gpus_per_node: None,
        calibration_data_sha256: None,
        workload_sha256: None,
    }
}

fn key(section: &Value, around: Surroundings) -> String {
    let mut section = section.clone();
    section["engine"] = json!("tensorrt");
    let inputs = KeyInputs::tensorrt_engine(&experiment("tensorrt", &section), around);
    Key::new(&inputs).unwrap().hex().to_owned()
}

#[test]
fn every_input_makes_another_key() {
    let mut keys = BTreeSet::from([key(&json!({}), around())]);
    let sections = [
        json!({"build": {"max_batch_size": 8}}),
        json!({"build": {"max_seq_len": 512}}),
        json!({"build": {"plugin": {"gemm_plugin": "auto"}}}),
        json!({"build": {"weight_streaming": true}}),
        json!({"build": {"use_refit": true}}),
        json!({"build": {"use_strip_plan": true}}),
        json!({"quant": {"quant_algo": "FP8"}}),
        json!({"quant": {"quant_algo": "FP8"}, "calib": {"calib_batches": 3}}),
        json!({"fast_build": true}),
        json!({"tensor_parallel_size": 2}),
        json!({"pipeline_parallel_size": 2}),
        json!({"context_parallel_size": 2}),
        json!({"load_format": "dummy"}),
        json!({"extra": {"embedding_parallel_mode": "NONE"}}),
        json!({"extra": {"builder_optimization_level": 3}}),
        json!({"extra": {"else": 3}}),
    ];
    for section in &sections {
        assert!(keys.insert(key(section, around())), "{section}");
    }
    let known = |text: &str| Some(text.to_owned());
    let changes: [fn(&mut Surroundings, Option<String>); 8] = [
        |around, text| around.software.image_digest = text,
        |around, text| around.software.engine = text,
        |around, text| around.software.tensorrt = text,
        |around, text| around.software.cuda = text,
        |around, text| around.software.torch = text,
        |around, text| around.model.content_sha256 = text,
        |around, text| drop(around.variables.insert("TLLM_X".to_owned(), text.unwrap())),
        |around, _| around.gpus_per_node = Some(8),
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut other = around();
        change(&mut other, known("other"));
        assert!(keys.insert(key(&json!({}), other)), "change {n}");
    }
    let gpus: [fn(&mut GpuTarget); 4] = [
        |gpu| gpu.name = Some("NVIDIA H200".to_owned()),
        |gpu| gpu.compute_capability = Some("8.9".to_owned()),
        |gpu| gpu.cuda_cores = Some(14_592),
        |gpu| gpu.memory_bytes = Some(1),
    ];
    for change in gpus {
        let mut other = around();
        let Target::Gpus(gpus) = &mut other.target else { unreachable!() };
        change(&mut gpus[0]);
        assert!(keys.insert(key(&json!({}), other)));
    }
}

#[test]
fn what_acts_at_run_time_only_is_not_part_of_the_key() {
    let plain = key(&json!({}), around());
    let sections = [
        json!({"kv_cache": {"enable_block_reuse": false, "free_gpu_memory_fraction": 0.5}}),
        json!({"scheduler": {"capacity_scheduler_policy": "MAX_UTILIZATION"}}),
        json!({"batching_type": "inflight"}),
        json!({"image": "another/name:1"}),
    ];
    for section in &sections {
        assert_eq!(key(section, around()), plain, "{section}");
    }
    let mut other = around();
    other.model.label = "another name".to_owned();
    other.variables.insert("VLLM_API_KEY".to_owned(), "secret".to_owned());
    other.variables.insert("HOME".to_owned(), "/root".to_owned());
    other.variables.insert("https_proxy".to_owned(), "http://me:mine@proxy".to_owned());
    assert_eq!(key(&json!({}), other), plain);
}

/// What nobody thought of may decide what is compiled, and its value may be nobody's business.
#[test]
fn variables_that_nobody_knows_are_part_of_the_key_by_their_hash() {
    let with = |value: &str| {
        let mut around = around();
        around.variables.insert("NVIDIA_TF32_OVERRIDE".to_owned(), value.to_owned());
        around.variables.insert("TLLM_X".to_owned(), "1".to_owned());
        KeyInputs::tensorrt_engine(&experiment("tensorrt", &json!({"engine": "tensorrt"})), around)
    };
    assert_ne!(Key::new(&with("0")).unwrap().hex(), Key::new(&with("1")).unwrap().hex());
    let variables = with("0").variables;
    assert_eq!(variables["TLLM_X"], "1");
    assert!(variables["NVIDIA_TF32_OVERRIDE"].starts_with("sha256:5feceb66"), "{variables:?}");
}

#[test]
fn without_a_mandatory_input_there_is_no_key() {
    let quantised = json!({"quant_algo": "FP8"});
    let section = json!({"engine": "tensorrt", "quant": quantised, "calib": {"calib_dataset": "/data/c"}});
    let config = experiment("tensorrt", &section);
    let mut unknown = around();
    (unknown.software.tensorrt, unknown.model.content_sha256) = (None, None);
    let Target::Gpus(gpus) = &mut unknown.target else { unreachable!() };
    gpus[0].cuda_cores = None;
    let error = Key::new(&KeyInputs::tensorrt_engine(&config, unknown)).unwrap_err();
    let expected =
        ["software.tensorrt", "model", "settings.calibration_data_sha256", "target.gpus.cuda_cores"].map(str::to_owned);
    assert_eq!(error.names, expected);
    assert!(error.to_string().starts_with("tensorrt-engine is not cached: not known: software.tensorrt"), "{error}");
}

#[test]
fn compile_caches_hold_all_options_and_need_less() {
    let mut on_cpu = around();
    on_cpu.target = Target::this_cpu(Some(2));
    (on_cpu.software.cuda, on_cpu.software.tensorrt) = (None, None);
    let of = |section: &Value| {
        let inputs = KeyInputs::vllm_compile(&experiment("vllm", section), on_cpu.clone());
        Key::new(&inputs).unwrap()
    };
    let (plain, sized) = (of(&json!({"image": "a:1"})), of(&json!({"image": "b:1", "max_num_seqs": 8})));
    assert_ne!(plain.hex(), sized.hex());
    let differing: Vec<_> = differences(plain.inputs(), sized.inputs()).into_iter().map(|d| d.path).collect();
    assert_eq!(differing, ["settings.options.max_num_seqs"]);
    let mut for_torch = on_cpu.clone();
    for_torch.workload_sha256 = Some("0".to_owned());
    let torch = KeyInputs::torch_compile(&experiment("pytorch", &json!({"batch_size": 4})), for_torch);
    let torch = Key::new(&torch).unwrap();
    assert_eq!(
        (torch.kind(), &torch.inputs()["settings"]["options"]["batch_size"]),
        (CacheKind::TorchCompile, &json!(4))
    );
    let drafted = experiment("vllm", &json!({"speculative": {"method": "draft_model", "model": "a/b"}}));
    let error = Key::new(&KeyInputs::vllm_compile(&drafted, on_cpu)).unwrap_err();
    assert_eq!(error.names, ["draft_model"]);
}

/// Numbers that JSON writers and readers are known to bend.
#[test]
fn a_key_survives_being_written_and_read() {
    let section = json!({"extra": {"a": 0.1 + 0.2, "b": 1e-300, "c": u64::MAX, "d": 2.0, "e": -0.0, "f": "\u{7f}é"}});
    let inputs = KeyInputs::tensorrt_engine(&experiment("tensorrt", &section), around());
    let key = Key::new(&inputs).unwrap();
    let read: Value = serde_json::from_str(&serde_json::to_string(key.inputs()).unwrap()).unwrap();
    assert_eq!(super::key::key_of(&read).unwrap(), key.hex());
}

/// The name of an entry is a contract between versions of llem that share a cache.
#[test]
fn the_key_of_an_engine_is_fixed() {
    assert_eq!(
        key(&json!({"build": {"max_batch_size": 8}}), around()),
        "72e9d8be0ad579dd2af7ecfe64eb4087540b8fcee030b6ce303e96d49885ce99"
    );
}
