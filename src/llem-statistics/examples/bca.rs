//! How long a BCa interval of 10,000 values with 2,000 resamples takes: `cargo run --release -p llem-statistics --example bca`.
//!
//! The values are the same in SciPy, for a comparison of time and limits on one machine:
//!
//! ```python
//! import numpy, scipy.stats, time
//! values = 1 - 0.1 * numpy.log((numpy.arange(10_000) + 0.5) / 10_000)
//! started = time.perf_counter()
//! found = scipy.stats.bootstrap((values,), numpy.mean, n_resamples=2_000, method="BCa", rng=42)
//! print(time.perf_counter() - started, found.confidence_interval)
//! ```

#![allow(clippy::print_stdout, reason = "an example prints")]
#![allow(clippy::unwrap_used, reason = "its own values are finite")]

use std::time::Instant;

use llem_statistics::{Bootstrap, Sample};

fn main() {
    let values: Vec<f64> = (0..10_000).map(|place| 1.0 - 0.1 * ((f64::from(place) + 0.5) / 10_000.0).ln()).collect();
    let mut seconds = Vec::new();
    for _ in 0..9 {
        let started = Instant::now();
        let interval = Bootstrap::default().bca(Sample::new(&values).unwrap()).unwrap();
        seconds.push(started.elapsed().as_secs_f64());
        println!("{:.4} s, {interval:?}", seconds.last().unwrap());
    }
    seconds.sort_by(f64::total_cmp);
    println!("median {:.4} s", seconds[seconds.len() / 2]);
}
