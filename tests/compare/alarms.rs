//! How often the default rule fails a build in which nothing changed, and how often it finds a change: the whole way from runs to the
//! outcome, on simulated studies. `docs/statistics.md` has the table of
//! `LLEM_SIMULATED_STUDIES=4000 cargo test --release --test compare -- alarms --nocapture`.

use std::io::Write;
use std::path::Path;

use llem::analysis::compare::{CompareOptions, ComparisonOutcome, Rules, Side, compare, compare_within};
use llem::result::StudyResult;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::studies::Study;

/// Studies of a case, unless `LLEM_SIMULATED_STUDIES` says otherwise.
const STUDIES: u32 = 200;

struct Draws(ChaCha8Rng);

impl Draws {
    fn uniform(&mut self) -> f64 {
        (f64::from(self.0.next_u32()) + 0.5) / 4_294_967_296.0
    }

    /// Box and Muller's.
    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// What is true of the simulated studies.
#[derive(Clone, Copy)]
struct Truth {
    /// Standard deviation of runs, relative.
    sd: f64,
    /// Standard deviation of what all runs of one study share, relative: the day, the warmth of the room.
    of_the_day: f64,
    cycles: usize,
    experiments: usize,
    change: f64,
}

/// Two studies, one after the other.
fn two_studies(template: &StudyResult, truth: Truth, draws: &mut Draws) -> [StudyResult; 2] {
    ["a", "b"].map(|id| {
        let mut study = StudyResult { study_id: id.to_owned(), ..template.clone() };
        let day = 1.0 + truth.of_the_day * draws.normal();
        let change = if id == "b" { 1.0 + truth.change } else { 1.0 };
        for run in study.experiments.iter_mut().flat_map(|experiment| &mut experiment.runs) {
            let metrics = run.metrics.as_mut().unwrap();
            let energy_j = 2000.0 * day * change * (1.0 + truth.sd * draws.normal());
            metrics.energy.energy_j = Some(energy_j);
            metrics.energy.energy_per_output_token_j = Some(energy_j / metrics.output_tokens as f64);
        }
        study
    })
}

fn studies() -> u32 {
    std::env::var("LLEM_SIMULATED_STUDIES").ok().map_or(STUDIES, |n| n.parse().unwrap())
}

/// The most alarms, in percent, that a chance of 5 % gives: 4 standard deviations above.
fn most_alarms() -> f64 {
    5.0 + 400.0 * (0.05 * 0.95 / f64::from(studies())).sqrt()
}

/// Share of studies that fail, in percent.
fn failed(truth: Truth, rules: &Rules) -> f64 {
    let template = Study::new("t", truth.experiments, truth.cycles).0;
    let template = StudyResult::from_json(template.to_string().as_bytes()).unwrap();
    let mut draws = Draws(ChaCha8Rng::seed_from_u64(11));
    let options = CompareOptions { rules: rules.clone(), ..CompareOptions::default() };
    let fails = (0..studies()).filter(|_| {
        let [a, b] = two_studies(&template, truth, &mut draws).map(|study| Side::of_study(Path::new("s"), study));
        compare(&a, &b, &options).unwrap().outcome == ComparisonOutcome::Failed
    });
    100.0 * fails.count() as f64 / f64::from(studies())
}

/// The same of one interleaved study, whose second experiment is the candidate.
fn failed_within(truth: Truth) -> f64 {
    let template = StudyResult::from_json(Study::new("t", 2, truth.cycles).0.to_string().as_bytes()).unwrap();
    let mut draws = Draws(ChaCha8Rng::seed_from_u64(12));
    let fails = (0..studies()).filter(|_| {
        let mut study = template.clone();
        for cycle in 0..truth.cycles {
            let shared = 1.0 + truth.of_the_day * draws.normal();
            for (experiment, change) in [(0, 0.0), (1, truth.change)] {
                let metrics = study.experiments[experiment].runs[cycle].metrics.as_mut().unwrap();
                let energy_j = 2000.0 * shared * (1.0 + change) * (1.0 + truth.sd * draws.normal());
                metrics.energy.energy_per_output_token_j = Some(energy_j / metrics.output_tokens as f64);
            }
        }
        let side = Side::of_study(Path::new("s"), study);
        compare_within(&side, "candle.batch_size", &CompareOptions::default()).unwrap().outcome
            == ComparisonOutcome::Failed
    });
    100.0 * fails.count() as f64 / f64::from(studies())
}

fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[test]
fn the_default_rule_is_seldom_wrong_and_finds_three_percent() {
    line(
        "\n| sd | cycles | experiments | false alarms | 3 % found | in one study: false | found |\n|---|---|---|---|---|---|---|",
    );
    for (sd, cycles) in [(0.003, 3), (0.003, 5), (0.01, 3), (0.01, 5), (0.02, 5), (0.02, 10)] {
        for experiments in [1, 5] {
            let truth = Truth { sd, of_the_day: 0.0, cycles, experiments, change: 0.0 };
            let changed = Truth { change: 0.03, ..truth };
            let (wrong, found) = (failed(truth, &Rules::Default), failed(changed, &Rules::Default));
            let shared = Truth { of_the_day: 0.02, ..truth };
            let within =
                (experiments == 1).then(|| (failed_within(shared), failed_within(Truth { change: 0.03, ..shared })));
            let cells = within.map_or_else(|| "– | –".to_owned(), |(a, b)| format!("{a:.1} % | {b:.1} %"));
            line(&format!("| {} % | {cycles} | {experiments} | {wrong:.1} % | {found:.1} % | {cells} |", 100.0 * sd));
            assert!(wrong < most_alarms(), "{wrong}");
            if sd < 0.02 && cycles >= 5 {
                assert!(found > 85.0, "{found}");
            }
            if let Some((wrong, found)) = within {
                assert!(wrong < most_alarms() && (sd > 0.01 || cycles < 5 || found > 90.0), "{wrong} {found}");
            }
        }
    }
}

/// Why a stored baseline wants a threshold: what a day does to all runs alike, no number of cycles shows.
#[test]
fn a_day_between_two_studies_wants_a_threshold() {
    let threshold = Rules::parse(&["energy_per_output_token_j > +3%".to_owned()]).unwrap();
    line("\n| sd of the day | rule | nothing changed | +3 % | +6 % | +10 % |\n|---|---|---|---|---|---|");
    for of_the_day in [0.0, 0.005, 0.01] {
        for (name, rules) in [("> 0 %", &Rules::Default), ("> +3 %", &threshold)] {
            let truth = Truth { sd: 0.01, of_the_day, cycles: 5, experiments: 1, change: 0.0 };
            let shares = [0.0, 0.03, 0.06, 0.1].map(|change| failed(Truth { change, ..truth }, rules));
            let cells = shares.map(|share| format!("{share:.1} %")).join(" | ");
            line(&format!("| {} % | `{name}` | {cells} |", 100.0 * of_the_day));
            if name == "> +3 %" {
                assert!(shares[0] < 5.0 && shares[3] > 95.0, "{shares:?}");
            }
        }
    }
}
