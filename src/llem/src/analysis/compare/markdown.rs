//! Markdown for a pull request's comment or a job's summary.

use std::fmt::Write;

use super::quantity::Quantity;
use super::record::{ComparisonOutcome, RuleOutcome, StudyComparison, Verdict};
use super::text::code;
use crate::printable::markdown as plain;

/// The comparison in Markdown as GitHub reads it. Names of others stand in code spans.
pub fn markdown(comparison: &StudyComparison) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "### llem compare: {}\n", headline(comparison));
    let sides = [("Baseline", &comparison.baseline), ("Candidate", &comparison.candidate)];
    for (role, side) in sides {
        let _ = writeln!(text, "- {role}: {}, {} of {} runs valid", code(&side.path), side.valid_runs, side.runs);
    }
    rules(&mut text, comparison);
    figures(&mut text, comparison);
    for note in comparison.footnotes() {
        let _ = writeln!(text, "- {}", plain(&note));
    }
    text
}

fn headline(comparison: &StudyComparison) -> String {
    let sign = match comparison.outcome {
        _ if comparison.rules.is_empty() => "",
        ComparisonOutcome::Passed => "✅ ",
        ComparisonOutcome::Failed => "❌ ",
        ComparisonOutcome::Undecided => "⚠️ ",
    };
    format!("{sign}{}", comparison.conclusion())
}

fn rules(text: &mut String, comparison: &StudyComparison) {
    if comparison.rules.is_empty() {
        return;
    }
    text.push_str("\n| | rule | experiment | |\n|---|---|---|---|\n");
    for check in &comparison.rules {
        let sign = match check.outcome {
            RuleOutcome::Passed => "✅",
            RuleOutcome::Failed => "❌",
            RuleOutcome::Undecided => "⚠️",
        };
        let said = plain(&check.in_words());
        let _ = writeln!(text, "| {sign} | {} | {} | {said} |", code(&check.rule), code(&check.experiment));
    }
}

fn figures(text: &mut String, comparison: &StudyComparison) {
    text.push_str("\n| experiment | figure | baseline | candidate | difference | 95 % interval | p | verdict |\n");
    text.push_str("|---|---|---:|---:|---:|---:|---:|---|\n");
    for experiment in &comparison.experiments {
        for figure in experiment.shown_figures() {
            let cells = figure.cells();
            let [baseline, candidate, difference, interval, p, verdict] = cells;
            let verdict = if matches!(figure.verdict, Verdict::More | Verdict::Less) {
                format!("**{verdict}**")
            } else {
                verdict
            };
            let name = code(&experiment.name);
            let title = Quantity::from_name(&figure.figure).map_or_else(String::new, Quantity::title);
            let _ = writeln!(
                text,
                "| {name} | {title} | {baseline} | {candidate} | {difference} | {interval} | {p} | {verdict} |"
            );
        }
    }
    text.push('\n');
}
