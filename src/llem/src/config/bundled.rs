//! A study that came in a bundle: where the things are that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::model::ModelSource;

/// The bundle that a study came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleOrigin {
    /// The file, absolute.
    pub path: PathBuf,
    /// SHA-256 of its manifest, by which every byte of it is determined.
    pub sha256: String,
}

/// What a study names, and where the bundle has it on this machine. Ids of experiments, and what results say of them, are those of the study
/// as it was bundled.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundled {
    /// The bundle.
    pub origin: BundleOrigin,
    /// Weights by what the study calls them.
    pub weights: BTreeMap<String, BundledWeights>,
    /// Files of data sets, likewise.
    pub datasets: BTreeMap<String, PathBuf>,
    /// SIF files by the image references of the study.
    pub sif_files: BTreeMap<String, PathBuf>,
    /// Images that are loaded into the container engine at the start of a run.
    pub archived_images: BTreeSet<String>,
    /// A cache in the hub's layout; absent where the bundle has no weights, and those of this machine are taken.
    pub hub: Option<PathBuf>,
    /// The list of the tokenised workloads, by experiment.
    pub workloads: PathBuf,
}

/// Weights of a bundled study.
#[derive(Clone, Debug, PartialEq)]
pub struct BundledWeights {
    /// Where they are.
    pub source: ModelSource,
    /// What results call them.
    pub called: String,
}
