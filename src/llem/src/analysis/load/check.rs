//! What of a study's records contradicts itself.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use crate::printable::shortened;
use crate::result::{
    Distribution, DomainEnergy, EnergyFigures, Figure, Metrics, RunResult, RunRow, StudyResult, co2_g,
};

/// How far two numbers that say the same may be apart, relative.
const SAME: f64 = 1e-6;

/// Longest name that is shown, in characters.
const NAME_CHARS: usize = 80;

/// What contradicts itself in a run's own record.
pub(super) fn run(run: &RunResult) -> Result<(), String> {
    if run.valid && !RunResult::judge(run.status, &run.reasons) {
        return Err("calls a run valid that failed, or that has a reason against it".to_owned());
    }
    if run.valid && run.metrics.is_none() {
        return Err("calls a run valid that has no figures".to_owned());
    }
    run.metrics.as_ref().and_then(contradiction).map_or(Ok(()), Err)
}

/// The first contradiction in a study.
pub(super) fn study(study: &StudyResult) -> Result<(), String> {
    let mut experiments = BTreeSet::new();
    let mut runs = BTreeSet::new();
    for experiment in &study.experiments {
        if !experiments.insert(&experiment.experiment_id) {
            return Err(format!(
                "the experiment `{}` is there twice",
                shortened(&experiment.experiment_id, NAME_CHARS)
            ));
        }
        let mut cycles = BTreeSet::new();
        for row in &experiment.runs {
            self::row(row).map_err(|problem| format!("the run `{}` {problem}", shortened(&row.run_id, NAME_CHARS)))?;
            if !runs.insert(&row.run_id) {
                return Err(format!("the run `{}` is there twice", shortened(&row.run_id, NAME_CHARS)));
            }
            // One observation must not count as two.
            if row.valid && !cycles.insert(row.cycle) {
                let id = shortened(&experiment.experiment_id, NAME_CHARS);
                return Err(format!("the experiment `{id}` has two valid runs of cycle {}", row.cycle));
            }
        }
    }
    Ok(())
}

fn row(row: &RunRow) -> Result<(), String> {
    let mut parts = Path::new(&row.run_id).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) || row.run_id.contains(['/', '\0']) {
        return Err("has a name that is no name of a directory".to_owned());
    }
    if row.valid && !RunResult::judge(row.status, &row.reasons) {
        return Err("is called valid, though it failed or has a reason against it".to_owned());
    }
    if row.valid && row.metrics.is_none() {
        return Err("is called valid, though it has no figures".to_owned());
    }
    row.metrics.as_ref().and_then(contradiction).map_or(Ok(()), Err)
}

/// What of a run's figures cannot be true.
fn contradiction(metrics: &Metrics) -> Option<String> {
    let impossible = |figure: &Figure| {
        let value = figure.of(metrics)?;
        (!value.is_finite() || (value < 0.0 && !figure.may_be_negative()))
            .then(|| format!("has {} as {figure}", said(value)))
    };
    if metrics.window_s.is_nan() || metrics.window_s <= 0.0 {
        return Some(format!("has a window of {} s", said(metrics.window_s)));
    }
    let tokens = metrics.output_tokens as f64;
    let per_token = |energy: Option<f64>| energy.filter(|_| tokens > 0.0).map(|energy| energy / tokens);
    let energy = &metrics.energy;
    let said_twice = [
        (Figure::OutputTokensPerS, Some(tokens / metrics.window_s)),
        (Figure::EnergyPerOutputTokenJ, per_token(energy.energy_j)),
        (Figure::EnergyNetPerOutputTokenJ, per_token(energy.energy_net_j)),
        (Figure::MeanPowerW, energy.energy_j.map(|energy_j| energy_j / metrics.window_s)),
        (Figure::Co2G, energy.energy_j.zip(energy.carbon.as_ref()).map(|(energy_j, carbon)| co2_g(energy_j, carbon))),
    ];
    let differs = |(figure, computed): &(Figure, Option<f64>)| {
        let (written, computed) = (figure.of(metrics)?, (*computed)?);
        let apart = (written - computed).abs() > SAME * written.abs().max(computed.abs());
        apart.then(|| format!("says {} as {figure}, and {} by what that is made of", said(written), said(computed)))
    };
    let figures = Figure::ALL.iter().find_map(impossible).or_else(|| said_twice.iter().find_map(differs));
    let latencies = [("ttft_ms", metrics.ttft_ms), ("itl_ms", metrics.itl_ms), ("e2e_ms", metrics.e2e_ms)];
    let disordered = || {
        let odd = latencies.into_iter().find(|(_, found)| found.is_some_and(|found| !is_ordered(&found)));
        odd.map(|(name, _)| format!("has percentiles of {name} that are not in order, or a mean beyond them"))
    };
    figures.or_else(disordered).or_else(|| energy_contradiction(energy, metrics.window_s))
}

/// What of the energies contradicts the sensors that they are sums of, what was taken off, or what their uncertainties are made of.
fn energy_contradiction(energy: &EnergyFigures, window_s: f64) -> Option<String> {
    let counted: Vec<&DomainEnergy> = energy.domains.iter().filter(|domain| domain.counted).collect();
    let sum = |figure: fn(&DomainEnergy) -> Option<f64>| {
        counted.iter().map(|domain| figure(domain)).sum::<Option<f64>>().filter(|_| !counted.is_empty())
    };
    let net_j = energy.energy_j.zip(energy.baseline_power_w).map(|(energy_j, idle_w)| energy_j - idle_w * window_s);
    let scale = energy.energy_j.unwrap_or_default().abs();
    let pairs = [
        ("energy_j", energy.energy_j, sum(|domain| domain.energy_j), "by its sensors"),
        ("energy_raw_j", energy.energy_raw_j, sum(|domain| domain.energy_raw_j), "by its sensors"),
        ("energy_net_j", energy.energy_net_j, net_j, "by what idling takes"),
    ];
    let differs = |(name, written, computed, by): (&str, Option<f64>, Option<f64>, &str)| {
        let (written, computed) = (written?, computed?);
        let apart = (written - computed).abs() > SAME * written.abs().max(computed.abs()).max(scale);
        apart.then(|| format!("says {} as {name}, and {} {by}", said(written), said(computed)))
    };
    let domains = energy.domains.iter().filter_map(|domain| domain.uncertainty.as_ref());
    let mut budgets = [&energy.uncertainty, &energy.net_uncertainty].into_iter().flatten().chain(domains);
    let odd = budgets.any(|budget| !budget.adds_up(SAME));
    let odd = || odd.then(|| "has an uncertainty that is not what its components make together".to_owned());
    pairs.into_iter().find_map(differs).or_else(odd)
}

/// Whether the percentiles ascend, are no times below 0, and hold the mean.
fn is_ordered(found: &Distribution) -> bool {
    let Distribution { n, mean, min, p50, p90, p95, p99, max } = *found;
    let ascending = [0.0, min, p50, p90, p95, p99, max];
    let slack = SAME * max;
    n > 0
        && ascending.iter().zip(&ascending[1..]).all(|(a, b)| *a <= b + slack)
        && (min - slack..=max + slack).contains(&mean)
}

/// A number of a file's making, as short as it can be.
fn said(value: f64) -> String {
    if value != 0.0 && !(1e-6..1e15).contains(&value.abs()) { format!("{value:e}") } else { value.to_string() }
}
