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

/// What files, engine and earlier probes tell of the images; nothing of those of an engine where none answers. A file that is not there,
/// or an experiment that its image is known not to run, is an error.
pub(crate) async fn look(
    study: &StudyConfig,
    user: &UserConfig,
    runner: Option<RunnerKind>,
) -> Result<ImageLines, Failure> {
    let named = preflight::named_images(study, user);
    let kind = |backend| user.runner_of(backend, runner);
    let files = named.iter().filter(|(backend, _)| user.takes_files(kind(*backend)));
    let of_engine: Vec<_> = named.iter().filter(|(backend, _)| kind(*backend).may_use_engine()).cloned().collect();
    if named.is_empty() {
        return Ok(ImageLines { lines: Vec::new(), missing: None });
    }
    let agent = Programs::locate().map_err(|error| Failure::failed(error.to_string()))?.agent;
    let images = Images::new(user, &agent).map_err(|error| Failure::failed(error.to_string()))?;
    let is_packed = |image: &String| study.bundled().is_some_and(|bundled| bundled.archived_images.contains(image));
    let mut lines = Vec::new();
    for (backend, image) in files.cloned() {
        let facts = look_at_file(study, &image, &user.cache_root()).await?;
        let state = images.known_file(facts, Some(backend));
        lines.push(ImageLine { backend, image, state, is_packed: false });
    }
    let mut missing = None;
    if !of_engine.is_empty()
        && let Ok(engine) = Engine::connect(user.docker_host.as_deref()).await
    {
        for (backend, image) in of_engine.iter().filter(|(backend, _)| *backend != Backend::Candle).cloned() {
            let state = images.known(&engine, &image, Some(backend)).await?;
            let is_packed = is_packed(&image);
            lines.push(ImageLine { backend, image, state, is_packed });
        }
        let not_packed = of_engine.into_iter().filter(|(_, image)| !is_packed(image)).collect();
        missing = MissingImages::of(&engine, not_packed).await?;
    }
    let probed = |line: &ImageLine| match &line.state {
        KnownImage::Probed(facts) => Some(((line.backend, line.image.clone()), Arc::new(facts.clone()))),
        KnownImage::Missing | KnownImage::Unprobed(_) => None,
    };
    let known: KnownFacts = lines.iter().filter_map(probed).collect();
    preflight::check(study, user, &known, &agent)?;
    Ok(ImageLines { lines, missing })
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
