//! What fails a build: `energy_per_output_token_j > +3%`.

use llem_statistics::holm;
use thiserror::Error;

use super::ALPHA;
use super::quantity::Quantity;
use super::record::{ComparisonOutcome, RuleCheck, RuleOutcome, UnpairedExperiment};
use super::tests_of_pairs::{Test, Tested};
use super::text::shown;
use crate::config::nearest;
use crate::result::Figure;

/// The longest rule that is read, in bytes.
const MAX_RULE: usize = 200;

/// A figure of the candidate that must not lie beyond a threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// What of.
    pub quantity: Quantity,
    /// On which side of the threshold it fails.
    pub relation: Relation,
    /// Difference from the baseline, in percent of it.
    pub threshold_percent: f64,
}

/// On which side of its threshold a rule fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Above.
    Above,
    /// Below.
    Below,
}

/// What fails.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Rules {
    /// More energy per token where either side knows it, else fewer tokens per second.
    #[default]
    Default,
    /// Nothing does.
    None,
    /// These.
    Given(Vec<Rule>),
}

/// A rule that cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{rule}\n{}^ {message}", " ".repeat(.column - 1))]
pub struct RuleError {
    /// The rule, fit for a terminal.
    pub rule: String,
    /// Where, in characters from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let relation = match self.relation {
            Relation::Above => '>',
            Relation::Below => '<',
        };
        match self.threshold_percent {
            0.0 => write!(f, "{} {relation} 0 %", self.quantity),
            threshold => write!(f, "{} {relation} {threshold:+} %", self.quantity),
        }
    }
}

impl std::str::FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        Reader { text, rest: text }.rule()
    }
}

impl Rules {
    /// Reads what the command line says: nothing for the default, `none`, or rules.
    pub fn parse(texts: &[String]) -> Result<Self, RuleError> {
        match texts {
            [] => Ok(Self::Default),
            [only] if only.trim() == "none" => Ok(Self::None),
            several => {
                if let Some(none) = several.iter().find(|text| text.trim() == "none") {
                    let message = "`none` cannot stand beside rules".to_owned();
                    return Err(RuleError { rule: shown(none), column: 1, message });
                }
                let mut rules = Vec::new();
                for text in several {
                    let rule = text.parse()?;
                    // A rule that is given twice is one question: Holm's correction must not count it as two.
                    if !rules.contains(&rule) {
                        rules.push(rule);
                    }
                }
                Ok(Self::Given(rules))
            }
        }
    }

    /// The rules that were given.
    pub(super) fn given(&self) -> &[Rule] {
        match self {
            Self::Given(rules) => rules,
            Self::Default | Self::None => &[],
        }
    }

    /// The rules for one pair of experiments.
    fn of(&self, knows_energy: bool) -> Vec<Rule> {
        let rule =
            |figure, relation| vec![Rule { quantity: Quantity::Figure(figure), relation, threshold_percent: 0.0 }];
        match self {
            Self::None => Vec::new(),
            Self::Given(rules) => rules.clone(),
            Self::Default if knows_energy => rule(Figure::EnergyPerOutputTokenJ, Relation::Above),
            Self::Default => rule(Figure::OutputTokensPerS, Relation::Below),
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    rest: &'t str,
}

impl Reader<'_> {
    fn rule(mut self) -> Result<Rule, RuleError> {
        if self.text.len() > MAX_RULE {
            return Err(self.error(format!("longer than {MAX_RULE} bytes")));
        }
        let quantity = self.quantity()?;
        let relation = self.relation()?;
        let threshold_percent = self.threshold()?;
        if !self.rest.trim_start().is_empty() {
            self.skip_space();
            return Err(self.error("nothing may follow the `%`: one rule for each --fail-on"));
        }
        Ok(Rule { quantity, relation, threshold_percent })
    }

    fn quantity(&mut self) -> Result<Quantity, RuleError> {
        self.skip_space();
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let name = &self.rest[..end];
        if name.is_empty() {
            return Err(self.error("a figure is expected, as in `energy_per_output_token_j > +3%`"));
        }
        let Some(quantity) = Quantity::from_name(name) else {
            return Err(self.error(no_such_figure(name)));
        };
        self.rest = &self.rest[end..];
        Ok(quantity)
    }

    fn relation(&mut self) -> Result<Relation, RuleError> {
        self.skip_space();
        let relation = match self.rest.chars().next() {
            Some('>') => Relation::Above,
            Some('<') => Relation::Below,
            _ => return Err(self.error("`>` or `<` is expected")),
        };
        self.rest = &self.rest[1..];
        if self.rest.starts_with('=') {
            return Err(self.error("there is no `=`: a difference is beyond the threshold or not"));
        }
        Ok(relation)
    }

    fn threshold(&mut self) -> Result<f64, RuleError> {
        self.skip_space();
        let end = self.rest.find(|c: char| !(c.is_ascii_digit() || "+-.−".contains(c))).unwrap_or(self.rest.len());
        let digits = self.rest[..end].replace('−', "-");
        let number = digits.parse::<f64>().ok().filter(|number| number.is_finite());
        let Some(number) = number else {
            return Err(self.error("a percentage is expected, as `+3%`"));
        };
        if number <= -100.0 || number > 1e6 {
            return Err(self.error("the threshold must be above -100% and at most 1000000%"));
        }
        self.rest = &self.rest[end..];
        self.skip_space();
        match self.rest.strip_prefix('%') {
            Some(rest) => self.rest = rest,
            None => return Err(self.error("`%` is expected: thresholds are relative to the baseline")),
        }
        // Not the negative zero.
        Ok(number + 0.0)
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn error(&self, message: impl Into<String>) -> RuleError {
        let before = self.text.len() - self.rest.len();
        let column = self.text.get(..before).map_or(0, |text| text.chars().count()) + 1;
        RuleError { rule: shown(self.text), column, message: message.into() }
    }
}

fn no_such_figure(name: &str) -> String {
    let of_the_window = [Figure::EnergyJ, Figure::EnergyNetJ, Figure::Co2G];
    if of_the_window.iter().any(|figure| figure.name() == name) {
        return format!(
            "`{name}` is of the whole window, whose length is no property of what was measured; use `energy_per_output_token_j`"
        );
    }
    let known = || Quantity::ALL.into_iter().map(Quantity::name);
    match nearest(name, known()).or_else(|| known().find(|whole| is_shortened(name, whole))) {
        Some(meant) => format!("no figure is called `{}`; did you mean `{meant}`?", shown(name)),
        None => format!("no figure is called `{}`; there are {}", shown(name), known().collect::<Vec<_>>().join(", ")),
    }
}

/// Whether a name has some of the words of another and no other word: `energy_per_token_j`.
fn is_shortened(name: &str, whole: &str) -> bool {
    name.contains('_') && name.split('_').all(|word| whole.split('_').any(|other| other == word))
}

/// Holds every pair against every rule. p-values are one-sided, after Holm over all that could be tested.
pub(super) fn check(rules: &Rules, tested: &[Tested<'_>]) -> Vec<RuleCheck> {
    let asked: Vec<(&Tested<'_>, Rule)> = tested
        .iter()
        .flat_map(|pair| rules.of(pair.knows_energy()).into_iter().map(move |rule| (pair, rule)))
        .collect();
    let p_values: Vec<Option<f64>> =
        asked.iter().map(|(pair, rule)| pair.test(rule.quantity).and_then(|test| p_of(*rule, test))).collect();
    let known: Vec<f64> = p_values.iter().flatten().copied().collect();
    let mut adjusted = holm(&known).into_iter();
    let each = asked.iter().zip(&p_values);
    each.map(|((pair, rule), p)| judged(pair, *rule, *p, p.and_then(|_| adjusted.next()))).collect()
}

fn p_of(rule: Rule, test: &Test) -> Option<f64> {
    let comparison = test.comparison.as_ref()?;
    let threshold = rule.threshold_percent / 100.0;
    match rule.relation {
        Relation::Above => comparison.p_above(threshold),
        Relation::Below => comparison.p_below(threshold),
    }
}

fn judged(pair: &Tested<'_>, rule: Rule, p_value: Option<f64>, p_adjusted: Option<f64>) -> RuleCheck {
    let figure = pair.test(rule.quantity).map(|test| &test.figure);
    let outcome = match p_adjusted {
        None => RuleOutcome::Undecided,
        Some(p) if p < ALPHA => RuleOutcome::Failed,
        Some(_) => RuleOutcome::Passed,
    };
    RuleCheck {
        rule: rule.to_string(),
        figure: rule.quantity.name().to_owned(),
        threshold_percent: rule.threshold_percent,
        experiment: pair.name().to_owned(),
        outcome,
        relative_difference: figure.and_then(|figure| figure.relative_difference),
        low: figure.and_then(|figure| figure.low),
        high: figure.and_then(|figure| figure.high),
        p_value,
        p_adjusted,
        because: figure.and_then(|figure| figure.undecided_because.clone()).filter(|_| p_adjusted.is_none()),
    }
}

/// The rules for experiments that only the baseline has: nobody can say that they did not become worse.
pub(super) fn missing(rules: &Rules, only_in_baseline: &[UnpairedExperiment]) -> Vec<RuleCheck> {
    let of_one = |experiment: &UnpairedExperiment| {
        let undecided = |rule: Rule| RuleCheck {
            rule: rule.to_string(),
            figure: rule.quantity.name().to_owned(),
            threshold_percent: rule.threshold_percent,
            experiment: experiment.name.clone(),
            outcome: RuleOutcome::Undecided,
            relative_difference: None,
            low: None,
            high: None,
            p_value: None,
            p_adjusted: None,
            because: Some("the candidate does not have this experiment; --allow-missing lets that pass".to_owned()),
        };
        rules.of(experiment.knows_energy).into_iter().map(undecided).collect::<Vec<_>>()
    };
    only_in_baseline.iter().flat_map(of_one).collect()
}

/// One failed rule fails all, and what is not decided has not passed.
pub(super) fn outcome(checks: &[RuleCheck]) -> ComparisonOutcome {
    let any = |outcome| checks.iter().any(|check| check.outcome == outcome);
    if any(RuleOutcome::Failed) {
        ComparisonOutcome::Failed
    } else if any(RuleOutcome::Undecided) {
        ComparisonOutcome::Undecided
    } else {
        ComparisonOutcome::Passed
    }
}

#[cfg(test)]
mod tests;
