//! What SciPy says of the same values: `golden.json`, made by `golden.py`.

#![allow(clippy::unwrap_used, reason = "a golden file that lacks something fails its test")]

use llem_statistics::{Bootstrap, Sample, bca_limits, paired, quantile_interval, t_interval, trend, unpaired};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

fn list<'a>(of: &'a Value, key: &str) -> &'a Vec<Value> {
    of[key].as_array().unwrap_or_else(|| panic!("{key} is a list"))
}

fn numbers(of: &Value, key: &str) -> Vec<f64> {
    list(of, key).iter().map(|value| value.as_f64().unwrap()).collect()
}

#[track_caller]
fn close(got: f64, want: f64, relative: f64, what: &Value) {
    assert!((got - want).abs() <= relative * want.abs().max(1e-12), "{got} is not {want}: {what}");
}

#[test]
fn intervals_are_those_of_scipy() {
    for sample in list(&golden(), "samples") {
        let values = numbers(sample, "values");
        for (level, suffix) in [(0.95, ""), (0.80, "_80")] {
            let want = numbers(sample, &format!("t{suffix}"));
            let got = t_interval(Sample::new(&values).unwrap(), level).unwrap();
            close(got.low, want[0], 1e-12, &sample["name"]);
            close(got.high, want[1], 1e-12, &sample["name"]);
            let want = numbers(sample, &format!("bca{suffix}"));
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let got = bca_limits(numbers(sample, "distribution"), mean, &numbers(sample, "jackknife"), level).unwrap();
            close(got.0, want[0], 1e-9, &sample["name"]);
            close(got.1, want[1], 1e-9, &sample["name"]);
        }
    }
}

/// Draws of another generator: the limits agree as well as their own scatter lets them.
#[test]
fn drawn_intervals_are_those_of_scipy_but_for_the_draws() {
    for sample in list(&golden(), "samples") {
        let values = numbers(sample, "values");
        let want = numbers(sample, "bca_drawn");
        let drawn = Bootstrap { resamples: 20_000, ..Bootstrap::default() };
        let got = drawn.bca(Sample::new(&values).unwrap()).unwrap();
        let width = want[1] - want[0];
        assert!((got.low - want[0]).abs() < 0.04 * width, "{got:?} {want:?}: {}", sample["name"]);
        assert!((got.high - want[1]).abs() < 0.04 * width, "{got:?} {want:?}: {}", sample["name"]);
    }
}

#[test]
fn comparisons_are_those_of_scipy() {
    for case in list(&golden(), "comparisons") {
        let (first, second) = (numbers(case, "first"), numbers(case, "second"));
        let (first, second) = (Sample::new(&first).unwrap(), Sample::new(&second).unwrap());
        let name = &case["name"];
        let got = unpaired(first, second, 0.95).unwrap();
        let want = numbers(case, "welch");
        close(got.p_value, case["welch_p"].as_f64().unwrap(), 1e-8, name);
        close(got.low, want[0], 1e-8, name);
        close(got.high, want[1], 1e-8, name);
        let pairs = paired(first, second, 0.95);
        assert_eq!(pairs.is_none(), case["paired"].is_null(), "{name}");
        if let Some(got) = pairs {
            let want = numbers(case, "paired");
            close(got.p_value, case["paired_p"].as_f64().unwrap(), 1e-8, name);
            close(got.low, want[0], 1e-8, name);
            close(got.high, want[1], 1e-8, name);
            close(got.p_above(0.02).unwrap(), case["above_2_percent"].as_f64().unwrap(), 1e-8, name);
        }
    }
}

#[test]
fn quantiles_have_the_limits_of_the_binomial() {
    for case in list(&golden(), "quantiles") {
        let n = case["n"].as_u64().unwrap() as usize;
        // Each value is its place, from 0.
        let values: Vec<f64> = (0..n).map(|place| place as f64).collect();
        let got = quantile_interval(Sample::new(&values).unwrap(), case["p"].as_f64().unwrap(), 0.95).unwrap();
        assert_eq!(
            (Some(got.low as u64), Some(got.high as u64)),
            (case["low"].as_u64(), case["high"].as_u64()),
            "{case}"
        );
    }
}

#[test]
fn trends_are_those_of_scipy() {
    for case in list(&golden(), "trends") {
        let values = numbers(case, "values");
        let got = trend(Sample::new(&values).unwrap()).unwrap();
        close(got.tau, case["tau"].as_f64().unwrap(), 1e-12, case);
        close(got.p_value, case["p_value"].as_f64().unwrap(), 1e-9, case);
        close(got.per_step, case["per_step"].as_f64().unwrap(), 1e-12, case);
    }
}
