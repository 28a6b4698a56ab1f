//! Rules of `measurement`: what counts as warm, and what must end before its phase is given up.

use llem_protocol::Phase;

use super::super::check::Finding;
use super::super::defaults::Profile;
use super::super::execution::ExecutionConfig;
use super::super::experiment::MeasurementConfig;
use super::Surroundings;

/// Shortest thermal floor of results that count, in seconds.
const LEAST_FLOOR_S: f64 = 30.0;

/// Slowest sampling that still shows a curve, in hertz.
const LEAST_SAMPLE_HZ: f64 = 0.1;

pub(super) fn rules(measurement: &MeasurementConfig, surroundings: Surroundings<'_>, findings: &mut Vec<Finding>) {
    let floor = measurement.thermal_floor_seconds;
    if surroundings.profile != Profile::Quick && floor < LEAST_FLOOR_S {
        let message = format!("{floor} s are too short to warm a device up: at least {LEAST_FLOOR_S} s");
        let finding = Finding::value("/measurement/thermal_floor_seconds", message);
        findings.push(finding.hint("raise it; with `--profile quick` it may be shorter, and the result says so"));
    }
    let hz = measurement.sample_hz;
    if hz > 0.0 && hz < LEAST_SAMPLE_HZ {
        let finding = Finding::value("/measurement/sample_hz", format!("must be 0 or at least {LEAST_SAMPLE_HZ}"));
        findings.push(finding.hint("0 takes no samples, only counters at the edges"));
    }
    time_outs(measurement, surroundings.execution, findings);
}

fn time_outs(measurement: &MeasurementConfig, execution: &ExecutionConfig, findings: &mut Vec<Finding>) {
    let lengths = [
        ("min_seconds", measurement.min_seconds, Phase::Window),
        ("thermal_floor_seconds", measurement.thermal_floor_seconds, Phase::Warmup),
        ("thermal_gate_timeout_seconds", measurement.thermal_gate_timeout_seconds, Phase::ThermalGate),
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
