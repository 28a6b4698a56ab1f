//! From study files to experiments.

use std::path::Path;

use llem::config::{
    Backend, ConfigError, Experiment, ExperimentConfig, Profile, StudyConfig, UserConfig, starter, study_schema,
    user_schema,
};
use llem::plan::order::order;
use serde_json::{Value, json};

const BASE: &str = "model: synthetic\nbackend: candle\n";

fn try_with(text: &str, overrides: &[&str], profile: Profile) -> Result<StudyConfig, ConfigError> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    StudyConfig::from_text(Path::new("study.yaml"), text, &overrides, profile)
}

fn resolve(text: &str) -> StudyConfig {
    try_with(text, &[], Profile::Standard).unwrap_or_else(|error| panic!("{error}"))
}

fn only(text: &str) -> ExperimentConfig {
    let mut study = resolve(text);
    assert_eq!(study.experiments.len(), 1);
    study.experiments.remove(0).config
}

fn labels(study: &StudyConfig) -> Vec<&str> {
    study.experiments.iter().map(|experiment| experiment.label.as_str()).collect()
}

#[test]
fn the_starter_file_validates() {
    assert_eq!(labels(&resolve(starter())), ["batch_size=1", "batch_size=4"]);
}

#[test]
fn the_quickstart_has_two_labelled_experiments() {
    let study = resolve(include_str!("../examples/quickstart.yaml"));
    assert_eq!(labels(&study), ["batch_size=1", "batch_size=8"]);
    assert_eq!(study.varied_keys, ["candle.batch_size"]);
    assert_eq!(study.experiments[1].varied, [("candle.batch_size".to_owned(), json!(8))]);
    assert_eq!((study.name.as_str(), study.execution.n_cycles), ("quickstart", 2));
}

#[test]
fn the_example_of_vllm_asks_for_the_processor() {
    let study = resolve(include_str!("../examples/vllm.yaml"));
    let vllm: Vec<_> = study.experiments.iter().filter(|one| one.config.backend == Backend::Vllm).collect();
    assert_eq!((study.experiments.len(), vllm.len()), (4, 2));
    assert!(vllm.iter().all(|one| one.config.on_processor() && one.config.gpu_count() == Some(0)));
}

#[test]
fn the_grammar_example_validates_with_every_backend() {
    let study = resolve(include_str!("../examples/sweep.yaml"));
    let count = |backend| study.experiments.iter().filter(|one| one.config.backend == backend).count();
    // batch sizes 5 × lengths 3 (512 excluded) × precision 1
    assert_eq!(count(Backend::Candle), 5 * 2);
    // batch sizes 4 × kernels 2 − excluded 2, × lengths 3
    assert_eq!(count(Backend::Pytorch), 6 * 3);
    // images 2 × lengths 3 × precisions 2, and one listed experiment
    assert_eq!(count(Backend::Vllm), 2 * 3 * 2 + 1);
    assert_eq!(count(Backend::Tensorrt), 3 * 2);
    assert!(study.merged.is_empty());
}

#[test]
fn the_example_of_tensorrt_validates_on_both_paths() {
    let study = resolve(include_str!("../examples/tensorrt.yaml"));
    let compiled = |one: &&Experiment| one.config.engine_options()["engine"] == "tensorrt";
    assert_eq!((study.experiments.len(), study.experiments.iter().filter(compiled).count()), (4, 2));
}

/// Limit, way round it, and where to point the config.
#[test]
fn weights_that_tensorrt_does_not_read_are_refused_with_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let config = |quantization: Value| {
        json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "quantization_config": quantization})
    };
    let file = directory.path().join("study.yaml");
    fs_err::create_dir(directory.path().join("model")).unwrap();
    fs_err::write(&file, "model: ./model\nbackend: tensorrt\n").unwrap();
    let read = |quantization: Value| {
        fs_err::write(directory.path().join("model/config.json"), config(quantization).to_string()).unwrap();
        StudyConfig::from_file(&file, &[], Profile::Standard)
    };
    for method in ["bitsandbytes", "awq", "gptq"] {
        let problems = read(json!({"quant_method": method})).unwrap_err().problems;
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert_eq!((problem.path.as_str(), problem.location.as_ref().unwrap().line), ("model", 1));
        assert!(problem.message.contains(&format!("is quantised by `{method}`")), "{problem}");
        let hint = problem.hint.as_deref().unwrap();
        assert!(hint.contains("NVIDIA ModelOpt") && hint.contains("`model: ./quantised`"), "{hint}");
    }
    assert!(read(json!({"quant_method": "fp8"})).is_ok());
}

#[test]
fn profiles_lie_under_the_file_and_overrides_over_it() {
    let file = format!("{BASE}measurement: {{min_seconds: 20}}\n");
    let quick = try_with(&file, &["measurement.warmup_passes=7"], Profile::Quick).unwrap();
    let measurement = &quick.experiments[0].config.measurement;
    assert!((measurement.min_seconds - 20.0).abs() < f64::EPSILON, "the file wins over the profile");
    assert_eq!(measurement.warmup_passes, 7, "--set wins over both");
    assert!(measurement.baseline_seconds.abs() < f64::EPSILON, "the profile fills the rest");
    let cycles = |profile| try_with(BASE, &[], profile).unwrap().execution.n_cycles;
    assert_eq!((cycles(Profile::Quick), cycles(Profile::Standard), cycles(Profile::Publication)), (1, 3, 5));
}

#[test]
fn overrides_replace_an_axis_however_it_is_spelt() {
    for file in ["sweep:\n  candle.batch_size: [1, 2]\n", "sweep: {candle: {batch_size: [1, 2]}}\n", ""] {
        let study = try_with(&format!("{BASE}{file}"), &["sweep.candle.batch_size=[4, 8]"], Profile::Standard).unwrap();
        assert_eq!(labels(&study), ["batch_size=4", "batch_size=8"], "{file}");
    }
}

#[test]
fn a_time_out_is_changed_without_losing_the_others() {
    let study = resolve(&format!("{BASE}execution: {{timeouts_s: {{load: 5}}}}\n"));
    let timeout = |phase| study.execution.timeouts_s.get(&phase).copied();
    assert_eq!(timeout(llem_protocol::Phase::Load), Some(5.0));
    assert_eq!(timeout(llem_protocol::Phase::Start), Some(60.0));
}

#[test]
fn equal_experiments_have_equal_ids_however_they_are_written() {
    let id = |text: &str| only(text).id();
    let short = id(BASE);
    assert_eq!(short.len(), 12);
    assert_eq!(short, id("backend: [candle]\nmodel: {synthetic: {seed: 42}}\nrandom_seed: 42.0\ndtype: auto\n"));
    assert_eq!(short, id(&format!("{BASE}candle: {{}}\n")));
    assert_ne!(short, id(&format!("{BASE}random_seed: 43\n")));
}

#[test]
fn neighbouring_large_seeds_are_different_experiments() {
    // As doubles, both are 2^63.
    let id = |seed: u64| only(&format!("{BASE}random_seed: {seed}\n")).id();
    assert_ne!(id((1 << 63) + 1), id(1 << 63));
}

#[test]
fn the_design_is_the_same_in_another_order_and_execution() {
    let a = resolve(&format!("{BASE}sweep: {{candle.batch_size: [1, 2]}}\n"));
    let b = resolve(&format!("{BASE}name: other\nsweep: {{candle.batch_size: [2, 1]}}\nexecution: {{n_cycles: 9}}\n"));
    assert_eq!(a.design_hash(), b.design_hash());
    assert_ne!(a.experiments[0].id, b.experiments[0].id);
    assert_ne!(a.design_hash(), resolve(BASE).design_hash());
}

#[test]
fn merge_keys_fill_what_is_not_written() {
    let text = "model: synthetic\nbackend: candle\nworkload: {<<: {n: 3, output_tokens: 5}, n: 4}\n";
    let workload = only(text).workload;
    assert_eq!(workload.n, Some(4));
    assert_eq!(workload.output_tokens.longest(), 5);
}

#[test]
fn sections_are_taken_apart_for_the_engine() {
    let config = only(
        "model: a/b@main\nbackend: vllm\nvllm: {image: 'x/y:z', max_num_seqs: 4, extra: {seed: 1.0, a: [null]}}\n",
    );
    assert_eq!(config.image(), Some("x/y:z"));
    assert_eq!(serde_json::Value::Object(config.engine_options()), json!({"max_num_seqs": 4}));
    assert_eq!(serde_json::Value::Object(config.extra()), json!({"seed": 1.0, "a": [null]}));
    let hub = llem::config::ModelSource::Hub { id: "a/b".into(), revision: Some("main".into()) };
    assert_eq!(config.model_source(), hub);
}

#[test]
fn an_experiment_without_a_file_is_checked_too() {
    let study = resolve(BASE);
    let mut config = study.experiments[0].config.clone();
    let single = StudyConfig::single("mine", config.clone(), study.execution.clone()).unwrap();
    assert_eq!(single.experiments[0].id, study.experiments[0].id);
    config.sampling.top_p = Some(0.0);
    config.measurement.sample_hz = -1.0;
    let error = StudyConfig::single("not/a/name", config, study.execution).unwrap_err();
    let paths: Vec<_> = error.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["name", "measurement.sample_hz", "sampling.top_p"]);
}

#[test]
fn schemas_describe_every_field() {
    for (schema, field) in [(study_schema(), "workload"), (user_schema(), "mounts")] {
        let properties = schema["properties"].as_object().unwrap();
        assert!(properties.contains_key(field));
        for (name, property) in properties {
            assert!(property["description"].is_string(), "`{name}` has no description");
        }
    }
}

#[test]
fn user_files_are_read() {
    let text =
        "runner: process\nrunners: {vllm: docker}\nimages: {vllm: 'a/b:c'}\nmounts: [{source: /data, target: /d}]\n";
    let user = UserConfig::from_text(Path::new("config.yaml"), text).unwrap();
    assert_eq!(user.images[&Backend::Vllm], "a/b:c");
    assert!(user.mounts[0].read_only, "mounts are read-only unless the file says otherwise");
    assert_eq!(UserConfig::from_text(Path::new("config.yaml"), "").unwrap(), UserConfig::default());
}

#[test]
fn runs_are_ordered_as_asked() {
    let runs = |how: &str| {
        let study = resolve(&format!("{BASE}execution: {{n_cycles: 2, cycle_order: {how}}}\n"));
        let runs = order(3, &study.execution);
        assert!(runs.iter().enumerate().all(|(index, run)| run.number == index + 1));
        runs.into_iter().map(|run| (run.experiment, run.cycle)).collect::<Vec<_>>()
    };
    assert_eq!(runs("sequential"), [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]);
    assert_eq!(runs("interleaved"), [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)]);
    let shuffled = runs("shuffled");
    assert_eq!(shuffled, runs("shuffled"));
    assert!(shuffled[..3].iter().all(|(_, cycle)| *cycle == 1), "a cycle ends before the next begins");
    let mut sorted = shuffled.clone();
    sorted.sort_by_key(|(experiment, cycle)| (*cycle, *experiment));
    assert_eq!(sorted, runs("interleaved"), "every run once");
}

#[test]
fn added_cycles_leave_earlier_ones_in_their_shuffled_order() {
    let runs = |cycles: u32| {
        let file = format!("{BASE}execution: {{n_cycles: {cycles}, cycle_order: shuffled, shuffle_seed: 7}}\n");
        order(10, &resolve(&file).execution)
    };
    assert_eq!(runs(2), runs(5)[..20]);
    assert_ne!(
        runs(2)[..10].iter().map(|run| run.experiment).collect::<Vec<_>>(),
        runs(2)[10..].iter().map(|run| run.experiment).collect::<Vec<_>>(),
        "every cycle has an order of its own"
    );
}

/// Computed with Python's `json.dumps(sort_keys=True, separators=(",", ":"))` and `hashlib` from a hand-written record.
#[test]
fn the_id_is_the_hash_of_the_canonical_record() {
    assert_eq!(only(BASE).id(), "37db2527d1fa");
}

#[test]
fn a_data_set_is_looked_for_beside_the_study_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sub/study.yaml");
    fs_err::create_dir(directory.path().join("sub")).unwrap();
    fs_err::write(&file, format!("{BASE}workload: {{dataset: prompts.jsonl}}\n")).unwrap();
    let error = StudyConfig::from_file(&file, &[], Profile::Standard).unwrap_err();
    assert_eq!(error.problems[0].path, "workload.dataset");
    fs_err::write(directory.path().join("sub/prompts.jsonl"), "{\"prompt\": \"a\"}\n").unwrap();
    let study = StudyConfig::from_file(&file, &[], Profile::Standard).unwrap();
    assert_eq!(study.experiments[0].config.workload.dataset, "prompts.jsonl");
}
