//! Simulated studies with known truth: how often each interval holds it, and how often a comparison raises an alarm. The tables in
//! `docs/statistics.md` are its output: `cargo run --release -p llem-statistics --example coverage`.

#![allow(clippy::print_stdout, reason = "an example prints")]
#![allow(clippy::unwrap_used, reason = "its own samples are finite")]

use llem_statistics::{Bootstrap, DEFAULT_LEVEL, Interval, Sample, holm, mean_interval, paired, t_interval, unpaired};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{ContinuousCDF, Normal};

const STUDIES: u32 = 10_000;

struct Draws(ChaCha8Rng);

impl Draws {
    fn uniform(&mut self) -> f64 {
        (f64::from(self.0.next_u32()) + 0.5) / 4_294_967_296.0
    }

    fn normal(&mut self) -> f64 {
        Normal::standard().inverse_cdf(self.uniform())
    }
}

/// Scatter of one figure over cycles, with its true mean.
#[derive(Clone, Copy)]
enum Scatter {
    Normal,
    /// Lognormal with σ = 0.5 (skewness 1.75): waiting times.
    Skewed,
    /// Normal, and one in twenty 8 standard deviations up: a disturbed run.
    Outliers,
}

impl Scatter {
    const ALL: [(&'static str, Self); 3] =
        [("normal", Self::Normal), ("skewed", Self::Skewed), ("outliers", Self::Outliers)];

    fn draw(self, draws: &mut Draws) -> f64 {
        match self {
            Self::Normal => draws.normal(),
            Self::Skewed => (0.5 * draws.normal()).exp(),
            Self::Outliers => draws.normal() + if draws.uniform() < 0.05 { 8.0 } else { 0.0 },
        }
    }

    fn mean(self) -> f64 {
        match self {
            Self::Normal => 0.0,
            Self::Skewed => (0.5f64 * 0.5 / 2.0).exp(),
            Self::Outliers => 0.4,
        }
    }
}

/// How often an interval held the truth, and how wide it was.
#[derive(Default)]
struct Tally {
    n: u32,
    held: u32,
    width: f64,
}

impl Tally {
    fn add(&mut self, interval: Option<Interval>, truth: f64) {
        let Some(interval) = interval else { return };
        self.n += 1;
        self.held += u32::from(interval.low <= truth && truth <= interval.high);
        self.width += interval.high - interval.low;
    }

    fn cell(&self) -> String {
        if self.n == 0 {
            return "–".to_owned();
        }
        let n = f64::from(self.n);
        format!("{:.1} % ({:.2})", 100.0 * f64::from(self.held) / n, self.width / n)
    }
}

fn intervals() {
    println!("Share of {STUDIES} studies whose 95 % interval held the true mean, and its mean width:\n");
    println!("| scatter | n | t | percentile | BCa | default |\n|---|---|---|---|---|---|");
    for (name, scatter) in Scatter::ALL {
        for n in [3usize, 5, 10, 20, 30, 100] {
            let mut draws = Draws(ChaCha8Rng::seed_from_u64(n as u64));
            let mut tallies: [Tally; 4] = Default::default();
            for seed in 0..STUDIES {
                let values: Vec<f64> = (0..n).map(|_| scatter.draw(&mut draws)).collect();
                let sample = Sample::new(&values).unwrap();
                let bootstrap = Bootstrap { seed: u64::from(seed), ..Bootstrap::default() };
                let made = [
                    t_interval(sample, DEFAULT_LEVEL),
                    bootstrap.percentile(sample),
                    bootstrap.bca(sample),
                    mean_interval(sample, &bootstrap),
                ];
                for (tally, interval) in tallies.iter_mut().zip(made) {
                    tally.add(interval, scatter.mean());
                }
            }
            let cells: Vec<String> = tallies.iter().map(Tally::cell).collect();
            println!("| {name} | {n} | {} |", cells.join(" | "));
        }
    }
}

/// One comparison per experiment of a study: p-values for "the second takes more".
fn alarms(draws: &mut Draws, sd: f64, n: usize, change: f64, by_pair: bool, experiments: usize) -> Vec<f64> {
    let one = |draws: &mut Draws| {
        let pair: Vec<f64> = (0..n).map(|_| sd * draws.normal()).collect();
        let mut run = |own: f64, i: usize| 100.0 * own * (1.0 + pair[i] + sd * draws.normal());
        let first: Vec<f64> = (0..n).map(|i| run(1.0, i)).collect();
        let second: Vec<f64> = (0..n).map(|i| run(1.0 + change, i)).collect();
        let (first, second) = (Sample::new(&first).unwrap(), Sample::new(&second).unwrap());
        let found = if by_pair { paired(first, second, DEFAULT_LEVEL) } else { unpaired(first, second, DEFAULT_LEVEL) };
        found.unwrap().p_above(0.0).unwrap()
    };
    holm(&(0..experiments).map(|_| one(draws)).collect::<Vec<_>>())
}

fn comparisons() {
    println!(
        "\nShare of {STUDIES} comparisons with an alarm (p < 0.05 after Holm) that nothing changed, and that 3 % were added to all:\n"
    );
    println!(
        "| sd of runs, and again of what pairs share | cycles | experiments | false, paired | false, apart | found, paired | found, apart |"
    );
    println!("|---|---|---|---|---|---|---|");
    for sd in [0.003, 0.01, 0.02] {
        for n in [3, 5, 10] {
            for experiments in [1, 10] {
                let share = |change: f64, by_pair: bool| {
                    let mut draws = Draws(ChaCha8Rng::seed_from_u64(7));
                    let studies = STUDIES / experiments as u32;
                    let is_alarm = |p: &f64| *p < 0.05;
                    let count = (0..studies).filter(|_| {
                        let found = alarms(&mut draws, sd, n, change, by_pair, experiments);
                        found.iter().any(is_alarm)
                    });
                    format!("{:.1} %", 100.0 * count.count() as f64 / f64::from(studies))
                };
                let cells =
                    [(0.0, true), (0.0, false), (0.03, true), (0.03, false)].map(|(change, by)| share(change, by));
                println!("| {} % | {n} | {experiments} | {} |", 100.0 * sd, cells.join(" | "));
            }
        }
    }
}

fn main() {
    intervals();
    comparisons();
}
