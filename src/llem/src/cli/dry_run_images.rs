//! The images of a study that is not run: present or not, known or not, fit or not. Nothing is started.

use std::sync::Arc;

use llem::config::{Backend, RunnerKind, StudyConfig, UserConfig};
use llem::preflight::{self, Images, KnownFacts, KnownImage, MissingImages};
use llem::runner::docker::{Engine, ImageFacts};
use llem::study::{Programs, look_at_file};
use serde_json::json;

use super::Failure;

/// An image of the plan.
pub(crate) struct ImageLine {
    backend: Backend,
    image: String,
    state: KnownImage,
    /// Whether it is in the study's bundle, and loaded at the start.
    is_packed: bool,
}

/// The images of a plan, and those that are not there.
pub(crate) struct ImageLines {
    pub(crate) lines: Vec<ImageLine>,
    pub(crate) missing: Option<MissingImages>,
}

/// What the engine and earlier probes tell of the images; nothing where no engine answers. An experiment that its image is known not to
/// run is an error.
pub(crate) async fn look(
    study: &StudyConfig,
    user: &UserConfig,
    runner: Option<RunnerKind>,
) -> Result<ImageLines, Failure> {
    let kind = |backend| runner.or_else(|| user.runners.get(&backend).copied()).unwrap_or(user.runner);
    let mut named = preflight::named_images(study, user);
    let of_apptainer = |(backend, _): &(Backend, String)| kind(*backend) == RunnerKind::Apptainer;
    let files: Vec<_> = named.iter().filter(|image| of_apptainer(image)).cloned().collect();
    named.retain(|(backend, _)| kind(*backend).may_use_engine());
    if named.is_empty() && files.is_empty() {
        return Ok(ImageLines { lines: Vec::new(), missing: None });
    }
    if !files.is_empty() {
        return look_at_files(study, user, files).await;
    }
    let nothing = ImageLines { lines: Vec::new(), missing: None };
    let Ok(engine) = Engine::connect(user.docker_host.as_deref()).await else { return Ok(nothing) };
    let agent = Programs::locate().map_err(|error| Failure::failed(error.to_string()))?.agent;
    let images = Images::new(user, &agent).map_err(|error| Failure::failed(error.to_string()))?;
    let is_packed = |image: &String| study.bundled().is_some_and(|bundled| bundled.archived_images.contains(image));
    let (mut lines, mut known) = (Vec::new(), KnownFacts::new());
    for (backend, image) in named.iter().filter(|(backend, _)| *backend != Backend::Candle).cloned() {
        let state = images.known(&engine, &image, Some(backend)).await?;
        if let KnownImage::Probed(facts) = &state {
            known.insert((backend, image.clone()), Arc::new(facts.clone()));
        }
        let is_packed = is_packed(&image);
        lines.push(ImageLine { backend, image, state, is_packed });
    }
    preflight::check(study, user, &known, &agent)?;
    named.retain(|(_, image)| !is_packed(image));
    Ok(ImageLines { lines, missing: MissingImages::of(&engine, named).await? })
}

/// The same of images of Apptainer: one that is not there is an error.
async fn look_at_files(
    study: &StudyConfig,
    user: &UserConfig,
    files: Vec<(Backend, String)>,
) -> Result<ImageLines, Failure> {
    let agent = Programs::locate().map_err(|error| Failure::failed(error.to_string()))?.agent;
    let images = Images::new(user, &agent).map_err(|error| Failure::failed(error.to_string()))?;
    let (mut lines, mut known) = (Vec::new(), KnownFacts::new());
    for (backend, image) in files {
        let facts = look_at_file(study, &image, &user.cache_root()).await?;
        let state = images.known_file(facts, Some(backend));
        if let KnownImage::Probed(facts) = &state {
            known.insert((backend, image.clone()), Arc::new(facts.clone()));
        }
        lines.push(ImageLine { backend, image, state, is_packed: false });
    }
    preflight::check(study, user, &known, &agent)?;
    Ok(ImageLines { lines, missing: None })
}

impl ImageLine {
    /// `image repo:tag: present, vllm 0.33.0, …`.
    pub(crate) fn text(&self) -> String {
        let Self { backend, image, state, is_packed } = self;
        match state {
            KnownImage::Missing if *is_packed => format!("image {image}: in the bundle, loaded at the start"),
            KnownImage::Missing => format!("image {image}: missing; `llem image pull {image}` fetches it"),
            KnownImage::Unprobed(_) => {
                format!("image {image}: present, not looked into yet (`llem image probe {image} --backend {backend}`)")
            }
            KnownImage::Probed(facts) => format!("image {image}: {}", engines(facts)),
        }
    }

    /// The same for programs.
    pub(crate) fn as_json(&self) -> serde_json::Value {
        let (state, facts) = match &self.state {
            KnownImage::Missing if self.is_packed => ("in_bundle", None),
            KnownImage::Missing => ("missing", None),
            KnownImage::Unprobed(facts) => ("unprobed", Some(facts)),
            KnownImage::Probed(facts) => ("probed", Some(facts)),
        };
        let versions = facts.filter(|_| state == "probed").map(|facts| &facts.versions);
        json!({
            "backend": self.backend, "image": self.image, "state": state,
            "image_id": facts.map(|facts| &facts.id), "image_versions": versions,
        })
    }
}

/// The versions that people look for.
fn engines(facts: &ImageFacts) -> String {
    let known = facts.versions.named().into_iter().take(5);
    let versions: Vec<_> = known.filter_map(|(name, version)| Some(format!("{name} {}", version?))).collect();
    if versions.is_empty() { "no engine in it".to_owned() } else { versions.join(", ") }
}
