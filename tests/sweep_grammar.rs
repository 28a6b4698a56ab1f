//! The sweep grammar by example: what each form becomes, in which order, under which label.

use std::path::Path;

use llem::config::{Backend, Profile, StudyConfig};

fn resolve(text: &str) -> StudyConfig {
    StudyConfig::from_text(Path::new("study.yaml"), text, &[], Profile::Standard)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn labels(text: &str) -> Vec<String> {
    resolve(text).experiments.into_iter().map(|experiment| experiment.label).collect()
}

/// The values of `workload.n` that a range makes.
fn range(range: &str) -> Vec<u64> {
    let study = resolve(&format!("model: synthetic\nbackend: candle\nsweep:\n  workload.n: {range}\n"));
    study.experiments.iter().filter_map(|experiment| experiment.config.workload.n).collect()
}

#[test]
fn ranges_make_their_values() {
    assert_eq!(range("{from: 1, to: 9, num: 5}"), [1, 3, 5, 7, 9]);
    assert_eq!(range("{from: 9, to: 1, num: 3}"), [9, 5, 1]);
    assert_eq!(range("{from: 2, to: 11, step: 3}"), [2, 5, 8, 11]);
    assert_eq!(range("{from: 2, to: 10, step: 3}"), [2, 5, 8]);
    assert_eq!(range("{from: 1, to: 1000, num: 4, scale: log}"), [1, 10, 100, 1000]);
    assert_eq!(range("{from: 1, to: 64, scale: pow2}"), [1, 2, 4, 8, 16, 32, 64]);
    assert_eq!(range("{from: 3, to: 100, scale: pow2}"), [4, 8, 16, 32, 64]);
    assert_eq!(range("{from: 1, to: 256, num: 5, scale: pow2}"), [1, 4, 16, 64, 256]);
    assert_eq!(range("{from: 1, to: 3, num: 9}"), [1, 2, 3], "whole numbers are not repeated");
    assert_eq!(range("{from: 7, to: 9, num: 1}"), [7]);
}

#[test]
fn decimal_steps_have_no_rounding_noise() {
    let text =
        "model: synthetic\nbackend: vllm\nsweep: {vllm.gpu_memory_utilization: {from: 0.1, to: 0.5, step: 0.1}}\n";
    let expected = ["0.1", "0.2", "0.3", "0.4", "0.5"].map(|value| format!("gpu_memory_utilization={value}"));
    assert_eq!(labels(text), expected);
}

#[test]
fn axes_vary_in_the_order_of_the_file_whatever_their_names() {
    let text = "model: synthetic\nbackend: candle\nsweep:\n  workload.n: [1, 2]\n  candle.batch_size: [4, 8]\n";
    assert_eq!(labels(text), ["n=1 batch_size=4", "n=1 batch_size=8", "n=2 batch_size=4", "n=2 batch_size=8"]);
}

#[test]
fn each_backend_has_its_own_axes_and_the_common_ones() {
    let text = "model: synthetic
backend: [pytorch, vllm]
sweep:
  workload.n: [1, 2]
  pytorch.batch_size: [4, 8]
";
    let expected = [
        "backend=pytorch n=1 batch_size=4",
        "backend=pytorch n=1 batch_size=8",
        "backend=pytorch n=2 batch_size=4",
        "backend=pytorch n=2 batch_size=8",
        "backend=vllm n=1",
        "backend=vllm n=2",
    ];
    assert_eq!(labels(text), expected);
}

#[test]
fn sections_of_other_backends_do_not_make_experiments_differ() {
    let alone = resolve("model: synthetic\nbackend: vllm\nvllm: {max_num_seqs: 4}\n");
    let both =
        resolve("model: synthetic\nbackend: [vllm, pytorch]\nvllm: {max_num_seqs: 4}\npytorch: {batch_size: 2}\n");
    assert_eq!(alone.experiments[0].id, both.experiments[0].id);
    assert!(both.experiments[0].config.pytorch.is_none());
}

#[test]
fn zipped_axes_advance_together() {
    let text = "model: synthetic
backend: candle
sweep:
  zip:
    - {workload.input_tokens: [8, 16, {min: 1, max: 4}], workload.output_tokens: [4, 2, 1]}
";
    let expected =
        ["input_tokens=8 output_tokens=4", "input_tokens=16 output_tokens=2", "input_tokens=1..4 output_tokens=1"];
    assert_eq!(labels(text), expected);
}

#[test]
fn a_position_with_keys_of_a_backend_is_for_that_backend() {
    let text = "model: synthetic
backend: [pytorch, vllm]
sweep:
  groups:
    kernels:
      - {dtype: float32}
      - {dtype: bfloat16, vllm: {attention_backend: FLASH_ATTN}}
      - {dtype: bfloat16, pytorch.attn.implementation: flash_attention_2}
";
    let expected = [
        "backend=pytorch dtype=float32",
        "backend=pytorch dtype=bfloat16 implementation=flash_attention_2",
        "backend=vllm dtype=float32",
        "backend=vllm dtype=bfloat16 attention_backend=FLASH_ATTN",
    ];
    assert_eq!(labels(text), expected);
}

#[test]
fn keys_with_the_same_end_keep_as_much_as_tells_them_apart() {
    let text = "model: synthetic
backend: [pytorch, candle]
sweep:
  pytorch.batch_size: [1, 2]
  candle.batch_size: [1, 2]
";
    assert_eq!(labels(text)[0], "backend=pytorch pytorch.batch_size=1");
}

#[test]
fn a_geometry_is_an_axis_and_so_is_a_part_of_it() {
    let text = "model: synthetic\nbackend: candle\nsweep: {model.synthetic.layers: [2, 4]}\n";
    assert_eq!(labels(text), ["layers=2", "layers=4"]);
    let study = resolve(
        "model: {synthetic: {layers: 4}}\nbackend: candle\nsweep: {model: [synthetic, {synthetic: {layers: 4}}]}\n",
    );
    assert_eq!(study.experiments.len(), 1, "the built-in model has 4 layers");
    assert_eq!(study.merged.len(), 1);
}

#[test]
fn an_excluded_value_may_be_a_default_or_one_of_a_list() {
    let text = "model: synthetic
backend: [candle, vllm]
sweep: {workload.n: [1, 2, 3]}
exclude:
  - {backend: vllm, dtype: auto, workload.n: [1, 3]}
";
    assert_eq!(labels(text), ["backend=candle n=1", "backend=candle n=2", "backend=candle n=3", "backend=vllm n=2"]);
}

#[test]
fn an_excluded_point_may_be_one_that_could_not_run() {
    let text = "model: synthetic
backend: vllm
sweep: {vllm.max_model_len: [64, 128]}
exclude:
  - {vllm.max_model_len: 64}
";
    assert_eq!(labels(text), ["vllm"], "one experiment is left, and nothing varies");
}

#[test]
fn listed_experiments_run_for_the_backends_that_their_keys_are_for() {
    let text = "model: synthetic
backend: [pytorch, vllm]
experiments:
  - {workload.n: 1}
  - {vllm.enforce_eager: true}
  - {backend: candle}
";
    let study = resolve(text);
    let backends: Vec<_> = study.experiments.iter().map(|experiment| experiment.config.backend).collect();
    assert_eq!(backends, [Backend::Pytorch, Backend::Vllm, Backend::Vllm, Backend::Candle]);
}
