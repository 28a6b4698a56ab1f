//! A sweep of ten thousand experiments is resolved in a moment.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use llem::config::{Profile, StudyConfig};
use llem::plan::order::order;

const STUDY: &str = "
model: synthetic
backend: [vllm, pytorch]
vllm: {enable_prefix_caching: false, extra: {max_logprobs: 5}}
sweep:
  random_seed: {from: 1, to: 50, num: 50}
  workload.n: {from: 1, to: 10, num: 10}
  vllm.max_num_seqs: {from: 1, to: 10, num: 10}
  pytorch.batch_size: {from: 1, to: 512, scale: pow2}
";

/// Seconds allowed. `cargo bench --bench cost` measures the whole dry run in release; without optimisation this is only a bound on hangs.
const LIMIT_S: f64 = if cfg!(debug_assertions) { 60.0 } else { 1.0 };

#[test]
fn ten_thousand_experiments_are_resolved_in_a_moment() {
    let start = Instant::now();
    let study = StudyConfig::from_text(Path::new("study.yaml"), STUDY, &[], Profile::Standard).unwrap();
    let hash = study.design_hash();
    let runs = order(study.experiments.len(), &study.execution);
    let seconds = start.elapsed().as_secs_f64();
    println!("{} experiments in {:.0} ms, peak RSS {}", study.experiments.len(), seconds * 1e3, peak_rss());
    assert_eq!(study.experiments.len(), 10_000);
    assert_eq!(runs.len(), 30_000);
    assert_eq!(hash.len(), 64);
    let labels: HashSet<_> = study.experiments.iter().map(|experiment| &experiment.label).collect();
    assert_eq!(labels.len(), 10_000);
    assert!(seconds < LIMIT_S, "took {seconds} s");
}

fn peak_rss() -> String {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "unknown".to_owned(), |value| value.trim().to_owned())
}
