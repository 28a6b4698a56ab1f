//! Energy of a run: which sensors count, what their calibration makes of them, what idling would have taken, how sure it all is.

use llem_protocol::{
    BaselineRecord, CrossCheck, CurveKind, DeviceEnergy, EdgeRecord, EnergyMethod, EnergyReport, Phase, PhaseRecord,
    PowerDomain, PowerScope, PowerSourceKind, PrefillRecord, WindowRecord,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plausible::impossible_phase;
use super::split::{PrefillDecodeEnergy, by_prefill_pass, by_stamps};
use super::uncertainty::{Components, UncertaintyBudget, gain_relative};
use crate::config::{Calibration, Carbon};

/// Joules in a kilowatt-hour.
const J_PER_KWH: f64 = 3.6e6;

/// Energy of the window. Sums are over the GPUs of the experiment, or over processor packages and memory for a run on the processor; one
/// that is missing makes a sum null, never smaller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EnergyFigures {
    /// Energy in joules as the sensors give it.
    pub energy_raw_j: Option<f64>,
    /// Energy in joules, each sensor's corrected by its calibration; equal to `energy_raw_j` where there is none. Gross: with what the
    /// devices take when idle.
    pub energy_j: Option<f64>,
    /// `energy_j` less what `baseline_power_w` takes in the time of the window; null without a baseline that nobody disturbed.
    pub energy_net_j: Option<f64>,
    /// Idle power of the same devices before the engine existed, in watts, calibrated.
    pub baseline_power_w: Option<f64>,
    /// `energy_j` per generated token.
    pub energy_per_output_token_j: Option<f64>,
    /// `energy_net_j` per generated token.
    pub energy_net_per_output_token_j: Option<f64>,
    /// `energy_j` per second of window, in watts.
    pub mean_power_w: Option<f64>,
    /// Highest sampled power in watts, calibrated, summed over the sensors; an upper bound, for peaks need not coincide.
    pub peak_power_w: Option<f64>,
    /// How sure `energy_j` is.
    pub uncertainty: Option<UncertaintyBudget>,
    /// How sure `energy_net_j` is.
    pub net_uncertainty: Option<UncertaintyBudget>,
    /// Prefill and decode by the stamps of the tokens.
    pub split_by_stamps: Option<PrefillDecodeEnergy>,
    /// Prefill and decode by passes that generate one token per request.
    pub split_by_prefill_pass: Option<PrefillDecodeEnergy>,
    /// Grams of CO2 equivalent of `energy_j`; null where no intensity is configured.
    pub co2_g: Option<f64>,
    /// What `co2_g` was computed with.
    pub carbon: Option<Carbon>,
    /// Every sensor, also those that the sums leave out.
    pub domains: Vec<DomainEnergy>,
}

/// Energy of one sensor in the window: what the agent measured, and what the host makes of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainEnergy {
    /// What the sensor covers.
    pub domain: PowerDomain,
    /// Whether the sums hold it.
    pub counted: bool,
    /// The edge at or before the work's beginning.
    pub start: Option<EdgeRecord>,
    /// The edge at or after the work's end.
    pub end: Option<EdgeRecord>,
    /// Energy of the work in joules as the sensor gives it.
    pub energy_raw_j: Option<f64>,
    /// The same, corrected by `calibration`.
    pub energy_j: Option<f64>,
    /// How the energy was found.
    pub method: Option<EnergyMethod>,
    /// The sensor's calibration; null for one without.
    pub calibration: Option<Calibration>,
    /// How sure `energy_j` is.
    pub uncertainty: Option<UncertaintyBudget>,
    /// Idle power in watts, calibrated.
    pub baseline_power_w: Option<f64>,
    /// Standard uncertainty of `baseline_power_w` in watts, without the sensor's gain.
    pub baseline_u_w: Option<f64>,
    /// Difference of the hardware counter between the edges in joules, as read.
    pub counter_j: Option<f64>,
    /// Integral of the power curve between the same edges in joules, as read.
    pub curve_j: Option<f64>,
    /// Standard uncertainty of `curve_j` from sampling, and from how well the curve's times are known at the edges.
    pub curve_u_j: Option<f64>,
    /// What the points of the curve mean.
    pub curve_kind: Option<CurveKind>,
    /// `curve_j` over `counter_j` less 1, in percent: the cross-check of the two sources.
    pub curve_difference_percent: Option<f64>,
    /// How far they may be apart, and what decided that.
    pub cross_check: Option<CrossCheck>,
    /// Energy between the opening edge and the work in joules, as read.
    pub lead_j: Option<f64>,
    /// Energy between the work and the closing edge in joules, as read.
    pub tail_j: Option<f64>,
    /// Mean power of the work in watts, calibrated.
    pub mean_w: Option<f64>,
    /// Highest point of the curve in watts, calibrated.
    pub peak_w: Option<f64>,
    /// Points of the curve between the edges.
    pub samples: u64,
}

/// Energy of one phase.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseEnergy {
    /// Which.
    pub phase: Phase,
    /// Its length; null when the run ended in it.
    pub seconds: Option<f64>,
    /// Energy of the sensors that `EnergyFigures::energy_j` sums, calibrated; null when one of them is missing, and for phases too short
    /// for the counters.
    pub energy_j: Option<f64>,
    /// Combined standard uncertainty of `energy_j`.
    pub combined_u_j: Option<f64>,
}

/// What energy is computed with, beside the records of the stretch itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct EnergyContext<'a> {
    /// The experiment's GPUs; empty for a run on the processor.
    pub gpus: &'a [String],
    /// Idle power.
    pub baseline: Option<&'a BaselineRecord>,
    /// Whether somebody else was on the GPUs while that was measured, or it did not hold still: then nothing is derived from it.
    pub baseline_disturbed: bool,
    /// The passes that generated one token per request.
    pub prefill: Option<&'a PrefillRecord>,
    /// Whether somebody else was on the GPUs in those: then nothing is derived from them.
    pub prefill_disturbed: bool,
    /// Every phase.
    pub phases: &'a [PhaseRecord],
    /// Corrections of sensors.
    pub calibrations: &'a [Calibration],
    /// What turns joules into CO2.
    pub carbon: Option<&'a Carbon>,
}

/// Tokens and requests that an energy is shared out to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) seconds: f64,
    pub(super) requests: u64,
    pub(super) prompt_tokens: u64,
    pub(super) output_tokens: u64,
}

/// The figures of a window.
pub(super) fn energy_figures(window: &WindowRecord, work: Work, context: &EnergyContext<'_>) -> EnergyFigures {
    let domains = domains(&window.energy, context);
    let sums = Sums::of(&domains, context);
    let per_token = |j: f64| (work.output_tokens > 0).then(|| j / work.output_tokens as f64);
    let energy_j = sums.total(|d| d.energy_j);
    let baseline_power_w = sums.total(|d| d.baseline_power_w);
    let energy_net_j = energy_j.zip(baseline_power_w).map(|(j, w)| j - w * work.seconds);
    EnergyFigures {
        energy_raw_j: sums.total(|d| d.energy_raw_j),
        energy_j,
        energy_net_j,
        baseline_power_w,
        energy_per_output_token_j: energy_j.and_then(per_token),
        energy_net_per_output_token_j: energy_net_j.and_then(per_token),
        mean_power_w: energy_j.map(|j| j / work.seconds),
        peak_power_w: sums.total(|d| d.peak_w),
        uncertainty: sums.budget(energy_j, |d| d.uncertainty),
        net_uncertainty: sums.budget(energy_net_j, |d| net_budget(d, work.seconds)),
        split_by_stamps: by_stamps(&window.split, &sums.counted, work),
        split_by_prefill_pass: by_prefill_pass(window, work, &sums, context),
        co2_g: energy_j.zip(context.carbon).map(|(energy_j, carbon)| co2_g(energy_j, carbon)),
        carbon: context.carbon.cloned(),
        domains,
    }
}

/// CO2 equivalent of an energy in grams.
pub(crate) fn co2_g(energy_j: f64, carbon: &Carbon) -> f64 {
    energy_j / J_PER_KWH * carbon.pue * carbon.intensity_g_per_kwh
}

/// The sums of each phase. None of any, where the record of one cannot be true.
pub fn phase_energy(context: &EnergyContext<'_>) -> Vec<PhaseEnergy> {
    if context.phases.iter().any(|record| impossible_phase(record).is_some()) {
        return Vec::new();
    }
    context.phases.iter().map(|record| one_phase(record, context)).collect()
}

fn one_phase(record: &PhaseRecord, context: &EnergyContext<'_>) -> PhaseEnergy {
    let total = record.energy.as_ref().and_then(|report| total_energy(report, context));
    PhaseEnergy {
        phase: record.phase,
        seconds: record.end_ns.map(|end_ns| length_ns(record, end_ns) as f64 / 1e9),
        energy_j: total.map(|(energy_j, _)| energy_j),
        combined_u_j: total.and_then(|(_, budget)| budget).map(|budget| budget.combined_j),
    }
}

/// A phase's own stretches, where another one lies in it.
fn length_ns(record: &PhaseRecord, end_ns: u64) -> u64 {
    match record.stretches.as_slice() {
        [] => end_ns.saturating_sub(record.start_ns),
        stretches => stretches.iter().map(|stretch| stretch.end_ns.saturating_sub(stretch.start_ns)).sum(),
    }
}

/// Calibrated energy of a stretch with its budget.
pub(super) fn total_energy(
    report: &EnergyReport,
    context: &EnergyContext<'_>,
) -> Option<(f64, Option<UncertaintyBudget>)> {
    let domains = domains(report, context);
    let sums = Sums::of(&domains, context);
    let energy_j = sums.total(|d| d.energy_j)?;
    Some((energy_j, sums.budget(Some(energy_j), |d| d.uncertainty)))
}

fn domains(report: &EnergyReport, context: &EnergyContext<'_>) -> Vec<DomainEnergy> {
    report.devices.iter().map(|device| domain(device, context)).collect()
}

fn domain(measured: &DeviceEnergy, context: &EnergyContext<'_>) -> DomainEnergy {
    let calibration = calibration_of(context.calibrations, &measured.domain);
    let baseline = context.baseline.filter(|_| !context.baseline_disturbed);
    let idle = baseline.and_then(|b| b.devices.iter().find(|d| d.domain == measured.domain));
    let calibrated = |value: f64| value * factor(calibration);
    let energy_j = measured.energy_j.map(calibrated);
    DomainEnergy {
        domain: measured.domain.clone(),
        counted: is_counted(&measured.domain, context.gpus),
        start: Some(measured.start),
        end: Some(measured.end),
        energy_raw_j: measured.energy_j,
        energy_j,
        method: measured.method,
        calibration: calibration.cloned(),
        uncertainty: energy_j.and_then(|j| gross_budget(j, measured, calibration)),
        baseline_power_w: idle.map(|d| calibrated(d.mean_w)),
        baseline_u_w: idle.and_then(|d| d.mean_u_w).map(calibrated),
        counter_j: measured.counter_j,
        curve_j: measured.curve_j,
        curve_u_j: measured.curve_u_j,
        curve_kind: measured.curve_kind,
        curve_difference_percent: difference_percent(measured),
        cross_check: measured.cross_check,
        lead_j: measured.lead_j,
        tail_j: measured.tail_j,
        mean_w: measured.mean_w.map(calibrated),
        peak_w: measured.peak_w.map(calibrated),
        samples: measured.samples,
    }
}

/// The calibration of a sensor, if `calibrations` have one.
pub fn calibration_of<'a>(calibrations: &'a [Calibration], sensor: &PowerDomain) -> Option<&'a Calibration> {
    calibrations.iter().find(|calibration| is_for(calibration, sensor))
}

/// Whether a calibration is for a sensor. A module shares its GPU's UUID, but not its sensor.
fn is_for(calibration: &Calibration, domain: &PowerDomain) -> bool {
    domain.scope != PowerScope::Module && calibration.device == domain.id
}

/// Which of `calibrations` are for no sensor of these.
pub fn unmatched<'a>(calibrations: &'a [Calibration], sensors: &[DomainEnergy]) -> Vec<&'a Calibration> {
    calibrations.iter().filter(|c| !sensors.iter().any(|sensor| is_for(c, &sensor.domain))).collect()
}

/// Whether a sensor is one of the experiment's. A module's holds its GPU again and the processor beside it: never summed.
fn is_counted(domain: &PowerDomain, gpus: &[String]) -> bool {
    match (domain.source, domain.scope) {
        // An instance of a divided GPU has no sensor of its own: the GPU's stands for it, and the run is marked.
        (PowerSourceKind::Nvml, PowerScope::Gpu) => gpus.iter().any(|uuid| *uuid == domain.id || is_instance(uuid)),
        (PowerSourceKind::Rapl, PowerScope::Package | PowerScope::Memory) => gpus.is_empty(),
        _ => false,
    }
}

fn is_instance(uuid: &str) -> bool {
    uuid.starts_with("MIG-")
}

fn factor(calibration: Option<&Calibration>) -> f64 {
    calibration.map_or(1.0, |c| c.factor)
}

fn difference_percent(measured: &DeviceEnergy) -> Option<f64> {
    let (counter, curve) = measured.counter_j.zip(measured.curve_j)?;
    (counter > 0.0).then(|| 100.0 * (curve / counter - 1.0))
}

fn gross_budget(
    energy_j: f64,
    measured: &DeviceEnergy,
    calibration: Option<&Calibration>,
) -> Option<UncertaintyBudget> {
    let (edge, sampling) = measured.edge_u_j.zip(measured.sampling_u_j)?;
    let factor = factor(calibration);
    let gain = gain_relative(calibration) * energy_j.abs();
    Some(UncertaintyBudget::new(
        energy_j,
        Components { gain, edge: edge * factor, sampling: sampling * factor, baseline: None },
    ))
}

/// The gain errs in energy and baseline alike, so it counts for their difference.
fn net_budget(domain: &DomainEnergy, seconds: f64) -> Option<UncertaintyBudget> {
    let gross = domain.uncertainty?;
    let net_j = domain.energy_j? - domain.baseline_power_w? * seconds;
    let gain = gain_relative(domain.calibration.as_ref()) * net_j.abs();
    let baseline = Some(domain.baseline_u_w? * seconds);
    Some(UncertaintyBudget::new(net_j, Components { gain, edge: gross.edge_j, sampling: gross.sampling_j, baseline }))
}

/// The sensors that count, if none is missing.
pub(super) struct Sums<'a> {
    pub(super) counted: Vec<&'a DomainEnergy>,
    is_whole: bool,
}

impl<'a> Sums<'a> {
    fn of(domains: &'a [DomainEnergy], context: &EnergyContext<'_>) -> Self {
        let counted: Vec<_> = domains.iter().filter(|d| d.counted).collect();
        let is_there = |uuid: &String| is_instance(uuid) || counted.iter().any(|d| d.domain.id == *uuid);
        let is_whole = !counted.is_empty() && context.gpus.iter().all(is_there);
        Self { counted, is_whole }
    }

    /// The sum of a figure; null when a sensor lacks it.
    pub(super) fn total(&self, figure: impl Fn(&DomainEnergy) -> Option<f64>) -> Option<f64> {
        if self.is_whole { self.counted.iter().map(|d| figure(d)).sum() } else { None }
    }

    /// The budget of such a sum.
    pub(super) fn budget(
        &self,
        energy_j: Option<f64>,
        figure: impl Fn(&DomainEnergy) -> Option<UncertaintyBudget>,
    ) -> Option<UncertaintyBudget> {
        let budgets: Vec<_> = self.counted.iter().map(|d| figure(d)).collect::<Option<_>>()?;
        Some(UncertaintyBudget::total(energy_j?, &budgets))
    }
}

#[cfg(test)]
mod tests;
