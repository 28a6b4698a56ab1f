//! The figures of a run that statements are made of: names, units, meanings, and which way is better.

use std::fmt;
use std::str::FromStr;

use llem_statistics::Direction;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Metrics;

/// One number of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// [`super::EnergyFigures::energy_per_output_token_j`].
    EnergyPerOutputTokenJ,
    /// [`super::EnergyFigures::energy_net_per_output_token_j`].
    EnergyNetPerOutputTokenJ,
    /// [`super::EnergyFigures::energy_j`].
    EnergyJ,
    /// [`super::EnergyFigures::energy_net_j`].
    EnergyNetJ,
    /// [`Metrics::output_tokens_per_s`].
    OutputTokensPerS,
    /// Median of [`Metrics::ttft_ms`].
    TtftP50Ms,
    /// Median of [`Metrics::itl_ms`].
    ItlP50Ms,
    /// Median of [`Metrics::e2e_ms`].
    E2eP50Ms,
    /// [`super::EnergyFigures::mean_power_w`].
    MeanPowerW,
    /// [`super::EnergyFigures::peak_power_w`].
    PeakPowerW,
    /// [`Metrics::peak_memory_bytes`].
    PeakMemoryBytes,
    /// [`super::EnergyFigures::co2_g`].
    Co2G,
}

impl Figure {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 12] = [
        Self::EnergyPerOutputTokenJ,
        Self::OutputTokensPerS,
        Self::TtftP50Ms,
        Self::ItlP50Ms,
        Self::E2eP50Ms,
        Self::EnergyJ,
        Self::EnergyNetPerOutputTokenJ,
        Self::EnergyNetJ,
        Self::MeanPowerW,
        Self::PeakPowerW,
        Self::PeakMemoryBytes,
        Self::Co2G,
    ];

    /// The name in files and options; its unit is in it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EnergyPerOutputTokenJ => "energy_per_output_token_j",
            Self::EnergyNetPerOutputTokenJ => "energy_net_per_output_token_j",
            Self::EnergyJ => "energy_j",
            Self::EnergyNetJ => "energy_net_j",
            Self::OutputTokensPerS => "output_tokens_per_s",
            Self::TtftP50Ms => "ttft_p50_ms",
            Self::ItlP50Ms => "itl_p50_ms",
            Self::E2eP50Ms => "e2e_p50_ms",
            Self::MeanPowerW => "mean_power_w",
            Self::PeakPowerW => "peak_power_w",
            Self::PeakMemoryBytes => "peak_memory_bytes",
            Self::Co2G => "co2_g",
        }
    }

    /// Whether sensors of power or energy tell it.
    pub const fn is_of_sensors(self) -> bool {
        !matches!(
            self,
            Self::OutputTokensPerS | Self::TtftP50Ms | Self::ItlP50Ms | Self::E2eP50Ms | Self::PeakMemoryBytes
        )
    }

    /// Head of a column, for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::EnergyPerOutputTokenJ => "J/token",
            Self::EnergyNetPerOutputTokenJ => "net J/token",
            Self::EnergyJ => "energy J",
            Self::EnergyNetJ => "net energy J",
            Self::OutputTokensPerS => "tokens/s",
            Self::TtftP50Ms => "TTFT ms",
            Self::ItlP50Ms => "ITL ms",
            Self::E2eP50Ms => "E2E ms",
            Self::MeanPowerW => "mean W",
            Self::PeakPowerW => "peak W",
            Self::PeakMemoryBytes => "peak memory GiB",
            Self::Co2G => "CO2 g",
        }
    }

    /// The unit in files.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::EnergyPerOutputTokenJ | Self::EnergyNetPerOutputTokenJ => "J/token",
            Self::EnergyJ | Self::EnergyNetJ => "J",
            Self::OutputTokensPerS => "tokens/s",
            Self::TtftP50Ms | Self::ItlP50Ms | Self::E2eP50Ms => "ms",
            Self::MeanPowerW | Self::PeakPowerW => "W",
            Self::PeakMemoryBytes => "B",
            Self::Co2G => "g",
        }
    }

    /// The unit that people read it in: [`Self::unit`] but for bytes.
    pub const fn shown_unit(self) -> &'static str {
        match self {
            Self::PeakMemoryBytes => "GiB",
            _ => self.unit(),
        }
    }

    /// A value in [`Self::shown_unit`].
    pub fn shown(self, value: f64) -> f64 {
        match self {
            Self::PeakMemoryBytes => value / f64::from(1u32 << 30),
            _ => value,
        }
    }

    /// How many significant digits people read of it.
    pub const fn shown_digits(self) -> i32 {
        match self {
            Self::PeakMemoryBytes => 3,
            _ => 4,
        }
    }

    /// What it is of one run.
    pub const fn description(self) -> &'static str {
        match self {
            Self::EnergyPerOutputTokenJ => "energy of the window per generated token, gross",
            Self::EnergyNetPerOutputTokenJ => "energy of the window per generated token, less that of idling",
            Self::EnergyJ => "energy of the window, gross: with what the devices take when idle",
            Self::EnergyNetJ => "energy of the window less that of idling",
            Self::OutputTokensPerS => "generated tokens, without padding, per second of window",
            Self::TtftP50Ms => "median time to first token over the requests of the window",
            Self::ItlP50Ms => "median inter-token latency over the tokens of the window",
            Self::E2eP50Ms => "median end-to-end latency over the requests of the window",
            Self::MeanPowerW => "mean power of the window",
            Self::PeakPowerW => "highest sampled power of the window, summed over the sensors: an upper bound",
            Self::PeakMemoryBytes => "peak memory of the engine on its devices",
            Self::Co2G => "CO2 equivalent of energy_j by the configured intensity",
        }
    }

    /// Whether less or more of it is better.
    pub const fn direction(self) -> Direction {
        match self {
            Self::OutputTokensPerS => Direction::Maximise,
            _ => Direction::Minimise,
        }
    }

    /// Whether it can be below 0: what is left of an energy after idling is taken off can.
    pub const fn may_be_negative(self) -> bool {
        matches!(self, Self::EnergyNetJ | Self::EnergyNetPerOutputTokenJ)
    }

    /// Its value in one run; nothing where the run does not have it.
    pub fn of(self, metrics: &Metrics) -> Option<f64> {
        let energy = &metrics.energy;
        match self {
            Self::EnergyPerOutputTokenJ => energy.energy_per_output_token_j,
            Self::EnergyNetPerOutputTokenJ => energy.energy_net_per_output_token_j,
            Self::EnergyJ => energy.energy_j,
            Self::EnergyNetJ => energy.energy_net_j,
            Self::OutputTokensPerS => Some(metrics.output_tokens_per_s),
            Self::TtftP50Ms => metrics.ttft_ms.map(|d| d.p50),
            Self::ItlP50Ms => metrics.itl_ms.map(|d| d.p50),
            Self::E2eP50Ms => metrics.e2e_ms.map(|d| d.p50),
            Self::MeanPowerW => energy.mean_power_w,
            Self::PeakPowerW => energy.peak_power_w,
            Self::PeakMemoryBytes => metrics.peak_memory_bytes.map(|bytes| bytes as f64),
            Self::Co2G => energy.co2_g,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Figure {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|figure| figure.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|figure| figure.name()).collect();
            format!("no such figure; there are {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Figure;

    #[test]
    fn people_read_memory_in_the_unit_of_its_title() {
        for figure in Figure::ALL {
            assert!(figure.title().ends_with(figure.shown_unit()) || figure.title().contains(figure.shown_unit()));
        }
        assert!((Figure::PeakMemoryBytes.shown(1.5 * 1024.0f64.powi(3)) - 1.5).abs() < 1e-12);
        assert_eq!((Figure::PeakMemoryBytes.unit(), Figure::PeakMemoryBytes.shown_unit()), ("B", "GiB"));
    }

    #[test]
    fn names_in_files_are_those_of_options_and_are_unique() {
        for figure in Figure::ALL {
            assert_eq!(serde_json::to_value(figure).unwrap(), figure.name());
            assert_eq!(figure.name().parse(), Ok(figure));
        }
        assert!("energy".parse::<Figure>().unwrap_err().contains("energy_per_output_token_j"));
    }
}
