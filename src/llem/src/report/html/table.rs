//! The table of experiments.

use super::escape::{each, escape, name_cell};
use crate::analysis::{ExperimentAnalysis, FigureAnalysis, StudyAnalysis};
use crate::report::words;
use crate::result::Figure;

/// A table of fewer rows needs no filter.
const FILTER_FROM: usize = 12;

/// More varied keys than this go into one column.
const KEY_COLUMNS: usize = 6;

pub(super) fn table(study: &StudyAnalysis) -> String {
    let figures = study.figures();
    let keys: &[String] = if study.varied_keys.len() > KEY_COLUMNS { &[] } else { &study.varied_keys };
    let key_head = |key: &String| {
        let short = words::name(&words::short(key, &study.varied_keys));
        format!("<th scope=\"col\" title=\"{}\">{}</th>", escape(&words::name(key)), escape(&short))
    };
    let names = if keys.is_empty() { "<th scope=\"col\">experiment</th>".to_owned() } else { each(keys, key_head) };
    let of_figures = each(&figures, |figure| {
        let (title, head) = (escape(figure.description()), escape(figure.title()));
        format!("<th scope=\"col\" class=\"n\" title=\"{title}\">{head}</th>")
    });
    let runs = "<th scope=\"col\" class=\"n\" title=\"valid runs of all\">runs</th>";
    let head = [&names, runs, "<th scope=\"col\">Pareto</th>", &of_figures].concat();
    let rows: String = study.experiments.iter().enumerate().map(|(place, e)| row(e, place, keys, &figures)).collect();
    let filter = if study.experiments.len() < FILTER_FROM {
        ""
    } else {
        "<div class=\"tools\"><label>Filter <input id=\"filter\" type=\"search\" autocomplete=\"off\"></label>\
         <span id=\"filtered\" class=\"muted\" aria-live=\"polite\"></span></div>\n"
    };
    format!(
        "{filter}<div class=\"scroll tall\" tabindex=\"0\" role=\"region\" aria-label=\"Table of experiments\">\n\
         <table id=\"table\"><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn row(experiment: &ExperimentAnalysis, place: usize, keys: &[String], figures: &[Figure]) -> String {
    let names = if keys.is_empty() {
        name_cell(&words::label(experiment))
    } else {
        each(keys, |key| {
            let value = experiment.varied.iter().find(|(name, _)| name == key).map(|(_, value)| words::value(value));
            name_cell(value.as_deref().unwrap_or("-"))
        })
    };
    let runs = experiment.runs;
    let shown =
        if experiment.valid { words::runs(experiment) } else { format!("{}/{} not valid", runs.valid, runs.done) };
    let runs = format!("<td class=\"n\" data-v=\"{}\">{shown}</td>", runs.valid);
    let of_figures = each(figures, |figure| cell(experiment.figure(*figure)));
    let standing = words::standing(experiment.standing);
    let mark = if experiment.standing.is_some() { standing } else { "none" };
    let class = if experiment.valid { "" } else { " class=\"invalid\"" };
    format!(
        "<tr data-e=\"{place}\"{class}>{names}{runs}<td><span class=\"mark {mark}\">{standing}</span></td>{of_figures}</tr>\n"
    )
}

fn cell(figure: Option<&FigureAnalysis>) -> String {
    let Some(figure) = figure else { return "<td class=\"n\" data-v=\"\">-</td>".to_owned() };
    let (mean, sure) = words::estimate(figure);
    let sure = sure.map(|sure| format!(" <small>{}</small>", escape(&sure))).unwrap_or_default();
    format!("<td class=\"n\" data-v=\"{}\">{mean}{sure}</td>", figure.mean)
}
