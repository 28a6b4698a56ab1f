//! A comparison in words and numbers, as tables, Markdown and JUnit share them.

use super::quantity::Quantity;
use super::record::{
    ComparisonOutcome, ExperimentComparison, FigureComparison, PairedBy, RuleCheck, RuleOutcome, StudyComparison,
    UnpairedExperiment,
};
use super::text::shown;

impl FigureComparison {
    /// Baseline, candidate, difference, interval, p and verdict, for people.
    pub fn cells(&self) -> [String; 6] {
        let none = || "-".to_owned();
        let shown_value = |value: f64| {
            let (value, digits) =
                Quantity::from_name(&self.figure).map_or((value, 4), |quantity| quantity.shown(value));
            number(value, digits)
        };
        let mark = if self.gain_included.is_some() { "†" } else { "" };
        let interval =
            self.low.zip(self.high).map(|(low, high)| format!("{} to {}{mark}", percent(low), percent(high)));
        [
            self.baseline.map_or_else(none, shown_value),
            self.candidate.map_or_else(none, shown_value),
            self.relative_difference.map_or_else(none, |difference| format!("{} %", percent(difference))),
            interval.map_or_else(none, |interval| format!("{interval} %")),
            self.p_adjusted.map_or_else(none, p_value),
            self.verdict.text().to_owned(),
        ]
    }
}

impl RuleCheck {
    /// What came out, with the numbers.
    pub fn in_words(&self) -> String {
        let difference =
            self.relative_difference.map_or_else(|| "-".to_owned(), |difference| format!("{} %", percent(difference)));
        match (self.p_adjusted, &self.because) {
            (Some(p), _) => {
                let interval =
                    self.low.zip(self.high).map(|(low, high)| format!(" ({} to {} %)", percent(low), percent(high)));
                format!("{difference}{}, p {}", interval.unwrap_or_default(), p_value(p))
            }
            (None, Some(because)) => because.clone(),
            (None, None) => "not tested".to_owned(),
        }
    }
}

impl ExperimentComparison {
    /// Figures that a run of either side has.
    pub fn shown_figures(&self) -> impl Iterator<Item = &FigureComparison> {
        self.figures.iter().filter(|figure| figure.n_baseline + figure.n_candidate > 0)
    }

    /// By what the experiments belong together, where that is not their identity, and what else differs.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let PairedBy::AllBut { key, baseline, candidate } = &self.paired_by {
            let value = |value: &serde_json::Value| match value {
                serde_json::Value::Null => "default".to_owned(),
                serde_json::Value::String(text) => shown(text),
                other => shown(&other.to_string()),
            };
            remarks.push(format!("{} {} → {}", shown(key), value(baseline), value(candidate)));
        }
        remarks.extend(self.differs.iter().cloned());
        remarks
    }
}

impl StudyComparison {
    /// What the rules come to, in one line.
    pub fn conclusion(&self) -> String {
        let count = |outcome| self.rules.iter().filter(|check| check.outcome == outcome).count();
        let (failed, undecided) = (count(RuleOutcome::Failed), count(RuleOutcome::Undecided));
        match self.outcome {
            _ if self.rules.is_empty() => "no rules".to_owned(),
            ComparisonOutcome::Passed => format!("passed: {} of {} rules", self.rules.len(), self.rules.len()),
            ComparisonOutcome::Failed if undecided > 0 => {
                format!("failed: {failed} of {} rules, and {undecided} could not be decided", self.rules.len())
            }
            ComparisonOutcome::Failed => format!("failed: {failed} of {} rules", self.rules.len()),
            ComparisonOutcome::Undecided => format!("undecided: {undecided} of {} rules", self.rules.len()),
        }
    }

    /// What the tables do not say by themselves.
    pub fn footnotes(&self) -> Vec<String> {
        let mut notes = vec![method(self)];
        if self.experiments.iter().flat_map(|e| &e.figures).any(|figure| figure.gain_included.is_some()) {
            notes.push("† other sensors: the uncertainty of their gain is in the interval and in p".to_owned());
        }
        notes.extend(self.forced.iter().map(|reason| format!("compared in spite of: {reason}")));
        notes.extend(self.notes.iter().cloned());
        for experiment in &self.experiments {
            for remark in experiment.remarks() {
                notes.push(format!("{}: {remark}", shown(&experiment.name)));
            }
            let sides = [("baseline", &experiment.baseline), ("candidate", &experiment.candidate)];
            for (role, runs) in sides.into_iter().filter(|(_, runs)| !runs.left_out.is_empty()) {
                let each: Vec<String> =
                    runs.left_out.iter().map(|out| format!("{} ({})", shown(&out.run_id), out.why)).collect();
                notes.push(format!("{}: not compared in the {role}: {}", shown(&experiment.name), each.join(", ")));
            }
        }
        notes.extend(unpaired("baseline", &self.only_in_baseline));
        notes.extend(unpaired("candidate", &self.only_in_candidate));
        notes
    }
}

fn method(comparison: &StudyComparison) -> String {
    let by_cycle = comparison.experiments.iter().filter(|experiment| experiment.by_cycle).count();
    let test = match by_cycle {
        0 => "Welch's t on logarithms",
        n if n == comparison.experiments.len() => "t on logarithms, paired by cycle",
        _ => "t on logarithms, paired by cycle or Welch's",
    };
    format!(
        "geometric means over valid runs; {test}; p after Holm over all figures, those of rules one-sided over all rules"
    )
}

fn unpaired(role: &str, experiments: &[UnpairedExperiment]) -> Option<String> {
    const SHOWN: usize = 5;
    let names: Vec<String> = experiments.iter().take(SHOWN).map(|experiment| shown(&experiment.name)).collect();
    let more = experiments.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| format!("only in the {role}: {}{more}", names.join(", ")))
}

/// `+4.4`, in percent: three digits for small ones.
fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    match percent.abs() {
        magnitude if magnitude < 0.005 => "0".to_owned(),
        magnitude if magnitude < 1.0 => format!("{percent:+.2}"),
        magnitude if magnitude < 1000.0 => format!("{percent:+.1}"),
        _ => format!("{percent:+.0}"),
    }
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".to_owned() } else { format!("{p:.3}") }
}

/// So many significant digits, in powers of ten where that is shorter.
fn number(value: f64, digits: i32) -> String {
    let rounded = format!("{value:.*e}", usize::try_from(digits - 1).unwrap_or(0));
    let magnitude = rounded.rsplit_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok()).unwrap_or(0);
    if !(-5..7).contains(&magnitude) {
        return rounded;
    }
    format!("{value:.*}", usize::try_from(digits - 1 - magnitude).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::{number, p_value, percent};

    #[test]
    fn numbers_are_short() {
        let shown =
            [99.999_99, 0.041_234, 1030.4, 6_750_208.0, 1.5e9, 0.000_001_234, 3.0].map(|value| number(value, 4));
        assert_eq!(shown, ["100.0", "0.04123", "1030", "6750208", "1.500e9", "1.234e-6", "3.000"]);
        assert_eq!(number(0.006_286_6, 3), "0.00629");
        assert_eq!([0.0312, -0.004, 1e-6, 12.5, -0.9].map(percent), ["+3.1", "-0.40", "0", "+1250", "-90.0"]);
        assert_eq!([0.0, 0.00099, 0.0466, 1.0].map(p_value), ["<0.001", "<0.001", "0.047", "1.000"]);
    }
}
