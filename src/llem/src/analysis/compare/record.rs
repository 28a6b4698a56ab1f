//! What a comparison says, as `llem compare --format json` prints it.

use llem_statistics::ComparisonMethod;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

/// Version of the record.
pub const COMPARISON_SCHEMA_VERSION: u32 = 1;

/// A candidate against its baseline.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct StudyComparison {
    /// [`COMPARISON_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of llem that compared.
    pub llem_version: String,
    /// What the differences are relative to.
    pub baseline: SideRecord,
    /// What is held against it.
    pub candidate: SideRecord,
    /// Confidence level of all intervals, 0 to 1.
    pub level: f64,
    /// Chance of a false alarm among all rules together, and of a false verdict among all figures together.
    pub alpha: f64,
    /// What the rules say together.
    pub outcome: ComparisonOutcome,
    /// Every pair of experiments.
    pub experiments: Vec<ExperimentComparison>,
    /// Experiments that the candidate does not have.
    pub only_in_baseline: Vec<UnpairedExperiment>,
    /// Experiments that the baseline does not have.
    pub only_in_candidate: Vec<UnpairedExperiment>,
    /// Every rule for every pair.
    pub rules: Vec<RuleCheck>,
    /// Why the sides are not comparable; empty unless that was forced.
    pub forced: Vec<String>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

/// Where one side comes from.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SideRecord {
    /// The path that was given.
    pub path: String,
    /// Name of the study's directory.
    pub study_id: String,
    /// Start in UTC, RFC 3339.
    pub started: String,
    /// Runs.
    pub runs: u64,
    /// Of them, valid ones.
    pub valid_runs: u64,
}

/// What all rules say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComparisonOutcome {
    /// Every rule passed.
    Passed,
    /// At least one failed.
    Failed,
    /// None failed, and at least one could not be decided.
    Undecided,
}

/// By what two experiments belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum PairedBy {
    /// Their configs are equal.
    Identity,
    /// Their configs are equal but for this key.
    AllBut {
        /// Dotted.
        key: String,
        /// Its value in the baseline, as JSON.
        baseline: serde_json::Value,
        /// Its value in the candidate, as JSON.
        candidate: serde_json::Value,
    },
}

/// One experiment of both sides.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ExperimentComparison {
    /// What distinguishes it, for people.
    pub name: String,
    /// Identities of the experiments of baseline and candidate.
    pub experiment_ids: [String; 2],
    /// By what they belong together.
    pub paired_by: PairedBy,
    /// Whether runs of the same cycle were compared with each other: both sides are of one study whose cycles were mixed.
    pub by_cycle: bool,
    /// What else differs between the sides (engine version, image), each with both values.
    pub differs: Vec<String>,
    /// Runs of the baseline.
    pub baseline: SideRuns,
    /// Runs of the candidate.
    pub candidate: SideRuns,
    /// The figures.
    pub figures: Vec<FigureComparison>,
}

/// The runs of one side of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SideRuns {
    /// Valid ones: those that are compared.
    pub valid: u64,
    /// The others.
    pub left_out: Vec<LeftOut>,
}

/// A run that was not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LeftOut {
    /// Which.
    pub run_id: String,
    /// Its status or the codes that are against it.
    pub why: String,
}

/// One figure of a pair.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FigureComparison {
    /// Which.
    pub figure: String,
    /// Its unit.
    pub unit: String,
    /// Geometric mean over the runs of the baseline that were compared.
    pub baseline: Option<f64>,
    /// Geometric mean over the runs of the candidate that were compared.
    pub candidate: Option<f64>,
    /// Runs of the baseline that went in.
    pub n_baseline: u64,
    /// Runs of the candidate that went in.
    pub n_candidate: u64,
    /// `candidate` over `baseline` less 1.
    pub relative_difference: Option<f64>,
    /// Lower limit of its interval.
    pub low: Option<f64>,
    /// Upper limit of its interval.
    pub high: Option<f64>,
    /// Two-sided.
    pub p_value: Option<f64>,
    /// After Holm, over all figures of all pairs.
    pub p_adjusted: Option<f64>,
    /// The test.
    #[serde(serialize_with = "method_name")]
    #[schemars(with = "Option<String>")]
    pub method: Option<ComparisonMethod>,
    /// Standard uncertainty of the sensors' gains that is in the interval, relative, where they do not cancel.
    pub gain_included: Option<f64>,
    /// What it comes to.
    pub verdict: Verdict,
    /// Why it is undecided.
    pub undecided_because: Option<String>,
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn method_name<S: Serializer>(method: &Option<ComparisonMethod>, serializer: S) -> Result<S::Ok, S::Error> {
    method.map(ComparisonMethod::name).serialize(serializer)
}

/// What a figure comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// More in the candidate.
    More,
    /// Less in the candidate.
    Less,
    /// A difference, if there is one, is lost in the scatter.
    NoDifferenceSeen,
    /// No test was possible.
    Undecided,
}

impl Verdict {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::More => "more",
            Self::Less => "less",
            Self::NoDifferenceSeen => "no difference seen",
            Self::Undecided => "undecided",
        }
    }
}

/// One rule for one pair.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RuleCheck {
    /// The rule.
    pub rule: String,
    /// Its figure.
    pub figure: String,
    /// Its threshold in percent of the baseline.
    pub threshold_percent: f64,
    /// The experiment's name.
    pub experiment: String,
    /// What came out.
    pub outcome: RuleOutcome,
    /// The figure's relative difference.
    pub relative_difference: Option<f64>,
    /// Lower limit of its interval.
    pub low: Option<f64>,
    /// Upper limit of its interval.
    pub high: Option<f64>,
    /// One-sided: chance of such values where the difference is in truth not beyond the threshold.
    pub p_value: Option<f64>,
    /// After Holm, over all rules and pairs.
    pub p_adjusted: Option<f64>,
    /// Why it is undecided.
    pub because: Option<String>,
}

/// What came out of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuleOutcome {
    /// The difference is not shown to be beyond the threshold.
    Passed,
    /// It is.
    Failed,
    /// No test was possible.
    Undecided,
}

impl RuleOutcome {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Undecided => "undecided",
        }
    }
}

/// An experiment without a counterpart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct UnpairedExperiment {
    /// Its identity.
    pub experiment_id: String,
    /// What distinguishes it in its study, for people.
    pub name: String,
    /// Whether a valid run of it has energy.
    #[serde(skip)]
    #[schemars(skip)]
    pub(super) knows_energy: bool,
}
