//! Images of engines: from this machine into a bundle, and from a bundle into a container engine.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fs_err::File;
use futures_util::stream;

use super::super::images::look_at_file;
use super::super::{RunOptions, StudyError};
use super::archive::BundleContent;
use super::gather::{Item, Source};
use super::{BundleError, BundleEvent, ImageForm, PackedFile, PackedImage, plain};
use crate::config::{Backend, RunnerKind, StudyConfig, is_image_path};
use crate::preflight::{self, MissingImages};
use crate::runner::apptainer::{ExportError, ExportSource, ExportSpec, export};
use crate::runner::docker::{Engine, ImageFacts};

/// Bytes that are sent to an engine at a time.
const CHUNK: usize = 1 << 20;

/// The images of a study, ready to be packed.
#[derive(Default)]
pub(super) struct Images {
    pub(super) packed: Vec<PackedImage>,
    pub(super) items: Vec<Item>,
    /// What a run would know of them.
    pub(super) facts: BTreeMap<String, ImageFacts>,
    /// Those of experiments that name none.
    pub(super) defaults: BTreeMap<Backend, String>,
}

/// Finds out of all images what they are. SIF files are made in `workshop`; archives are written when it is their turn.
pub(super) async fn gather(
    study: &StudyConfig,
    options: &RunOptions,
    runners: &BTreeMap<Backend, RunnerKind>,
    engine: Option<&Engine>,
    workshop: &dyn Fn(&str) -> PathBuf,
    notify: &impl Fn(BundleEvent),
) -> Result<Images, BundleError> {
    let mut images = Images::default();
    let of_containers =
        |backend: &Backend| matches!(runners.get(backend), Some(RunnerKind::Docker | RunnerKind::Apptainer));
    for config in study.experiments.iter().map(|experiment| &experiment.config) {
        let default = options.user.images.get(&config.backend);
        match (config.image(), default) {
            (Some(_), _) if !of_containers(&config.backend) => {
                return Err(StudyError::ImageWithoutContainer(config.backend).into());
            }
            (None, None) if of_containers(&config.backend) && config.backend != Backend::Candle => {
                return Err(StudyError::NoImage(config.backend).into());
            }
            (None, Some(default)) if of_containers(&config.backend) => {
                images.defaults.insert(config.backend, default.clone());
            }
            _ => {}
        }
    }
    let mut named = preflight::named_images(study, &options.user);
    named.retain(|(backend, _)| of_containers(backend));
    refuse_missing(&named, runners, engine).await?;
    for (number, (backend, reference)) in named.into_iter().enumerate() {
        if images.packed.iter().any(|image| image.reference == reference) {
            continue;
        }
        let is_sif = runners.get(&backend) == Some(&RunnerKind::Apptainer);
        let ending = if is_sif { "sif" } else { "tar" };
        let file = format!("images/{number}-{}.{ending}", plain(reference.trim_end_matches(".sif")));
        let (facts, item) = if is_sif {
            sif(study, options, engine, &reference, file, workshop, notify).await?
        } else {
            archive(engine, backend, &reference, file).await?
        };
        let form = if is_sif { ImageForm::Sif } else { ImageForm::Archive };
        let (id, file) = (facts.id.clone(), item.name.clone());
        images.packed.push(PackedImage { reference: reference.clone(), form, id, file });
        images.items.push(item);
        images.facts.insert(reference, facts);
    }
    Ok(images)
}

/// All that the engine lacks, at once.
async fn refuse_missing(
    named: &[(Backend, String)],
    runners: &BTreeMap<Backend, RunnerKind>,
    engine: Option<&Engine>,
) -> Result<(), BundleError> {
    let Some(engine) = engine else { return Ok(()) };
    let in_engine = named.iter().filter(|(_, reference)| !is_image_path(reference)).cloned().collect();
    for (backend, image) in named.iter().filter(|(_, reference)| is_image_path(reference)).cloned() {
        if runners.get(&backend) == Some(&RunnerKind::Docker) {
            return Err(StudyError::FileInEngine { backend, image }.into());
        }
    }
    match MissingImages::of(engine, in_engine).await? {
        Some(missing) => Err(StudyError::from(missing).into()),
        None => Ok(()),
    }
}

fn refuse(reference: &str, problem: &str) -> BundleError {
    BundleError::Image { reference: reference.to_owned(), problem: problem.to_owned() }
}

async fn archive(
    engine: Option<&Engine>,
    backend: Backend,
    reference: &str,
    name: String,
) -> Result<(ImageFacts, Item), BundleError> {
    if reference.contains('@') {
        let problem = "an engine that loads an image knows it by its tag, not by a registry's digest: name it by a tag, or use `--images sif`";
        return Err(refuse(reference, problem));
    }
    let no_engine =
        || refuse(reference, &format!("backend {backend} needs it from a container engine, and none answers"));
    let facts = engine.ok_or_else(no_engine)?.image_facts(reference).await?.ok_or_else(no_engine)?;
    let source = Source::Image(reference.to_owned());
    let item = Item { name, executable: false, size_bytes: facts.size_bytes, sha256: None, source };
    Ok((facts, item))
}

/// A SIF file of the study, or one that is made of an image of the engine.
async fn sif(
    study: &StudyConfig,
    options: &RunOptions,
    engine: Option<&Engine>,
    reference: &str,
    name: String,
    workshop: &dyn Fn(&str) -> PathBuf,
    notify: &impl Fn(BundleEvent),
) -> Result<(ImageFacts, Item), BundleError> {
    let (path, facts) = if is_image_path(reference) {
        let path = study.base_dir().join(reference);
        if path.is_dir() {
            return Err(refuse(reference, "it is a directory; `apptainer build X.sif DIR` makes a file of it"));
        }
        let facts = look_at_file(study, reference, &options.user.cache_root()).await.map_err(StudyError::from)?;
        (path, facts)
    } else {
        let problem = "a SIF file is made of an image of a container engine, and none answers; name a SIF file";
        let engine = engine.ok_or_else(|| refuse(reference, problem))?;
        let path = workshop(&plain(&name));
        let source = ExportSource::Engine(Box::new(engine.clone()), reference.to_owned());
        let spec = ExportSpec { source, sif: path.clone(), force: false };
        let tell = |what: &str| notify(BundleEvent::Note(what.to_owned()));
        let made = export(&spec, tell, &options.stop.soft).await;
        let made = made.map_err(|source| export_error(reference, source))?;
        let digests = made.source.digests.clone();
        let (id, source) = (format!("sha256:{}", made.sha256), Some(made.source));
        (path, ImageFacts { id, digests, source, ..ImageFacts::default() })
    };
    let size_bytes = fs_err::metadata(&path).map_err(BundleError::Files)?.len();
    let sha256 = facts.id.strip_prefix("sha256:").map(str::to_owned);
    let item = Item { name, executable: false, size_bytes, sha256, source: Source::File(path) };
    Ok((facts, item))
}

fn export_error(reference: &str, source: ExportError) -> BundleError {
    match source {
        ExportError::Apptainer(crate::runner::apptainer::ApptainerError::Stopped) => BundleError::Stopped,
        other => BundleError::Export { reference: reference.to_owned(), source: Box::new(other) },
    }
}

/// Gives the engine the images that it does not have.
pub(super) async fn load(
    content: &BundleContent,
    wanted: &[&PackedImage],
    engine: &Engine,
    notify: &impl Fn(BundleEvent),
) -> Result<(), BundleError> {
    for image in wanted {
        let reference = image.reference.as_str();
        match engine.image_facts(reference).await? {
            Some(facts) if facts.id == image.id => continue,
            Some(facts) => {
                let (reference, wanted) = (reference.to_owned(), image.id.clone());
                return Err(BundleError::OtherImage { reference, found: facts.id, wanted });
            }
            None => {}
        }
        let Some(file) = content.manifest.files.iter().find(|file| file.name == image.file) else { continue };
        notify(BundleEvent::Note(format!("loading image {reference} ({:.1} MB)", file.size_bytes as f64 / 1e6)));
        engine.load(&image.file, pieces(content, file).map_err(BundleError::Files)?).await?;
        let found = engine.image_facts(reference).await?.map(|facts| facts.id);
        if found.as_ref() != Some(&image.id) {
            return Err(BundleError::NotLoaded {
                file: image.file.clone(),
                reference: reference.to_owned(),
                wanted: image.id.clone(),
                found: found.unwrap_or_else(|| "not there".to_owned()),
            });
        }
    }
    Ok(())
}

/// The content of a file of the archive, piece by piece.
fn pieces(
    content: &BundleContent,
    file: &PackedFile,
) -> std::io::Result<impl stream::Stream<Item = std::io::Result<Bytes>> + Send + 'static + use<>> {
    let at = content.offset(&file.name).ok_or_else(|| std::io::Error::other("not in the archive"))?;
    let mut source = open_at(&content.path, at)?;
    let left = file.size_bytes;
    source.seek(SeekFrom::Start(at))?;
    Ok(stream::unfold((source, left), |(mut source, left)| async move {
        let mut chunk = vec![0; usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
        if chunk.is_empty() {
            return None;
        }
        let read = source.read_exact(&mut chunk);
        let left = left - chunk.len() as u64;
        // After an error there is nothing more.
        Some((read.map(|()| Bytes::from(chunk)), (source, left)))
    }))
}

fn open_at(path: &Path, at: u64) -> std::io::Result<File> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(file)
}
