//! Energy of prefill and decode by the stamps of the tokens: exact in time for static batches, where all requests of a batch are in the
//! same phase.

use std::collections::BTreeMap;

use llem_protocol::{DeviceEnergy, EnergyMethod, EnergySplit, Reason, ReasonCode, RequestRecord};

use super::curve::{Curve, RECTANGULAR};
use super::energy::Work;
use super::recording::Recording;
use super::sampler::Edge;
use super::share::{energy_of, sampling_u_j, shift_bound_j, unresolved};
use crate::clock::seconds_between;

/// One batch: when it was handed over, when the first token was there, and the last one, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    submit: u64,
    first: u64,
    last: u64,
}

/// Splits the energy of the work between two edges. Empty for engines without static batches, and, with a reason, where the curve is too
/// coarse.
pub(crate) fn split_by_stamps(
    recording: &Recording,
    start: &Edge,
    end: &Edge,
    work: Work,
    records: &[RequestRecord],
) -> (Vec<EnergySplit>, Vec<Reason>) {
    let (mut splits, mut reasons) = (Vec::new(), Vec::new());
    let Some(batches) = batches(records) else { return (splits, reasons) };
    let energy = recording.energy(start, end, Some(work));
    let prefill: Vec<(u64, u64)> = batches.iter().map(|batch| (batch.submit, batch.first)).collect();
    for (record, device) in recording.domains.iter().zip(energy.devices) {
        let curve = record.curve();
        if device.energy_j.is_none() || record.points.len() < 2 {
            continue;
        }
        match unresolved(curve, &prefill, "a prefill") {
            Some(steps) => {
                let happened = format!("{steps} of {}", record.domain.id);
                reasons.push(recording.reason(record, ReasonCode::SplitNotResolved, &happened));
            }
            None => splits.extend(device_split(curve, &batches, work, &device)),
        }
    }
    (splits, reasons)
}

/// The batches in the order of time; `None` when a record belongs to none, or nothing was generated.
fn batches(records: &[RequestRecord]) -> Option<Vec<Batch>> {
    let mut batches: BTreeMap<(u32, u32), Batch> = BTreeMap::new();
    for record in records {
        let (first, last) = (*record.token_ns.first()?, *record.token_ns.last()?);
        let this = Batch { submit: record.submit_ns, first, last };
        let batch = batches.entry((record.pass, record.batch?)).or_insert(this);
        batch.submit = batch.submit.min(this.submit);
        batch.first = batch.first.max(first);
        batch.last = batch.last.max(last);
    }
    (!batches.is_empty()).then(|| batches.into_values().collect())
}

/// The curve's energy in both kinds of stretches, scaled so that all stretches together have the energy of the work.
fn device_split(curve: &Curve, batches: &[Batch], work: Work, device: &DeviceEnergy) -> Option<EnergySplit> {
    let energy_j = device.energy_j?;
    let whole_j = curve.work_j(work.start_ns, work.end_ns).filter(|whole_j| *whole_j > 0.0)?;
    let scale = energy_j / whole_j;
    let prefill: Vec<(u64, u64)> = batches.iter().map(|batch| (batch.submit, batch.first)).collect();
    let decode: Vec<(u64, u64)> = batches.iter().map(|batch| (batch.first, batch.last)).collect();
    let prefill_j = energy_of(curve, &prefill)? * scale;
    let decode_j = energy_of(curve, &decode)? * scale;
    let by_counter = device.method == Some(EnergyMethod::Counter);
    let sampling = |part| sampling_u_j(curve, part, (work.start_ns, work.end_ns), by_counter.then_some(scale));
    let seconds = |part: &[(u64, u64)]| part.iter().map(|(from_ns, to_ns)| seconds_between(*from_ns, *to_ns)).sum();
    Some(EnergySplit {
        domain: device.domain.clone(),
        prefill_j,
        decode_j,
        other_j: energy_j - prefill_j - decode_j,
        prefill_s: seconds(&prefill),
        decode_s: seconds(&decode),
        boundary_u_j: shift_bound_j(curve, &prefill) * scale * RECTANGULAR,
        prefill_sampling_u_j: sampling(&prefill),
        decode_sampling_u_j: sampling(&decode),
    })
}

#[cfg(test)]
mod tests {
    use llem_protocol::{CurveKind, PowerDomain, PowerScope, PowerSourceKind};

    use super::super::align::EdgeReading;
    use super::super::curve::Point;
    use super::super::recording::DomainRecording;
    use super::*;

    const MS: u64 = 1_000_000;

    /// Two batches of 1 s: 200 ms of prefill at 600 W, then decode at 200 W; a point every `step_ms`.
    fn recording(step_ms: u64) -> Recording {
        of_kind(CurveKind::Mean, step_ms)
    }

    fn of_kind(kind: CurveKind, step_ms: u64) -> Recording {
        let domain = PowerDomain { source: PowerSourceKind::Nvml, id: "GPU-1".to_owned(), scope: PowerScope::Gpu };
        let mut record = DomainRecording::new(domain, kind, 0.1);
        let power_w = |t_ms: u64| if (t_ms - 1) % 1000 < 200 { 600.0 } else { 200.0 };
        record.points =
            (1..=2000 / step_ms).map(|i| Point { t_ns: i * step_ms * MS, power_w: power_w(i * step_ms) }).collect();
        Recording { domains: vec![record] }
    }

    fn record(batch: Option<u32>, index: u64, first_ms: u64) -> RequestRecord {
        let start_ms = u64::from(batch.unwrap_or(0)) * 1000;
        let token_ns = vec![(start_ms + first_ms) * MS, (start_ms + 1000) * MS];
        RequestRecord {
            pass: 3,
            index,
            batch,
            prompt_tokens: 5,
            submit_ns: start_ms * MS,
            token_ns,
            output_ids: vec![1, 2],
        }
    }

    fn split(recording: &Recording, records: &[RequestRecord], counter_j: f64) -> (Vec<EnergySplit>, Vec<ReasonCode>) {
        let edge = |t_ns, counter_j| {
            let reading = EdgeReading { t_ns, aligned: true, bracket_ns: 6 * MS, counter_j: Ok(Some(counter_j)) };
            Edge { t_ns, readings: vec![reading] }
        };
        let work = Work { start_ns: 0, end_ns: 2000 * MS };
        let (splits, reasons) = split_by_stamps(recording, &edge(0, 0.0), &edge(2000 * MS, counter_j), work, records);
        (splits, reasons.iter().map(|reason| reason.code).collect())
    }

    #[test]
    fn both_phases_have_their_energy_and_together_that_of_the_counter() {
        let records = [record(Some(0), 0, 150), record(Some(0), 1, 200), record(Some(1), 2, 200)];
        // The curve has 2·(0.2·600 + 0.8·200) = 560 J, the counter one per cent more.
        let (splits, reasons) = split(&recording(20), &records, 565.6);
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        close(splits[0].prefill_j, 240.0 * 1.01);
        close(splits[0].decode_j, 320.0 * 1.01);
        close(splits[0].other_j, 0.0);
        close(splits[0].prefill_s, 0.4);
        close(splits[0].decode_s, 1.6);
        assert!(reasons.is_empty());
        // Ten milliseconds earlier the first prefill loses 6 J, for there is nothing before 0, and the second one 4 J.
        close(splits[0].boundary_u_j, 10.1 / 3.0_f64.sqrt());
    }

    #[test]
    fn continuous_batching_is_not_split() {
        let (splits, reasons) = split(&recording(20), &[record(Some(0), 0, 200), record(None, 1, 200)], 560.0);
        assert!(splits.is_empty() && reasons.is_empty());
    }

    #[test]
    fn a_prefill_shorter_than_two_steps_of_the_curve_is_not_resolved() {
        let records = [record(Some(0), 0, 30), record(Some(1), 1, 30)];
        let (splits, reasons) = split(&recording(20), &records, 560.0);
        assert_eq!((splits.len(), reasons), (0, vec![ReasonCode::SplitNotResolved]));
    }

    #[test]
    fn readings_at_moments_leave_the_split_less_sure_than_its_boundaries() {
        let records = [record(Some(0), 0, 200), record(Some(1), 1, 200)];
        let of = |kind| split(&of_kind(kind, 50), &records, 560.0).0.remove(0);
        let (means, moments) = (of(CurveKind::Mean), of(CurveKind::Instant));
        // Blind for up to 9 % of 240 J and of 320 J, each weighted with the other's share.
        let blind = 0.09 / 3.0_f64.sqrt() * 240.0 * 320.0 / 560.0;
        assert!(moments.prefill_sampling_u_j > blind, "{} {blind}", moments.prefill_sampling_u_j);
        assert!(moments.decode_sampling_u_j > blind && moments.decode_sampling_u_j < 60.0, "{moments:?}");
        assert!(means.prefill_sampling_u_j < 3.0, "{means:?}");
    }
}
