//! Rules of `measurement`: what must end before its phase is given up.

use llem_protocol::Phase;

use super::super::check::Finding;
use super::super::execution::ExecutionConfig;
use super::super::experiment::MeasurementConfig;

pub(super) fn rules(measurement: &MeasurementConfig, execution: &ExecutionConfig, findings: &mut Vec<Finding>) {
    let lengths = [
        ("min_seconds", measurement.min_seconds, Phase::Window),
        ("thermal_floor_seconds", measurement.thermal_floor_seconds, Phase::Warmup),
        ("prefill_min_seconds", measurement.prefill_min_seconds, Phase::Prefill),
        ("baseline_seconds", measurement.baseline_seconds, Phase::Baseline),
    ];
    for (field, seconds, phase) in lengths {
        // Without a time-out, the phase ends by itself.
        if let Some(limit) = execution.timeouts_s.get(&phase).filter(|limit| seconds >= **limit) {
            let message = format!("{seconds} s cannot end before the time-out of the phase `{phase}`, {limit} s");
            let finding = Finding::value(format!("/measurement/{field}"), message);
            findings.push(finding.hint(format!("raise `execution.timeouts_s.{phase}`, or lower this")));
        }
    }
}
