//! Figures against numbers worked out by hand.

use llem_protocol::{
    BaselinePower, BaselineRecord, CrossCheck, CrossCheckBasis, DeviceEnergy, EdgeRecord, EnergyReport, EnergySplit,
    PassRecord, Phase, PhaseRecord, PowerDomain, PowerScope, PowerSourceKind, PrefillRecord, Reason, ReasonCode,
    SelfUsage, Stretch, WindowRecord,
};

use super::*;
use crate::result::plausible::impossible;
use crate::result::{RunMetricsError, SplitMethod};

const S: u64 = 1_000_000_000;
/// 0.05 / sqrt(3)
const GAIN: f64 = 0.028_867_513_459_481_29;

fn close(a: impl Into<Option<f64>>, b: f64) {
    let a = a.into().unwrap();
    assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} {b}");
}

fn gpu(id: &str) -> PowerDomain {
    PowerDomain { source: PowerSourceKind::Nvml, id: id.into(), scope: PowerScope::Gpu }
}

fn device(domain: PowerDomain, energy_j: Option<f64>) -> DeviceEnergy {
    let edge = EdgeRecord { t_ns: 10 * S, aligned: true, bracket_ms: 3.0, counter_j: energy_j };
    DeviceEnergy {
        domain,
        start: edge,
        end: edge,
        energy_j,
        method: None,
        edge_u_j: energy_j.map(|_| 3.0),
        sampling_u_j: energy_j.map(|_| 4.0),
        counter_j: energy_j,
        curve_j: energy_j.map(|j| 1.02 * j),
        curve_u_j: None,
        curve_kind: None,
        cross_check: None,
        lead_j: None,
        tail_j: None,
        mean_w: None,
        peak_w: Some(700.0),
        samples: 3,
    }
}

fn pass(prompt_tokens: u64, output_tokens: u64) -> PassRecord {
    PassRecord { pass: 0, start_ns: 0, end_ns: 0, prompt_tokens, output_tokens }
}

/// Two passes of 4 requests in 20 s: 800 prompt tokens, 200 output tokens.
fn window(devices: Vec<DeviceEnergy>) -> WindowRecord {
    WindowRecord {
        start_ns: 10 * S,
        end_ns: 30 * S,
        passes: vec![pass(400, 100); 2],
        energy: EnergyReport { devices },
        split: Vec::new(),
        agent: SelfUsage::default(),
        run_cpu_s: None,
    }
}

const WORK: Work = Work { seconds: 20.0, requests: 8, prompt_tokens: 800, output_tokens: 200 };

fn baseline(devices: &[(&str, f64, Option<f64>)]) -> BaselineRecord {
    let power = |(id, mean_w, mean_u_w): &(&str, f64, Option<f64>)| BaselinePower {
        domain: gpu(id),
        mean_w: *mean_w,
        spread_w: None,
        mean_u_w: *mean_u_w,
    };
    BaselineRecord { start_ns: 0, end_ns: 5 * S, devices: devices.iter().map(power).collect() }
}

fn calibration(device: &str) -> Calibration {
    Calibration {
        device: device.into(),
        factor: 1.1,
        relative_uncertainty: 0.01,
        date: "2026-11-22".into(),
        method: "clamp meter".into(),
    }
}

#[test]
fn gross_and_net_stand_side_by_side() {
    let gpus = ["GPU-a".to_owned()];
    let idle = baseline(&[("GPU-a", 70.0, Some(0.2))]);
    let context = EnergyContext { gpus: &gpus, baseline: Some(&idle), ..EnergyContext::default() };
    let figures = energy_figures(&window(vec![device(gpu("GPU-a"), Some(10_000.0))]), WORK, &context);
    close(figures.energy_raw_j, 10_000.0);
    close(figures.energy_j, 10_000.0);
    close(figures.energy_net_j, 8_600.0);
    close(figures.baseline_power_w, 70.0);
    close(figures.energy_per_output_token_j, 50.0);
    close(figures.energy_net_per_output_token_j, 43.0);
    close(figures.mean_power_w, 500.0);
    close(figures.peak_power_w, 700.0);
    let gross = figures.uncertainty.unwrap();
    close(gross.gain_j, GAIN * 10_000.0);
    close(gross.comparison_j, 5.0);
    assert_eq!(gross.baseline_j, None);
    let net = figures.net_uncertainty.unwrap();
    close(net.gain_j, GAIN * 8_600.0);
    close(net.baseline_j, 4.0);
    close(net.comparison_j, (9.0_f64 + 16.0 + 16.0).sqrt());
    let domain = &figures.domains[0];
    close(domain.curve_difference_percent, 2.0);
    assert!(domain.counted && domain.calibration.is_none());
}

#[test]
fn a_baseline_that_was_disturbed_leaves_gross_energy_and_nothing_net() {
    let gpus = ["GPU-a".to_owned()];
    let idle = baseline(&[("GPU-a", 300.0, Some(0.2))]);
    let context = EnergyContext { gpus: &gpus, baseline: Some(&idle), ..EnergyContext::default() };
    let measured = window(vec![device(gpu("GPU-a"), Some(10_000.0))]);
    close(energy_figures(&measured, WORK, &context).energy_net_j, 4_000.0);
    let figures = energy_figures(&measured, WORK, &EnergyContext { baseline_disturbed: true, ..context });
    close(figures.energy_j, 10_000.0);
    close(figures.energy_per_output_token_j, 50.0);
    assert!(figures.uncertainty.is_some());
    assert_eq!((figures.energy_net_j, figures.energy_net_per_output_token_j), (None, None));
    assert_eq!((figures.baseline_power_w, figures.net_uncertainty), (None, None));
    assert_eq!((figures.domains[0].baseline_power_w, figures.domains[0].baseline_u_w), (None, None));
}

#[test]
fn a_calibration_corrects_readings_and_replaces_the_bound() {
    let gpus = ["GPU-a".to_owned(), "GPU-b".to_owned()];
    let idle = baseline(&[("GPU-a", 50.0, Some(0.1)), ("GPU-b", 100.0, Some(0.1))]);
    let calibrations = [calibration("GPU-b"), calibration("GPU-other")];
    let context =
        EnergyContext { gpus: &gpus, baseline: Some(&idle), calibrations: &calibrations, ..EnergyContext::default() };
    let devices = vec![device(gpu("GPU-a"), Some(10_000.0)), device(gpu("GPU-b"), Some(20_000.0))];
    let figures = energy_figures(&window(devices), WORK, &context);
    close(figures.energy_raw_j, 30_000.0);
    close(figures.energy_j, 32_000.0);
    // 50 W + 1.1 * 100 W over 20 s.
    close(figures.baseline_power_w, 160.0);
    close(figures.energy_net_j, 28_800.0);
    let budget = figures.uncertainty.unwrap();
    close(budget.gain_j, GAIN * 10_000.0 + 0.01 * 22_000.0);
    close(budget.edge_j, (9.0_f64 + 3.3 * 3.3).sqrt());
    let net = figures.net_uncertainty.unwrap();
    close(net.gain_j, GAIN * 9_000.0 + 0.01 * 19_800.0);
    assert_eq!(figures.domains[1].calibration.as_ref(), Some(&calibrations[0]));
    close(figures.domains[1].energy_raw_j, 20_000.0);
    close(figures.domains[1].energy_j, 22_000.0);
}

#[test]
fn energy_is_that_of_the_experiments_devices_and_never_less() {
    let rapl =
        |id: &str, scope| device(PowerDomain { source: PowerSourceKind::Rapl, id: id.into(), scope }, Some(50.0));
    let processor = [rapl("package-0", PowerScope::Package), rapl("dram-0", PowerScope::Memory)];
    let module = device(PowerDomain { scope: PowerScope::Module, ..gpu("GPU-a") }, Some(900.0));
    let a = |j| device(gpu("GPU-a"), j);
    let of = |devices: Vec<DeviceEnergy>, gpus: &[&str]| {
        let gpus: Vec<String> = gpus.iter().map(|id| (*id).to_owned()).collect();
        energy_figures(&window(devices), WORK, &EnergyContext { gpus: &gpus, ..EnergyContext::default() })
    };
    let all = vec![a(Some(300.0)), module, processor[0].clone(), processor[1].clone()];
    close(of(all.clone(), &["GPU-a"]).energy_j, 300.0);
    close(of(all.clone(), &[]).energy_j, 100.0);
    assert_eq!(of(all.clone(), &["GPU-a"]).domains.iter().filter(|d| d.counted).count(), 1);
    // A GPU without a sensor, one whose counter failed, none at all: unknown.
    for figures in [
        of(all, &["GPU-a", "GPU-b"]),
        of(vec![a(None)], &["GPU-a"]),
        of(vec![a(Some(1.0)), device(gpu("GPU-b"), None)], &["GPU-a", "GPU-b"]),
        of(processor.to_vec(), &["GPU-a"]),
        of(vec![], &[]),
    ] {
        assert_eq!((figures.energy_raw_j, figures.energy_j, figures.energy_net_j), (None, None, None));
        assert_eq!((figures.uncertainty, figures.mean_power_w, figures.co2_g), (None, None, None));
    }
    // A GPU of somebody else is not summed.
    close(of(vec![a(Some(300.0)), device(gpu("GPU-b"), Some(7.0))], &["GPU-a"]).energy_j, 300.0);
    // An instance of a divided GPU: the GPU's sensor stands for it, and the run is marked elsewhere.
    close(of(vec![a(Some(300.0))], &["MIG-1"]).energy_j, 300.0);
}

#[test]
fn what_is_not_known_of_a_baseline_or_an_edge_is_null() {
    let gpus = ["GPU-a".to_owned()];
    let of = |idle: Option<&BaselineRecord>, device| {
        let context = EnergyContext { gpus: &gpus, baseline: idle, ..EnergyContext::default() };
        energy_figures(&window(vec![device]), WORK, &context)
    };
    let measured = device(gpu("GPU-a"), Some(10_000.0));
    assert_eq!(of(None, measured.clone()).energy_net_j, None);
    assert_eq!(of(Some(&baseline(&[("GPU-b", 70.0, Some(0.2))])), measured.clone()).energy_net_j, None);
    let without_spread = of(Some(&baseline(&[("GPU-a", 70.0, None)])), measured.clone());
    close(without_spread.energy_net_j, 8_600.0);
    assert_eq!(without_spread.net_uncertainty, None);
    let without_edge = of(None, DeviceEnergy { edge_u_j: None, ..measured });
    close(without_edge.energy_j, 10_000.0);
    assert_eq!(without_edge.uncertainty, None);
}

#[test]
fn co2_needs_an_intensity() {
    let gpus = ["GPU-a".to_owned()];
    let carbon = Carbon { intensity_g_per_kwh: 400.0, pue: 1.25, source: "grid".into() };
    let context = EnergyContext { gpus: &gpus, carbon: Some(&carbon), ..EnergyContext::default() };
    let measured = window(vec![device(gpu("GPU-a"), Some(36_000.0))]);
    let figures = energy_figures(&measured, WORK, &context);
    // 0.01 kWh * 1.25 * 400 g/kWh
    close(figures.co2_g, 5.0);
    assert_eq!(figures.carbon, Some(carbon.clone()));
    assert_eq!(energy_figures(&measured, WORK, &EnergyContext { carbon: None, ..context }).co2_g, None);
}

#[test]
fn phases_have_sums_of_their_own() {
    let gpus = ["GPU-a".to_owned(), "GPU-b".to_owned()];
    let calibrations = [calibration("GPU-a")];
    let phase = |phase, devices: Option<Vec<DeviceEnergy>>, end_ns| PhaseRecord {
        phase,
        start_ns: 5 * S,
        end_ns,
        stretches: Vec::new(),
        energy: devices.map(|devices| EnergyReport { devices }),
    };
    let both = vec![device(gpu("GPU-a"), Some(100.0)), device(gpu("GPU-b"), Some(200.0))];
    let phases = [
        phase(Phase::Load, Some(both.clone()), Some(8 * S)),
        phase(Phase::Warmup, Some(both[..1].to_vec()), Some(8 * S)),
        phase(Phase::Window, None, None),
    ];
    let stretches = [(5, 6), (7, 8)].map(|(start, end)| Stretch { start_ns: start * S, end_ns: end * S }).to_vec();
    let [load, warmup, window] = phases;
    let phases = [load.clone(), warmup, window, PhaseRecord { phase: Phase::Compile, stretches, ..load }];
    let context =
        EnergyContext { gpus: &gpus, calibrations: &calibrations, phases: &phases, ..EnergyContext::default() };
    let energies = phase_energy(&context);
    // Of a phase with another in it, its own stretches count.
    assert_eq!((energies[3].phase, energies[3].seconds), (Phase::Compile, Some(2.0)));
    close(energies[0].seconds, 3.0);
    close(energies[0].energy_j, 310.0);
    close(energies[0].combined_u_j, (9.0 + 3.3 * 3.3 + 16.0 + 4.4 * 4.4 + (1.1 + GAIN * 200.0).powi(2)).sqrt());
    assert_eq!((energies[1].energy_j, energies[1].combined_u_j), (None, None));
    assert_eq!((energies[2].phase, energies[2].seconds, energies[2].energy_j), (Phase::Window, None, None));
}

#[test]
fn numbers_that_no_machine_has_are_refused() {
    let gpus = ["GPU-a".to_owned()];
    let refused = |window: &WindowRecord, idle: f64| {
        let idle = baseline(&[("GPU-a", idle, None)]);
        impossible(window, &EnergyContext { gpus: &gpus, baseline: Some(&idle), ..EnergyContext::default() }).is_some()
    };
    let with = |energy_j| window(vec![DeviceEnergy { energy_j: Some(energy_j), ..device(gpu("GPU-a"), Some(9.0)) }]);
    assert!(!refused(&with(1e5), 70.0) && !refused(&with(0.0), 0.0));
    for (energy_j, idle) in
        [(-1.0, 70.0), (-1e13, 70.0), (1e300, 70.0), (f64::NAN, 70.0), (1.0, f64::INFINITY), (1.0, -5.0)]
    {
        assert!(refused(&with(energy_j), idle), "{energy_j} {idle}");
    }
    let odd_splits = [
        EnergySplit { other_j: -5e13, ..split("GPU-a") },
        EnergySplit { boundary_u_j: -1.0, ..split("GPU-a") },
        EnergySplit { decode_sampling_u_j: f64::NAN, ..split("GPU-a") },
        EnergySplit { prefill_s: -1.0, ..split("GPU-a") },
    ];
    for split in odd_splits {
        let mut odd = with(1.0);
        odd.split = vec![split];
        assert!(refused(&odd, 70.0));
    }
    let once = || device(gpu("GPU-a"), Some(9.0));
    assert!(refused(&window(vec![once(), once()]), 70.0), "the same sensor twice");
    let mut odd = with(1.0);
    odd.agent.cpu_share = f64::INFINITY;
    assert!(refused(&odd, 70.0));
}

/// What a container could write of a sensor that no sensor says.
fn odd_devices() -> Vec<DeviceEnergy> {
    let fine = || device(gpu("GPU-a"), Some(100.0));
    let edge = |bracket_ms, counter_j| EdgeRecord { bracket_ms, counter_j, ..fine().start };
    let check = |allowed_percent| CrossCheck {
        difference_percent: 0.1,
        allowed_percent,
        basis: CrossCheckBasis::OnePercent,
        agrees: true,
    };
    vec![
        DeviceEnergy { edge_u_j: Some(-3.0), ..fine() },
        DeviceEnergy { sampling_u_j: Some(f64::NAN), ..fine() },
        DeviceEnergy { counter_j: Some(-1.0), ..fine() },
        DeviceEnergy { curve_j: Some(f64::INFINITY), ..fine() },
        DeviceEnergy { curve_u_j: Some(-0.1), ..fine() },
        DeviceEnergy { lead_j: Some(-1e13), ..fine() },
        DeviceEnergy { tail_j: Some(f64::NAN), ..fine() },
        DeviceEnergy { mean_w: Some(1e9), ..fine() },
        DeviceEnergy { peak_w: Some(-1.0), ..fine() },
        DeviceEnergy { start: edge(-1.0, None), ..fine() },
        DeviceEnergy { end: edge(1.0, Some(f64::NEG_INFINITY)), ..fine() },
        DeviceEnergy { start: EdgeRecord { t_ns: 99 * S, ..fine().start }, ..fine() },
        DeviceEnergy { cross_check: Some(check(f64::NAN)), ..fine() },
    ]
}

#[test]
fn sensors_that_cannot_be_are_refused_wherever_they_are() {
    let gpus = ["GPU-a".to_owned()];
    let fine = || window(vec![device(gpu("GPU-a"), Some(100.0))]);
    let phase = |devices, stretches| PhaseRecord {
        phase: Phase::Load,
        start_ns: 5 * S,
        end_ns: Some(9 * S),
        stretches,
        energy: Some(EnergyReport { devices }),
    };
    let of = |window: &WindowRecord, prefill: Option<&PrefillRecord>, phases: &[PhaseRecord]| {
        let context = EnergyContext { gpus: &gpus, prefill, phases, ..EnergyContext::default() };
        (impossible(window, &context), phase_energy(&context).len())
    };
    let load = phase(vec![device(gpu("GPU-a"), Some(100.0))], vec![]);
    assert_eq!(of(&fine(), None, std::slice::from_ref(&load)), (None, 1));
    let sensor = Some(RunMetricsError::Energy { domain: "nvml:GPU-a".to_owned() });
    for (number, odd) in odd_devices().into_iter().enumerate() {
        assert_eq!(of(&window(vec![odd.clone()]), None, &[]).0, sensor, "{number}");
        assert_eq!(
            of(&fine(), None, &[load.clone(), phase(vec![odd.clone()], vec![])]),
            (sensor.clone(), 0),
            "{number}"
        );
        let record = PrefillRecord { energy: EnergyReport { devices: vec![odd] }, ..prefill(vec![pass(400, 4)], 1.0) };
        assert_eq!(of(&fine(), Some(&record), &[]).0, sensor, "{number}");
    }
    let stretch = |start, end| Stretch { start_ns: start * S, end_ns: end * S };
    let times = Some(RunMetricsError::Phase { phase: Phase::Load });
    for stretches in
        [vec![stretch(4, 6)], vec![stretch(6, 10)], vec![stretch(7, 8), stretch(6, 7)], vec![stretch(7, 6)]]
    {
        assert_eq!(of(&fine(), None, &[phase(vec![], stretches)]), (times.clone(), 0));
    }
    assert_eq!(of(&fine(), None, &[PhaseRecord { end_ns: Some(S), ..load }]), (times, 0));
}

fn split(id: &str) -> EnergySplit {
    EnergySplit {
        domain: gpu(id),
        prefill_j: 1_600.0,
        decode_j: 8_000.0,
        other_j: 400.0,
        prefill_s: 2.0,
        decode_s: 17.0,
        boundary_u_j: 30.0,
        prefill_sampling_u_j: 0.0,
        decode_sampling_u_j: 40.0,
    }
}

#[test]
fn stamps_split_only_what_every_sensor_resolves() {
    let gpus = ["GPU-a".to_owned(), "GPU-b".to_owned()];
    let calibrations = [calibration("GPU-b")];
    let context = EnergyContext { gpus: &gpus, calibrations: &calibrations, ..EnergyContext::default() };
    let devices = vec![device(gpu("GPU-a"), Some(10_000.0)), device(gpu("GPU-b"), Some(10_000.0))];
    let mut measured = window(devices);
    measured.split = vec![split("GPU-a"), split("GPU-b")];
    let parts = energy_figures(&measured, WORK, &context).split_by_stamps.unwrap();
    assert_eq!(parts.method, SplitMethod::Stamps);
    close(parts.prefill_j, 3_360.0);
    close(parts.decode_j, 16_800.0);
    close(parts.other_j, 840.0);
    close(parts.prefill_per_prompt_token_j, 4.2);
    // 200 output tokens, the first of each of 8 requests is prefill's.
    close(parts.decode_per_output_token_j, 87.5);
    close(parts.prefill_comparison_u_j, (30.0_f64 * 30.0 + 33.0 * 33.0).sqrt());
    // Sampling of 40 J and 1.1 * 40 J beside the boundaries.
    let comparison = (50.0_f64 * 50.0 + 55.0 * 55.0).sqrt();
    close(parts.decode_comparison_u_j, comparison);
    let gain = GAIN * 8_000.0 + 0.01 * 8_800.0;
    close(parts.decode_u_j, gain.hypot(comparison));
    measured.split.pop();
    assert_eq!(energy_figures(&measured, WORK, &context).split_by_stamps, None);
}

fn prefill(passes: Vec<PassRecord>, energy_j: f64) -> PrefillRecord {
    let energy = EnergyReport { devices: vec![device(gpu("GPU-a"), Some(energy_j))] };
    PrefillRecord { start_ns: 40 * S, end_ns: 50 * S, passes, energy, reasons: Vec::new() }
}

#[test]
fn prefill_passes_split_the_window_by_difference() {
    let gpus = ["GPU-a".to_owned()];
    let measured = window(vec![device(gpu("GPU-a"), Some(10_000.0))]);
    let of = |record: PrefillRecord| {
        let context = EnergyContext { gpus: &gpus, prefill: Some(&record), ..EnergyContext::default() };
        energy_figures(&measured, WORK, &context).split_by_prefill_pass
    };
    // Four passes took 4,000 J; the window has two.
    let parts = of(prefill(vec![pass(400, 4); 4], 4_000.0)).unwrap();
    assert_eq!((parts.method, parts.other_j), (SplitMethod::PrefillPass, None));
    close(parts.prefill_j, 2_000.0);
    close(parts.decode_j, 8_000.0);
    close(parts.prefill_per_prompt_token_j, 2.5);
    close(parts.decode_per_output_token_j, 8_000.0 / 192.0);
    close(parts.prefill_comparison_u_j, 2.5);
    close(parts.decode_comparison_u_j, (25.0_f64 + 6.25).sqrt());
    close(parts.prefill_u_j, (GAIN * 2_000.0).hypot(2.5));
    close(parts.decode_u_j, (GAIN * 8_000.0).hypot((25.0_f64 + 6.25).sqrt()));
    // Other prompts, other lengths, no passes, more than the window took.
    assert_eq!(of(prefill(vec![pass(401, 4); 4], 4_000.0)), None);
    assert_eq!(of(prefill(vec![pass(400, 5); 4], 4_000.0)), None);
    assert_eq!(of(prefill(vec![], 4_000.0)), None);
    assert_eq!(of(prefill(vec![pass(400, 4); 4], 24_000.0)), None);
}

#[test]
fn prefill_passes_that_something_speaks_against_split_nothing() {
    let gpus = ["GPU-a".to_owned()];
    let measured = window(vec![device(gpu("GPU-a"), Some(10_000.0))]);
    let good = prefill(vec![pass(400, 4); 4], 4_000.0);
    let reasons = vec![Reason::new(ReasonCode::Throttled, "GPU-a was slowed down")];
    let hot = PrefillRecord { reasons, ..good.clone() };
    for (record, prefill_disturbed, is_split) in [(&good, false, true), (&good, true, false), (&hot, false, false)] {
        let context =
            EnergyContext { gpus: &gpus, prefill: Some(record), prefill_disturbed, ..EnergyContext::default() };
        let figures = energy_figures(&measured, WORK, &context);
        assert_eq!(figures.split_by_prefill_pass.is_some(), is_split);
        close(figures.energy_j, 10_000.0);
    }
}
