//! What is compared of each run.

use std::fmt;

use super::rules::Rules;
use crate::result::{Distribution, Figure, Metrics};

/// A figure of a run that two deployments can be compared by. Totals of the window are not among them: how long a window is, and how many
/// passes it has, is no property of the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// One of every report.
    Figure(Figure),
    /// A high percentile of a latency.
    Tail(Latency, Percentile),
}

/// Which latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// Time to first token.
    Ttft,
    /// Inter-token latency.
    Itl,
    /// End-to-end latency.
    E2e,
}

/// Which percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Percentile {
    /// 90th.
    P90,
    /// 95th.
    P95,
    /// 99th.
    P99,
}

/// Which energy a figure is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EnergyKind {
    Gross,
    Net,
}

/// What every table shows.
const TABLE: [Quantity; 4] = [
    Quantity::Figure(Figure::EnergyPerOutputTokenJ),
    Quantity::Figure(Figure::OutputTokensPerS),
    Quantity::Figure(Figure::TtftP50Ms),
    Quantity::Figure(Figure::ItlP50Ms),
];

impl Quantity {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Figure(Figure::EnergyPerOutputTokenJ),
        Self::Figure(Figure::EnergyNetPerOutputTokenJ),
        Self::Figure(Figure::OutputTokensPerS),
        Self::Figure(Figure::TtftP50Ms),
        Self::Tail(Latency::Ttft, Percentile::P90),
        Self::Tail(Latency::Ttft, Percentile::P95),
        Self::Tail(Latency::Ttft, Percentile::P99),
        Self::Figure(Figure::ItlP50Ms),
        Self::Tail(Latency::Itl, Percentile::P90),
        Self::Tail(Latency::Itl, Percentile::P95),
        Self::Tail(Latency::Itl, Percentile::P99),
        Self::Figure(Figure::E2eP50Ms),
        Self::Tail(Latency::E2e, Percentile::P90),
        Self::Tail(Latency::E2e, Percentile::P95),
        Self::Tail(Latency::E2e, Percentile::P99),
        Self::Figure(Figure::MeanPowerW),
        Self::Figure(Figure::PeakMemoryBytes),
    ];

    /// The name in rules and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Figure(figure) => figure.name(),
            Self::Tail(Latency::Ttft, Percentile::P90) => "ttft_p90_ms",
            Self::Tail(Latency::Ttft, Percentile::P95) => "ttft_p95_ms",
            Self::Tail(Latency::Ttft, Percentile::P99) => "ttft_p99_ms",
            Self::Tail(Latency::Itl, Percentile::P90) => "itl_p90_ms",
            Self::Tail(Latency::Itl, Percentile::P95) => "itl_p95_ms",
            Self::Tail(Latency::Itl, Percentile::P99) => "itl_p99_ms",
            Self::Tail(Latency::E2e, Percentile::P90) => "e2e_p90_ms",
            Self::Tail(Latency::E2e, Percentile::P95) => "e2e_p95_ms",
            Self::Tail(Latency::E2e, Percentile::P99) => "e2e_p99_ms",
        }
    }

    /// The name in tables, for people.
    pub fn title(self) -> String {
        match self {
            Self::Figure(figure) => figure.title().to_owned(),
            Self::Tail(..) => self.name().trim_end_matches("_ms").replace('_', " ") + " ms",
        }
    }

    /// The unit in files.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Figure(figure) => figure.unit(),
            Self::Tail(..) => "ms",
        }
    }

    /// A value as the title's unit has it, with the digits that people read.
    pub(super) fn shown(self, value: f64) -> (f64, i32) {
        match self {
            Self::Figure(figure) => (figure.shown(value), figure.shown_digits()),
            Self::Tail(..) => (value, 4),
        }
    }

    /// By its name; `ttft_ms`, `itl_ms` and `e2e_ms` are the medians.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = match name {
            "ttft_ms" => "ttft_p50_ms",
            "itl_ms" => "itl_p50_ms",
            "e2e_ms" => "e2e_p50_ms",
            other => other,
        };
        Self::ALL.into_iter().find(|quantity| quantity.name() == name)
    }

    /// Its value in one run; nothing where the run does not have it.
    pub fn of(self, metrics: &Metrics) -> Option<f64> {
        match self {
            Self::Figure(figure) => figure.of(metrics),
            Self::Tail(latency, percentile) => {
                let distribution = match latency {
                    Latency::Ttft => metrics.ttft_ms,
                    Latency::Itl => metrics.itl_ms,
                    Latency::E2e => metrics.e2e_ms,
                };
                distribution.map(|d| percentile.of(&d))
            }
        }
    }

    /// The energy that it is made of; nothing for what no power sensor has a part in.
    pub(super) fn energy(self) -> Option<EnergyKind> {
        match self {
            Self::Figure(Figure::EnergyPerOutputTokenJ | Figure::MeanPowerW) => Some(EnergyKind::Gross),
            Self::Figure(Figure::EnergyNetPerOutputTokenJ) => Some(EnergyKind::Net),
            _ => None,
        }
    }
}

impl Percentile {
    const fn of(self, distribution: &Distribution) -> f64 {
        match self {
            Self::P90 => distribution.p90,
            Self::P95 => distribution.p95,
            Self::P99 => distribution.p99,
        }
    }
}

impl EnergyKind {
    /// Standard uncertainty of the sensors' gain in one run, relative.
    pub(super) fn gain(self, metrics: &Metrics) -> Option<f64> {
        let energy = &metrics.energy;
        let (budget, energy_j) = match self {
            Self::Gross => (energy.uncertainty, energy.energy_j),
            Self::Net => (energy.net_uncertainty, energy.energy_net_j),
        };
        let gain = budget?.gain_j / energy_j?;
        (gain.is_finite() && gain >= 0.0).then_some(gain)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is tested: the figures of every table, and those of the rules.
pub(super) fn of_table(rules: &Rules) -> Vec<Quantity> {
    let mut all = TABLE.to_vec();
    for rule in rules.given() {
        if !all.contains(&rule.quantity) {
            all.push(rule.quantity);
        }
    }
    all
}
