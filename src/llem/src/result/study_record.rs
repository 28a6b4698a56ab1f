//! The records of a study: `study.json`.

use std::collections::BTreeMap;

use llem_protocol::{Failure, FailureClass, Reason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Figure, MeanUncertainty, Metrics, ParetoFrontier, RunIdentity, RunStatus, SameWork, Spread};
use crate::config::{Backend, ExecutionConfig, ExperimentConfig, MergedPoint};
use crate::engine_cache::CacheRecord;
use crate::runner::docker::ImageVersions;

/// How a study ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StudyStatus {
    /// Every run was measured.
    Completed,
    /// At least one run failed.
    Failed,
    /// Stopped by the user.
    Interrupted,
}

/// Everything about a study: `study.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StudyResult {
    /// [`super::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of the file that it was read from, where that was an older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgraded_from: Option<u32>,
    /// The study's name.
    pub name: String,
    /// Name of the study's directory.
    pub study_id: String,
    /// The study's directory on the machine that ran it.
    pub directory: String,
    /// Identity of the set of experiments, whatever their execution.
    pub design_hash: String,
    /// How it ended.
    pub status: StudyStatus,
    /// Start in UTC, RFC 3339.
    pub started: String,
    /// End in UTC, RFC 3339.
    pub finished: String,
    /// The controller's version.
    pub llem_version: String,
    /// Profile that the defaults came from.
    pub profile: String,
    /// `key=value` from the command line.
    pub overrides: Vec<String>,
    /// How it was carried out.
    pub execution: ExecutionConfig,
    /// The keys that vary.
    pub varied_keys: Vec<String>,
    /// The experiments with their runs, in the order of the plan.
    pub experiments: Vec<ExperimentResult>,
    /// Points of the sweep that equal another one and were run with it.
    pub merged: Vec<MergedPoint>,
    /// Workloads that several backends ran with the same model, and whether they did the same.
    #[serde(default)]
    pub same_work: Vec<SameWork>,
    /// Which experiments no other beats at everything; null in files of llem versions that did not compare.
    #[serde(default)]
    pub pareto: Option<ParetoFrontier>,
    /// The images that were looked into before the first run.
    #[serde(default)]
    pub images: Vec<ImageRecord>,
}

/// An image of a study.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageRecord {
    /// Backend that ran in it.
    pub backend: Backend,
    /// Reference as asked for.
    pub image: String,
    /// Content id (`sha256:…`).
    pub image_id: String,
    /// Registry digests; empty for an image that never was in a registry.
    pub image_digests: Vec<String>,
    /// Labels.
    pub image_labels: BTreeMap<String, String>,
    /// Versions of what is in it.
    pub image_versions: ImageVersions,
}

impl StudyResult {
    /// Counts of completed, failed, interrupted and planned runs.
    pub fn counts(&self) -> (usize, usize, usize) {
        let with = |status| self.experiments.iter().flat_map(|e| &e.runs).filter(|run| run.status == status).count();
        (with(RunStatus::Completed), with(RunStatus::Failed), with(RunStatus::Interrupted))
    }
}

/// One experiment of a study with its runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExperimentResult {
    /// Identity of the experiment.
    pub experiment_id: String,
    /// What distinguishes it in its study, for people.
    pub label: String,
    /// What distinguishes it, for programs.
    pub varied: Vec<(String, serde_json::Value)>,
    /// The experiment, complete with defaults.
    pub config: ExperimentConfig,
    /// The newest attempt at each of its runs, by their numbers.
    pub runs: Vec<RunRow>,
    /// Cycles that were left out because an earlier one did not fit into the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<SkippedCycles>,
    /// Mean and spread over its valid runs; over all completed runs, and marked so, when none is valid.
    pub summary: ExperimentSummary,
}

/// Cycles of an experiment that were not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SkippedCycles {
    /// What the cycle before them died of.
    pub failure: FailureClass,
    /// The cycles, from 1.
    pub cycles: Vec<u32>,
}

/// A run in a study's list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunRow {
    /// The run, and its directory under `runs/`.
    pub run_id: String,
    /// What distinguishes its experiment in its study, for people.
    pub label: String,
    /// Cycle, from 1.
    pub cycle: u32,
    /// How it ended.
    pub status: RunStatus,
    /// Whether its numbers may be used.
    pub valid: bool,
    /// Codes that make it invalid or explain what is absent.
    pub reasons: Vec<Reason>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Its figures.
    pub metrics: Option<Metrics>,
    /// Its compiled engine. Few runs have one, and a study may have very many.
    #[serde(default)]
    pub engine_cache: Option<Box<CacheRecord>>,
    /// What it was made of, and where.
    #[serde(default)]
    pub identity: Option<RunIdentity>,
}

/// Mean and spread over the runs of an experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExperimentSummary {
    /// Runs that went in.
    pub runs: u64,
    /// Whether only valid runs went in.
    pub valid: bool,
    /// Generated tokens per second.
    pub output_tokens_per_s: Option<Spread>,
    /// Median time to first token in milliseconds.
    pub ttft_p50_ms: Option<Spread>,
    /// Median inter-token latency in milliseconds.
    pub itl_p50_ms: Option<Spread>,
    /// Median end-to-end latency in milliseconds.
    pub e2e_p50_ms: Option<Spread>,
    /// Energy of the window in joules.
    pub energy_j: Option<Spread>,
    /// How sure the mean of `energy_j` is.
    #[serde(default)]
    pub energy_j_uncertainty: Option<MeanUncertainty>,
    /// Joules per generated token.
    pub energy_per_output_token_j: Option<Spread>,
    /// How sure the mean of `energy_per_output_token_j` is.
    #[serde(default)]
    pub energy_per_output_token_j_uncertainty: Option<MeanUncertainty>,
    /// Energy of the window less that of idling, in joules.
    #[serde(default)]
    pub energy_net_j: Option<Spread>,
    /// Joules per generated token less those of idling.
    #[serde(default)]
    pub energy_net_per_output_token_j: Option<Spread>,
    /// Mean power in watts.
    pub mean_power_w: Option<Spread>,
    /// Grams of CO2 equivalent of the window.
    #[serde(default)]
    pub co2_g: Option<Spread>,
}

impl ExperimentSummary {
    /// Summarises the runs of one experiment.
    pub(crate) fn of(runs: &[RunRow]) -> Self {
        let valid: Vec<&Metrics> = runs.iter().filter(|r| r.valid).filter_map(|r| r.metrics.as_ref()).collect();
        let any_valid = !valid.is_empty();
        let used = if any_valid { valid } else { runs.iter().filter_map(|r| r.metrics.as_ref()).collect() };
        let spread = |figure: &dyn Fn(&Metrics) -> Option<f64>| {
            Spread::of(&used.iter().filter_map(|m| figure(m)).collect::<Vec<_>>())
        };
        let energy_j = spread(&|m| m.energy.energy_j);
        let energy_per_output_token_j = spread(&|m| m.energy.energy_per_output_token_j);
        Self {
            runs: used.len() as u64,
            valid: any_valid,
            output_tokens_per_s: spread(&|m| Some(m.output_tokens_per_s)),
            ttft_p50_ms: spread(&|m| m.ttft_ms.map(|d| d.p50)),
            itl_p50_ms: spread(&|m| m.itl_ms.map(|d| d.p50)),
            e2e_p50_ms: spread(&|m| m.e2e_ms.map(|d| d.p50)),
            energy_j,
            energy_j_uncertainty: MeanUncertainty::of_figure(Figure::EnergyJ, &used, energy_j),
            energy_per_output_token_j,
            energy_per_output_token_j_uncertainty: MeanUncertainty::of_figure(
                Figure::EnergyPerOutputTokenJ,
                &used,
                energy_per_output_token_j,
            ),
            energy_net_j: spread(&|m| m.energy.energy_net_j),
            energy_net_per_output_token_j: spread(&|m| m.energy.energy_net_per_output_token_j),
            mean_power_w: spread(&|m| m.energy.mean_power_w),
            co2_g: spread(&|m| m.energy.co2_g),
        }
    }
}
