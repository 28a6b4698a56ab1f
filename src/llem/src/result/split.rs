//! Energy of prefill and decode: by the stamps of the tokens where batches are static, else by passes that only prefill.

use llem_protocol::{EnergySplit, PrefillRecord, WindowRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::energy::{DomainEnergy, EnergyContext, Sums, Work, total_energy};
use super::uncertainty::{UncertaintyBudget, gain_relative, root_sum_of_squares};

/// How prefill and decode were told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SplitMethod {
    /// The power curve between the stamps of the tokens.
    Stamps,
    /// Passes with one generated token per request are prefill; what the window took beyond them is decode.
    PrefillPass,
}

/// Energy of prefill and decode in the window, calibrated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PrefillDecodeEnergy {
    /// How it was found.
    pub method: SplitMethod,
    /// Up to the first token of each request, in joules.
    pub prefill_j: f64,
    /// After the first token, in joules.
    pub decode_j: f64,
    /// Between batches and passes, in joules; null where it cannot be told from decode.
    pub other_j: Option<f64>,
    /// `prefill_j` per prompt token.
    pub prefill_per_prompt_token_j: Option<f64>,
    /// `decode_j` per token that decode generates: all output tokens but the first of each request, which is prefill's; null when there
    /// are none.
    pub decode_per_output_token_j: Option<f64>,
    /// Combined standard uncertainty of `prefill_j`, the sensors' gain included.
    pub prefill_u_j: f64,
    /// Combined standard uncertainty of `decode_j`, the sensors' gain included.
    pub decode_u_j: f64,
    /// As `prefill_u_j` without the gain, for comparisons on the same device.
    pub prefill_comparison_u_j: f64,
    /// As `decode_u_j` without the gain, for comparisons on the same device.
    pub decode_comparison_u_j: f64,
}

/// One part with its uncertainty.
#[derive(Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "units are in the names")]
struct Part {
    energy_j: f64,
    gain_u_j: f64,
    comparison_u_j: f64,
}

impl PrefillDecodeEnergy {
    fn new(method: SplitMethod, prefill: Part, decode: Part, other_j: Option<f64>, work: Work) -> Self {
        let per = |joules: f64, tokens: u64| (tokens > 0).then(|| joules / tokens as f64);
        Self {
            method,
            prefill_j: prefill.energy_j,
            decode_j: decode.energy_j,
            other_j,
            prefill_per_prompt_token_j: per(prefill.energy_j, work.prompt_tokens),
            decode_per_output_token_j: per(decode.energy_j, work.output_tokens.saturating_sub(work.requests)),
            prefill_u_j: prefill.gain_u_j.hypot(prefill.comparison_u_j),
            decode_u_j: decode.gain_u_j.hypot(decode.comparison_u_j),
            prefill_comparison_u_j: prefill.comparison_u_j,
            decode_comparison_u_j: decode.comparison_u_j,
        }
    }
}

/// The sum over the sensors that count; nothing unless each of them could resolve the parts.
pub(super) fn by_stamps(split: &[EnergySplit], counted: &[&DomainEnergy], work: Work) -> Option<PrefillDecodeEnergy> {
    let pairs = counted.iter().map(|d| split.iter().find(|s| s.domain == d.domain).map(|s| (s, *d)));
    let parts: Vec<(&EnergySplit, &DomainEnergy)> = pairs.collect::<Option<_>>()?;
    if parts.is_empty() {
        return None;
    }
    let factor = |d: &DomainEnergy| d.calibration.as_ref().map_or(1.0, |c| c.factor);
    let sum = |figure: fn(&EnergySplit) -> f64| parts.iter().map(|(s, d)| figure(s) * factor(d)).sum::<f64>();
    let gain = |figure: fn(&EnergySplit) -> f64| {
        let gains = parts.iter().map(|(s, d)| (figure(s) * factor(d)).abs() * gain_relative(d.calibration.as_ref()));
        gains.sum::<f64>()
    };
    let comparison = |sampling: fn(&EnergySplit) -> f64| {
        root_sum_of_squares(parts.iter().flat_map(|(s, d)| [s.boundary_u_j, sampling(s)].map(|u_j| u_j * factor(d))))
    };
    let part =
        |figure, sampling| Part { energy_j: sum(figure), gain_u_j: gain(figure), comparison_u_j: comparison(sampling) };
    let prefill = part(|s| s.prefill_j, |s| s.prefill_sampling_u_j);
    let decode = part(|s| s.decode_j, |s| s.decode_sampling_u_j);
    Some(PrefillDecodeEnergy::new(SplitMethod::Stamps, prefill, decode, Some(sum(|s| s.other_j)), work))
}

/// Energy of one prefill pass times the window's passes, and what is left of the window. Nothing when something speaks against the passes,
/// when they were not of the same work, or when less than nothing is left.
pub(super) fn by_prefill_pass(
    window: &WindowRecord,
    work: Work,
    sums: &Sums<'_>,
    context: &EnergyContext<'_>,
) -> Option<PrefillDecodeEnergy> {
    let undisturbed = |record: &&PrefillRecord| record.reasons.is_empty() && !context.prefill_disturbed;
    let record = context.prefill.filter(undisturbed).filter(|record| is_same_work(record, window, work))?;
    let window_j = sums.total(|d| d.energy_j)?;
    let window_u = sums.budget(Some(window_j), |d| d.uncertainty)?;
    let (record_j, record_u) = total_energy(&record.energy, context)?;
    let (prefill, decode) = parts(window_j, &window_u, record_j, &record_u?, scale(window, record));
    let is_possible = prefill.energy_j >= 0.0 && decode.energy_j >= 0.0;
    is_possible.then(|| PrefillDecodeEnergy::new(SplitMethod::PrefillPass, prefill, decode, None, work))
}

/// Passes of the window for one pass of the record.
fn scale(window: &WindowRecord, record: &PrefillRecord) -> f64 {
    window.passes.len() as f64 / record.passes.len() as f64
}

fn parts(
    window_j: f64,
    window_u: &UncertaintyBudget,
    record_j: f64,
    record_u: &UncertaintyBudget,
    scale: f64,
) -> (Part, Part) {
    let prefill = Part {
        energy_j: scale * record_j,
        gain_u_j: scale * record_u.gain_j,
        comparison_u_j: scale * record_u.comparison_j,
    };
    let decode = Part {
        energy_j: window_j - prefill.energy_j,
        // The same sensor erred in both.
        gain_u_j: (window_u.gain_j - prefill.gain_u_j).abs(),
        comparison_u_j: window_u.comparison_j.hypot(prefill.comparison_u_j),
    };
    (prefill, decode)
}

/// Every pass of both has the same prompts, and the record's generated one token for each.
fn is_same_work(record: &PrefillRecord, window: &WindowRecord, work: Work) -> bool {
    let Some(first) = window.passes.first() else { return false };
    let mut passes = record.passes.iter().chain(&window.passes);
    let requests = |tokens: u64| tokens * window.passes.len() as u64;
    !record.passes.is_empty()
        && passes.all(|pass| pass.prompt_tokens == first.prompt_tokens)
        && record.passes.iter().all(|pass| requests(pass.output_tokens) == work.requests)
}
