//! What a study writes to which disk.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::WeightsForecast;
use crate::config::{Experiment, StudyConfig, UserConfig};
use crate::engine_cache::CacheSettings;
use crate::host::free_bytes;

/// What a study will write to one disk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiskForecast {
    /// What for.
    pub what: &'static str,
    /// The directory.
    pub directory: PathBuf,
    /// Free bytes there; null where that cannot be told.
    pub free_bytes: Option<u64>,
    /// Bytes that are known to be written.
    pub known_bytes: u64,
    /// What will be written of unknown size.
    pub unknown: Vec<String>,
}

impl DiskForecast {
    /// Why the known bytes alone do not fit.
    pub fn too_full(&self) -> Option<String> {
        let free = self.free_bytes.filter(|free| *free < self.known_bytes)?;
        let size = |bytes: u64| match bytes {
            0..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
            _ => format!("{:.1} GB", bytes as f64 / 1e9),
        };
        let (what, directory) = (self.what, self.directory.display());
        Some(format!("{what} need {} in {directory}, and {} are free there", size(self.known_bytes), size(free)))
    }
}

/// What is written where. Results are small beside weights, and their size is not known.
pub(super) fn disks(
    study: &StudyConfig,
    user: &UserConfig,
    output: &Path,
    weights: &[WeightsForecast],
) -> Vec<DiskForecast> {
    let free = |directory: &Path| free_bytes(directory).map(|(free, _)| free);
    let cache = user.cache_root();
    let unsized_weights = weights.iter().filter(|weights| weights.to_write_bytes.is_none());
    let mut all = vec![
        DiskForecast {
            what: "results",
            directory: output.to_owned(),
            free_bytes: free(output),
            known_bytes: 0,
            unknown: vec!["results: not known before the first run".to_owned()],
        },
        DiskForecast {
            what: "weights",
            free_bytes: free(&cache),
            directory: cache,
            known_bytes: weights.iter().filter_map(|weights| weights.to_write_bytes).sum(),
            unknown: unsized_weights.map(|weights| format!("{} (download)", weights.reference)).collect(),
        },
    ];
    let compiles = |experiment: &&Experiment| {
        let section = experiment.config.tensorrt.as_ref();
        section.and_then(|section| section.engine) == Some(crate::config::TensorrtEngine::Tensorrt)
    };
    if study.experiments.iter().any(|experiment| compiles(&experiment)) {
        let directory = CacheSettings::of(user).dir;
        all.push(DiskForecast {
            what: "compiled engines",
            free_bytes: free(&directory),
            directory,
            known_bytes: 0,
            unknown: vec!["compiled engines: about as large as their weights".to_owned()],
        });
    }
    all
}
