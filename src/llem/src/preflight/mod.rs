//! What is found out before the first run: what each image is, whether every experiment can run in its own, and how the machine is.

mod check;
mod disk;
mod floor;
mod images;
mod machine;
mod missing;
mod rules;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub use check::{Check, CheckState};
pub(crate) use disk::LEAST_FREE_BYTES;
pub use images::{Images, KnownImage};
pub use machine::{Directories, machine};
pub use missing::MissingImages;

use crate::config::{Backend, ConfigError, StudyConfig, UserConfig};
use crate::runner::docker::ImageFacts;
use rules::Subject;

/// What is known of the images of a study, by backend and reference: the same image may have another Python for another backend.
pub type KnownFacts = BTreeMap<(Backend, String), Arc<ImageFacts>>;

/// The images that a study's experiments name or get from the user config, each once. Where none is named for the embedded backend, llem
/// makes its image.
pub fn named_images(study: &StudyConfig, user: &UserConfig) -> Vec<(Backend, String)> {
    let mut found: Vec<(Backend, String)> = Vec::new();
    for config in study.experiments.iter().map(|experiment| &experiment.config) {
        let Some(reference) = config.image().or_else(|| user.images.get(&config.backend).map(String::as_str)) else {
            continue;
        };
        if !found.iter().any(|(backend, known)| *backend == config.backend && known == reference) {
            found.push((config.backend, reference.to_owned()));
        }
    }
    found
}

/// As [`named_images`], of the engines in Python: those that a probe can look into.
pub fn images_of(study: &StudyConfig, user: &UserConfig) -> Vec<(Backend, String)> {
    named_images(study, user).into_iter().filter(|(backend, _)| *backend != Backend::Candle).collect()
}

/// Whether every experiment can run in its image, as far as that is known. `agent` is llem's agent on this machine.
///
/// # Errors
///
/// Every experiment that cannot, with its place in the file.
pub fn check(study: &StudyConfig, user: &UserConfig, known: &KnownFacts, agent: &Path) -> Result<(), ConfigError> {
    if known.is_empty() {
        return Ok(());
    }
    let glibc_floor = fs_err::read(agent).ok().and_then(|binary| floor::glibc_floor(&binary));
    let mut seen = Vec::new();
    for experiment in &study.experiments {
        let config = &experiment.config;
        let named = config.image();
        let Some(image) = named.or_else(|| user.images.get(&config.backend).map(String::as_str)) else { continue };
        let Some(facts) = known.get(&(config.backend, image.to_owned())) else { continue };
        let subject = Subject { config, image, facts, glibc_floor, architecture: own_architecture() };
        for mut obstacle in subject.obstacles() {
            if named.is_none() {
                obstacle.message.push_str(" (the image is that of the user config)");
            }
            if !seen.contains(&obstacle) {
                seen.push(obstacle);
            }
        }
    }
    if seen.is_empty() {
        return Ok(());
    }
    let problem = |o: rules::Obstacle| study.problem(&o.key, o.value.as_ref(), &o.message, &o.hint);
    Err(ConfigError::new(seen.into_iter().map(problem).collect()))
}

/// The architecture that llem and its agent were built for, as engines name it.
fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
