use std::io::IsTerminal;
use std::path::Path;

use comfy_table::ContentArrangement;
use llem::analysis::{AnalysisOptions, ExperimentAnalysis, LoadError, StudyAnalysis, StudyFiles};
use llem::report::{self, HtmlMaterial, words};
use llem::result::Figure;

use super::arguments::{ReportArguments, ReportFormat};
use super::{Exit, Failure, Printer, table};

/// More varied keys than this go into one column.
const KEY_COLUMNS: usize = 3;

/// The figures of the table; the other formats have all.
const FIGURES: [Figure; 4] =
    [Figure::OutputTokensPerS, Figure::TtftP50Ms, Figure::ItlP50Ms, Figure::EnergyPerOutputTokenJ];

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::NoStudy { .. } => Self::usage(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}

/// `llem report`.
pub(crate) fn report(arguments: &ReportArguments, printer: Printer) -> Result<Exit, Failure> {
    let format = arguments.format;
    if format == ReportFormat::Html && arguments.output.is_none() && std::io::stdout().is_terminal() {
        return Err(Failure::usage("a page of HTML is not for a terminal; name a file with `--output report.html`"));
    }
    let files = StudyFiles::open(&arguments.dir)?;
    let options = AnalysisOptions { objectives: arguments.objectives.clone(), curves: format == ReportFormat::Html };
    let study = StudyAnalysis::of(&files, &options)?;
    let text = match format {
        ReportFormat::Table => human(&study, files.root()),
        ReportFormat::Csv => report::csv(&study),
        ReportFormat::Json => serde_json::to_string_pretty(&study).map_err(|e| Failure::failed(e.to_string()))?,
        ReportFormat::Markdown => report::markdown(&study),
        ReportFormat::Html => {
            let (source, lock) = (files.source()?, files.lock()?);
            report::html(&HtmlMaterial { study: &study, source: source.as_deref(), lock: lock.as_deref() })
        }
    };
    let Some(path) = &arguments.output else {
        printer.result(&text)?;
        return Ok(Exit::Success);
    };
    let ending = if text.ends_with('\n') { "" } else { "\n" };
    llem::report::write(path, &format!("{text}{ending}")).map_err(|error| Failure::failed(error.to_string()))?;
    printer.line(&format!("{} ({:.0} kB)", table::path(path), text.len() as f64 / 1e3));
    Ok(Exit::Success)
}

/// The table with its notes.
fn human(study: &StudyAnalysis, root: &Path) -> String {
    let figures: Vec<Figure> =
        FIGURES.into_iter().filter(|figure| study.experiments.iter().any(|e| e.figure(*figure).is_some())).collect();
    let keys: &[String] = if study.varied_keys.len() > KEY_COLUMNS { &[] } else { &study.varied_keys };
    let mut text = [" ", "\n"]
        .into_iter()
        .map(|between| rows(study, keys, &figures, between, ContentArrangement::Disabled))
        .find(|table| table::fits(table))
        .unwrap_or_else(|| rows(study, &[], &figures, "\n", ContentArrangement::Dynamic));
    text.push('\n');
    let width = textwrap::Options::new(Printer::width()).subsequent_indent("  ").break_words(false);
    let mut notes = report::notes(study);
    notes.push(format!("{}: {}", study.study_id, table::path(root)));
    for note in notes {
        text.push_str(&textwrap::fill(&note, &width));
        text.push('\n');
    }
    text
}

/// One row per experiment; mean and interval stand side by side, or one above the other where that is too wide. Then names share what is left.
fn rows(
    study: &StudyAnalysis,
    keys: &[String],
    figures: &[Figure],
    between: &str,
    arrangement: ContentArrangement,
) -> String {
    let mut head: Vec<String> = keys.iter().map(|key| words::short(key, &study.varied_keys)).collect();
    if head.is_empty() {
        head.push("experiment".to_owned());
    }
    let names = head.len();
    head.push("runs".to_owned());
    head.extend(figures.iter().map(|figure| figure.title().to_owned()));
    let compared = study.experiments.iter().any(|experiment| experiment.standing.is_some());
    if compared {
        head.push("P".to_owned());
    }
    let row = |experiment: &ExperimentAnalysis| {
        let mut cells = names_of(experiment, keys);
        cells.push(words::runs(experiment));
        cells.extend(figures.iter().map(|figure| match experiment.figure(*figure).map(words::estimate) {
            None => "-".to_owned(),
            Some((mean, None)) => mean,
            Some((mean, Some(sure))) => format!("{mean}{between}{sure}"),
        }));
        if compared {
            cells.push(words::standing_sign(experiment.standing).to_owned());
        }
        cells
    };
    table::arranged(head, study.experiments.iter().map(row), names, arrangement)
}

fn names_of(experiment: &ExperimentAnalysis, keys: &[String]) -> Vec<String> {
    if keys.is_empty() {
        return vec![words::label(experiment)];
    }
    let of_key = |key: &String| {
        let value = experiment.varied.iter().find(|(name, _)| name == key);
        value.map_or_else(|| "-".to_owned(), |(_, value)| words::value(value))
    };
    keys.iter().map(of_key).collect()
}
