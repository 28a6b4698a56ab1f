use super::kind::lag_ns;
use super::*;

const S: u64 = 1_000_000_000;

fn curve(kind: CurveKind, points: &[(f64, f64)]) -> Curve {
    let points: Vec<Point> =
        points.iter().map(|(t, power_w)| Point { t_ns: (t * 1e9) as u64 + lag_ns(kind), power_w: *power_w }).collect();
    Curve::new(kind, &points)
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
}

#[test]
fn a_ramp_of_moments_is_integrated_exactly_between_points() {
    // P(t) = 10 t; from 2.5 s to 7.5 s that is 5 (7.5² − 2.5²) = 250 J.
    let ramp = curve(CurveKind::Instant, &(0..=10).map(|t| (f64::from(t), 10.0 * f64::from(t))).collect::<Vec<_>>());
    close(ramp.energy_j(5 * S / 2, 15 * S / 2).unwrap(), 250.0);
    close(ramp.power_w(5 * S / 2).unwrap(), 25.0);
    assert_eq!(ramp.inside(5 * S / 2, 15 * S / 2).len(), 5);
}

#[test]
fn a_mean_covers_the_stretch_before_its_point() {
    let means = curve(CurveKind::Mean, &[(0.0, 100.0), (1.0, 200.0), (3.0, 50.0)]);
    close(means.energy_j(0, 3 * S).unwrap(), 300.0);
    close(means.energy_j(S / 2, 2 * S).unwrap(), 100.0 + 50.0);
    close(means.power_w(S / 2).unwrap(), 200.0);
    // Beyond the last point its power holds, before the first one that of the first.
    close(means.energy_j(3 * S, 4 * S).unwrap(), 50.0);
    close(curve(CurveKind::Mean, &[(2.0, 7.0)]).energy_j(S, 3 * S).unwrap(), 14.0);
    assert_eq!(curve(CurveKind::Mean, &[]).energy_j(0, S), None);
}

#[test]
fn gaps_are_found_and_weigh() {
    let points = [(0.0, 100.0), (0.1, 300.0), (0.2, 100.0), (1.2, 100.0), (1.3, 100.0)];
    let means = curve(CurveKind::Mean, &points);
    close(means.longest_gap_s(0, 13 * S / 10), 1.0);
    // Two changes of 200 W whose stamps are known to 10 ms each.
    let stamps = 2.0_f64.sqrt() * 2.0 / 3.0_f64.sqrt();
    // From nothing to the 300 W that were seen elsewhere.
    let gap = 300.0 / 12.0_f64.sqrt();
    close(means.sampling_u_j(0, 13 * S / 10), (gap * gap + stamps * stamps).sqrt());
    close(curve(CurveKind::Mean, &points[..3]).sampling_u_j(0, S / 5), stamps);
}

#[test]
fn readings_at_moments_are_less_sure_than_means() {
    let flat: Vec<(f64, f64)> = (0..=100).map(|t| (f64::from(t) / 10.0, 100.0)).collect();
    close(curve(CurveKind::Mean, &flat).sampling_u_j(0, 10 * S), 0.0);
    close(curve(CurveKind::Instant, &flat).sampling_u_j(0, 10 * S), 90.0 / 3.0_f64.sqrt());
    let rising = [(0.0, 100.0), (1.0, 200.0)];
    let seen = (100.0_f64 / 12.0_f64.sqrt()).powi(2) + (0.09_f64 * 150.0 / 3.0_f64.sqrt()).powi(2);
    close(curve(CurveKind::Instant, &rising).sampling_u_j(0, S), seen.sqrt());
}

#[test]
fn power_that_jumps_with_the_work_is_not_smeared_over_its_ends() {
    // 100 W, and 700 W from 1 s to 2 s; the means around both ends are 40 ms long and hold them in the middle.
    let powers = [100.0, 100.0, 400.0, 700.0, 700.0, 400.0, 100.0, 100.0];
    let times = [0.9, 0.98, 1.02, 1.5, 1.98, 2.02, 2.06, 2.1];
    let means = curve(CurveKind::Mean, &times.into_iter().zip(powers).collect::<Vec<_>>());
    // The steps are uneven; none of them is a gap.
    let means = Curve { step_s: 0.3, ..means };
    close(means.work_j(S, 2 * S).unwrap(), 700.0);
    close(means.lead_j(99 * S / 100, S).unwrap(), 1.0);
    close(means.lead_j(9 * S / 10, S).unwrap(), 10.0);
    close(means.tail_j(2 * S, 201 * S / 100).unwrap(), 1.0);
    close(means.tail_j(2 * S, 21 * S / 10).unwrap(), 10.0);
    close(means.jump_w(S), 600.0);
}

#[test]
fn a_step_between_two_phases_is_shared_out_as_both_sides_have_it() {
    // 600 W up to 1 s, 200 W after it; the mean around the step is 40 ms long and holds it after 10 ms.
    let means = curve(CurveKind::Mean, &[(0.8, 600.0), (0.9, 600.0), (0.99, 600.0), (1.03, 300.0), (1.1, 200.0)]);
    close(means.phase_j(9 * S / 10, S).unwrap(), 60.0);
    close(means.phase_j(S, 11 * S / 10).unwrap(), 20.0);
    let (before_w, after_w) = means.sides_w(S);
    close(before_w, 600.0);
    close(after_w, 200.0);
}

#[test]
fn readings_that_fall_after_the_work_do_not_make_its_tail_dearer() {
    let step: Vec<(f64, f64)> = (0..30).map(|i| (f64::from(i) * 0.1, if i < 15 { 700.0 } else { 100.0 })).collect();
    let instant = curve(CurveKind::Instant, &step);
    close(instant.tail_j(145 * S / 100, 155 * S / 100).unwrap(), 10.0);
    close(instant.jump_w(145 * S / 100), 600.0);
}

#[test]
fn a_jump_is_seen_around_its_moment_only() {
    let step: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i) * 0.02, if i < 50 { 100.0 } else { 700.0 })).collect();
    let step = curve(CurveKind::Mean, &step);
    close(step.jump_w(S), 600.0);
    close(step.jump_w(S / 2), 0.0);
}

#[test]
fn what_a_hole_hides_is_unsure_even_where_power_was_the_same_on_both_sides() {
    let seen = |t: f64| !(3.0..8.0).contains(&t);
    let points: Vec<(f64, f64)> =
        (0..=500).map(|i| f64::from(i) * 0.02).filter(|t| seen(*t)).map(|t| (t, 300.0)).collect();
    let holed = curve(CurveKind::Mean, &points);
    // From nothing to the highest power that was seen, for 5 s and the point before.
    let hole_s = 8.0 - 2.98;
    close(holed.sampling_u_j(0, 10 * S), 300.0 * hole_s * UNIFORM);
    assert!(holed.sampling_u_j(0, 2 * S) < 1e-9);
}
