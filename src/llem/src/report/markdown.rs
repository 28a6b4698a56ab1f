//! A table in GitHub's Markdown, for issues and pull requests.

use super::{notes, words};
use crate::analysis::StudyAnalysis;
use crate::printable::markdown as escape;

/// The study: a heading, its table, its notes.
pub fn markdown(study: &StudyAnalysis) -> String {
    let figures = study.figures();
    let several = !study.varied_keys.is_empty();
    let mut head: Vec<String> = if several {
        study.varied_keys.iter().map(|key| escape(&words::short(key, &study.varied_keys))).collect()
    } else {
        vec!["experiment".to_owned()]
    };
    let names = head.len();
    head.extend(["runs", "Pareto"].map(str::to_owned));
    head.extend(figures.iter().map(|figure| figure.title().to_owned()));
    let rule: Vec<&str> =
        (0..head.len()).map(|column| if column < names || column == names + 1 { "---" } else { "---:" }).collect();
    let mut text = format!("## {}\n\n{}{}", escape(&words::name(&study.name)), line(&head), line(&rule));
    for experiment in &study.experiments {
        let of_key = |key: &String| {
            let value = experiment.varied.iter().find(|(name, _)| name == key);
            value.map_or_else(|| "-".to_owned(), |(_, value)| escape(&words::value(value)))
        };
        let mut cells: Vec<String> = if several {
            study.varied_keys.iter().map(of_key).collect()
        } else {
            vec![escape(&words::label(experiment))]
        };
        cells.extend([words::runs(experiment), words::standing(experiment.standing).to_owned()]);
        let cell = |figure| experiment.figure(figure).map_or_else(|| "-".to_owned(), words::estimate_text);
        cells.extend(figures.iter().map(|figure| cell(*figure)));
        text.push_str(&line(&cells));
    }
    text.push('\n');
    for note in notes::notes(study) {
        text = [text, "- ".to_owned(), escape(&note), "\n".to_owned()].concat();
    }
    text
}

fn line(cells: &[impl AsRef<str>]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |\n", cells.join(" | "))
}
