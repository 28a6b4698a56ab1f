//! What a table does not say by itself: the same sentences under every format.

use std::collections::BTreeMap;

use llem_statistics::IntervalMethod;

use super::same_work;
use super::words::{count, label, name, number};
use crate::analysis::{FigureAnalysis, StudyAnalysis};
use crate::result::{COVERAGE_FACTOR, Figure};

/// Runs and experiments that are named one by one.
const NAMED: usize = 5;

/// All of them, in the order of importance.
pub fn notes(study: &StudyAnalysis) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(not_valid(study));
    notes.extend(intervals(study));
    notes.extend(energy(study));
    notes.extend(frontier(study));
    notes.extend(left_out(study));
    notes.extend(study.reasons.iter().map(|reason| {
        format!("{} ({}): {}", reason.code, count(reason.runs as usize, "run"), name_long(&reason.message))
    }));
    notes.extend(outliers(study));
    notes.extend(trends(study));
    notes.extend(same_work::notes(&study.same_work));
    notes.extend(missing(study));
    notes
}

fn name_long(text: &str) -> String {
    crate::printable::printable(text).chars().take(500).collect()
}

fn figures(study: &StudyAnalysis) -> impl Iterator<Item = &FigureAnalysis> {
    study.experiments.iter().flat_map(|experiment| &experiment.figures)
}

fn not_valid(study: &StudyAnalysis) -> Option<String> {
    let without = study.experiments.iter().filter(|experiment| !experiment.valid).count();
    let text = "the figures describe what happened, and are no statement about the deployment";
    match without {
        0 => None,
        _ if without == study.experiments.len() => Some(format!("! no run of this study is valid: {text}")),
        _ => Some(format!("! {} without a valid run: there, {text}", count(without, "experiment"))),
    }
}

fn intervals(study: &StudyAnalysis) -> Option<String> {
    let has = |wanted: &dyn Fn(&FigureAnalysis) -> bool| figures(study).any(wanted);
    let mut parts = Vec::new();
    if has(&|figure| figure.interval.is_some_and(|interval| interval.method == IntervalMethod::T)) {
        parts.push("mean ± half of its 95 % interval over cycles (Student's t)");
    }
    if has(&|figure| figure.interval.is_some_and(|interval| interval.method == IntervalMethod::Bca)) {
        parts.push("mean with its 95 % interval over cycles in brackets (BCa bootstrap, 2,000 resamples)");
    }
    if has(&|figure| figure.interval.is_none()) {
        parts.push("a mean without interval is of fewer than 3 valid runs");
    }
    let known = figures(study).next().is_some();
    known.then(|| format!("{}; TTFT, ITL and E2E are medians within a run", parts.join("; ")))
}

/// How sure J/token is; nothing for a study without energy.
fn energy(study: &StudyAnalysis) -> Option<String> {
    let figures: Vec<&FigureAnalysis> =
        study.experiments.iter().filter_map(|e| e.figure(Figure::EnergyPerOutputTokenJ)).collect();
    if figures.is_empty() {
        return None;
    }
    let known =
        |percent: fn(&FigureAnalysis) -> Option<f64>| range(figures.iter().filter_map(|f| percent(f)).collect());
    let expanded = known(|figure| figure.uncertainty?.expanded_percent);
    let same = known(|figure| Some(COVERAGE_FACTOR * figure.uncertainty?.comparison_percent?));
    let text = "J/token is gross, with what the devices take when idle";
    Some(match (expanded, same) {
        (Some(expanded), Some(same)) => format!(
            "{text}; expanded uncertainty (k = 2) of its mean, sensors included: {expanded}; {same} without the sensors' gain, which cancels \
             on one device"
        ),
        _ => format!("{text}; its uncertainty is not known"),
    })
}

/// `±5.8 %`, or `±5.8 to ±6.2 %`.
fn range(mut percents: Vec<f64>) -> Option<String> {
    percents.sort_by(f64::total_cmp);
    let (least, most) = (format!("{:.1}", percents.first()?), format!("{:.1}", percents.last()?));
    Some(if least == most { format!("±{least} %") } else { format!("±{least} to ±{most} %") })
}

/// What the marks mean; nothing where nothing was compared.
fn frontier(study: &StudyAnalysis) -> Option<String> {
    study.experiments.iter().find_map(|experiment| experiment.standing)?;
    let objectives: Vec<&str> = study.objectives.iter().map(|objective| objective.figure.title()).collect();
    Some(format!(
        "Pareto by {}: * frontier, no other is at least as good in all and better in one; ? undecided, another is by the means but within the \
         intervals; · dominated, another is beyond both intervals; - not compared",
        objectives.join(" and ")
    ))
}

fn left_out(study: &StudyAnalysis) -> Option<String> {
    let all: Vec<_> = study.experiments.iter().flat_map(|experiment| &experiment.left_out).collect();
    if all.is_empty() {
        return None;
    }
    let named: Vec<String> = all
        .iter()
        .take(NAMED)
        .map(|run| {
            let codes: Vec<String> = run.codes.iter().map(ToString::to_string).collect();
            let why = if codes.is_empty() { run.status.name().to_owned() } else { codes.join(", ") };
            format!("{} ({why})", name(&run.run_id))
        })
        .collect();
    let more = all.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let runs = study.runs;
    Some(format!("{} of {} valid; not: {}{more}", runs.valid, count(runs.done as usize, "run"), named.join(", ")))
}

/// Runs that lie far from the others; they stay in the means.
fn outliers(study: &StudyAnalysis) -> Option<String> {
    let mut runs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for figure in figures(study) {
        figure.outliers.iter().for_each(|run| runs.entry(run).or_default().push(figure.figure.title()));
    }
    let named: Vec<String> =
        runs.iter().take(NAMED).map(|(run, of)| format!("{} ({})", name(run), of.join(", "))).collect();
    let more = runs.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!named.is_empty())
        .then(|| format!("far from the other runs of their experiment, and in the means: {}{more}", named.join(", ")))
}

fn trends(study: &StudyAnalysis) -> Option<String> {
    let name_of = |id: &str| study.experiments.iter().find(|e| e.experiment_id == id).map(label).unwrap_or_default();
    let named: Vec<String> = study
        .trends
        .iter()
        .take(NAMED)
        .map(|trend| {
            let percent = trend.percent_per_cycle;
            let sign = if percent < 0.0 { "" } else { "+" };
            format!(
                "{} of {} by {sign}{} % a cycle (p = {:.3})",
                trend.figure.title(),
                name_of(&trend.experiment_id),
                number(percent),
                trend.p_value
            )
        })
        .collect();
    let more = study.trends.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!named.is_empty()).then(|| format!("moves with the cycles: {}{more}", named.join(", ")))
}

fn missing(study: &StudyAnalysis) -> Option<String> {
    let first = study.missing.first()?;
    let n = count(study.missing.len(), "file");
    Some(format!(
        "{n} of the study's directory are not there, e.g. {}; the figures are those of study.json",
        name(first)
    ))
}
