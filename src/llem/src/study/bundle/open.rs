//! A study out of its bundle, ready to be run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::lock::StudyLock;
use super::super::references::{hub_of, references};
use super::super::{Programs, RunOptions, StudyError};
use super::archive::{BundleContent, inspect_bundle};
use super::meter::{Meter, in_thread};
use super::unpack::{Unpacked, unpack};
use super::{
    AGENT, BundleError, BundleEvent, CANDLE, CANDLE_ROOT, HUB, ImageForm, LOCK, Manifest, PackedImage, PackedWeights,
    WORKLOADS, gather, images, weights,
};
use crate::config::{
    Backend, BundleOrigin, Bundled, BundledWeights, ModelSource, RunnerKind, StudyConfig, UserConfig, weights_source,
};
use crate::host::LLEM_COMMIT;
use crate::model::{OfflineModel, look_up_offline};
use crate::result::StudyFiles;
use crate::runner::Stop;
use crate::runner::docker::Engine;

/// A study that came in a bundle. Everything of it was compared with the manifest.
#[derive(Clone, Debug)]
pub struct BundledStudy {
    /// The study; what it names leads into the bundle.
    pub study: StudyConfig,
    content: BundleContent,
    root: PathBuf,
}

/// What was said beside the bundle, as `key=yaml`.
#[derive(Clone, Copy, Debug)]
pub enum Overrides<'a> {
    /// These in addition to the bundle's.
    Added(&'a [String]),
    /// These and no others.
    All(&'a [String]),
}

impl Overrides<'_> {
    fn over(self, packed: &[String]) -> Vec<String> {
        match self {
            Self::Added(added) => [packed, added].concat(),
            Self::All(all) => all.to_vec(),
        }
    }
}

/// The bundle that the study in a directory came in, and all overrides that it was last asked for with.
pub fn bundle_of(directory: &Path) -> Option<(BundleOrigin, Vec<String>)> {
    let last = StudyFiles::of(directory.to_owned()).designs().ok()?.pop()?;
    Some((last.bundle?, last.overrides))
}

/// Verifies a bundle, unpacks it into the cache where that was not done before, and reads its study. `overrides` are `key=yaml` arguments
/// that change how the study is carried out.
///
/// # Errors
///
/// A byte of it is not as it was made, this llem did not make it, or `overrides` change what is measured.
pub async fn open_bundle(
    path: &Path,
    overrides: Overrides<'_>,
    user: &UserConfig,
    notify: &impl Fn(BundleEvent),
    stop: &Stop,
) -> Result<BundledStudy, BundleError> {
    let content = inspect_bundle(path)?;
    refuse_other_llem(&content)?;
    let cache_root = user.cache_root();
    let total_bytes = content.size_bytes;
    notify(BundleEvent::Note(format!("bundle {} ({:.1} MB)", content.sha256, total_bytes as f64 / 1e6)));
    let meter = Meter::new(&stop.soft);
    let unpacked = in_thread("verifying", total_bytes, &meter, notify, {
        let cache_root = cache_root.clone();
        move |meter| unpack(content, &cache_root, meter)
    });
    let Unpacked { content, root } = unpacked.await?;
    let manifest = &content.manifest;
    let bundled = Arc::new(bundled(&content, &root));
    let all = overrides.over(&manifest.study.overrides);
    let study = StudyConfig::from_bundle(&root.join(&manifest.study.file), &all, manifest.study.profile, bundled)?;
    let lock = StudyLock::read(&root.join(LOCK)).map_err(StudyError::from)?;
    if study.design_hash() != lock.design_hash {
        return Err(BundleError::OtherExperiments);
    }
    let opened = BundledStudy { study, content, root };
    if !opened.content.manifest.has_weights() {
        let (opened, cache_root) = (opened.clone(), cache_root.clone());
        in_thread("hashing weights", total_bytes, &Meter::new(&stop.soft), notify, move |_| {
            opened.compare_weights(&cache_root)
        })
        .await?;
    }
    Ok(opened)
}

/// Its lock file would refuse it, too, but later and in other words.
fn refuse_other_llem(content: &BundleContent) -> Result<(), BundleError> {
    let Manifest { llem_version, llem_commit, architecture, .. } = &content.manifest;
    let bundle = || content.path.clone();
    if (llem_version.as_str(), llem_commit.as_deref()) != (env!("CARGO_PKG_VERSION"), LLEM_COMMIT) {
        let named = |version: &str, commit: Option<&str>| match commit {
            Some(commit) => format!("{version} (commit {commit})"),
            None => version.to_owned(),
        };
        let (made_by, own) =
            (named(llem_version, llem_commit.as_deref()), named(env!("CARGO_PKG_VERSION"), LLEM_COMMIT));
        return Err(BundleError::OtherLlem { bundle: bundle(), made_by, own });
    }
    if architecture == std::env::consts::ARCH {
        return Ok(());
    }
    Err(BundleError::OtherArchitecture { bundle: bundle(), made_for: architecture.clone() })
}

fn bundled(content: &BundleContent, root: &Path) -> Bundled {
    let manifest = &content.manifest;
    let beside = content.path.parent().unwrap_or(Path::new("/"));
    let located = |packed: &PackedWeights| {
        let source = match (&packed.commit, &packed.directory) {
            // The very commit, in the bundle's cache or in that of this machine.
            (Some(commit), _) => ModelSource::Hub { id: packed.source.clone(), revision: Some(commit.clone()) },
            (None, Some(directory)) => ModelSource::Directory(root.join(directory)),
            (None, None) => match weights_source(&packed.reference) {
                ModelSource::Directory(dir) => ModelSource::Directory(beside.join(dir)),
                other => other,
            },
        };
        (packed.reference.clone(), BundledWeights { source, called: packed.source.clone() })
    };
    let of_form = |form| manifest.images.iter().filter(move |image| image.form == form);
    Bundled {
        origin: BundleOrigin { path: content.path.clone(), sha256: content.sha256.clone() },
        weights: manifest.weights.iter().map(located).collect(),
        datasets: manifest.datasets.iter().map(|(name, file)| (name.clone(), root.join(file))).collect(),
        sif_files: of_form(ImageForm::Sif).map(|image| (image.reference.clone(), root.join(&image.file))).collect(),
        archived_images: of_form(ImageForm::Archive).map(|image| image.reference.clone()).collect(),
        hub: manifest.has_weights().then(|| root.join(HUB)),
        workloads: root.join(WORKLOADS),
    }
}

impl BundledStudy {
    /// Sets what the bundle decides where the machine's config leaves it open: runners; and images, which are the bundle's.
    ///
    /// # Errors
    ///
    /// A runner was asked for that the bundle has no images for.
    pub fn settle(&self, user: &mut UserConfig, runner: &mut Option<RunnerKind>) -> Result<(), BundleError> {
        let manifest = &self.content.manifest;
        if *runner == Some(RunnerKind::Auto) {
            *runner = None;
        }
        for (backend, made_for) in &manifest.runners {
            let asked = user.runner_of(*backend, *runner);
            let here = if asked == RunnerKind::Auto { *made_for } else { asked };
            let wanted = gather::carrier(here, user.slurm.node_runner);
            if !fits(gather::carrier(*made_for, manifest.node_runner.unwrap_or_default()), wanted, manifest) {
                let made_for = *made_for;
                return Err(BundleError::OtherRunner { backend: *backend, made_for, here, wanted });
            }
            user.runners.insert(*backend, here);
        }
        user.images.clone_from(&manifest.default_images);
        Ok(())
    }

    /// Sets what a run is carried out with: programs and lock file of the bundle.
    pub fn equip(&self, options: &mut RunOptions) {
        let (agent, candle) = (self.root.join(AGENT), self.root.join(CANDLE));
        options.programs = Some(Programs { agent, candle, candle_root: Some(self.root.join(CANDLE_ROOT)) });
        options.locked = Some(self.root.join(LOCK));
    }

    /// Gives the container engine the images that its runs need. `options` are settled.
    ///
    /// # Errors
    ///
    /// There is no engine, it refuses, or it has another image of a name.
    pub async fn load_images(&self, options: &RunOptions, notify: &impl Fn(BundleEvent)) -> Result<(), BundleError> {
        let user = &options.user;
        let by_docker = |backend: &Backend| user.runner_of(*backend, options.runner) == RunnerKind::Docker;
        let archives = self.content.manifest.images.iter().filter(|image| image.form == ImageForm::Archive);
        let wanted: Vec<&PackedImage> = archives.collect();
        if wanted.is_empty() || !self.content.manifest.runners.keys().any(by_docker) {
            return Ok(());
        }
        let engine = Engine::connect(user.docker_host.as_deref()).await?;
        images::load(&self.content, &wanted, &engine, notify).await
    }

    /// Weights of which the bundle has the hashes only.
    fn compare_weights(&self, cache_root: &Path) -> Result<(), BundleError> {
        let listed: BTreeMap<&str, &PackedWeights> =
            self.content.manifest.weights.iter().map(|weights| (weights.reference.as_str(), weights)).collect();
        let hub = hub_of(&self.study).map_err(StudyError::from)?;
        let (bundled, mut seen) = (self.study.bundled().map(AsRef::as_ref), BTreeSet::new());
        for reference in self.study.experiments.iter().flat_map(|experiment| references(&experiment.config)) {
            let Some(weights) = listed.get(reference.text.as_str()).filter(|_| seen.insert(reference.text.clone()))
            else {
                continue;
            };
            let source = reference.located(bundled).source;
            let wrong = |problem: String| BundleError::Weights { reference: weights.reference.clone(), problem };
            let found = look_up_offline(reference.kind, &source, &self.study.base_dir(), cache_root, &hub);
            match found.map_err(|error| wrong(error.to_string()))? {
                OfflineModel::Here { dir, .. } => weights::compare(weights, &dir, cache_root)?,
                _ => return Err(wrong("they are not here".to_owned())),
            }
        }
        Ok(())
    }
}

/// Whether what one runner starts are the runs of another: with the images that the bundle has, in containers or not.
fn fits(made_for: RunnerKind, here: RunnerKind, manifest: &Manifest) -> bool {
    let in_containers = |kind| matches!(kind, RunnerKind::Docker | RunnerKind::Apptainer);
    match (made_for, here) {
        _ if made_for == here => true,
        _ if in_containers(made_for) && in_containers(here) => manifest.images.is_empty(),
        _ => in_containers(made_for) == in_containers(here),
    }
}
