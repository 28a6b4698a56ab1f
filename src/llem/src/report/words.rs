//! Numbers and names as people read them, the same in tables, Markdown and HTML.

use llem_statistics::{IntervalMethod, Standing};
use serde_json::Value;

use crate::analysis::{ExperimentAnalysis, FigureAnalysis};
use crate::printable::shortened;
use crate::sweep::short_value;

/// Longest name that is shown, in characters.
const NAME_CHARS: usize = 80;

/// `1 run`, `2 runs`.
pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Four significant digits, or as many as the number has before its point; powers of ten where that would be endless.
pub fn number(value: f64) -> String {
    digits(value, 4)
}

fn digits(value: f64, significant: i32) -> String {
    if is_endless(value) {
        return format!("{value:.*e}", usize::try_from(significant - 1).unwrap_or(0));
    }
    format!("{value:.*}", decimals_for(value, significant))
}

/// Whether a number is too large or too small to be written out.
fn is_endless(value: f64) -> bool {
    value != 0.0 && !(1e-5..1e15).contains(&value.abs())
}

/// Decimals that show four significant digits.
pub fn decimals(value: f64) -> usize {
    decimals_for(value, 4)
}

fn decimals_for(value: f64, significant: i32) -> usize {
    if value == 0.0 || !value.is_finite() {
        return 0;
    }
    let magnitude = value.abs().log10().floor() as i32;
    usize::try_from(significant - 1 - magnitude).unwrap_or(0).min(9)
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
    shortened(text, NAME_CHARS)
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
/// width is shown, but for memory, of which nobody reads more than three digits.
pub fn estimate(figure: &FigureAnalysis) -> (String, Option<String>) {
    let (shown, significant) = (|value| figure.figure.shown(value), figure.figure.shown_digits());
    let mean = shown(figure.mean);
    let Some(interval) = figure.interval else { return (digits(mean, significant), None) };
    let (low, high, half) = (shown(interval.low), shown(interval.high), shown(interval.half_width()));
    let is_even = interval.method == IntervalMethod::T;
    if is_endless(mean) {
        let limits = if is_even { format!("± {half:.1e}") } else { format!("[{low:.3e}, {high:.3e}]") };
        return (digits(mean, significant), Some(limits));
    }
    let own = decimals_for(mean, significant);
    let step = 10.0f64.powi(-i32::try_from(own).unwrap_or(0));
    if significant < 4 && is_even && half > 0.0 && half < step / 2.0 {
        return (format!("{mean:.own$}"), Some(format!("± <{step:.own$}")));
    }
    let first_digit = if half > 0.0 && significant == 4 { (-half.log10().floor()).max(0.0) as usize } else { 0 };
    let digits = own.max(first_digit).min(9);
    let sure = if is_even { format!("± {half:.digits$}") } else { format!("[{low:.digits$}, {high:.digits$}]") };
    (format!("{mean:.digits$}"), Some(sure))
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

    use super::{estimate_text, number};
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
            outlier: None,
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
    fn memory_is_read_in_gib_with_three_digits() {
        let text = |mean, half| {
            let limits = Some((mean - half, mean + half));
            estimate_text(&FigureAnalysis {
                figure: Figure::PeakMemoryBytes,
                ..figure(mean, limits, IntervalMethod::T)
            })
        };
        let gib = 1024.0 * 1024.0 * 1024.0;
        assert_eq!(text(19.935 * gib, 8041.0), "19.9 ± <0.1");
        assert_eq!(text(19.935 * gib, 0.26 * gib), "19.9 ± 0.3");
        assert_eq!(text(25_000_000.0, 0.0), "0.0233 ± 0.0000");
    }

    #[test]
    fn numbers_that_cannot_be_written_out_are_powers_of_ten() {
        assert_eq!([1e300, -2.5e-12, 0.0, 0.000_123_4].map(number), ["1.000e300", "-2.500e-12", "0", "0.0001234"]);
        assert_eq!(estimate_text(&figure(1e300, Some((9e299, 1.1e300)), IntervalMethod::T)), "1.000e300 ± 1.0e299");
    }
}
