//! Tables for people: plain text, readable at 80 columns and piped.

use std::collections::BTreeMap;
use std::path::Path;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use llem::report::words::decimals;
pub(crate) use llem::report::words::{count, name, number, short, value};
use llem::result::{COVERAGE_FACTOR, ExperimentResult, ImageRecord, MeanUncertainty, Spread, StudyResult};
use llem::runner::docker::ImageRow;

use super::{Printer, engines};

/// More varied keys than this go into one column.
const KEY_COLUMNS: usize = 3;

/// The result of a study: one row per experiment, then what the reader has to know about it.
pub(crate) fn study(result: &StudyResult) -> String {
    let keys = key_columns(&result.varied_keys);
    // Mean and spread stand side by side, or one above the other where that is too wide; then the names share what is left.
    let mut text = [" ", "\n"]
        .into_iter()
        .map(|between| rows(result, &keys, between, ContentArrangement::Disabled))
        .find(|table| fits(table))
        .unwrap_or_else(|| rows(result, &[], "\n", ContentArrangement::Dynamic));
    text.push('\n');
    let width = textwrap::Options::new(Printer::width()).subsequent_indent("  ").break_words(false);
    for note in footnotes(result) {
        text.push_str(&textwrap::fill(&note, &width));
        text.push('\n');
    }
    text
}

/// One row per experiment.
fn rows(result: &StudyResult, keys: &[String], between: &str, arrangement: ContentArrangement) -> String {
    let mut head: Vec<String> = keys.iter().map(|key| short(key, &result.varied_keys)).collect();
    if head.is_empty() {
        head.push("experiment".to_owned());
    }
    let names = head.len();
    head.extend(["runs", "tokens/s", "TTFT ms", "ITL ms", "J/token"].map(str::to_owned));
    arranged(head, result.experiments.iter().map(|experiment| row(experiment, keys, between)), names, arrangement)
}

/// Whether no line is wider than the terminal.
pub(crate) fn fits(table: &str) -> bool {
    table.lines().all(|line| textwrap::core::display_width(line) <= Printer::width())
}

/// The images that llem made.
pub(crate) fn images(rows: &[ImageRow]) -> String {
    let head = ["image", "backend", "MB"].map(str::to_owned).to_vec();
    let rows = rows.iter().map(|row| {
        // An image without a name is known by the head of its id, as other clients show it.
        let name = row.reference.strip_prefix("sha256:").and_then(|id| id.get(..12)).unwrap_or(&row.reference);
        vec![name.to_owned(), row.backend.clone(), format!("{:.1}", row.size_bytes as f64 / 1e6)]
    });
    grid(head, rows, 2)
}

/// A plain table; the first `names` columns are left-aligned, the others hold numbers.
pub(crate) fn grid(head: Vec<String>, rows: impl Iterator<Item = Vec<String>>, names: usize) -> String {
    arranged(head, rows, names, ContentArrangement::Dynamic)
}

/// A plain table, with names folded to the terminal's width where asked; the first `names` columns are left-aligned.
pub(crate) fn arranged(
    head: Vec<String>,
    rows: impl Iterator<Item = Vec<String>>,
    names: usize,
    arrangement: ContentArrangement,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(arrangement);
    table.set_width(u16::try_from(Printer::width()).unwrap_or(80));
    let columns = head.len();
    table.set_header(head).add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        let first = u16::from(index != 0);
        let last = u16::from(index + 1 != columns);
        column.set_padding((first, last));
        if index >= names {
            column.set_cell_alignment(CellAlignment::Right);
            // A number that is cut in two is none.
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}

/// A path as seen from the working directory, when it is below it.
pub(crate) fn path(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

fn key_columns(keys: &[String]) -> Vec<String> {
    if keys.len() > KEY_COLUMNS { Vec::new() } else { keys.to_vec() }
}

fn row(experiment: &ExperimentResult, keys: &[String], between: &str) -> Vec<String> {
    let of_key = |key: &String| {
        experiment.varied.iter().find(|(name, _)| name == key).map_or_else(|| "-".to_owned(), |(_, v)| value(v))
    };
    let mut cells: Vec<String> = keys.iter().map(of_key).collect();
    if cells.is_empty() {
        let label = if experiment.label.is_empty() { &experiment.experiment_id } else { &experiment.label };
        cells.push(name(label));
    }
    let summary = &experiment.summary;
    cells.push(runs(experiment));
    cells.extend(
        [summary.output_tokens_per_s, summary.ttft_p50_ms, summary.itl_p50_ms, summary.energy_per_output_token_j]
            .map(|figure| spread(figure, between)),
    );
    cells
}

/// As many valid runs as went into the means, of all: `5`, `4/5`, `0/5 !` where the means are of runs of which none is valid.
fn runs(experiment: &ExperimentResult) -> String {
    let (valid, total) = (experiment.runs.iter().filter(|run| run.valid).count(), experiment.runs.len());
    let mark = if has_no_valid_run(experiment) { " !" } else { "" };
    if valid == total && valid > 0 { total.to_string() } else { format!("{valid}/{total}{mark}") }
}

/// Whether the figures are of runs of which none is valid.
fn has_no_valid_run(experiment: &ExperimentResult) -> bool {
    !experiment.summary.valid && experiment.summary.runs > 0
}

/// `612.3 ± 4.1`: the spread with the digits of the mean, after `between`.
fn spread(spread: Option<Spread>, between: &str) -> String {
    match spread {
        None => "-".to_owned(),
        Some(Spread { mean, sd: None, .. }) => number(mean),
        Some(Spread { mean, sd: Some(sd), .. }) => format!("{}{between}± {sd:.*}", number(mean), decimals(mean)),
    }
}

/// What the table does not say by itself.
fn footnotes(result: &StudyResult) -> Vec<String> {
    let mut notes = vec!["mean ± standard deviation over runs; TTFT and ITL are medians within a run".to_owned()];
    let runs: Vec<_> = result.experiments.iter().flat_map(|experiment| &experiment.runs).collect();
    notes.extend(images_that_differ(&result.images));
    notes.extend(energy(result));
    notes.extend(engines::note(&runs));
    notes.extend(llem::report::same_work_notes(&result.same_work));
    let invalid = runs.iter().filter(|run| run.metrics.is_some() && !run.valid).count();
    if invalid > 0 {
        notes.push(format!("not valid: {} of {}", count(invalid, "run"), runs.len()));
    }
    if result.experiments.iter().any(has_no_valid_run) {
        let text = "! no valid run: the figures describe what happened, and are no statement about the deployment";
        notes.push(text.to_owned());
    }
    let mut reasons: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for reason in runs.iter().flat_map(|run| &run.reasons) {
        reasons.entry(reason.code.to_string()).or_insert((0, reason.message.as_str())).0 += 1;
    }
    for (code, (times, message)) in reasons {
        notes.push(format!("{code} ({}): {message}", count(times, "run")));
    }
    let (completed, failed, interrupted) = result.counts();
    if failed + interrupted > 0 {
        notes.push(format!("{completed} completed, {failed} failed, {interrupted} interrupted"));
    }
    notes.push(format!("results: {}", path(Path::new(&result.directory))));
    notes
}

/// What the images of one backend have in different versions; nothing for a backend with one image.
fn images_that_differ(images: &[ImageRecord]) -> Vec<String> {
    let several = |image: &&ImageRecord| images.iter().filter(|other| other.backend == image.backend).count() > 1;
    images.iter().filter(several).map(|image| described(image, images)).collect()
}

/// `image repo:b (0d897a1d9fb2): transformers 5.19.0`.
fn described(image: &ImageRecord, images: &[ImageRecord]) -> String {
    let group = || images.iter().filter(|other| other.backend == image.backend);
    let own = image.image_versions.named().into_iter().enumerate();
    let differs = own.filter(|(index, one)| group().any(|other| other.image_versions.named().get(*index) != Some(one)));
    let versions: Vec<_> = differs.map(|(_, (name, version))| format!("{name} {}", version.unwrap_or("-"))).collect();
    let versions = if versions.is_empty() { "the same versions".to_owned() } else { versions.join(", ") };
    let id = image.image_id.trim_start_matches("sha256:");
    format!("image {} ({}): {versions}", image.image, id.get(..12).unwrap_or(id))
}

/// What J/token means and how sure it is; nothing for a study without energy.
fn energy(result: &StudyResult) -> Option<String> {
    let summaries = result.experiments.iter().map(|experiment| &experiment.summary);
    let known: Vec<MeanUncertainty> =
        summaries.clone().filter_map(|summary| summary.energy_per_output_token_j_uncertainty).collect();
    let has_energy = summaries.clone().any(|summary| summary.energy_per_output_token_j.is_some());
    let text = "J/token is gross, with what the devices take when idle";
    let sure = "expanded uncertainty (k = 2) of its mean:";
    match (has_energy, range(&known, |u| u.expanded_percent)) {
        (false, _) => None,
        (true, None) => Some(format!("{text}; its uncertainty is not known")),
        (true, Some(expanded)) => {
            let same = range(&known, |u| u.comparison_percent.map(|percent| COVERAGE_FACTOR * percent));
            let same = same
                .map(|same| format!("; {same} without the sensors' gain, which cancels on one device"))
                .unwrap_or_default();
            Some(format!("{text}; {sure} {expanded}{same}"))
        }
    }
}

/// `±5.8 %`, or `±5.8 to ±6.2 %` where experiments differ.
fn range(known: &[MeanUncertainty], percent: impl Fn(&MeanUncertainty) -> Option<f64>) -> Option<String> {
    let mut values: Vec<f64> = known.iter().filter_map(percent).collect();
    values.sort_by(f64::total_cmp);
    let (least, most) = (format!("{:.1}", values.first()?), format!("{:.1}", values.last()?));
    Some(if least == most { format!("±{least} %") } else { format!("±{least} to ±{most} %") })
}

#[cfg(test)]
mod tests {
    use llem::config::Backend;
    use llem::result::{ImageRecord, MeanUncertainty, Spread};
    use llem::runner::docker::ImageVersions;

    use super::{count, images_that_differ, number, range, short, spread};

    #[test]
    fn uncertainties_of_all_experiments_are_one_range() {
        let known = |expanded| MeanUncertainty {
            gain: 0.0,
            within_runs: 0.0,
            repeatability: None,
            combined: 0.0,
            expanded: 0.0,
            comparison: 0.0,
            expanded_percent: expanded,
            comparison_percent: None,
        };
        let of = |values: &[Option<f64>]| {
            let all: Vec<_> = values.iter().map(|value| known(*value)).collect();
            range(&all, |u| u.expanded_percent)
        };
        assert_eq!(of(&[Some(6.21), Some(5.83), None]).as_deref(), Some("±5.8 to ±6.2 %"));
        assert_eq!(of(&[Some(5.81), Some(5.79)]).as_deref(), Some("±5.8 %"));
        assert_eq!(of(&[None]), None);
    }

    #[test]
    fn images_are_told_apart_by_what_differs() {
        let image = |backend, tag: &str, transformers: &str| ImageRecord {
            backend,
            image: format!("repo:{tag}"),
            image_id: format!("sha256:{}", tag.repeat(64)),
            image_digests: Vec::new(),
            image_labels: std::collections::BTreeMap::new(),
            image_versions: ImageVersions {
                transformers: Some(transformers.to_owned()),
                torch: Some("2.13.0".to_owned()),
                ..ImageVersions::default()
            },
        };
        let (a, b) = (image(Backend::Pytorch, "a", "4.57.3"), image(Backend::Pytorch, "b", "5.19.0"));
        let other = image(Backend::Vllm, "c", "5.19.0");
        let notes = images_that_differ(&[a.clone(), b, other]);
        let expected =
            ["image repo:a (aaaaaaaaaaaa): transformers 4.57.3", "image repo:b (bbbbbbbbbbbb): transformers 5.19.0"];
        assert_eq!(notes, expected);
        let same = images_that_differ(&[a.clone(), image(Backend::Pytorch, "b", "4.57.3")]);
        assert_eq!(same[0], "image repo:a (aaaaaaaaaaaa): the same versions");
        assert!(images_that_differ(&[a]).is_empty());
    }

    #[test]
    fn numbers_have_four_significant_digits() {
        let shown: Vec<_> = [0.0, 0.001_234_56, 9.876_54, 612.345, 123_456.7].map(number).to_vec();
        assert_eq!(shown, ["0", "0.001235", "9.877", "612.3", "123457"]);
    }

    #[test]
    fn a_spread_has_the_digits_of_its_mean() {
        assert_eq!(spread(Some(Spread { n: 2, mean: 612.345, sd: Some(4.12) }), " "), "612.3 ± 4.1");
        assert_eq!(spread(Some(Spread { n: 1, mean: 612.345, sd: None }), " "), "612.3");
        assert_eq!(spread(None, "\n"), "-");
    }

    #[test]
    fn keys_are_short_unless_that_is_ambiguous() {
        let keys = ["candle.batch_size".to_owned(), "pytorch.batch_size".to_owned(), "workload.n".to_owned()];
        assert_eq!(short("candle.batch_size", &keys), "candle.batch_size");
        assert_eq!(short("workload.n", &keys), "n");
        assert_eq!((count(1, "run"), count(2, "run")), ("1 run".to_owned(), "2 runs".to_owned()));
    }
}
