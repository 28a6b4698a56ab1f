//! What the machine's owner knows about its sensors and its electricity.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Correction of one power sensor against an external meter; `docs/calibration.md` says how to find it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The sensor: `GPU-…` for a graphics processor, `package-0`, `dram-0` … for a processor and its memory.
    pub device: String,
    /// True energy over the sensor's: readings are multiplied by it.
    #[schemars(range(min = 0.5, max = 2.0))]
    pub factor: f64,
    /// Standard uncertainty of `factor`, relative to it: 0.008 is 0.8 %. No meter is perfect: at least 0.0001.
    #[schemars(range(min = 0.0001, max = 0.2))]
    pub relative_uncertainty: f64,
    /// Day of the calibration, `YYYY-MM-DD`.
    pub date: String,
    /// How it was done: meter, its accuracy, where it was connected.
    #[schemars(length(min = 1))]
    pub method: String,
}

/// What turns joules into grams of CO2. No part of it has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Carbon {
    /// Grams of CO2 equivalent per kilowatt-hour of electricity.
    #[schemars(range(min = 0.0, max = 10_000.0))]
    pub intensity_g_per_kwh: f64,
    /// Power usage effectiveness: energy of the whole site over that of its computers, at least 1.
    #[schemars(range(min = 1.0, max = 10.0))]
    pub pue: f64,
    /// Where both numbers come from, with place and year.
    #[schemars(length(min = 1))]
    pub source: String,
}
