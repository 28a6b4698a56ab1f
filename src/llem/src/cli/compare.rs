use std::path::Path;

use llem::analysis::compare::{
    CompareOptions, ComparisonOutcome, Quantity, RuleOutcome, Rules, Side, StudyComparison, compare as compare_sides,
    compare_within, junit, markdown, shown,
};
use llem::report;
use textwrap::core::display_width;

use super::arguments::{CompareArguments, CompareFormat};
use super::{Exit, Failure, Printer};

/// More rules than this that passed are counted, not listed.
const LISTED_RULES: usize = 20;

/// `llem compare`. A failed rule is an answer; what keeps it from being given is bad usage.
pub(crate) fn compare(arguments: &CompareArguments, printer: Printer) -> Result<Exit, Failure> {
    let rules = Rules::parse(&arguments.fail_on).map_err(|error| Failure::usage(format!("--fail-on\n{error}")))?;
    let options = CompareOptions {
        rules,
        by: arguments.by.clone(),
        force: arguments.force,
        allow_missing: arguments.allow_missing,
    };
    let comparison = compared(arguments, &options)?;
    match &arguments.output {
        None => printer.result(&document(&comparison, arguments.format)?)?,
        Some(file) => {
            let text = document(&comparison, arguments.format)?;
            report::write(file, &text).map_err(|error| Failure::usage(error.to_string()))?;
            printer.result(&table(&comparison))?;
        }
    }
    Ok(match comparison.outcome {
        ComparisonOutcome::Passed => Exit::Success,
        ComparisonOutcome::Failed => Exit::Failed,
        ComparisonOutcome::Undecided => Exit::Undecided,
    })
}

fn compared(arguments: &CompareArguments, options: &CompareOptions) -> Result<StudyComparison, Failure> {
    let open = |path: &Path| Side::open(path).map_err(|error| Failure::usage(error.to_string()));
    let baseline = open(&arguments.baseline)?;
    let result = match (&arguments.candidate, &options.by) {
        (Some(candidate), _) => compare_sides(&baseline, &open(candidate)?, options),
        (None, Some(key)) => compare_within(&baseline, key, options),
        (None, None) => return Err(Failure::usage("name a candidate, or with --by a key")),
    };
    result.map_err(|error| Failure::usage(error.to_string()))
}

fn document(comparison: &StudyComparison, format: CompareFormat) -> Result<String, Failure> {
    Ok(match format {
        CompareFormat::Table => table(comparison),
        CompareFormat::Json => {
            serde_json::to_string_pretty(comparison).map_err(|error| Failure::failed(error.to_string()))? + "\n"
        }
        CompareFormat::Markdown => markdown(comparison),
        CompareFormat::Junit => junit(comparison),
    })
}

/// Plain text for 80 columns.
fn table(comparison: &StudyComparison) -> String {
    let mut text = String::new();
    for (role, side) in [("A", &comparison.baseline), ("B", &comparison.candidate)] {
        let valid = format!("{} of {} runs valid", side.valid_runs, side.runs);
        text += &[role, ": ", &shown(&side.path), " (", &valid, ")\n"].concat();
    }
    text.push('\n');
    text += &figures(comparison);
    let wrapped = textwrap::Options::new(Printer::width()).subsequent_indent("  ").break_words(false);
    for note in comparison.footnotes() {
        text += &textwrap::fill(&note, &wrapped);
        text.push('\n');
    }
    text += &rules(comparison);
    text
}

/// One block for each experiment, all of them in the same columns.
fn figures(comparison: &StudyComparison) -> String {
    let head = ["", "A", "B", "B vs A", "95 % interval", "p", ""].map(str::to_owned).to_vec();
    let mut lines = vec![Line::Cells(head)];
    for experiment in &comparison.experiments {
        let pairing = if experiment.by_cycle { ", paired by cycle" } else { "" };
        let (a, b) = (experiment.baseline.valid, experiment.candidate.valid);
        lines.push(Line::Heading(format!("{} · {a} and {b} runs{pairing}", shown(&experiment.name))));
        for figure in experiment.shown_figures() {
            let title = Quantity::from_name(&figure.figure).map_or_else(|| figure.figure.clone(), Quantity::title);
            lines.push(Line::Cells(std::iter::once(title).chain(figure.cells()).collect()));
        }
        if experiment.shown_figures().next().is_none() {
            lines.push(Line::Heading("  no valid run on either side".to_owned()));
        }
    }
    let mut widths = [0; 7];
    for line in &lines {
        if let Line::Cells(cells) = line {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = display_width(cell).max(*width);
            }
        }
    }
    let gap = if widths.iter().sum::<usize>() + 2 * (widths.len() - 1) > Printer::width() { " " } else { "  " };
    lines.iter().map(|line| line.text(&widths, gap) + "\n").collect()
}

enum Line {
    Heading(String),
    Cells(Vec<String>),
}

impl Line {
    /// Names and verdicts to the left, numbers to the right.
    fn text(&self, widths: &[usize; 7], gap: &str) -> String {
        match self {
            Self::Heading(text) => textwrap::fill(text, Printer::width()),
            Self::Cells(cells) => {
                let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
                    let space = " ".repeat(width.saturating_sub(display_width(cell)));
                    if column == 0 || column == 6 { format!("{cell}{space}") } else { format!("{space}{cell}") }
                });
                padded.collect::<Vec<_>>().join(gap).trim_end().to_owned()
            }
        }
    }
}

fn rules(comparison: &StudyComparison) -> String {
    let mut text = String::new();
    let many = comparison.rules.len() > LISTED_RULES;
    let listed = comparison.rules.iter().filter(|check| !many || check.outcome != RuleOutcome::Passed);
    for check in listed {
        let head = format!("{:<9} {} · {}", check.outcome.text(), check.rule, shown(&check.experiment));
        for (line, indent) in [(head, ""), (check.in_words(), "          ")] {
            let wrapped =
                textwrap::Options::new(Printer::width()).initial_indent(indent).subsequent_indent("          ");
            text += &textwrap::fill(&line, &wrapped);
            text.push('\n');
        }
    }
    if !text.is_empty() {
        text.insert(0, '\n');
    }
    format!("{text}{}\n", comparison.conclusion())
}
