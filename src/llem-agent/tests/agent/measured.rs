//! Runs that end well.

use std::time::{Duration, Instant};

use llem_protocol::{Event, EventBody, Phase, ReasonCode, files};
use sha2::{Digest, Sha256};

use crate::harness::{OUTPUT_TOKENS, REQUESTS, bench};

#[test]
fn a_good_run_leaves_exact_files_and_events_in_order() {
    let Some(mut bench) = bench("none") else { return };
    bench.with_sensor();
    bench.job.measurement.baseline_s = 0.1;
    bench.job.measurement.prefill_min_s = 0.05;
    let outcome = bench.run();
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    let seqs: Vec<u64> = outcome.events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>());
    assert!(outcome.events.is_sorted_by_key(|event| event.t_ns));
    assert!(matches!(&outcome.events[0].body, EventBody::Hello { run_id, .. } if run_id == "001-test-c1"));

    let expected = vec![
        Phase::Environment,
        Phase::Baseline,
        Phase::Import,
        Phase::Load,
        Phase::Warmup,
        Phase::Window,
        Phase::Prefill,
        Phase::Collect,
        Phase::Shutdown,
        Phase::Write,
    ];
    let marks: Vec<(Phase, bool)> = outcome.events.iter().filter_map(|event| phase_mark(&event.body)).collect();
    let whole: Vec<(Phase, bool)> = expected.iter().flat_map(|phase| [(*phase, true), (*phase, false)]).collect();
    assert_eq!(marks, whole);

    let report = bench.report().unwrap();
    let passes: Vec<u32> = report.window.as_ref().unwrap().passes.iter().map(|pass| pass.pass).collect();
    assert_eq!(passes, [1, 2]);
    assert_eq!(report.phases.iter().map(|span| span.phase).collect::<Vec<_>>(), expected);
    let records = bench.records();
    assert_eq!((records.len() as u64, report.request_records), (2 * REQUESTS, 2 * REQUESTS));
    assert!(records.iter().all(|record| record.output_ids.len() == OUTPUT_TOKENS as usize));
    assert_eq!(report.failure, None);
    let resident = report.window.as_ref().unwrap().agent.resident_bytes.unwrap();
    assert!((1 << 20..20 << 20).contains(&resident), "{resident} bytes resident");
    assert_eq!(report.engine.unwrap().peak_memory_bytes, Some(1024));

    let bytes = fs_err::read(bench.job.output_dir.join(files::REPORT)).unwrap();
    let hash = hex::encode(Sha256::digest(bytes));
    let last = &outcome.events.last().unwrap().body;
    assert!(matches!(last, EventBody::Done { report_sha256 } if *report_sha256 == hash), "{last:?}");
}

#[test]
fn without_a_sensor_no_time_is_spent_on_what_only_a_sensor_sees() {
    let Some(mut bench) = bench("none") else { return };
    bench.job.measurement.baseline_s = 60.0;
    bench.job.measurement.thermal_floor_s = 60.0;
    bench.job.measurement.prefill_min_s = 60.0;
    let start = Instant::now();
    let outcome = bench.run();
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let only_with_sensor = |phase: Phase| matches!(phase, Phase::Baseline | Phase::Prefill | Phase::ThermalGate);
    let begun = |event: &Event| phase_mark(&event.body).is_some_and(|(phase, _)| only_with_sensor(phase));
    assert!(!outcome.events.iter().any(begun));
    let report = bench.report().unwrap();
    assert!(report.phases.iter().all(|span| !only_with_sensor(span.phase)));
    assert!(!report.warmup.unwrap().floor_applied);
}

#[test]
fn nothing_but_the_files_of_the_contract_is_left() {
    let Some(bench) = bench("none") else { return };
    assert_eq!(bench.run().status, Some(0));
    let entries = fs_err::read_dir(&bench.job.output_dir).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [files::NONCE, files::DRIVER_LOG, files::REPORT, files::REQUESTS, files::SAMPLES]);
}

#[test]
fn short_windows_and_missing_sensors_are_said() {
    let Some(bench) = bench("none") else { return };
    let outcome = bench.run();
    let report = bench.report().unwrap();
    let codes: Vec<ReasonCode> = report.reasons.iter().map(|reason| reason.code).collect();
    assert!(codes.contains(&ReasonCode::WindowTooShort) && codes.contains(&ReasonCode::WarmupShortened), "{codes:?}");
    let sensors = !report.window.unwrap().energy.devices.is_empty();
    assert_ne!(sensors, codes.contains(&ReasonCode::NoPowerSource), "{codes:?}");
    let warned = outcome.events.iter().filter(|event| matches!(event.body, EventBody::Warning { .. })).count();
    assert_eq!(warned, report.reasons.len());
}

#[test]
fn warm_up_has_both_its_passes_and_its_time() {
    let Some(mut bench) = bench("none") else { return };
    bench.with_sensor();
    bench.job.measurement.thermal_floor_s = 0.3;
    bench.job.measurement.window_min_s = 0.3;
    bench.job.driver.env.insert("PASS_S".to_owned(), "0.05".to_owned());
    assert_eq!(bench.run().status, Some(0));
    let report = bench.report().unwrap();
    let window = report.window.unwrap();
    assert!(window.passes[0].pass >= 3 && window.passes.len() >= 3, "{:?}", window.passes);
    assert!(window.end_ns - window.start_ns >= 300_000_000);
    let warmup = report.warmup.unwrap();
    assert!(warmup.floor_applied && warmup.passes == window.passes[0].pass && warmup.seconds >= 0.3, "{warmup:?}");
}

/// A window of ten seconds that was counted from the request would be one of 9.99, and invalid.
#[test]
fn the_windows_time_is_that_of_its_passes() {
    let Some(mut bench) = bench("none") else { return };
    bench.job.measurement.window_min_passes = 1;
    bench.job.measurement.window_min_s = 0.3;
    bench
        .job
        .driver
        .env
        .extend([("PASS_S", "0.05"), ("LATE_S", "0.1")].map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(bench.run().status, Some(0));
    let passes = bench.report().unwrap().window.unwrap().passes;
    assert!(passes[passes.len() - 1].end_ns - passes[0].start_ns >= 300_000_000, "{passes:?}");
}

#[test]
fn what_an_engine_prints_is_log_and_no_fault() {
    let Some(bench) = bench("garbage") else { return };
    assert_eq!(bench.run().status, Some(0));
    let log = bench.driver_log();
    assert!(log.contains("a banner of the engine") && log.contains("{\"half\": \u{fffd}\u{fffd}"), "{log}");
}

#[test]
fn a_driver_that_is_slow_to_leave_is_no_failure() {
    let Some(mut bench) = bench("slow_to_leave") else { return };
    bench.job.timeouts_s.insert(Phase::Shutdown, 0.5);
    let outcome = bench.run();
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    let said = |text: &str| text.contains("did not leave by itself");
    assert!(outcome.events.iter().any(|event| matches!(&event.body, EventBody::Log { text, .. } if said(text))));
}

#[test]
fn an_unknown_gpu_is_no_power_source_and_the_processor_the_wrong_device() {
    let Some(mut bench) = bench("none") else { return };
    bench.job.gpus = vec!["GPU-00000000-0000-0000-0000-000000000000".to_owned()];
    assert_eq!(bench.run().status, Some(0));
    let report = bench.report().unwrap();
    let found = |code| report.reasons.iter().find(|reason| reason.code == code);
    assert!(found(ReasonCode::NoGpuPowerSource).unwrap().message.contains("GPU-00000000"));
    assert!(report.environment.gpus.is_empty());
    assert!(found(ReasonCode::WrongDevice).unwrap().message.contains("the processor"));
}

#[test]
fn padding_in_the_totals_makes_the_run_invalid() {
    let Some(bench) = bench("padding_counted") else { return };
    assert_eq!(bench.run().status, Some(0));
    let reasons = bench.report().unwrap().reasons;
    assert!(reasons.iter().any(|reason| reason.code == ReasonCode::TokenCountMismatch), "{reasons:?}");
}

fn phase_mark(body: &EventBody) -> Option<(Phase, bool)> {
    match body {
        EventBody::PhaseStarted { phase, .. } => Some((*phase, true)),
        EventBody::PhaseFinished { phase, .. } => Some((*phase, false)),
        _ => None,
    }
}
