//! The order of a study's runs.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::config::{CycleOrder, ExecutionConfig};

/// One run: an experiment in a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRun {
    /// Position in the study, from 1.
    pub number: usize,
    /// Index of the experiment in the study.
    pub experiment: usize,
    /// Which repetition of the experiment, from 1.
    pub cycle: u32,
}

/// All runs of a study in their order; the same for the same arguments.
pub fn order(experiments: usize, execution: &ExecutionConfig) -> Vec<PlannedRun> {
    let cycles = 1..=execution.n_cycles;
    let pairs: Vec<(usize, u32)> = match execution.cycle_order {
        CycleOrder::Sequential => {
            (0..experiments).flat_map(|experiment| cycles.clone().map(move |cycle| (experiment, cycle))).collect()
        }
        CycleOrder::Interleaved => {
            cycles.flat_map(|cycle| (0..experiments).map(move |experiment| (experiment, cycle))).collect()
        }
        CycleOrder::Shuffled => cycles.flat_map(|cycle| shuffled(experiments, execution.shuffle_seed, cycle)).collect(),
    };
    let numbered = pairs.into_iter().enumerate();
    numbered.map(|(index, (experiment, cycle))| PlannedRun { number: index + 1, experiment, cycle }).collect()
}

/// One cycle in an order of its own. A stream of the generator for each cycle: added cycles leave earlier ones as they were.
fn shuffled(experiments: usize, seed: u64, cycle: u32) -> Vec<(usize, u32)> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(u64::from(cycle));
    let mut runs: Vec<_> = (0..experiments).map(|experiment| (experiment, cycle)).collect();
    runs.shuffle(&mut generator);
    runs
}
