//! One test for each figure of each pair.

use std::collections::BTreeMap;

use llem_statistics::{Comparison, DEFAULT_LEVEL, Sample, holm, paired, unpaired};

use super::ALPHA;
use super::comparable::Findings;
use super::pairs::Pair;
use super::quantity::Quantity;
use super::record::{ExperimentComparison, FigureComparison, LeftOut, SideRuns, Verdict};
use crate::result::{Figure, Metrics, RunRow, RunStatus};
use llem_protocol::Severity;

/// Runs that a test needs on each side.
const MIN_RUNS: usize = 2;

/// A figure with its test.
pub(super) struct Test {
    quantity: Quantity,
    pub(super) figure: FigureComparison,
    pub(super) comparison: Option<Comparison>,
}

/// A pair with all its tests.
pub(super) struct Tested<'a> {
    pair: &'a Pair<'a>,
    by_cycle: bool,
    differs: Vec<String>,
    tests: Vec<Test>,
}

/// The valid runs of both sides.
struct Runs<'a> {
    baseline: Vec<(u32, &'a Metrics)>,
    candidate: Vec<(u32, &'a Metrics)>,
    by_cycle: bool,
    gain_cancels: bool,
}

/// Values of one figure, those of a pair in the same place where runs belong together.
struct Values {
    baseline: Vec<f64>,
    candidate: Vec<f64>,
    by_cycle: bool,
}

impl<'a> Tested<'a> {
    /// Tests every quantity; those that no run of either side has are left out, unless nothing else would be there.
    pub(super) fn new(pair: &'a Pair<'a>, findings: &Findings, quantities: &[Quantity], by_cycle: bool) -> Self {
        let [baseline, candidate] = [&pair.baseline.runs, &pair.candidate.runs].map(|rows| valid(rows));
        let by_cycle =
            by_cycle && !findings.is_apart && has_each_cycle_once(&baseline) && has_each_cycle_once(&candidate);
        let runs = Runs { baseline, candidate, by_cycle, gain_cancels: findings.gain_cancels };
        let tests = quantities.iter().map(|quantity| runs.test(*quantity)).collect();
        Self { pair, by_cycle, differs: findings.differs.clone(), tests }
    }

    /// The experiment's name.
    pub(super) fn name(&self) -> &str {
        &self.pair.name
    }

    pub(super) fn test(&self, quantity: Quantity) -> Option<&Test> {
        self.tests.iter().find(|test| test.quantity == quantity)
    }

    /// Whether a valid run of either side has energy: then its absence on the other is no reason to look at something else.
    pub(super) fn knows_energy(&self) -> bool {
        let energy = Quantity::Figure(Figure::EnergyPerOutputTokenJ);
        let rows = self.pair.baseline.runs.iter().chain(&self.pair.candidate.runs);
        rows.filter(|row| row.valid).filter_map(|row| row.metrics.as_ref()).any(|metrics| energy.of(metrics).is_some())
    }

    pub(super) fn into_record(self) -> ExperimentComparison {
        let pair = self.pair;
        ExperimentComparison {
            name: pair.name.clone(),
            experiment_ids: [pair.baseline.experiment_id.clone(), pair.candidate.experiment_id.clone()],
            paired_by: pair.paired_by.clone(),
            by_cycle: self.by_cycle,
            differs: self.differs,
            baseline: side_runs(&pair.baseline.runs),
            candidate: side_runs(&pair.candidate.runs),
            figures: self.tests.into_iter().map(|test| test.figure).collect(),
        }
    }
}

/// Corrects the p-values of all tests for their number, and draws the verdicts.
pub(super) fn adjust(tested: &mut [Tested<'_>]) {
    let tests = || tested.iter().flat_map(|pair| &pair.tests);
    let p_values: Vec<f64> = tests().filter_map(|test| test.figure.p_value).collect();
    let mut adjusted = holm(&p_values).into_iter();
    for test in tested.iter_mut().flat_map(|pair| &mut pair.tests) {
        let figure = &mut test.figure;
        if figure.p_value.is_none() {
            continue;
        }
        figure.p_adjusted = adjusted.next();
        figure.verdict = match (figure.p_adjusted, figure.relative_difference) {
            (Some(p), Some(difference)) if p < ALPHA && difference > 0.0 => Verdict::More,
            (Some(p), Some(_)) if p < ALPHA => Verdict::Less,
            _ => Verdict::NoDifferenceSeen,
        };
    }
}

/// The runs that count.
fn valid(rows: &[RunRow]) -> Vec<(u32, &Metrics)> {
    rows.iter().filter(|row| row.valid).filter_map(|row| Some((row.cycle, row.metrics.as_ref()?))).collect()
}

fn has_each_cycle_once(runs: &[(u32, &Metrics)]) -> bool {
    let mut cycles: Vec<u32> = runs.iter().map(|(cycle, _)| *cycle).collect();
    cycles.sort_unstable();
    cycles.windows(2).all(|two| two[0] != two[1])
}

impl Runs<'_> {
    fn test(&self, quantity: Quantity) -> Test {
        let values = self.values(quantity);
        let mut figure = FigureComparison {
            figure: quantity.name().to_owned(),
            unit: quantity.unit().to_owned(),
            baseline: geometric_mean(&values.baseline),
            candidate: geometric_mean(&values.candidate),
            n_baseline: values.baseline.len() as u64,
            n_candidate: values.candidate.len() as u64,
            relative_difference: None,
            low: None,
            high: None,
            p_value: None,
            p_adjusted: None,
            method: None,
            gain_included: None,
            verdict: Verdict::Undecided,
            undecided_because: None,
        };
        figure.relative_difference =
            figure.baseline.zip(figure.candidate).map(|(a, b)| b / a - 1.0).filter(|d| d.is_finite());
        let comparison = match self.compare(quantity, &values) {
            Ok((comparison, gain)) => {
                figure.relative_difference = Some(comparison.relative_difference);
                figure.low = Some(comparison.low);
                figure.high = Some(comparison.high);
                figure.p_value = Some(comparison.p_value);
                figure.method = Some(comparison.method);
                figure.gain_included = gain;
                Some(comparison)
            }
            Err(because) => {
                figure.undecided_because = Some(because);
                None
            }
        };
        Test { quantity, figure, comparison }
    }

    fn compare(&self, quantity: Quantity, values: &Values) -> Result<(Comparison, Option<f64>), String> {
        for (found, runs, role) in
            [(&values.baseline, &self.baseline, "baseline"), (&values.candidate, &self.candidate, "candidate")]
        {
            if found.len() < MIN_RUNS {
                return Err(too_few(found.len(), runs.len(), role, values.by_cycle));
            }
            if let Some(value) = found.iter().find(|value| **value <= 0.0) {
                return Err(format!("a run of the {role} has {value}, and ratios are of values above 0"));
            }
        }
        let sample = |values| Sample::new(values).map_err(|error| error.to_string());
        let (a, b) = (sample(&values.baseline)?, sample(&values.candidate)?);
        let test = if values.by_cycle { paired } else { unpaired };
        let comparison = test(a, b, DEFAULT_LEVEL).ok_or("its values cannot be compared")?;
        let gain = self.gain(quantity)?;
        let comparison =
            comparison.with_shared_uncertainty(gain.unwrap_or(0.0)).ok_or("its sensors' gain cannot be true")?;
        let limits = [comparison.relative_difference, comparison.low, comparison.high];
        if limits.iter().all(|limit| limit.is_finite()) {
            Ok((comparison, gain))
        } else {
            Err("its values are too far apart for a ratio".to_owned())
        }
    }

    /// Standard uncertainty of the ratio by the gains of both sides' sensors, relative; nothing where it cancels.
    fn gain(&self, quantity: Quantity) -> Result<Option<f64>, String> {
        let Some(energy) = quantity.energy().filter(|_| !self.gain_cancels) else { return Ok(None) };
        let mean = |runs: &[(u32, &Metrics)]| {
            let gains: Vec<f64> = runs.iter().filter_map(|(_, metrics)| energy.gain(metrics)).collect();
            (!gains.is_empty()).then(|| gains.iter().sum::<f64>() / gains.len() as f64)
        };
        match (mean(&self.baseline), mean(&self.candidate)) {
            (Some(a), Some(b)) => Ok(Some(a.hypot(b))),
            _ => Err("other sensors, and how sure their gain is is not known".to_owned()),
        }
    }

    fn values(&self, quantity: Quantity) -> Values {
        let of = |runs: &[(u32, &Metrics)]| -> BTreeMap<u32, f64> {
            runs.iter().filter_map(|(cycle, metrics)| Some((*cycle, quantity.of(metrics)?))).collect()
        };
        let all = |runs: &[(u32, &Metrics)]| runs.iter().filter_map(|(_, metrics)| quantity.of(metrics)).collect();
        if !self.by_cycle {
            return Values { baseline: all(&self.baseline), candidate: all(&self.candidate), by_cycle: false };
        }
        let (a, b) = (of(&self.baseline), of(&self.candidate));
        let both: Vec<(f64, f64)> = a.iter().filter_map(|(cycle, value)| Some((*value, *b.get(cycle)?))).collect();
        let (baseline, candidate) = both.into_iter().unzip();
        Values { baseline, candidate, by_cycle: true }
    }
}

fn too_few(found: usize, valid: usize, role: &str, by_cycle: bool) -> String {
    match (found, valid) {
        _ if by_cycle && valid >= MIN_RUNS => {
            format!("{found} of the cycles have the figure in valid runs of both sides, and a test needs 2")
        }
        (0, 0) => format!("the {role} has no valid run"),
        (0, _) => format!("no valid run of the {role} has the figure"),
        (1, _) => format!("one valid run of the {role} has the figure, and a test needs 2"),
        _ => format!("{found} valid runs of the {role} have the figure, and a test needs 2"),
    }
}

/// Nothing for no values, and where one is not above 0.
fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|value| *value <= 0.0) {
        return None;
    }
    Some((values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp())
}

fn side_runs(rows: &[RunRow]) -> SideRuns {
    let counts = |row: &&RunRow| row.valid && row.metrics.is_some();
    let left_out =
        rows.iter().filter(|row| !counts(row)).map(|row| LeftOut { run_id: row.run_id.clone(), why: why(row) });
    SideRuns { valid: rows.iter().filter(counts).count() as u64, left_out: left_out.collect() }
}

/// Why a run is not compared.
fn why(row: &RunRow) -> String {
    if let Some(failure) = &row.failure {
        return format!("{} ({})", row.status.name(), failure.class.code());
    }
    let against: Vec<&str> =
        row.reasons.iter().filter(|r| r.severity == Severity::Invalid).map(|r| r.code.code()).collect();
    match (row.status, against.is_empty()) {
        (RunStatus::Completed, false) => against.join(", "),
        (RunStatus::Completed, true) => "not valid".to_owned(),
        (status, _) => status.name().to_owned(),
    }
}
