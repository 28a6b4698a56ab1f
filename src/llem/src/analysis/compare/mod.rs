//! Whether a candidate takes more than its baseline: pairs of experiments, one test for each figure, rules that can fail a build.
//!
//! ```text
//! two study.json ─► sides ─► pairs ─► comparable? ─► a test per figure ─► rules ─► StudyComparison ─► table, JSON, Markdown, JUnit
//!                                     or refused     over valid runs       Holm
//! ```
//!
//! `docs/statistics.md` says which test, and how often it is wrong.

mod comparable;
mod junit;
mod markdown;
mod pairs;
mod quantity;
mod record;
mod rules;
mod side;
mod tests_of_pairs;
mod text;
mod wording;

pub use junit::junit;
pub use markdown::markdown;
pub use pairs::PairError;
pub use quantity::Quantity;
pub use record::{
    COMPARISON_SCHEMA_VERSION, ComparisonOutcome, ExperimentComparison, FigureComparison, LeftOut, PairedBy, RuleCheck,
    RuleOutcome, SideRecord, SideRuns, StudyComparison, UnpairedExperiment, Verdict,
};
pub use rules::{Relation, Rule, RuleError, Rules};
pub use side::Side;
pub use text::shown;

use thiserror::Error;

use comparable::Findings;

/// Chance of a false alarm among all comparisons together.
pub const ALPHA: f64 = 0.05;

/// How to compare.
#[derive(Clone, Debug, Default)]
pub struct CompareOptions {
    /// What fails.
    pub rules: Rules,
    /// The key of the config by which the compared experiments differ, e.g. `vllm.image`.
    pub by: Option<String>,
    /// Compares what is not comparable, and says so.
    pub force: bool,
    /// Lets experiments of the baseline be absent from the candidate.
    pub allow_missing: bool,
}

/// Why there is no comparison.
#[derive(Debug, Error)]
pub enum CompareError {
    /// Nothing to compare with each other.
    #[error(transparent)]
    Pairs(#[from] PairError),
    /// One study, or one run, on both sides.
    #[error(
        "{baseline} and {candidate} are the same measurement: whatever is in it, no rule would fail; name another, or with --by the key by \
         which experiments of one study are compared"
    )]
    Same {
        /// The baseline.
        baseline: String,
        /// The candidate.
        candidate: String,
    },
    /// What was measured is not the same thing.
    #[error("{}", refusal(.0))]
    NotComparable(Vec<String>),
}

fn refusal(reasons: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut list: Vec<String> = reasons.iter().take(SHOWN).map(|reason| format!("\n  {reason}")).collect();
    if reasons.len() > SHOWN {
        list.push(format!("\n  and {} more", reasons.len() - SHOWN));
    }
    format!("not comparable:{}\n--force compares anyway, and marks what it makes of it", list.concat())
}

/// Compares every experiment of `candidate` with its counterpart in `baseline`.
pub fn compare(baseline: &Side, candidate: &Side, options: &CompareOptions) -> Result<StudyComparison, CompareError> {
    if options.by.is_none() && options.rules != Rules::None && baseline.is_same_study(candidate) {
        return Err(CompareError::Same { baseline: baseline.name(), candidate: candidate.name() });
    }
    let found = pairs::between(baseline, candidate, options.by.as_deref())?;
    conclude(baseline, candidate, &found, options)
}

/// Compares experiments of one study that differ by `key` only: the first value is the baseline of all others.
pub fn compare_within(side: &Side, key: &str, options: &CompareOptions) -> Result<StudyComparison, CompareError> {
    let found = pairs::within(side, key)?;
    conclude(side, side, &found, options)
}

fn conclude(
    baseline: &Side,
    candidate: &Side,
    paired: &pairs::Pairs<'_>,
    options: &CompareOptions,
) -> Result<StudyComparison, CompareError> {
    let by_cycle = baseline.is_same_study(candidate) && baseline.is_mixed_in_time();
    let findings: Vec<Findings> = paired.all.iter().map(|pair| Findings::of(pair, paired.key)).collect();
    let refused = distinct(findings.iter().flat_map(|finding| &finding.refused));
    if !options.force && !refused.is_empty() {
        return Err(CompareError::NotComparable(refused));
    }
    let quantities = quantity::of_table(&options.rules);
    let mut tested: Vec<_> = paired
        .all
        .iter()
        .zip(&findings)
        .map(|(pair, finding)| tests_of_pairs::Tested::new(pair, finding, &quantities, by_cycle))
        .collect();
    tests_of_pairs::adjust(&mut tested);
    let mut checks = rules::check(&options.rules, &tested);
    if !options.allow_missing {
        checks.extend(rules::missing(&options.rules, &paired.only_in_baseline));
    }
    let notes = distinct(side::notes(baseline, candidate).iter().chain(findings.iter().flat_map(|f| &f.warnings)));
    Ok(StudyComparison {
        schema_version: COMPARISON_SCHEMA_VERSION,
        llem_version: env!("CARGO_PKG_VERSION").to_owned(),
        baseline: baseline.record(),
        candidate: candidate.record(),
        level: llem_statistics::DEFAULT_LEVEL,
        alpha: ALPHA,
        outcome: rules::outcome(&checks),
        experiments: tested.into_iter().map(tests_of_pairs::Tested::into_record).collect(),
        only_in_baseline: paired.only_in_baseline.clone(),
        only_in_candidate: paired.only_in_candidate.clone(),
        rules: checks,
        forced: refused,
        notes,
    })
}

/// Each text once, in the order of its first appearance.
fn distinct<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    texts.filter(|text| seen.insert(text.as_str())).cloned().collect()
}
