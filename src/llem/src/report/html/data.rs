//! What the page's plots are drawn from: compact, with short keys.

use llem_protocol::Phase;
use llem_statistics::{Direction, Interval, Standing};
use serde::Serialize;
use serde_json::{Number, Value};

use crate::analysis::{ExperimentAnalysis, Latency, Percentile, PowerCurve, RunPicture, StudyAnalysis};
use crate::report::words;
use crate::result::Figure;

/// Signs of numbers from 0 to 63.
const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Powers are whole numbers from 0 to this, the highest of their curve; one more says that there is none.
const FULL: f64 = 4094.0;

/// Everything.
#[derive(Serialize)]
pub(super) struct Data {
    figures: Vec<FigureInfo>,
    objectives: Vec<&'static str>,
    keys: Vec<Key>,
    latencies: Vec<&'static str>,
    phases: Vec<&'static str>,
    domains: Vec<String>,
    experiments: Vec<Experiment>,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct FigureInfo {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    description: &'static str,
    more: bool,
}

/// A swept key with its values in order.
#[derive(Serialize)]
struct Key {
    name: String,
    values: Vec<String>,
}

#[derive(Serialize)]
struct Experiment {
    /// Label.
    l: String,
    /// Place of its value of each key.
    k: Vec<Option<usize>>,
    /// Whether its figures are of valid runs.
    v: bool,
    /// Standing: 0 frontier, 1 undecided, 2 dominated.
    s: Option<u8>,
    /// Mean and limits of each figure.
    f: Vec<Option<Estimate>>,
    /// Steps of each latency's distribution.
    q: Vec<Vec<Number>>,
    /// Percentiles of each latency, with their limits.
    p: Vec<Vec<Estimate>>,
    /// Requests.
    n: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Estimate {
    Sure([Number; 3]),
    Mean([Number; 1]),
}

#[derive(Serialize)]
struct Run {
    /// Name.
    r: String,
    /// Place of its experiment.
    e: usize,
    /// Cycle.
    c: u32,
    /// Whether it is valid.
    v: bool,
    /// Its length in seconds.
    t: Number,
    /// Phase, start and end.
    p: Vec<[Number; 3]>,
    /// The window's start and end.
    w: Option<[Number; 2]>,
    /// Curves.
    d: Vec<Curve>,
}

#[derive(Serialize)]
struct Curve {
    /// Place of its sensor.
    n: usize,
    /// Highest power in watts.
    m: Number,
    /// Lowest and highest power of each stretch, two signs each.
    b: String,
}

impl Data {
    pub(super) fn of(study: &StudyAnalysis) -> Self {
        let figures = study.figures();
        let values: Vec<Vec<Value>> = study.varied_keys.iter().map(|key| sorted_values(study, key)).collect();
        let key = |(key, values): (&String, &Vec<Value>)| Key {
            name: words::name(&words::short(key, &study.varied_keys)),
            values: values.iter().map(words::value).collect(),
        };
        let keys = study.varied_keys.iter().zip(&values).map(key).collect();
        let mut domains: Vec<String> = Vec::new();
        let runs = study.pictures.iter().map(|picture| run(picture, &mut domains)).collect();
        Self {
            experiments: study
                .experiments
                .iter()
                .map(|e| experiment(e, &figures, &study.varied_keys, &values))
                .collect(),
            figures: figures.into_iter().map(info).collect(),
            objectives: study.objectives.iter().map(|objective| objective.figure.name()).collect(),
            keys,
            latencies: Latency::ALL.map(Latency::name).to_vec(),
            phases: Phase::ALL.map(Phase::name).to_vec(),
            domains,
            runs,
        }
    }
}

fn info(figure: Figure) -> FigureInfo {
    FigureInfo {
        name: figure.name(),
        title: figure.title(),
        unit: figure.shown_unit(),
        description: figure.description(),
        more: figure.direction() == Direction::Maximise,
    }
}

/// Values of a swept key: numbers ascend, others stay in the order of the study.
fn sorted_values(study: &StudyAnalysis, key: &str) -> Vec<Value> {
    let mut values = study.values_of(key);
    if values.iter().all(Value::is_number) {
        values.sort_by(|a, b| a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()));
    }
    values
}

fn experiment(
    experiment: &ExperimentAnalysis,
    figures: &[Figure],
    keys: &[String],
    values: &[Vec<Value>],
) -> Experiment {
    let place = |(key, values): (&String, &Vec<Value>)| {
        let (_, value) = experiment.varied.iter().find(|(name, _)| name == key)?;
        values.iter().position(|known| known == value)
    };
    let figure = |figure: &Figure| {
        let found = experiment.figure(*figure)?;
        let shown = |value| figure.shown(value);
        let interval = found.interval.map(|i| Interval { low: shown(i.low), high: shown(i.high), ..i });
        Some(estimate(shown(found.mean), interval))
    };
    let steps = |latency: Latency| {
        let found = experiment.latencies.iter().find(|candidate| candidate.latency == latency);
        found.map(|found| found.steps.iter().copied().map(rounded).collect()).unwrap_or_default()
    };
    let percentiles = |latency: Latency| {
        let found = experiment.latencies.iter().find(|candidate| candidate.latency == latency);
        let one = |p: &Percentile| estimate(p.value, p.interval);
        found.map(|found| found.percentiles.iter().map(one).collect()).unwrap_or_default()
    };
    Experiment {
        p: Latency::ALL.map(percentiles).into(),
        n: experiment.latencies.iter().map(|latency| latency.requests).max().unwrap_or_default(),
        l: words::label(experiment),
        k: keys.iter().zip(values).map(place).collect(),
        v: experiment.valid,
        s: experiment.standing.map(|standing| match standing {
            Standing::Frontier => 0,
            Standing::Undecided => 1,
            Standing::Dominated => 2,
        }),
        f: figures.iter().map(figure).collect(),
        q: Latency::ALL.map(steps).to_vec(),
    }
}

fn estimate(value: f64, interval: Option<Interval>) -> Estimate {
    match interval {
        None => Estimate::Mean([rounded(value)]),
        Some(interval) => Estimate::Sure([value, interval.low, interval.high].map(rounded)),
    }
}

fn run(picture: &RunPicture, domains: &mut Vec<String>) -> Run {
    let phase = |(phase, from, to): &(Phase, f64, f64)| {
        let place = Phase::ALL.iter().position(|known| known == phase).unwrap_or_default();
        [Number::from(place), rounded(*from), rounded(*to)]
    };
    Run {
        r: words::name(&picture.run_id),
        e: picture.experiment,
        c: picture.cycle,
        v: picture.valid,
        t: rounded(picture.seconds),
        p: picture.phases.iter().map(phase).collect(),
        w: picture.window.map(|(from, to)| [from, to].map(rounded)),
        d: picture.curves.iter().map(|one| curve(one, domains)).collect(),
    }
}

fn curve(curve: &PowerCurve, domains: &mut Vec<String>) -> Curve {
    let name = words::name(&curve.domain);
    let n = domains.iter().position(|known| *known == name).unwrap_or_else(|| {
        domains.push(name);
        domains.len() - 1
    });
    let highest = curve.stretches.iter().flatten().fold(0.0_f64, |most, (_, high)| most.max(*high));
    // What is low is rounded down and what is high up: nothing that was there is hidden.
    let stretch = |stretch: &Option<(f64, f64)>| match stretch {
        None => ['/'; 4],
        Some(_) if highest <= 0.0 => ['A'; 4],
        Some((low, high)) => {
            let ([first, second], [third, fourth]) =
                (signs(low / highest * FULL), signs((high / highest * FULL).ceil()));
            [first, second, third, fourth]
        }
    };
    Curve { n, m: rounded(highest), b: curve.stretches.iter().flat_map(stretch).collect() }
}

/// A whole number from 0 to [`FULL`] in two signs.
fn signs(number: f64) -> [char; 2] {
    let whole = number.clamp(0.0, FULL) as usize;
    [whole / 64, whole % 64].map(|digit| SIGNS.get(digit).copied().map_or('A', char::from))
}

/// Five significant digits: more than a plot shows.
fn rounded(value: f64) -> Number {
    let short = format!("{value:.4e}").parse::<f64>().unwrap_or(value);
    // Whole numbers without a fraction are shorter.
    if short.fract() == 0.0 && short.abs() < 1e9 {
        return Number::from(short as i64);
    }
    Number::from_f64(short).unwrap_or_else(|| Number::from(0))
}

#[cfg(test)]
mod tests {
    use super::{curve, rounded};
    use crate::analysis::PowerCurve;

    #[test]
    fn curves_are_packed_in_four_signs_a_stretch() {
        let packed = |stretches: &[Option<(f64, f64)>]| {
            curve(&PowerCurve { domain: "d".to_owned(), stretches: stretches.to_vec() }, &mut Vec::new())
        };
        let one = packed(&[Some((0.0, 100.0)), None, Some((50.0, 50.0))]);
        // 4094 = 63 · 64 + 62, 2047 = 31 · 64 + 63
        assert_eq!(one.b, "AA/+////f/f/");
        assert_eq!(packed(&[Some((0.0, 0.0))]).b, "AAAA");
    }

    #[test]
    fn numbers_are_short() {
        let text: Vec<String> = [1.0, 31.012_345, 0.000_123_456_7, 123_456.7].map(|n| rounded(n).to_string()).to_vec();
        assert_eq!(text, ["1", "31.012", "0.00012346", "123460"]);
    }
}
