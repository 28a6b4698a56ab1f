//! What a study was run with, and whether it is still the same: `study.lock.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::prepare::Prepared;
use super::{Programs, StudyError};
use crate::config::{Backend, StudyConfig, is_image_path};
use crate::engine_cache::ModelIdentity;
use crate::host::LLEM_COMMIT;
use crate::runner::docker::ImageFacts;

/// Version of the file.
pub const LOCK_SCHEMA_VERSION: u32 = 1;

/// The largest lock file that is read, in bytes.
const MAX_LOCK_BYTES: u64 = 64 * 1024 * 1024;

/// Everything that a study depends on beside its file and the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyLock {
    /// [`LOCK_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Identity of the set of experiments.
    pub design_hash: String,
    /// llem.
    pub llem: LockedPrograms,
    /// Images by backend and reference, `vllm repo:tag`.
    pub images: BTreeMap<String, LockedImage>,
    /// Models, adapters and draft models by what the study calls them.
    pub weights: BTreeMap<String, LockedWeights>,
    /// SHA-256 of the tokenised requests by experiment: data set, lengths, order and tokenizer in one.
    pub workloads: BTreeMap<String, String>,
}

/// llem's own programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPrograms {
    /// Version.
    pub version: String,
    /// Commit that the controller was built from; null when it was not built from a clone.
    pub commit: Option<String>,
    /// SHA-256 of the agent.
    pub agent_sha256: String,
    /// SHA-256 of the embedded backend's driver; absent for a study without that backend, and in files of llem versions that did not
    /// note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candle_sha256: Option<String>,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// Content id; null where the engine's answer is not known: the embedded backend's own image is named by its content.
    pub image_id: Option<String>,
    /// Registry digests; empty for an image that never was in a registry.
    pub image_digests: Vec<String>,
    /// Content id of the image that a SIF file was made from; null for other images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
}

impl LockedImage {
    /// By what is known of it.
    pub(super) fn of(facts: Option<&ImageFacts>) -> Self {
        Self {
            image_id: facts.map(|facts| facts.id.clone()),
            image_digests: facts.map(|facts| facts.digests.clone()).unwrap_or_default(),
            source_id: facts.and_then(|facts| facts.source.as_ref()).map(|source| source.id.clone()),
        }
    }
}

/// Weights, by one of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedWeights {
    /// Commit of a hub repository.
    pub commit: Option<String>,
    /// Hash of all files of a directory.
    pub content_sha256: Option<String>,
}

/// One thing that is not as it was locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// What, e.g. `image vllm repo:tag`.
    pub what: String,
    /// As the lock file has it; `-` for what it does not have.
    pub locked: String,
    /// As it was found; `-` for what is not there any more.
    pub found: String,
}

/// Why a lock file does not let a study start.
#[derive(Debug, Error)]
pub enum LockError {
    /// The file is not there or cannot be read.
    #[error(
        "{source}; a study's lock file is `study.lock.json` in its directory: copy that of the run to repeat, or name it with `--locked FILE`"
    )]
    Unreadable {
        /// With the file's name.
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{}: no lock file of this version of llem: {problem}; restore it, or run the study anew", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Something changed.
    #[error("{} is not kept, nothing was started:\n{}", path.display(), list(drift))]
    Drifted {
        /// The lock file.
        path: PathBuf,
        /// Every difference.
        drift: Vec<Drift>,
    },
}

fn list(drift: &[Drift]) -> String {
    drift.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, locked, found } = self;
        write!(f, "  {what}\n    locked  {locked}\n    found   {found}")
    }
}

impl StudyLock {
    /// The lock of a study that is ready to run. Reads the files of weights that have no commit; what was read before is noted in the
    /// cache.
    pub(super) fn of(
        study: &StudyConfig,
        prepared: &[Prepared],
        programs: &Programs,
        cache_root: &Path,
    ) -> Result<Self, StudyError> {
        let has_candle = study.experiments.iter().any(|experiment| experiment.config.backend == Backend::Candle);
        let mut lock = Self {
            schema_version: LOCK_SCHEMA_VERSION,
            design_hash: study.design_hash(),
            llem: LockedPrograms {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                commit: LLEM_COMMIT.map(str::to_owned),
                agent_sha256: programs.agent_sha256()?,
                candle_sha256: has_candle.then(|| programs.candle_sha256()).transpose()?,
            },
            images: BTreeMap::new(),
            weights: BTreeMap::new(),
            workloads: BTreeMap::new(),
        };
        for (experiment, ready) in study.experiments.iter().zip(prepared) {
            if !ready.image.is_empty() {
                let image = LockedImage::of(ready.facts.as_deref());
                lock.images.insert(format!("{} {}", experiment.config.backend, ready.image), image);
            }
            lock.workloads.insert(experiment.id.clone(), ready.workload.sha256.clone());
            let model = &ready.weights.model;
            lock.add_weights(format!("model {}", model.source), || ModelIdentity::of(model, cache_root))?;
            for (kind, weights) in [("adapter", &ready.weights.adapter), ("draft model", &ready.weights.draft)] {
                let Some(weights) = weights.as_deref() else { continue };
                lock.add_weights(format!("{kind} {}", weights.source), || {
                    ModelIdentity::of_beside(weights, cache_root)
                })?;
            }
        }
        Ok(lock)
    }

    fn add_weights(
        &mut self,
        name: String,
        identity: impl FnOnce() -> std::io::Result<ModelIdentity>,
    ) -> Result<(), StudyError> {
        if let std::collections::btree_map::Entry::Vacant(entry) = self.weights.entry(name) {
            let ModelIdentity { commit, content_sha256, .. } = identity().map_err(StudyError::UnreadableWeights)?;
            entry.insert(LockedWeights { commit, content_sha256 });
        }
        Ok(())
    }

    /// Reads a lock file.
    pub fn read(path: &Path) -> Result<Self, LockError> {
        use std::io::Read;
        let unreadable = |source| LockError::Unreadable { source };
        let malformed = |problem| LockError::Malformed { path: path.to_owned(), problem };
        // What is no file may never end.
        if !fs_err::metadata(path).map_err(unreadable)?.is_file() {
            return Err(malformed("it is no plain file".to_owned()));
        }
        let mut bytes = Vec::new();
        let file = fs_err::File::open(path).map_err(unreadable)?;
        file.take(MAX_LOCK_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
        let lock: Self = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        if lock.schema_version == LOCK_SCHEMA_VERSION {
            Ok(lock)
        } else {
            Err(malformed(format!("its schema_version is {}, not {LOCK_SCHEMA_VERSION}", lock.schema_version)))
        }
    }

    /// Every difference of what was found from what was locked.
    pub fn drift(&self, found: &Self) -> Vec<Drift> {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        // One of both without it says nothing: that backend is not in both, or an older llem wrote the file.
        let drivers = self.llem.candle_sha256.clone().zip(found.llem.candle_sha256.clone());
        let pairs = [
            ("llem version", self.llem.version.clone(), found.llem.version.clone()),
            ("llem commit", text(&self.llem.commit), text(&found.llem.commit)),
            ("llem-agent sha256", self.llem.agent_sha256.clone(), found.llem.agent_sha256.clone()),
            ("experiments (design_hash)", self.design_hash.clone(), found.design_hash.clone()),
        ];
        let mut drift: Vec<Drift> = pairs
            .into_iter()
            .chain(drivers.map(|(locked, found)| ("llem-candle sha256", locked, found)))
            .filter(|(_, locked, found)| locked != found)
            .map(|(what, locked, found)| Drift { what: what.to_owned(), locked, found })
            .collect();
        drift.extend(differences("image", &self.images, &by_content(&self.images, &found.images), image));
        drift.extend(differences("", &self.weights, &found.weights, weights));
        drift.extend(differences("workload of experiment", &self.workloads, &found.workloads, Clone::clone));
        drift
    }

    /// Refuses a study that is not what the lock file says.
    pub(super) fn check(&self, path: &Path) -> Result<(), LockError> {
        self.compare_with(&Self::read(path)?, path)
    }

    /// Refuses files of images that are none of the lock file's, before anything in them is started.
    pub(super) fn check_files(path: &Path, files: &BTreeMap<String, LockedImage>) -> Result<(), LockError> {
        let Self { images: locked, .. } = Self::read(path)?;
        let files = by_content(&locked, files);
        let others = files.iter().filter(|(name, found)| locked.get(*name) != Some(found));
        let drift: Vec<Drift> = others
            .map(|(name, found)| Drift {
                what: format!("image {name}"),
                locked: meant(&locked, name).map_or_else(|| "-".to_owned(), image),
                found: image(found),
            })
            .collect();
        if drift.is_empty() { Ok(()) } else { Err(LockError::Drifted { path: path.to_owned(), drift }) }
    }

    /// Refuses to go on with a study whose images, weights, workloads or llem are others than those that its finished runs had. What an
    /// extension adds is no difference. Whether the lock file has that already.
    pub(super) fn check_extends(&self, path: &Path) -> Result<bool, LockError> {
        let locked = Self::read(path)?;
        let mut found = Self { images: by_content(&locked.images, &self.images), ..self.clone() };
        found.design_hash.clone_from(&locked.design_hash);
        found.images.retain(|name, _| locked.images.contains_key(name));
        found.weights.retain(|name, _| locked.weights.contains_key(name));
        found.workloads.retain(|name, _| locked.workloads.contains_key(name));
        found.compare_with(&locked, path)?;
        Ok(locked.design_hash == self.design_hash)
    }

    fn compare_with(&self, locked: &Self, path: &Path) -> Result<(), LockError> {
        let drift = locked.drift(self);
        if drift.is_empty() { Ok(()) } else { Err(LockError::Drifted { path: path.to_owned(), drift }) }
    }
}

/// The images that were found, under the names of the locked ones that they are: the same content is the same image whatever registries the
/// engine knows of, a SIF file is the same wherever it lies, and stands for the image that it was made from.
fn by_content(
    locked: &BTreeMap<String, LockedImage>,
    found: &BTreeMap<String, LockedImage>,
) -> BTreeMap<String, LockedImage> {
    let backend = |name: &str| name.split(' ').next().unwrap_or_default().to_owned();
    let under = |(name, image): (&String, &LockedImage)| {
        if let Some(wanted) =
            locked.get(name).filter(|wanted| image.image_id.is_some() && wanted.image_id == image.image_id)
        {
            return (name.clone(), wanted.clone());
        }
        let is_same = |(other, wanted): &(&String, &LockedImage)| {
            let is_file = is_image_path(name.split_once(' ').map_or("", |(_, reference)| reference));
            let same_file = image.image_id == wanted.image_id;
            let same_source = image.source_id.is_some() && image.source_id == wanted.image_id;
            is_file && backend(other) == backend(name) && wanted.image_id.is_some() && (same_file || same_source)
        };
        let mut free = locked.iter().filter(|(other, _)| !found.contains_key(*other));
        match free.find(is_same).filter(|_| !locked.contains_key(name)) {
            Some((other, wanted)) => (other.clone(), wanted.clone()),
            None => (name.clone(), image.clone()),
        }
    };
    found.iter().map(under).collect()
}

/// The locked image that a file under this name should be: that of the name, else the only one of the backend.
fn meant<'a>(locked: &'a BTreeMap<String, LockedImage>, name: &str) -> Option<&'a LockedImage> {
    let backend = |name: &str| name.split(' ').next().unwrap_or_default().to_owned();
    let mut same_backend = locked.iter().filter(|(other, _)| backend(other) == backend(name));
    let only = same_backend.next().filter(|_| same_backend.next().is_none()).map(|(_, image)| image);
    locked.get(name).or(only)
}

/// The content id says everything; a digest is what a registry can be asked for.
fn image(image: &LockedImage) -> String {
    let id = image.image_id.as_deref().unwrap_or("named by its content");
    if image.image_digests.is_empty() { id.to_owned() } else { format!("{id} ({})", image.image_digests.join(", ")) }
}

fn weights(weights: &LockedWeights) -> String {
    match (&weights.commit, &weights.content_sha256) {
        (Some(commit), _) => format!("commit {commit}"),
        (None, Some(sha256)) => format!("content sha256 {sha256}"),
        (None, None) => "-".to_owned(),
    }
}

fn differences<T: PartialEq>(
    kind: &str,
    locked: &BTreeMap<String, T>,
    found: &BTreeMap<String, T>,
    shown: impl Fn(&T) -> String,
) -> Vec<Drift> {
    let names: std::collections::BTreeSet<&String> = locked.keys().chain(found.keys()).collect();
    let differs = names.into_iter().filter(|name| locked.get(*name) != found.get(*name));
    let text = |side: Option<&T>| side.map_or_else(|| "-".to_owned(), &shown);
    differs
        .map(|name| Drift {
            what: format!("{kind} {name}").trim_start().to_owned(),
            locked: text(locked.get(name)),
            found: text(found.get(name)),
        })
        .collect()
}

#[cfg(test)]
mod tests;
