//! The images of a study, before anything is started from them: which are named, which cannot be, what is in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;

use super::fleet::Fleet;
use super::lock::{LockedImage, StudyLock};
use super::prepare::patiently;
use super::{Programs, ProgramsError, RunOptions, StudyError, StudyEvent};
use crate::config::{Backend, Experiment, ExperimentConfig, StudyConfig, is_image_path};
use crate::preflight::{self, Images, KnownFacts, KnownImage};
use crate::runner::apptainer::{ApptainerElsewhere, ApptainerError, look};
use crate::runner::docker::{ImageError, ImageFacts};

/// What is known of the images of a study.
#[derive(Default)]
pub(super) struct Known {
    /// Of those that were looked into.
    pub(super) probed: KnownFacts,
    /// Of those that nodes will look into: what they are, and not what is in them.
    unprobed: KnownFacts,
}

impl Known {
    /// Of one image, whether or not somebody looked into it.
    pub(super) fn of(&self, backend: Backend, image: &str) -> Option<Arc<ImageFacts>> {
        let key = (backend, image.to_owned());
        self.probed.get(&key).or_else(|| self.unprobed.get(&key)).cloned()
    }
}

/// Looks into the images that the study's containers are made from, each once.
pub(super) async fn known_images(
    study: &StudyConfig,
    options: &RunOptions,
    programs: &Programs,
    fleet: &Fleet,
    probing: &Mutex<()>,
    notify: &impl Fn(StudyEvent),
) -> Result<Known, StudyError> {
    if !fleet.has_containers() {
        return Ok(Known::default());
    }
    let images = Images::new(&options.user, &programs.agent).map_err(|_| ProgramsError(programs.agent.clone()))?;
    // Whoever ends the study waits for this until the probe's container is gone.
    let _busy = probing.lock().await;
    if let Some(elsewhere) = fleet.elsewhere() {
        return known_elsewhere(study, options, elsewhere, &images, notify).await;
    }
    let mut known = known_files(study, options, fleet, &images, notify).await?;
    let Some(engine) = fleet.engine() else { return Ok(Known { probed: known, ..Known::default() }) };
    for (backend, reference) in preflight::images_of(study, &options.user) {
        if !fleet.uses_engine(backend) {
            continue;
        }
        if let KnownImage::Unprobed(_) = images.known(engine, &reference, Some(backend)).await? {
            notify(StudyEvent::Preparing { what: format!("probe of image {reference}") });
        }
        match images.probe(engine, &reference, Some(backend), false, &options.stop.soft).await {
            Ok(Some(facts)) => drop(known.insert((backend, reference), Arc::new(facts))),
            // It went since it was looked for: its runs fail and say so.
            Ok(None) => {}
            Err(ImageError::Stopped) => return Err(StudyError::Stopped),
            Err(ImageError::Engine(error)) if error.is_lost() => return Err(error.into()),
            Err(error) => {
                let text = format!("image {reference} could not be looked into: {error}; its runs go on without that");
                notify(StudyEvent::Notice { text });
            }
        }
    }
    note_same_images(&known, notify);
    Ok(Known { probed: known, ..Known::default() })
}

/// The files that nodes make containers of. Nothing is started here: what is in a file is known where llem looked into it before.
async fn known_elsewhere(
    study: &StudyConfig,
    options: &RunOptions,
    elsewhere: &ApptainerElsewhere,
    images: &Images,
    notify: &impl Fn(StudyEvent),
) -> Result<Known, StudyError> {
    let mut known = Known::default();
    for (backend, reference) in preflight::named_images(study, &options.user) {
        let image = elsewhere.open(&reference, &file_of(study, &reference)?).await?;
        let (place, facts) = match images.known_file(image.facts(), Some(backend)) {
            KnownImage::Probed(facts) => (&mut known.probed, facts),
            KnownImage::Missing | KnownImage::Unprobed(_) => (&mut known.unprobed, image.facts()),
        };
        place.insert((backend, reference), Arc::new(facts));
    }
    for (_, reference) in known.unprobed.keys().filter(|(backend, _)| *backend != Backend::Candle) {
        let text = format!("image {reference} was not looked into yet: the first job does that on its node");
        notify(StudyEvent::Detail { text });
    }
    let all: KnownFacts = known.probed.iter().chain(&known.unprobed).map(|(k, v)| (k.clone(), v.clone())).collect();
    note_same_images(&all, notify);
    Ok(known)
}

/// Looks into the SIF files and sandbox directories of the study, each once.
async fn known_files(
    study: &StudyConfig,
    options: &RunOptions,
    fleet: &Fleet,
    images: &Images,
    notify: &impl Fn(StudyEvent),
) -> Result<KnownFacts, StudyError> {
    let mut known = KnownFacts::new();
    let Some(apptainer) = fleet.apptainer() else { return Ok(known) };
    for (backend, reference) in preflight::named_images(study, &options.user) {
        if !fleet.uses_apptainer(backend) {
            continue;
        }
        let (image, _) = apptainer.open(&reference, &file_of(study, &reference)?, &options.stop.soft).await?;
        if backend == Backend::Candle {
            // Nothing in Python to be looked into, but it has a content.
            known.insert((backend, reference), Arc::new(image.facts()));
            continue;
        }
        let probe = images.probe_file(apptainer, &image, Some(backend), false, &options.stop.soft);
        let facts =
            patiently(format!("probe of image {reference}"), notify, probe).await.map_err(|error| match error {
                ImageError::Stopped => StudyError::Stopped,
                other => other.into(),
            })?;
        known.insert((backend, reference), Arc::new(facts));
    }
    Ok(known)
}

/// Two tags of one image are no comparison.
fn note_same_images(known: &KnownFacts, notify: &impl Fn(StudyEvent)) {
    for ((backend, reference), facts) in known {
        let same = |((other, name), theirs): &(&(Backend, String), &Arc<ImageFacts>)| {
            other == backend && name > reference && theirs.id == facts.id
        };
        for ((_, name), _) in known.iter().filter(same) {
            let text =
                format!("`{reference}` and `{name}` are the same image ({}): nothing differs between them", facts.id);
            notify(StudyEvent::Notice { text });
        }
    }
}

/// A comparison of images that were never started would be a comparison of nothing.
pub(super) fn refuse_images_without_containers(study: &StudyConfig, fleet: &Fleet) -> Result<(), StudyError> {
    let asks = |e: &&Experiment| e.config.image().is_some() && !fleet.runner(e.config.backend).has_images();
    match study.experiments.iter().find(asks) {
        Some(experiment) => Err(StudyError::ImageWithoutContainer(experiment.config.backend)),
        None => Ok(()),
    }
}

/// llem makes an image for the embedded backend only; to guess another's would be to measure something that nobody chose.
pub(super) fn refuse_containers_without_images(
    study: &StudyConfig,
    options: &RunOptions,
    fleet: &Fleet,
) -> Result<(), StudyError> {
    let lacks = |config: &ExperimentConfig| {
        config.backend != Backend::Candle
            && fleet.runner(config.backend).has_images()
            && asked_image(config, options).is_none()
    };
    match study.experiments.iter().map(|experiment| &experiment.config).find(|config| lacks(config)) {
        Some(config) => Err(StudyError::NoImage(config.backend)),
        None => Ok(()),
    }
}

/// Before anything is downloaded, and at once for all images.
pub(super) async fn refuse_missing_images(
    study: &StudyConfig,
    options: &RunOptions,
    fleet: &Fleet,
) -> Result<(), StudyError> {
    let Some(engine) = fleet.engine() else { return Ok(()) };
    let mut wanted = preflight::named_images(study, &options.user);
    wanted.retain(|(backend, _)| fleet.uses_engine(*backend));
    match preflight::MissingImages::of(engine, wanted).await? {
        Some(missing) => Err(missing.into()),
        None => Ok(()),
    }
}

/// The engine would look for an image of that name.
pub(super) fn refuse_files_in_engines(
    study: &StudyConfig,
    options: &RunOptions,
    fleet: &Fleet,
) -> Result<(), StudyError> {
    let is_file = |(backend, image): &(Backend, String)| fleet.uses_engine(*backend) && is_image_path(image);
    match preflight::named_images(study, &options.user).into_iter().find(is_file) {
        Some((backend, image)) => Err(StudyError::FileInEngine { backend, image }),
        None => Ok(()),
    }
}

/// Makes the SIF files and sandbox directories of the study ready, before anything is downloaded.
pub(super) async fn open_files(
    study: &StudyConfig,
    options: &RunOptions,
    fleet: &Fleet,
    notify: &impl Fn(StudyEvent),
) -> Result<(), StudyError> {
    let mut files = preflight::named_images(study, &options.user);
    files.retain(|(backend, _)| fleet.uses_apptainer(*backend));
    if let Some(lock) = &options.locked {
        refuse_other_files(study, &files, lock, options, notify).await?;
    }
    for (_, reference) in files {
        let path = file_of(study, &reference)?;
        let open = fleet.open_file(&reference, &path, &options.stop.soft);
        let unpacked = patiently(format!("image {reference}"), notify, open).await.map_err(|error| match error {
            ApptainerError::Stopped => StudyError::Stopped,
            other => other.into(),
        })?;
        if let Some(why) = unpacked {
            let text =
                format!("image {reference} was unpacked into the cache, because it cannot be mounted here: {why}");
            notify(StudyEvent::Notice { text });
        }
    }
    Ok(())
}

/// A locked study starts nothing in a file that is not the locked one, and unpacks none.
async fn refuse_other_files(
    study: &StudyConfig,
    files: &[(Backend, String)],
    lock: &Path,
    options: &RunOptions,
    notify: &impl Fn(StudyEvent),
) -> Result<(), StudyError> {
    let (cache_root, mut found) = (options.user.cache_root(), BTreeMap::new());
    for (backend, reference) in files {
        let look = look_at_file(study, reference, &cache_root);
        // Tens of gigabytes are read, which nobody who leaves has to wait for.
        let facts = tokio::select! {
            facts = patiently(format!("image {reference}"), notify, look) => facts?,
            () = options.stop.soft.cancelled() => return Err(StudyError::Stopped),
        };
        found.insert(format!("{backend} {reference}"), LockedImage::of(Some(&facts)));
    }
    if found.is_empty() { Ok(()) } else { StudyLock::check_files(lock, &found).map_err(Into::into) }
}

/// What a file of Apptainer is that a study names, without starting it: for plans.
///
/// # Errors
///
/// It is not there, or no image for this machine.
pub async fn look_at_file(
    study: &StudyConfig,
    reference: &str,
    cache_root: &Path,
) -> Result<ImageFacts, ApptainerError> {
    look(reference, &file_of(study, reference)?, cache_root).await
}

/// The file that a study means by a reference: in its bundle, or by its path.
fn file_of(study: &StudyConfig, reference: &str) -> Result<PathBuf, ApptainerError> {
    match study.bundled().and_then(|bundled| bundled.sif_files.get(reference)) {
        Some(packed) => Ok(packed.clone()),
        None if is_image_path(reference) => Ok(study.base_dir().join(reference)),
        None => Err(ApptainerError::NoPath(reference.to_owned())),
    }
}

/// The image that the study or the machine names.
pub(super) fn asked_image<'a>(config: &'a ExperimentConfig, options: &'a RunOptions) -> Option<&'a str> {
    config.image().or_else(|| options.user.images.get(&config.backend).map(String::as_str))
}
