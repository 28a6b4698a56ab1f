//! The parts of the page.

use llem_protocol::Severity;

use super::escape::{each, escape, name_cell};
use super::table::table;
use super::{HtmlMaterial, Section};
use crate::analysis::{ExperimentAnalysis, Fact, ReasonCount, StudyAnalysis};
use crate::printable::shortened;
use crate::report::{notes, words};
use crate::result::{Figure, ImageRecord, StudyStatus};

/// Values of a key, and runs that are not valid, that are listed.
const LISTED_VALUES: usize = 12;
const LISTED_RUNS: usize = 500;

/// How much of a file is shown, in characters.
const FILE_CHARS: usize = 128 * 1024;

/// Longest account of a failure, in characters.
const FAILURE_CHARS: usize = 500;

/// Intervals of more experiments than this would cover each other; `plots.js` has the same number.
const DRAWN_INTERVALS: usize = 300;

/// Figures whose best experiment is named.
const BEST: [Figure; 3] = [Figure::EnergyPerOutputTokenJ, Figure::OutputTokensPerS, Figure::TtftP50Ms];

pub(super) fn all(material: &HtmlMaterial<'_>) -> Vec<Section> {
    let study = material.study;
    let section = |id, title, short, body| Section { id, title, short, body };
    let mut sections = vec![
        section("summary", "Summary", "Summary", summary(study)),
        section("experiments", "Experiments", "Experiments", table(study)),
        section("pareto", "Trade-offs", "Trade-offs", trade_offs(study)),
    ];
    let has_figures = !study.figures().is_empty();
    if !study.varied_keys.is_empty() && has_figures {
        sections.push(section("main-effects", "Main effects", "Main effects", EFFECTS.to_owned()));
    }
    if study.experiments.iter().any(|experiment| !experiment.latencies.is_empty()) {
        sections.push(section("latency", "Latency over requests", "Latency", LATENCY.to_owned()));
    }
    sections.push(section("power", "Power and phases", "Power", power(study)));
    sections.push(section("validity", "Validity and warnings", "Validity", validity(study)));
    let lock = material.lock.map_or_else(String::new, |lock| {
        format!("<details><summary>Lock file: what it was run with</summary>\n{}</details>\n", file(lock, "Lock file"))
    });
    let environment = [environment(study), lock].concat();
    sections.push(section("environment", "Environment and lock", "Environment", environment));
    if let Some(source) = material.source {
        sections.push(section("study-file", "Study file", "Study file", file(source, "Study file")));
    }
    sections
}

/// Whether it is valid, in a line.
pub(super) fn verdict(study: &StudyAnalysis) -> String {
    let runs = study.runs;
    let of = words::count(runs.done as usize, "run");
    let (class, text) = match () {
        () if runs.done == 0 => ("bad", "No run was carried out.".to_owned()),
        () if runs.valid == runs.done => ("good", format!("All {of} valid.")),
        () if runs.valid == 0 => (
            "bad",
            format!(
                "None of {of} is valid: the figures below describe what happened and are no statement about the deployment."
            ),
        ),
        () => ("warn", format!("{} of {of} valid; the others are left out of all means and intervals.", runs.valid)),
    };
    format!("<p class=\"verdict {class}\">{text}</p>\n")
}

fn summary(study: &StudyAnalysis) -> String {
    let mut rows = vec![("Compared", compared(study))];
    rows.extend(fact(study, "model.source").map(|model| ("Model", model)));
    rows.extend(machine(study).map(|machine| ("On", machine)));
    rows.push(("Carried out", carried_out(study)));
    let status = match study.status {
        StudyStatus::Completed => "completed",
        StudyStatus::Failed => "failed: at least one run was not measured, or work differed",
        StudyStatus::Interrupted => "interrupted by the user",
    };
    rows.push(("Ended", format!("{status}, {}", time(&study.finished))));
    let standings = study.experiments.iter().filter_map(|experiment| experiment.standing);
    let on = |wanted: &str| standings.clone().filter(|s| words::standing(Some(*s)) == wanted).count();
    if standings.clone().nth(1).is_some() {
        let titles: Vec<_> = study.objectives.iter().map(|objective| objective.figure.title()).collect();
        let (front, undecided, dominated) = (on("frontier"), on("undecided"), on("dominated"));
        let text = format!(
            "{front} on the frontier, {undecided} undecided, {dominated} dominated, by {}",
            titles.join(" and ")
        );
        rows.push(("Pareto", text));
    }
    let rows = each(&rows, |(term, text)| format!("<dt>{term}</dt><dd>{}</dd>\n", escape(text)));
    let best: String = BEST.into_iter().filter_map(|figure| best(study, figure)).collect();
    let best = if best.is_empty() { best } else { format!("<ul class=\"best\">\n{best}</ul>\n") };
    format!("<dl>\n{rows}</dl>\n{best}")
}

fn compared(study: &StudyAnalysis) -> String {
    let mut backends: Vec<&str> = study.experiments.iter().map(|e| e.backend.name()).collect();
    backends.sort_unstable();
    backends.dedup();
    let mut text = format!("{} with {}", words::count(study.experiments.len(), "experiment"), backends.join(", "));
    for key in &study.varied_keys {
        let values = study.values_of(key);
        let shown: Vec<String> = values.iter().take(LISTED_VALUES).map(words::value).collect();
        let more = values.len().saturating_sub(LISTED_VALUES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text = format!("{text}; {}: {}{more}", words::name(key), shown.join(", "));
    }
    text
}

fn carried_out(study: &StudyAnalysis) -> String {
    let execution = &study.execution;
    let order = format!("{:?}", execution.cycle_order).to_lowercase();
    format!(
        "{} in {}, {order}, profile {}; {}",
        words::count(study.runs.done as usize, "run"),
        words::count(execution.n_cycles as usize, "cycle"),
        words::name(&study.profile),
        time(&study.started),
    )
}

/// `2026-11-22 08:57:20 UTC` from RFC 3339.
fn time(stamp: &str) -> String {
    let parts = stamp.split_once('T').map(|(day, rest)| (day, rest.get(..8).unwrap_or(rest)));
    parts.map_or_else(|| words::name(stamp), |(day, clock)| words::name(&format!("{day} {clock} UTC")))
}

/// The values of a fact.
fn fact(study: &StudyAnalysis, name: &str) -> Option<String> {
    let fact = study.facts.iter().find(|fact| fact.name == name)?;
    Some(fact.values.iter().map(|(value, _)| words::name(value)).collect::<Vec<_>>().join(", "))
}

/// The machine in a line: GPUs, processor, system.
fn machine(study: &StudyAnalysis) -> Option<String> {
    let is_gpu =
        |name: &str| name.strip_prefix("host.nvidia.gpus.").is_some_and(|rest| rest.split('.').nth(1) == Some("name"));
    let gpus = study.facts.iter().filter(|fact| is_gpu(&fact.name));
    let mut parts: Vec<String> = gpus.filter_map(|gpu| fact(study, &gpu.name)).collect();
    parts.dedup();
    parts.extend(fact(study, "host.nvidia.driver").map(|driver| format!("driver {driver}")));
    parts.extend(fact(study, "host.cpu_model"));
    parts.extend(fact(study, "host.cpus").map(|cpus| format!("{cpus} processors")));
    parts.extend(fact(study, "host.os"));
    parts.extend(fact(study, "host.kernel").map(|kernel| format!("kernel {kernel}")));
    parts.extend(fact(study, "runner").map(|runner| format!("runner {runner}")));
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The best experiment by one figure, and whether its interval tells it apart.
fn best(study: &StudyAnalysis, figure: Figure) -> Option<String> {
    let more = figure.direction() == llem_statistics::Direction::Maximise;
    let cost = |experiment: &ExperimentAnalysis| experiment.figure(figure).map(|f| if more { -f.mean } else { f.mean });
    let mut ranked: Vec<(&ExperimentAnalysis, f64)> =
        study.experiments.iter().filter(|e| e.valid).filter_map(|e| Some((e, cost(e)?))).collect();
    ranked.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (first, _) = *ranked.first().filter(|_| ranked.len() > 1)?;
    let own = first.figure(figure)?;
    let limits = |e: &ExperimentAnalysis| e.figure(figure).and_then(|f| f.limits(study.several_sensors));
    let apart = |other: &ExperimentAnalysis| match (limits(first), limits(other)) {
        (Some((low, high)), Some((other_low, other_high))) => {
            if more {
                low > other_high
            } else {
                high < other_low
            }
        }
        _ => false,
    };
    let close = ranked.iter().skip(1).filter(|(other, _)| !apart(other)).count();
    let sure = if close == 0 {
        "its interval lies beyond all others".to_owned()
    } else {
        format!("not told apart from {} by intervals", words::count(close, "other"))
    };
    let title = match figure {
        Figure::OutputTokensPerS => "Most tokens per second",
        Figure::TtftP50Ms => "Shortest time to first token",
        _ => "Least energy per token",
    };
    Some(format!(
        "<li><span class=\"muted\">{title}</span><strong>{} {}</strong><span>{}</span><span class=\"muted\">{sure}</span></li>\n",
        escape(&words::estimate_text(own)),
        escape(figure.shown_unit()),
        escape(&words::label(first)),
    ))
}

fn trade_offs(study: &StudyAnalysis) -> String {
    if study.figures().is_empty() {
        return "<p class=\"bad\">No run was measured: there is nothing to compare.</p>\n".to_owned();
    }
    let note = if study.has_valid() { "" } else { "<p class=\"bad\">No run is valid: nothing is compared.</p>\n" };
    let titles: Vec<_> = study.objectives.iter().map(|objective| escape(objective.figure.title())).collect();
    let has_intervals = study.experiments.iter().flat_map(|e| &e.figures).any(|figure| figure.interval.is_some());
    let bars = match () {
        () if !has_intervals => "There are no intervals: no experiment has 3 valid runs. ",
        () if study.experiments.len() > DRAWN_INTERVALS => "95 % intervals are told with the point that is chosen. ",
        () => "Bars are 95 % intervals. ",
    };
    let marks = if study.experiments.iter().filter(|experiment| experiment.standing.is_some()).nth(1).is_some() {
        let by = titles.join(" and ");
        format!(
            "Marks are by {by}. Dominated: another is better, beyond both intervals in each; undecided: by the means only. "
        )
    } else {
        String::new()
    };
    format!(
        "{note}<div id=\"trade-off\" class=\"plots\"></div>\n<ul id=\"trade-off-legend\" class=\"legend\"></ul>\n\
         <p class=\"muted\">{bars}{marks}A click, or Enter, chooses an experiment for the plots below.</p>\n{NO_SCRIPT}"
    )
}

const NO_SCRIPT: &str = "<noscript><p>Plots need scripts; the table above does not.</p></noscript>\n";

const EFFECTS: &str = "<div class=\"tools\"><label>Figure <select id=\"effect-figure\"></select></label></div>\n\
    <div id=\"effects\" class=\"plots small\"></div>\n";

const LATENCY: &str = "<div class=\"tools\"><label>Latency <select id=\"latency-kind\"><option value=\"0\">time to first token</option>\
    <option value=\"1\">mean time between tokens</option><option value=\"2\">end to end</option></select></label>\
    <label>Experiment <select id=\"latency-experiment\"></select></label></div>\n<div id=\"distribution\"></div>\n";

fn power(study: &StudyAnalysis) -> String {
    if study.pictures.is_empty() {
        return "<p class=\"muted\">The phases of the runs are not known: their result.json are not there.</p>\n"
            .to_owned();
    }
    "<div class=\"tools\"><label>Experiment <select id=\"power-experiment\"></select></label>\
     <label>Run <select id=\"power-run\"></select></label></div>\n<div id=\"power-plot\"></div>\n"
        .to_owned()
}

fn validity(study: &StudyAnalysis) -> String {
    let notes = each(notes::notes(study), |note| format!("<li>{}</li>\n", escape(&note)));
    let mut text = format!("<ul class=\"notes\">\n{notes}</ul>\n");
    if !study.reasons.is_empty() {
        let rows = each(&study.reasons, reason);
        text.push_str(&grid("Reasons", &["code", "severity", "runs", "why it matters", "what to do"], &rows));
    }
    let left: Vec<_> = study.experiments.iter().flat_map(|e| e.left_out.iter().map(move |run| (e, run))).collect();
    if !left.is_empty() {
        let row = |(experiment, run): &(&ExperimentAnalysis, &crate::analysis::LeftOut)| {
            let codes: Vec<String> = run.codes.iter().map(ToString::to_string).collect();
            let why =
                run.failure.as_deref().map_or_else(|| codes.join(", "), |failure| shortened(failure, FAILURE_CHARS));
            format!(
                "<tr><td><code>{}</code></td>{}<td>{}</td>{}</tr>\n",
                escape(&words::name(&run.run_id)),
                name_cell(&words::label(experiment)),
                run.status.name(),
                name_cell(&why)
            )
        };
        let rows: String = left.iter().take(LISTED_RUNS).map(row).collect();
        text.push_str(&grid("Runs that are left out", &["run", "experiment", "ended", "why"], &rows));
        if left.len() > LISTED_RUNS {
            let more = left.len() - LISTED_RUNS;
            text = [text, format!("<p class=\"muted\">{more} more are in study.json.</p>\n")].concat();
        }
    }
    text
}

fn reason(reason: &ReasonCount) -> String {
    let (class, severity) = match reason.severity {
        Severity::Invalid => ("bad", "invalid"),
        Severity::Note => ("muted", "note"),
    };
    format!(
        "<tr><td><code>{}</code></td><td class=\"{class}\">{severity}</td><td class=\"n\">{}</td>{}{}</tr>\n",
        reason.code,
        reason.runs,
        name_cell(reason.code.why()),
        name_cell(reason.code.advice())
    )
}

fn environment(study: &StudyAnalysis) -> String {
    let mut facts =
        vec![("design hash".to_owned(), study.design_hash.clone()), ("llem".to_owned(), study.llem_version.clone())];
    if !study.overrides.is_empty() {
        facts.push(("overrides".to_owned(), study.overrides.join(" ")));
    }
    facts.extend(study.facts.iter().map(|fact| (fact.name.clone(), values(fact))));
    let row = |(name, value): &(String, String)| {
        format!("<dt>{}</dt><dd>{}</dd>\n", escape(&words::name(name)), escape(value))
    };
    let facts: String = facts.iter().map(row).collect();
    let mut text = format!("<dl>\n{facts}</dl>\n");
    if !study.images.is_empty() {
        let rows: String = study.images.iter().map(image).collect();
        text.push_str(&grid("Images", &["backend", "image", "id", "digests", "versions"], &rows));
    }
    text
}

/// One value, or each with its runs.
fn values(fact: &Fact) -> String {
    match fact.values.as_slice() {
        [(value, _)] => value.clone(),
        several => {
            let shown: Vec<_> = several
                .iter()
                .map(|(value, runs)| format!("{value} ({})", words::count(*runs as usize, "run")))
                .collect();
            shown.join("; ")
        }
    }
}

fn image(image: &ImageRecord) -> String {
    let versions: Vec<String> = image
        .image_versions
        .named()
        .into_iter()
        .filter_map(|(name, version)| Some(format!("{name} {}", version?)))
        .collect();
    let cells = [words::name(&image.image), image.image_id.clone(), image.image_digests.join(" "), versions.join(", ")];
    let cells = each(&cells, |cell| name_cell(cell));
    format!("<tr><td>{}</td>{cells}</tr>\n", image.backend.name())
}

/// A file as it is; of a very long one, the beginning.
fn file(text: &str, title: &str) -> String {
    let shown = text.char_indices().nth(FILE_CHARS).map_or(text, |(end, _)| text.get(..end).unwrap_or(text));
    let more = if shown.len() < text.len() {
        format!("<p class=\"muted\">The first {} of {} bytes.</p>\n", shown.len(), text.len())
    } else {
        String::new()
    };
    format!(
        "<pre tabindex=\"0\" role=\"region\" aria-label=\"{title}, text\"><code>{}</code></pre>\n{more}",
        escape(shown)
    )
}

fn grid(title: &str, head: &[&str], rows: &str) -> String {
    let head = each(head, |name| format!("<th scope=\"col\">{name}</th>"));
    format!(
        "<h3>{title}</h3>\n<div class=\"scroll tall\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\">\n\
         <table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )
}
