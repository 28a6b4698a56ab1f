//! Numbers and names as people read them, the same in tables, Markdown and HTML.

use llem_statistics::{IntervalMethod, Standing};
use serde_json::Value;

use crate::analysis::{ExperimentAnalysis, FigureAnalysis};
use crate::printable::printable;
use crate::sweep::short_value;

/// Longest name that is shown, in characters.
const NAME_CHARS: usize = 80;

/// `1 run`, `2 runs`.
pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Four significant digits, or as many as the number has before its point.
pub fn number(value: f64) -> String {
    format!("{value:.*}", decimals(value))
}

/// Decimals that show four significant digits.
pub fn decimals(value: f64) -> usize {
    if value == 0.0 || !value.is_finite() {
        return 0;
    }
    let magnitude = value.abs().log10().floor() as i32;
    usize::try_from(3 - magnitude).unwrap_or(0).min(9)
}

/// A value of the study file, as it is in the labels of experiments.
pub fn value(value: &Value) -> String {
    match value {
        Value::String(text) => name(text),
        other => name(&short_value(other)),
    }
}

/// A name of a file's making: no control characters, not endless.
pub fn name(text: &str) -> String {
    let mut shown: String = printable(text).chars().take(NAME_CHARS).collect();
    if text.chars().nth(NAME_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// The last part of a dotted key, or all of it when another key ends in the same.
pub fn short(key: &str, all: &[String]) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    let own = last(key);
    if all.iter().filter(|other| last(other) == own).count() > 1 { key.to_owned() } else { own }
}

/// What an experiment is called where there is one column for it.
pub fn label(experiment: &ExperimentAnalysis) -> String {
    name(if experiment.label.is_empty() { &experiment.experiment_id } else { &experiment.label })
}

/// As many runs as the figures are of, of all: `5`, `4/5`, `0/5 !` where none is valid.
pub fn runs(experiment: &ExperimentAnalysis) -> String {
    let (valid, done) = (experiment.runs.valid, experiment.runs.done);
    match () {
        () if !experiment.valid => format!("{valid}/{done} !"),
        () if valid == done => done.to_string(),
        () => format!("{valid}/{done}"),
    }
}

/// A mean, and how sure it is: `31.01` with `± 0.21`, or with `[30.8, 31.2]` where the interval is not even. At least one digit of the half
/// width is shown.
pub fn estimate(figure: &FigureAnalysis) -> (String, Option<String>) {
    let Some(interval) = figure.interval else { return (number(figure.mean), None) };
    let half = interval.half_width();
    let first_digit = if half > 0.0 { (-half.log10().floor()).max(0.0) as usize } else { 0 };
    let digits = decimals(figure.mean).max(first_digit).min(9);
    let sure = match interval.method {
        IntervalMethod::T => format!("± {half:.digits$}"),
        _ => format!("[{:.digits$}, {:.digits$}]", interval.low, interval.high),
    };
    (format!("{:.digits$}", figure.mean), Some(sure))
}

/// [`estimate`] in one piece.
pub fn estimate_text(figure: &FigureAnalysis) -> String {
    match estimate(figure) {
        (mean, None) => mean,
        (mean, Some(sure)) => format!("{mean} {sure}"),
    }
}

/// Where an experiment stands, in a word.
pub const fn standing(standing: Option<Standing>) -> &'static str {
    match standing {
        Some(Standing::Frontier) => "frontier",
        Some(Standing::Undecided) => "undecided",
        Some(Standing::Dominated) => "dominated",
        None => "not compared",
    }
}

/// The same as a sign for narrow tables.
pub const fn standing_sign(standing: Option<Standing>) -> &'static str {
    match standing {
        Some(Standing::Frontier) => "*",
        Some(Standing::Undecided) => "?",
        Some(Standing::Dominated) => "·",
        None => "-",
    }
}

#[cfg(test)]
mod tests {
    use llem_statistics::{Interval, IntervalMethod};

    use super::{estimate_text, name};
    use crate::analysis::FigureAnalysis;
    use crate::result::Figure;

    fn figure(mean: f64, limits: Option<(f64, f64)>, method: IntervalMethod) -> FigureAnalysis {
        let interval =
            limits.map(|(low, high)| Interval { low, high, level: 0.95, method, resamples: None, seed: None });
        FigureAnalysis {
            figure: Figure::OutputTokensPerS,
            n: 3,
            mean,
            sd: None,
            interval,
            bca: None,
            uncertainty: None,
            outliers: Vec::new(),
            trend: None,
            values: Vec::new(),
        }
    }

    #[test]
    fn an_estimate_shows_a_digit_of_its_half_width() {
        let text = |mean, limits| estimate_text(&figure(mean, limits, IntervalMethod::T));
        assert_eq!(text(31.0123, None), "31.01");
        assert_eq!(text(31.0123, Some((30.8, 31.22))), "31.01 ± 0.21");
        assert_eq!(text(31.0123, Some((31.012_18, 31.012_42))), "31.0123 ± 0.0001");
        assert_eq!(text(123_456.7, Some((123_400.0, 123_500.0))), "123457 ± 50");
        assert_eq!(text(2.0, Some((2.0, 2.0))), "2.000 ± 0.000");
        let even = figure(31.0123, Some((30.9, 31.4)), IntervalMethod::Bca);
        assert_eq!(estimate_text(&even), "31.01 [30.90, 31.40]");
    }

    #[test]
    fn names_are_short_and_harmless() {
        assert_eq!(name("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb c");
        let long = name(&"x".repeat(10_000));
        assert!(long.chars().count() == 81 && long.ends_with('…'));
        assert_eq!(name(&"x".repeat(80)), "x".repeat(80));
    }
}
