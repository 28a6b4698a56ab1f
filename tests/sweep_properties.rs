//! What holds for every sweep, whatever its axes.

use std::collections::HashSet;
use std::path::Path;

use llem::config::{Profile, StudyConfig};
use proptest::prelude::*;

/// Axes that any values of theirs can be combined on.
const KEYS: [&str; 5] =
    ["candle.batch_size", "candle.threads", "workload.n", "workload.output_tokens", "measurement.warmup_passes"];

fn resolve(text: &str) -> StudyConfig {
    StudyConfig::from_text(Path::new("study.yaml"), text, &[], Profile::Standard)
        .unwrap_or_else(|error| panic!("{error}\n\n{text}"))
}

fn study_text(axes: &[(usize, Vec<u32>)], rest: &str) -> String {
    let lines: Vec<String> = axes.iter().map(|(key, values)| format!("  {}: {values:?}\n", KEYS[*key])).collect();
    format!("model: synthetic\nbackend: candle\nsweep:\n{}{rest}", lines.concat())
}

/// Distinct keys, each with distinct values.
fn axes() -> impl Strategy<Value = Vec<(usize, Vec<u32>)>> {
    let values = prop::collection::hash_set(1_u32..60, 1..5);
    prop::collection::btree_map(0..KEYS.len(), values, 1..4)
        .prop_map(|axes| axes.into_iter().map(|(key, values)| (key, values.into_iter().collect())).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_grid_is_the_product_of_its_axes(axes in axes()) {
        let study = resolve(&study_text(&axes, ""));
        let product: usize = axes.iter().map(|(_, values)| values.len()).product();
        prop_assert_eq!(study.experiments.len(), product);
        let ids: HashSet<_> = study.experiments.iter().map(|experiment| &experiment.id).collect();
        prop_assert_eq!(ids.len(), product, "ids are unique");
        let labels: HashSet<_> = study.experiments.iter().map(|experiment| &experiment.label).collect();
        prop_assert_eq!(labels.len(), product, "labels are unique");
        prop_assert!(study.merged.is_empty());
    }

    #[test]
    fn the_last_axis_is_the_fastest(axes in axes()) {
        let study = resolve(&study_text(&axes, ""));
        let (key, values) = axes.last().unwrap();
        for (index, experiment) in study.experiments.iter().enumerate() {
            let config = serde_json::to_value(&experiment.config).unwrap();
            let found = config.pointer(&format!("/{}", KEYS[*key].replace('.', "/"))).and_then(serde_json::Value::as_u64);
            prop_assert_eq!(found, Some(u64::from(values[index % values.len()])));
        }
    }

    #[test]
    fn resolving_twice_is_the_same(axes in axes()) {
        let text = study_text(&axes, "");
        prop_assert_eq!(resolve(&text), resolve(&text));
    }

    #[test]
    fn excluded_points_are_missing_and_no_others(axes in axes(), picks in prop::collection::vec(any::<prop::sample::Index>(), 3)) {
        let full = resolve(&study_text(&axes, ""));
        let rule: Vec<String> = axes.iter().zip(&picks)
            .map(|((key, values), pick)| format!("{}: {}", KEYS[*key], pick.get(values))).collect();
        // Not more than one axis less than all, so that something is left to measure.
        let rule = &rule[..rule.len().min(2)];
        let matching: usize = axes.iter().skip(rule.len()).map(|(_, values)| values.len()).product();
        prop_assume!(matching < full.experiments.len());
        let rest = format!("exclude:\n  - {{{}}}\n", rule.join(", "));
        let study = resolve(&study_text(&axes, &rest));
        prop_assert_eq!(study.experiments.len(), full.experiments.len() - matching);
        let all: Vec<_> = full.experiments.iter().map(|experiment| &experiment.id).collect();
        let places: Vec<_> = study.experiments.iter().map(|one| all.iter().position(|id| **id == one.id)).collect();
        prop_assert!(places.windows(2).all(|pair| pair[0].is_some() && pair[0] < pair[1]), "the order stays");
    }

    #[test]
    fn equal_points_run_once_and_are_named(values in prop::collection::vec(1_u32..6, 1..12)) {
        let study = resolve(&study_text(&[(0, values.clone())], ""));
        let distinct: HashSet<_> = values.iter().collect();
        prop_assert_eq!(study.experiments.len(), distinct.len());
        prop_assert_eq!(study.merged.len(), values.len() - distinct.len());
        for merged in &study.merged {
            prop_assert!(study.experiments.iter().any(|experiment| experiment.id == merged.experiment));
            prop_assert!(merged.point.contains("batch_size="), "{}", merged.point);
        }
    }

    #[test]
    fn listed_experiments_come_after_the_grid(values in prop::collection::hash_set(1_u32..50, 1..6), extra in 50_u32..99) {
        let values: Vec<u32> = values.into_iter().collect();
        let rest = format!("experiments:\n  - candle: {{batch_size: {extra}}}\n  - {{candle.batch_size: {}}}\n", values[0]);
        let study = resolve(&study_text(&[(0, values.clone())], &rest));
        prop_assert_eq!(study.experiments.len(), values.len() + 1);
        prop_assert_eq!(&study.experiments[values.len()].label, &format!("batch_size={extra}"));
        prop_assert_eq!(study.merged.len(), 1);
        prop_assert!(study.merged[0].point.starts_with("experiments[1]"));
    }

    #[test]
    fn a_linear_range_has_its_ends_and_count(from in 1_u32..100, length in 1_u32..100, num in 2_u32..10) {
        let to = from + length;
        let study = resolve(&format!("model: synthetic\nbackend: candle\nsweep:\n  workload.n: {{from: {from}, to: {to}, num: {num}}}\n"));
        let values: Vec<u64> = study.experiments.iter().filter_map(|one| one.config.workload.n).collect();
        prop_assert_eq!(values.len(), (num.min(length + 1)) as usize);
        prop_assert_eq!((values.first().copied(), values.last().copied()), (Some(u64::from(from)), Some(u64::from(to))));
        prop_assert!(values.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn arbitrary_yaml_never_panics(text in "([a-z]{1,6}|model|backend|sweep|vllm|candle)?(: |:\n  |\n- |, |\\[|\\{|\\}|\\]|&a|\\*a|<<|'|\"|#|\\|\n|\t|[0-9.e-]{1,8}|~|!x |\n){0,40}") {
        if let Err(error) = StudyConfig::from_text(Path::new("study.yaml"), &text, &[], Profile::Standard) {
            prop_assert!(!error.problems.is_empty());
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>(), set in any::<String>()) {
        let _ = StudyConfig::from_text(Path::new("study.yaml"), &text, &[set], Profile::Quick).map_err(|error| error.to_string());
    }
}
