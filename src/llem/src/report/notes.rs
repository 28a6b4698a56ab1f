//! What a table does not say by itself: the same sentences under every format.

use std::collections::BTreeMap;

use llem_statistics::IntervalMethod;

use super::same_work;
use super::words::{count, label, name, number};
use crate::analysis::{ExperimentAnalysis, FigureAnalysis, LeftOut, StudyAnalysis, TrendWarning};
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
    notes.extend(partial(study));
    notes.extend(left_out(study));
    notes.extend(failures(study));
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
        _ if study.runs.done == 0 => Some("! no run of this study was carried out".to_owned()),
        0 => None,
        _ if study.runs.completed == 0 => Some("! no run of this study was measured to its end".to_owned()),
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
    // One alone has nothing to be held against.
    study.experiments.iter().filter(|experiment| experiment.standing.is_some()).nth(1)?;
    let objectives: Vec<&str> = study.objectives.iter().map(|objective| objective.figure.title()).collect();
    let gain = if study.several_sensors {
        "; runs were measured by several sensors, whose gains do not cancel: they are in these intervals"
    } else {
        ""
    };
    Some(format!(
        "Pareto by {}: * frontier, no other is at least as good in all and better in one; ? undecided, another is by the means but within the \
         intervals; · dominated, another is beyond both intervals; - not compared{gain}",
        objectives.join(" and ")
    ))
}

fn left_out(study: &StudyAnalysis) -> Option<String> {
    let all: Vec<_> = study.experiments.iter().flat_map(|experiment| &experiment.left_out).collect();
    if all.is_empty() {
        return None;
    }
    let why = |run: &LeftOut| {
        let codes: Vec<String> = run.codes.iter().map(ToString::to_string).collect();
        let failed = run.failure_class.map(|class| format!("{}: {}", run.status.name(), class.code()));
        let codes = Some(codes.join(", ")).filter(|codes| !codes.is_empty());
        format!("{} ({})", name(&run.run_id), failed.or(codes).unwrap_or_else(|| run.status.name().to_owned()))
    };
    let (runs, out) = (study.runs, all.len());
    let each = named(all.into_iter().map(why), out);
    Some(format!("{} of {} valid; not: {each}", runs.valid, count(runs.done as usize, "run")))
}

/// Means that are of fewer runs than their row says.
fn partial(study: &StudyAnalysis) -> Option<String> {
    let of = |experiment: &ExperimentAnalysis| -> Vec<String> {
        let valid = experiment.runs.valid;
        let fewer = experiment.figures.iter().filter(|figure| experiment.valid && figure.n < valid);
        fewer.map(|f| format!("{} of {} ({} of {valid})", f.figure.title(), label(experiment), f.n)).collect()
    };
    let all: Vec<String> = study.experiments.iter().flat_map(of).collect();
    let n = all.len();
    (n > 0).then(|| format!("means of fewer than all valid runs, for the others lack the figure: {}", named(all, n)))
}

/// The first of `n` texts, and how many more there are.
fn named(texts: impl IntoIterator<Item = String>, n: usize) -> String {
    let more = n.saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", texts.into_iter().take(NAMED).collect::<Vec<_>>().join(", "))
}

/// Every class of failure with its runs, and what the first of them says.
fn failures(study: &StudyAnalysis) -> Vec<String> {
    let mut found: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for run in study.experiments.iter().flat_map(|experiment| &experiment.left_out) {
        if let (Some(class), Some(failure)) = (run.failure_class, &run.failure) {
            found.entry(class.code()).or_insert((0, failure)).0 += 1;
        }
    }
    let said = |(class, (runs, failure))| format!("{class} ({}): {}", count(runs, "run"), name_long(failure));
    found.into_iter().map(said).collect()
}

/// Runs that lie far from the others; they stay in the means.
fn outliers(study: &StudyAnalysis) -> Option<String> {
    let mut runs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for figure in figures(study) {
        figure.outlier.iter().for_each(|run| runs.entry(run).or_default().push(figure.figure.title()));
    }
    let n = runs.len();
    let each = runs.into_iter().map(|(run, of)| format!("{} ({})", name(run), of.join(", ")));
    (n > 0).then(|| format!("far from the other runs of their experiment, and in the means: {}", named(each, n)))
}

fn trends(study: &StudyAnalysis) -> Option<String> {
    let name_of = |id: &str| study.experiments.iter().find(|e| e.experiment_id == id).map(label).unwrap_or_default();
    let said = |trend: &TrendWarning| {
        let percent = trend.percent_per_cycle;
        let sign = if percent < 0.0 { "" } else { "+" };
        let of = name_of(&trend.experiment_id);
        let percent = number(percent);
        format!("{} of {of} by {sign}{percent} % a cycle (p = {:.3})", trend.figure.title(), trend.p_value)
    };
    let n = study.trends.len();
    (n > 0).then(|| format!("moves with the cycles: {}", named(study.trends.iter().map(said), n)))
}

fn missing(study: &StudyAnalysis) -> Option<String> {
    let first = study.missing.first()?;
    let n = count(study.missing.len(), "file");
    Some(format!(
        "{n} of the study's directory are not there, e.g. {}; the figures are those of study.json",
        name(first)
    ))
}
