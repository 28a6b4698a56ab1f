//! `llem bundle`: a study with everything that it needs in one file.

use std::fmt::Write;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use llem::config::{Profile, RunnerKind, StudyConfig, UserConfig};
use llem::runner::Stop;
use llem::study::{
    BundleContent, BundleError, BundleEvent, BundleOptions, ImageForm, Manifest, ModelFiles, StudyError, StudyEvent,
    inspect_bundle, make_bundle, verify_bundle,
};
use serde_json::json;

use super::arguments::{BundleArguments, Format, ImagesName, ModelsName};
use super::printer::without_controls;
use super::{Exit, Failure, Printer, runtime, signals};

/// `llem bundle`.
pub(crate) fn bundle(arguments: &BundleArguments, printer: Printer) -> Result<Exit, Failure> {
    runtime()?.block_on(async {
        let stop = Stop::default();
        signals::listen(stop.clone(), printer, &signals::FILES)?;
        let view = View::new(printer);
        let notify = |event: BundleEvent| view.show(event);
        let done = match arguments.target.as_deref() {
            Some(target) => make(arguments, target, &stop, &notify, printer).await,
            None => look(arguments, &stop, &notify, printer).await,
        };
        view.clear();
        done
    })
}

async fn make(
    arguments: &BundleArguments,
    target: &Path,
    stop: &Stop,
    notify: &impl Fn(BundleEvent),
    printer: Printer,
) -> Result<Exit, Failure> {
    let profile = arguments.profile.map_or_else(Profile::default, Into::into);
    let study = StudyConfig::from_file(&arguments.file, &arguments.set, profile)?;
    let (images, runner) = (arguments.images.map(Into::into), arguments.runner.map(Into::into));
    refuse_contradiction(images, runner)?;
    let options = BundleOptions {
        target: target.to_owned(),
        force: arguments.force,
        images,
        models: arguments.models.into(),
        runner,
        user: UserConfig::load()?,
        programs: None,
        stop: stop.clone(),
    };
    let made = match make_bundle(&study, &options, notify).await {
        Ok(made) => made,
        Err(_) if stop.soft.is_cancelled() => return Ok(Exit::Interrupted),
        Err(error) => return Err(error.into()),
    };
    printer.line(&format!("{:.1} MB, {} files", made.size_bytes as f64 / 1e6, made.manifest.files.len()));
    printer.line(&format!("sha256:{} (of its manifest, which determines every byte)", made.sha256));
    printer.result(&target.display().to_string())?;
    Ok(Exit::Success)
}

/// `--list` and `--verify`.
async fn look(
    arguments: &BundleArguments,
    stop: &Stop,
    notify: &impl Fn(BundleEvent),
    printer: Printer,
) -> Result<Exit, Failure> {
    let found = if arguments.verify {
        verify_bundle(&arguments.file, notify, &stop.soft).await
    } else {
        inspect_bundle(&arguments.file)
    };
    let content = match found {
        Ok(content) => content,
        Err(_) if stop.soft.is_cancelled() => return Ok(Exit::Interrupted),
        Err(error) => return Err(error.into()),
    };
    match arguments.format {
        Format::Human => printer.result(&describe(&content))?,
        Format::Json => {
            let BundleContent { sha256, size_bytes, manifest, .. } = &content;
            let verified = arguments.verify;
            let value = json!({"sha256": sha256, "size_bytes": size_bytes, "verified": verified, "manifest": manifest});
            printer.result(&format!("{value:#}"))?;
        }
    }
    if arguments.verify {
        printer.line("every byte is as it was made");
    }
    Ok(Exit::Success)
}

/// Images of one form are for one runner.
fn refuse_contradiction(images: Option<ImageForm>, runner: Option<RunnerKind>) -> Result<(), Failure> {
    let wanted = match images {
        Some(ImageForm::Sif) => RunnerKind::Apptainer,
        Some(ImageForm::Archive) => RunnerKind::Docker,
        None => return Ok(()),
    };
    match runner {
        Some(runner) if runner != wanted => Err(Failure::usage(
            "`--images sif` is for the runner `apptainer`, `--images archive` for `docker`: leave out `--runner` or `--images`",
        )),
        _ => Ok(()),
    }
}

/// What is in a bundle, one line a thing.
fn describe(content: &BundleContent) -> String {
    let Manifest { llem_version, llem_commit, study, runners, images, weights, files, .. } = &content.manifest;
    let mut text = format!("bundle    sha256:{}, {:.1} MB\n", content.sha256, content.size_bytes as f64 / 1e6);
    let commit = llem_commit.as_ref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
    let _ = writeln!(text, "made by   llem {llem_version}{commit}, for {}", content.manifest.architecture);
    let overrides: String =
        study.overrides.iter().fold(String::new(), |text, set| text + " --set " + &without_controls(set));
    let _ = writeln!(
        text,
        "study     {}, {}, profile {}{overrides}",
        study.name,
        super::table::count(study.experiments, "experiment"),
        study.profile.name()
    );
    for (backend, runner) in runners {
        let _ = writeln!(text, "backend   {backend}, runner {}", runner.name());
    }
    for image in images {
        let _ = writeln!(text, "image     {} ({}), {}", image.reference, image.id, image.file);
    }
    for weights in weights {
        let bytes = weights.files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size_bytes));
        let place = weights.directory.as_deref().unwrap_or("hashes only");
        let commit = weights.commit.as_ref().map(|commit| format!(" at {commit}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "weights   {}{commit}, {:.1} MB, {place}",
            without_controls(&weights.reference),
            bytes as f64 / 1e6
        );
    }
    for file in files {
        let _ = writeln!(text, "{}  {:>12}  {}", file.sha256, file.size_bytes, file.name);
    }
    text
}

/// What a user sees while a bundle is made or opened.
pub(crate) struct View {
    printer: Printer,
    bar: Option<ProgressBar>,
}

impl View {
    pub(crate) fn new(printer: Printer) -> Self {
        let bar = printer.bars().map(|target| {
            let style =
                ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
            let bar = ProgressBar::with_draw_target(Some(0), target);
            style.map(|style| bar.set_style(style)).ok();
            bar
        });
        Self { printer, bar }
    }

    pub(crate) fn show(&self, event: BundleEvent) {
        match event {
            BundleEvent::Study(StudyEvent::Preparing { what }) => {
                self.say(|printer| printer.line(&format!("preparing {what}")));
            }
            BundleEvent::Study(StudyEvent::Notice { text }) => self.say(|printer| printer.notice(&text)),
            BundleEvent::Study(_) => {}
            BundleEvent::Note(text) => self.say(|printer| printer.line(&text)),
            BundleEvent::Progress { doing, done_bytes, total_bytes } => {
                if let Some(bar) = &self.bar {
                    bar.set_message(doing);
                    bar.set_length(total_bytes.max(done_bytes));
                    bar.set_position(done_bytes);
                }
            }
        }
    }

    fn say(&self, say: impl FnOnce(Printer)) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(self.printer)),
            None => say(self.printer),
        }
    }

    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        match error {
            BundleError::Study(StudyError::Config(error)) | BundleError::Config(error) => error.into(),
            BundleError::Study(error) => error.into(),
            error if error.is_config() => Self::usage(error.to_string()),
            error => Self::failed(error.to_string()),
        }
    }
}

impl From<ImagesName> for ImageForm {
    fn from(name: ImagesName) -> Self {
        match name {
            ImagesName::Sif => Self::Sif,
            ImagesName::Archive => Self::Archive,
        }
    }
}

impl From<ModelsName> for ModelFiles {
    fn from(name: ModelsName) -> Self {
        match name {
            ModelsName::Include => Self::Included,
            ModelsName::Manifest => Self::Manifest,
        }
    }
}
