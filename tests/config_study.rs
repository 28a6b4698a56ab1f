//! From study files to experiments.

use std::path::Path;

use llem::config::{Profile, StudyConfig, starter};

fn resolve(text: &str) -> StudyConfig {
    StudyConfig::from_text(Path::new("study.yaml"), text, &[], Profile::Standard)
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_starter_file_validates() {
    assert_eq!(resolve(starter()).experiments.len(), 2);
}

#[test]
fn the_quickstart_has_two_labelled_experiments() {
    let study = resolve(include_str!("../examples/quickstart.yaml"));
    let labels: Vec<_> = study.experiments.iter().map(|experiment| experiment.label.as_str()).collect();
    assert_eq!(labels, ["batch_size=1", "batch_size=4"]);
    assert_eq!(study.varied_keys, ["candle.batch_size"]);
    assert_eq!(study.execution.n_cycles, 2);
}

#[test]
fn bad() {
    let text = "model: synthetic\nbackend: [candl, vllm]\ndtyp: float32\nworkload:\n  n: lots\n  input_tokens: [1]\n  output_tokens: {min: 0, mx: 3}\nmeasurement:\n  min_seconds: -1\nvllm:\n  max_num_seqs: '4'\n  enforce_eager: yes\n  scheduling_policy: fifo\nexecution:\n  timeouts_s: {lod: 3, load: x}\nsweep:\n  vllm.max_num_sequences: [1]\n  pytorch.batch_size: [1]\n  vllm.block_size: [16, x]\n";
    let error = StudyConfig::from_text(Path::new("study.yaml"), text, &[], Profile::Standard).unwrap_err();
    println!("{error}");
}
