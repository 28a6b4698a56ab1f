//! Energy of prefill and decode, by stamps and by passes of prefill alone.

use fake_nvml::{Counter, Device, EnergySamples, Load, Power, Span, Step, Throttle};
use llem_protocol::{ReasonCode, Severity};

use crate::gpu::{Seen, gpu, gpu_bench, run_on, see, uuid};
use crate::harness::REQUESTS;

/// 600 W for the first 0.2 s of each batch, then 200 W.
fn two_phases(number: usize) -> Device {
    let steps = [(0.2, 600.0), (10.0, 200.0)].map(|(duration_s, watts)| Step { duration_s, watts });
    Device { load: Some(Load { busy: Power::Piecewise(steps.into()), ..Load::default() }), ..gpu(number) }
}

fn batches(prefill_s: &str) -> Option<Seen> {
    let (mut bench, script) = gpu_bench("batches", vec![two_phases(0)])?;
    bench.job.driver.env.insert("PREFILL_S".to_owned(), prefill_s.to_owned());
    Some(see((bench, script)))
}

#[test]
fn prefill_and_decode_of_static_batches_have_their_energy() {
    let Some(seen) = batches("0.2") else { return };
    let split = &seen.report.window.as_ref().unwrap().split;
    let [split] = &split[..] else { panic!("one sensor resolves it: {split:?}") };
    // The first request of each batch has the stamps of the batch.
    let records: Vec<_> = seen.bench.records().into_iter().filter(|record| record.index % 2 == 0).collect();
    assert_eq!(records.len() as u64 * 2, seen.report.request_records);
    let true_j = |from_ns, to_ns| seen.script.true_energy_j(0, from_ns, to_ns).unwrap();
    let prefill_j: f64 = records.iter().map(|record| true_j(record.submit_ns, record.token_ns[0])).sum();
    let decode_j: f64 = records.iter().map(|record| true_j(record.token_ns[0], record.token_ns[2])).sum();
    assert!((split.prefill_j - prefill_j).abs() <= 2.0 * split.boundary_u_j, "{prefill_j} J: {split:?}");
    assert!((split.decode_j - decode_j).abs() <= 2.0 * split.boundary_u_j, "{decode_j} J: {split:?}");
    let seconds: f64 = records.iter().map(|record| (record.token_ns[0] - record.submit_ns) as f64 / 1e9).sum();
    assert!((split.prefill_s - seconds).abs() < 1e-9);
    let whole_j = split.prefill_j + split.decode_j + split.other_j;
    assert!((whole_j - seen.energy(0).energy_j.unwrap()).abs() < 1e-6);
    assert!(seen.codes_of(0).is_empty(), "{:?}", seen.report.reasons);
}

#[test]
fn prefill_that_is_shorter_than_the_curve_sees_is_not_split() {
    let Some(seen) = batches("0.01") else { return };
    assert_eq!(seen.reason(ReasonCode::SplitNotResolved, 0).unwrap().severity, Severity::Note);
    let split = &seen.report.window.as_ref().unwrap().split;
    assert!(split.is_empty(), "{split:?}");
}

#[test]
fn continuous_batching_has_no_split_and_no_reason_for_it() {
    let Some(seen) = run_on(vec![gpu(0)]) else { return };
    assert!(seen.report.window.as_ref().unwrap().split.is_empty());
    assert!(seen.codes_of(0).is_empty());
}

#[test]
fn passes_of_prefill_alone_have_edges_of_their_own() {
    let Some((mut bench, script)) = gpu_bench("none", vec![gpu(0)]) else { return };
    bench.job.measurement.prefill_min_s = 0.5;
    let seen = see((bench, script));
    let prefill = seen.report.prefill.as_ref().unwrap();
    assert!(prefill.passes.iter().all(|pass| pass.output_tokens == REQUESTS) && prefill.passes.len() >= 4);
    assert!(prefill.start_ns > seen.report.window.as_ref().unwrap().end_ns);
    let energy = prefill.energy.devices.iter().find(|device| device.domain.id == uuid(0)).unwrap();
    let true_j = seen.script.true_energy_j(0, prefill.start_ns, prefill.end_ns).unwrap();
    let u_j = energy.edge_u_j.unwrap();
    assert!(energy.start.aligned && energy.end.aligned, "{energy:?}");
    assert!((energy.energy_j.unwrap() - true_j).abs() <= 2.0 * u_j, "{true_j} J: {energy:?}");
    assert!(prefill.reasons.is_empty() && seen.codes_of(0).is_empty(), "{:?}", seen.report.reasons);
}

#[test]
fn what_goes_wrong_in_passes_of_prefill_alone_is_theirs_and_not_the_windows() {
    // The window is over after 1.3 s; the passes begin at about 2.3 s and take 1.5 s.
    let hot = vec![Throttle { during: Span::since(2.0), mask: 0x40 }];
    let lost = EnergySamples { lost: vec![Span::new(2.8, 3.3)], ..EnergySamples::default() };
    let devices = vec![
        Device { throttle_reasons: hot, ..gpu(0) },
        Device { samples: lost, ..gpu(1) },
        Device { counter: Counter { reset_at_s: Some(3.0), ..Counter::default() }, ..gpu(2) },
        gpu(3),
    ];
    let Some((mut bench, script)) = gpu_bench("none", devices) else { return };
    bench.job.measurement.prefill_min_s = 1.5;
    let seen = see((bench, script));
    let prefill = &seen.report.prefill.as_ref().unwrap().reasons;
    for (number, code) in [(0, ReasonCode::Throttled), (1, ReasonCode::SamplesMissing), (2, ReasonCode::CounterReset)] {
        let of_gpu: Vec<_> = prefill.iter().filter(|reason| reason.message.contains(&uuid(number))).collect();
        assert_eq!(of_gpu.iter().map(|reason| reason.code).collect::<Vec<_>>(), [code], "{prefill:?}");
        assert_eq!(seen.codes_of(number), [ReasonCode::PrefillDisturbed], "{:?}", seen.report.reasons);
        seen.assert_true(number, number);
    }
    let told = seen.reason(ReasonCode::PrefillDisturbed, 0).unwrap();
    assert!(told.severity == Severity::Note && told.message.contains("counter_reset"), "{told}");
    assert!(seen.codes_of(3).is_empty() && prefill.len() == 3, "{prefill:?}");
}
