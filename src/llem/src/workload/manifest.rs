use serde::{Deserialize, Serialize};

use super::WorkloadError;

const BUILT_IN: [&str; 1] = [include_str!("../../../../datasets/aienergyscore.yaml")];

/// A built-in data set: where its only accepted version comes from. The files are in `datasets/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetManifest {
    /// As experiments name it.
    pub name: String,
    /// Hugging Face repository of the data set.
    pub repository: String,
    /// Commit.
    pub revision: String,
    /// Parquet file in the repository.
    pub file: String,
    /// Its text column.
    pub column: String,
    /// Licence as the repository states it.
    pub licence: String,
    /// Number of prompts.
    pub prompts: u64,
    /// Prompts of a workload that does not say how many.
    pub default_n: u64,
    /// SHA-256 of the canonical form, hexadecimal.
    pub sha256: String,
}

impl DatasetManifest {
    /// The built-in data sets.
    pub fn built_in() -> Result<Vec<Self>, WorkloadError> {
        BUILT_IN.into_iter().map(|text| serde_yaml::from_str(text).map_err(WorkloadError::Manifest)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_manifests_are_complete() {
        let manifests = DatasetManifest::built_in().unwrap();
        assert_eq!(manifests[0].name, "aienergyscore");
        for manifest in manifests {
            assert!(manifest.default_n <= manifest.prompts, "{}", manifest.name);
            assert_eq!((manifest.revision.len(), manifest.sha256.len()), (40, 64), "{}", manifest.name);
        }
    }
}
