use llem_protocol::{CurveKind, PowerDomain, PowerScope, PowerSourceKind, Severity};

use super::super::DeviceState;
use super::super::curve::Point;
use super::*;

const S: u64 = 1_000_000_000;

/// 20 s of 100 W as means over 20 ms, with a state twice a second, of a GPU that an engine uses.
fn gpu() -> DomainRecording {
    let domain = PowerDomain { source: PowerSourceKind::Nvml, id: "GPU-1".to_owned(), scope: PowerScope::Gpu };
    let mut record = DomainRecording::new(domain, CurveKind::Mean, 0.1);
    record.points = (0..=1000_u64).map(|i| Point { t_ns: i * S / 50, power_w: 100.0 }).collect();
    record.states = (0..=40).map(|i| state(i, |_| {})).collect();
    record
}

fn state(half_seconds: u64, change: impl Fn(&mut DeviceState)) -> StateSample {
    let used = if half_seconds < 4 { 1 << 30 } else { 9 << 30 };
    let mut state = DeviceState {
        temperature_c: Some(50),
        throttle_reasons: Some(0),
        memory_used_bytes: Some(used),
        ..DeviceState::default()
    };
    change(&mut state);
    StateSample { t_ns: half_seconds * S / 2, state }
}

fn edge(t_ns: u64, counter_j: Result<Option<f64>, CounterFault>, aligned: bool) -> Edge {
    let bracket_ns = if aligned { S / 200 } else { S / 10 };
    Edge { t_ns, readings: vec![EdgeReading { t_ns, aligned, bracket_ns, counter_j }] }
}

/// Of the window from 5 s to 15 s, with the counter at its edges.
fn of(record: DomainRecording, first: f64, last: f64) -> Vec<Reason> {
    let recording = Recording { domains: vec![record] };
    let (start, end) = (edge(5 * S, Ok(Some(first)), true), edge(15 * S, Ok(Some(last)), true));
    recording.reasons(Judged::Window, &start, &end, Work { start_ns: 5 * S, end_ns: 15 * S }, &[])
}

fn codes(reasons: &[Reason]) -> Vec<ReasonCode> {
    reasons.iter().map(|reason| reason.code).collect()
}

#[test]
fn nothing_speaks_against_a_steady_gpu() {
    assert!(of(gpu(), 0.0, 1000.0).is_empty());
}

#[test]
fn counter_and_curve_that_differ_are_told_with_both_numbers() {
    let reasons = of(gpu(), 0.0, 1020.0);
    assert_eq!(codes(&reasons), [ReasonCode::SourcesDisagree]);
    assert!(reasons[0].message.contains("1020.0 J") && reasons[0].message.contains("1000.0 J"), "{}", reasons[0]);
    assert!(of(gpu(), 0.0, 1009.0).is_empty());
}

#[test]
fn an_edge_without_a_tick_is_not_aligned() {
    let recording = Recording { domains: vec![gpu()] };
    let (start, end) = (edge(5 * S, Ok(Some(0.0)), true), edge(15 * S, Ok(Some(1000.0)), false));
    let reasons = recording.reasons(Judged::Window, &start, &end, Work { start_ns: 5 * S, end_ns: 15 * S }, &[]);
    assert_eq!(codes(&reasons), [ReasonCode::EdgeNotAligned]);
}

#[test]
fn counters_that_were_set_back_or_lost_are_told_apart() {
    assert_eq!(codes(&of(gpu(), 9.0, 8.0)), [ReasonCode::CounterReset]);
    let reset = DomainRecording { resets: vec![9 * S], ..gpu() };
    assert_eq!(codes(&of(reset, 0.0, 1000.0)), [ReasonCode::CounterReset]);
    let recording = Recording { domains: vec![gpu()] };
    let (start, end) = (edge(5 * S, Ok(Some(0.0)), true), edge(15 * S, Err(CounterFault::Lost), false));
    let reasons = recording.reasons(Judged::Window, &start, &end, Work { start_ns: 5 * S, end_ns: 15 * S }, &[]);
    assert_eq!(codes(&reasons), [ReasonCode::PowerSourceLost]);
}

#[test]
fn a_gpu_without_a_counter_is_a_note() {
    let recording = Recording { domains: vec![gpu()] };
    let (start, end) = (edge(5 * S, Ok(None), false), edge(15 * S, Ok(None), false));
    let reasons = recording.reasons(Judged::Window, &start, &end, Work { start_ns: 5 * S, end_ns: 15 * S }, &[]);
    assert_eq!(codes(&reasons), [ReasonCode::NoEnergyCounter]);
    assert_eq!(reasons[0].severity, Severity::Note);
}

#[test]
fn gaps_are_missing_inside_and_lost_at_the_end() {
    let without = |from: u64, to: u64| {
        let mut record = gpu();
        record.points.retain(|point| !(from * S..to * S).contains(&point.t_ns));
        record
    };
    assert_eq!(codes(&of(without(8, 9), 0.0, 1000.0)), [ReasonCode::SamplesMissing]);
    assert_eq!(codes(&of(without(12, 99), 0.0, 1000.0)), [ReasonCode::PowerSourceLost]);
    let silent = DomainRecording { points: Vec::new(), failures: vec![S], ..gpu() };
    assert_eq!(codes(&of(silent, 0.0, 1000.0)), [ReasonCode::PowerSourceLost]);
    let off = DomainRecording { points: Vec::new(), ..gpu() };
    assert!(of(off, 0.0, 1000.0).is_empty(), "sampling that was switched off misses nothing");
}

#[test]
fn heat_is_throttling_and_idle_clocks_are_not() {
    let with = |mask| {
        let mut record = gpu();
        record.states =
            (0..=40).map(|i| state(i, |s| s.throttle_reasons = Some(if i == 20 { mask } else { 0 }))).collect();
        of(record, 0.0, 1000.0)
    };
    for mask in [0x08, 0x20, 0x40, 0x80] {
        assert_eq!(codes(&with(mask)), [ReasonCode::Throttled]);
    }
    assert!(with(0x01).is_empty() && with(0x02).is_empty());
    let mut before = gpu();
    before.states[2].state.throttle_reasons = Some(0x40);
    assert!(of(before, 0.0, 1000.0).is_empty(), "what was before the window does not count");
}

#[test]
fn a_power_cap_is_invalid_only_under_a_lowered_limit() {
    let capped =
        || DomainRecording { states: (0..=40).map(|i| state(i, |s| s.throttle_reasons = Some(4))).collect(), ..gpu() };
    let reasons = of(capped(), 0.0, 1000.0);
    assert_eq!((codes(&reasons), reasons[0].severity), (vec![ReasonCode::PowerLimitReached], Severity::Note));
    let recording = Recording { domains: vec![capped()] };
    let (start, end) = (edge(5 * S, Ok(Some(0.0)), true), edge(15 * S, Ok(Some(1000.0)), true));
    let limited = recording.reasons(
        Judged::Window,
        &start,
        &end,
        Work { start_ns: 5 * S, end_ns: 15 * S },
        &["GPU-1".to_owned()],
    );
    assert_eq!((limited[0].code, limited[0].severity), (ReasonCode::PowerCapped, Severity::Invalid));
}

#[test]
fn warming_is_drift_and_different_devices_are_not() {
    let warming = DomainRecording {
        states: (0..=40).map(|i| state(i, |s| s.temperature_c = Some(40 + i as u32))).collect(),
        ..gpu()
    };
    assert_eq!(codes(&of(warming, 0.0, 1000.0)), [ReasonCode::TemperatureDrift]);
    let at = |id: &str, degrees| {
        let domain = PowerDomain { id: id.to_owned(), ..gpu().domain };
        let states = (0..=40).map(|i| state(i, |s| s.temperature_c = Some(degrees))).collect();
        DomainRecording { domain, states, ..gpu() }
    };
    let recording = Recording { domains: vec![at("GPU-1", 35), at("GPU-2", 80)] };
    let both = |t_ns, counter_j| {
        let reading = edge(t_ns, Ok(Some(counter_j)), true).readings[0];
        Edge { t_ns, readings: vec![reading, reading] }
    };
    let work = Work { start_ns: 5 * S, end_ns: 15 * S };
    assert!(recording.reasons(Judged::Window, &both(5 * S, 0.0), &both(15 * S, 1000.0), work, &[]).is_empty());
}

#[test]
fn a_gpu_whose_memory_does_not_grow_is_not_used() {
    let idle = DomainRecording {
        states: (0..=40).map(|i| state(i, |s| s.memory_used_bytes = Some((1 << 30) + (8 << 20)))).collect(),
        ..gpu()
    };
    assert_eq!(codes(&of(idle, 0.0, 1000.0)), [ReasonCode::GpuNotUsed]);
}

#[test]
fn passes_of_prefill_alone_are_judged_by_what_touches_their_energy() {
    let of = |record: DomainRecording, last: f64| {
        let recording = Recording { domains: vec![record] };
        let (start, end) = (edge(5 * S, Ok(Some(0.0)), true), edge(15 * S, Ok(Some(last)), true));
        recording.reasons(Judged::Prefill, &start, &end, Work { start_ns: 5 * S, end_ns: 15 * S }, &[])
    };
    let states = |change: &dyn Fn(u64, &mut DeviceState)| DomainRecording {
        states: (0..=40).map(|i| state(i, |s| change(i, s))).collect(),
        ..gpu()
    };
    let throttled = of(states(&|i, s| s.throttle_reasons = Some(if i == 20 { 0x40 } else { 0 })), 1000.0);
    assert_eq!(codes(&throttled), [ReasonCode::Throttled]);
    assert!(throttled[0].message.contains("of the passes of prefill alone"), "{}", throttled[0]);
    let holed = DomainRecording { points: gpu().points.into_iter().filter(|p| p.t_ns / S != 8).collect(), ..gpu() };
    assert_eq!(codes(&of(holed, 1000.0)), [ReasonCode::SamplesMissing]);
    assert_eq!(codes(&of(DomainRecording { resets: vec![9 * S], ..gpu() }, 1000.0)), [ReasonCode::CounterReset]);
    assert_eq!(codes(&of(gpu(), 1020.0)), [ReasonCode::SourcesDisagree]);
    // Another load has another temperature, and the default limit is the window's matter.
    let warmer = states(&|i, s| {
        s.temperature_c = Some(40 + i as u32);
        s.throttle_reasons = Some(4);
    });
    assert!(of(warmer, 1000.0).is_empty());
}

#[test]
fn a_gpu_without_counter_and_samples_has_no_energy_and_no_integral_either() {
    let recording = Recording { domains: vec![DomainRecording { points: Vec::new(), ..gpu() }] };
    let (start, end) = (edge(5 * S, Ok(None), false), edge(15 * S, Ok(None), false));
    let reasons = recording.reasons(Judged::Window, &start, &end, Work { start_ns: 5 * S, end_ns: 15 * S }, &[]);
    assert_eq!(codes(&reasons), [ReasonCode::NoGpuPowerSource]);
    assert!(reasons[0].message.contains("sample_hz") && !reasons[0].message.contains("integral"), "{}", reasons[0]);
}

#[test]
fn what_is_wrong_with_a_sensor_beside_the_gpus_is_a_note_that_names_its_code() {
    let package = PowerDomain { source: PowerSourceKind::Rapl, id: "package-0".to_owned(), scope: PowerScope::Package };
    let beside = DomainRecording { domain: package, states: Vec::new(), ..gpu() };
    let recording = Recording { domains: vec![gpu(), beside] };
    let both = |t_ns, gpu_j, package_j| {
        let reading = |joules| edge(t_ns, Ok(Some(joules)), true).readings[0];
        Edge { t_ns, readings: vec![reading(gpu_j), reading(package_j)] }
    };
    let work = Work { start_ns: 5 * S, end_ns: 15 * S };
    let reasons = recording.reasons(Judged::Window, &both(5 * S, 0.0, 9.0), &both(15 * S, 1000.0, 8.0), work, &[]);
    assert_eq!(codes(&reasons), [ReasonCode::UncountedSensor]);
    assert!(
        reasons[0].severity == Severity::Note && reasons[0].message.starts_with("counter_reset: "),
        "{}",
        reasons[0]
    );
}
