//! Whether a study goes on where it was measured: on the same processors and GPUs, with the same corrections of their sensors. Means over
//! runs on two machines, or before and after a calibration, would be of nothing.

use std::fmt;

use llem_protocol::CpuPinning;

use super::job::gpus;
use crate::config::{Calibration, Carbon, UserConfig};
use crate::host::HostSnapshot;
use crate::result::{RunResult, calibration_of};

/// One thing that is not as it was for the finished runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherMachine {
    /// What, e.g. `processor`.
    pub what: String,
    /// As the finished runs had it.
    pub had: String,
    /// As further runs would have it.
    pub has: String,
}

impl fmt::Display for OtherMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, had, has } = self;
        write!(f, "  {what}\n    finished runs  {had}\n    now            {has}")
    }
}

/// In what runs from here on would differ from `run`, a measured one, which had the GPUs `had_gpus`. What is not known of either is no
/// difference.
pub(super) fn differences(
    run: &RunResult,
    had_gpus: Option<&[String]>,
    user: &UserConfig,
    host: &HostSnapshot,
) -> Vec<OtherMachine> {
    let mut found = Vec::new();
    let mut hold = |what: &str, had: Option<String>, has: Option<String>| {
        if let Some((had, has)) = had.zip(has).filter(|(had, has)| had != has) {
            found.push(OtherMachine { what: what.to_owned(), had, has });
        }
    };
    let was = run.host.as_ref();
    hold("processor", was.and_then(processor), processor(host));
    hold("GPUs", had_gpus.map(listed), Some(listed(&gpus(&run.config, user))));
    hold(
        "processors that runs are kept to (`cpus`)",
        Some(kept(run.cpus.as_ref())),
        Some(kept(user.cpus.pinning().as_ref())),
    );
    let Some(energy) = run.metrics.as_ref().map(|metrics| &metrics.energy) else { return found };
    for sensor in energy.domains.iter().filter(|sensor| sensor.counted) {
        let has = calibration_of(&user.calibration, &sensor.domain);
        let what = format!("`calibration` of {}", sensor.domain.id);
        hold(&what, Some(corrected(sensor.calibration.as_ref())), Some(corrected(has)));
    }
    if energy.energy_j.is_some() {
        hold("`carbon`", Some(carbon(energy.carbon.as_ref())), Some(carbon(user.carbon.as_ref())));
    }
    found
}

fn processor(host: &HostSnapshot) -> Option<String> {
    Some(format!("{}, {} logical", host.cpu_model.as_ref()?, host.cpus?))
}

fn listed(gpus: &[String]) -> String {
    if gpus.is_empty() { "none".to_owned() } else { gpus.join(", ") }
}

fn kept(pinning: Option<&CpuPinning>) -> String {
    pinning.map_or_else(|| "none".to_owned(), |to| format!("engine {}, agent {}", to.engine, to.agent))
}

fn corrected(calibration: Option<&Calibration>) -> String {
    calibration
        .map_or_else(|| "none".to_owned(), |c| format!("{} ± {} of {}", c.factor, c.relative_uncertainty, c.date))
}

fn carbon(carbon: Option<&Carbon>) -> String {
    carbon.map_or_else(|| "none".to_owned(), |c| format!("{} g/kWh, PUE {}", c.intensity_g_per_kwh, c.pue))
}

#[cfg(test)]
mod tests {
    use super::differences;
    use crate::config::{CpuConfig, UserConfig};
    use crate::host::HostSnapshot;
    use crate::result::RunResult;

    #[test]
    fn another_processor_gpu_or_pinning_is_named_with_both_sides() {
        let old = include_bytes!("../../../../tests/old-results/schema-1/result.json");
        let mut run = RunResult::from_json(old).unwrap();
        let host = HostSnapshot { cpu_model: Some("X".to_owned()), cpus: Some(16), ..HostSnapshot::default() };
        run.host = Some(host.clone());
        let user = UserConfig::default();
        assert_eq!(differences(&run, Some(&[]), &user, &host), []);
        assert_eq!(differences(&run, None, &user, &HostSnapshot::default()), [], "what is not known is no difference");
        let other = HostSnapshot { cpu_model: Some("Y".to_owned()), ..host };
        let user = UserConfig { cpus: CpuConfig { engine: Some("0-3".to_owned()), agent: None }, ..user };
        let found = differences(&run, Some(&["GPU-a".to_owned()]), &user, &other);
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        let expected = [
            "  processor\n    finished runs  X, 16 logical\n    now            Y, 16 logical",
            "  GPUs\n    finished runs  GPU-a\n    now            none",
            "  processors that runs are kept to (`cpus`)\n    finished runs  none\n    now            engine 0-3, agent 0-3",
        ];
        assert_eq!(said, expected);
    }
}
