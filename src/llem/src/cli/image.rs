use std::path::Path;

use llem::config::{UserConfig, image_reference_problem, is_image_path};
use llem::preflight::Images;
use llem::runner::apptainer::{self, ApptainerMachine, ExportSource, ExportSpec};
use llem::runner::docker::{Engine, ImageError, ImageFacts, build_candle, images};
use llem::runner::{ApptainerRunner, Stop};
use llem::study::Programs;

use super::arguments::{ExportArguments, Format, ImageArguments, ImageCommand, ProbeArguments};
use super::{Exit, Failure, Printer, table};

/// `llem image ls|build|pull|export|probe`.
pub(crate) async fn image(arguments: ImageArguments, printer: Printer) -> Result<Exit, Failure> {
    let user = UserConfig::load()?;
    if let ImageCommand::Probe(ProbeArguments { reference, .. }) | ImageCommand::Pull { reference } = &arguments.command
        && let Some(problem) = image_reference_problem(reference)
    {
        return Err(Failure::usage(problem));
    }
    match &arguments.command {
        ImageCommand::Export(wanted) => return export(wanted, &user, printer).await,
        ImageCommand::Probe(wanted) if is_image_path(&wanted.reference) => {
            return probe_file(user, wanted, printer).await;
        }
        _ => {}
    }
    let engine = Engine::connect(user.docker_host.as_deref()).await?;
    match arguments.command {
        ImageCommand::Export(_) => {}
        ImageCommand::Ls => {
            let rows = images(&engine).await?;
            if rows.is_empty() {
                printer.line("no images made by llem; `llem image build candle` makes one");
            } else {
                printer.result(&table::images(&rows))?;
            }
        }
        ImageCommand::Build { .. } => {
            let programs = programs()?;
            let image = programs.candle_image()?;
            let made = build_candle(&engine, &image).await?;
            printer.line(if made { "made" } else { "already there" });
            printer.result(&image.reference)?;
        }
        ImageCommand::Pull { reference } => {
            engine.pull(&reference, |status| printer.detail(status)).await?;
            printer.result(&reference)?;
        }
        ImageCommand::Probe(arguments) => return probe(&engine, user, &arguments, printer).await,
    }
    Ok(Exit::Success)
}

fn programs() -> Result<Programs, Failure> {
    Programs::locate().map_err(|error| Failure::failed(error.to_string()))
}

/// `llem image probe`.
async fn probe(
    engine: &Engine,
    user: UserConfig,
    arguments: &ProbeArguments,
    printer: Printer,
) -> Result<Exit, Failure> {
    let reference = &arguments.reference;
    let images = Images::new(&user, &programs()?.agent).map_err(|error| Failure::failed(error.to_string()))?;
    let stop = Stop::default();
    super::signals::listen(stop.clone(), printer, &super::signals::FILES)?;
    let probed =
        images.probe(engine, reference, arguments.backend.map(Into::into), arguments.refresh, &stop.soft).await;
    let facts = match probed {
        Ok(Some(facts)) => facts,
        Ok(None) => {
            let message =
                format!("the engine at {} has no image `{reference}`; `llem image pull` fetches one", engine.address());
            return Err(Failure::failed(message));
        }
        Err(ImageError::Stopped) => return Ok(Exit::Interrupted),
        Err(error) => return Err(error.into()),
    };
    show(reference, &facts, arguments.format, printer)
}

/// `llem image probe FILE`, of a SIF file or a sandbox directory.
async fn probe_file(user: UserConfig, arguments: &ProbeArguments, printer: Printer) -> Result<Exit, Failure> {
    let programs = programs()?;
    let images = Images::new(&user, &programs.agent).map_err(|error| Failure::failed(error.to_string()))?;
    let stop = Stop::default();
    super::signals::listen(stop.clone(), printer, &super::signals::FILES)?;
    let backend = arguments.backend.map(Into::into);
    let probed = async {
        let embedded = programs.candle_image()?;
        let apptainer =
            ApptainerRunner::find(ApptainerMachine::of(&user, &programs.agent), &embedded, &stop.soft).await?;
        printer.detail(&apptainer.reason());
        let (image, _) = apptainer.open(&arguments.reference, Path::new(&arguments.reference), &stop.soft).await?;
        Ok::<_, Failure>(images.probe_file(&apptainer, &image, backend, arguments.refresh, &stop.soft).await?)
    };
    match probed.await {
        Ok(facts) => show(&arguments.reference, &facts, arguments.format, printer),
        Err(_) if stop.soft.is_cancelled() => Ok(Exit::Interrupted),
        Err(failure) => Err(failure),
    }
}

/// What names of archives end with; that of a compressed one is told how to go on.
const ARCHIVES: [&str; 6] = ["tar", "tgz", "gz", "zst", "bz2", "xz"];

/// `llem image export`.
async fn export(arguments: &ExportArguments, user: &UserConfig, printer: Printer) -> Result<Exit, Failure> {
    let reference = &arguments.reference;
    let extension = Path::new(reference).extension().unwrap_or_default();
    let is_definition = extension == "def";
    if !is_definition && !arguments.build_args.is_empty() {
        return Err(Failure::usage("`--build-arg` sets variables of a definition file (`*.def`)".to_owned()));
    }
    let source = if is_definition {
        ExportSource::Definition(reference.into(), arguments.build_args.clone())
    } else if ARCHIVES.iter().any(|archive| extension == *archive) || is_image_path(reference) {
        ExportSource::Archive(reference.into())
    } else if let Some(problem) = image_reference_problem(reference) {
        return Err(Failure::usage(problem));
    } else {
        ExportSource::Engine(Box::new(Engine::connect(user.docker_host.as_deref()).await?), reference.clone())
    };
    let stop = Stop::default();
    super::signals::listen(stop.clone(), printer, &super::signals::FILES)?;
    let spec = ExportSpec { source, sif: arguments.sif.clone(), force: arguments.force };
    let made = match apptainer::export(&spec, |what| printer.line(what), &stop.soft).await {
        Ok(made) => made,
        Err(_) if stop.soft.is_cancelled() => return Ok(Exit::Interrupted),
        Err(error) => return Err(Failure::failed(error.to_string())),
    };
    printer.line(&format!(
        "made of {} ({}), {:.1} MB",
        made.source.reference,
        made.source.id,
        made.size_bytes as f64 / 1e6
    ));
    printer.line(&format!("sha256:{}", made.sha256));
    printer.result(&arguments.sif.display().to_string())?;
    Ok(Exit::Success)
}

/// Prints what is known of an image.
fn show(reference: &str, facts: &ImageFacts, format: Format, printer: Printer) -> Result<Exit, Failure> {
    match format {
        Format::Human => printer.result(&describe(reference, facts))?,
        Format::Json => {
            let mut value = serde_json::json!({"schema_version": llem::result::SCHEMA_VERSION, "image": reference});
            if let (Some(map), Ok(serde_json::Value::Object(facts))) =
                (value.as_object_mut(), serde_json::to_value(facts))
            {
                map.extend(facts);
            }
            printer.result(&format!("{value:#}"))?;
        }
    }
    let is_known = facts.agent.problem.is_none() && facts.problem.is_none();
    Ok(if is_known { Exit::Success } else { Exit::Failed })
}

/// One line for each fact, at the terminal's width.
fn describe(reference: &str, facts: &ImageFacts) -> String {
    let digests =
        if facts.digests.is_empty() { "none (not from a registry)".to_owned() } else { facts.digests.join(" ") };
    let agent = match (&facts.agent.version, &facts.agent.problem) {
        (Some(version), _) => version.clone(),
        (None, Some(problem)) => format!("does not start: {problem}"),
        (None, None) => "not tried".to_owned(),
    };
    let mut lines = vec![
        ("image", reference.to_owned()),
        // Without its prefix it fits beside the names.
        ("id", facts.id.trim_start_matches("sha256:").to_owned()),
        ("digests", digests),
        ("platform", format!("{}/{}", facts.os, facts.architecture)),
        ("size", format!("{:.1} MB", facts.size_bytes as f64 / 1e6)),
        ("agent", agent),
    ];
    lines.extend(facts.source.iter().map(|source| ("made of", format!("{} ({})", source.reference, source.id))));
    lines.extend(facts.embedded.iter().map(|(name, version)| ("engine", format!("{name} {version}"))));
    lines.extend(facts.problem.iter().map(|problem| ("problem", format!("no Python answers: {problem}"))));
    let known = facts.versions.named().into_iter();
    lines.extend(known.filter_map(|(name, version)| Some((name, version?.to_owned()))));
    lines.extend(
        facts
            .options
            .values()
            .flatten()
            .map(|(class, fields)| ("options", format!("{class}: {} (--format json lists them)", fields.len()))),
    );
    lines.extend(facts.labels.iter().map(|(name, value)| ("label", format!("{name}={value}"))));
    let widest = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let indent = " ".repeat(widest + 2);
    let width = textwrap::Options::new(Printer::width()).subsequent_indent(&indent);
    let shown = lines.iter().map(|(name, text)| textwrap::fill(&format!("{name:widest$}  {text}"), &width));
    shown.collect::<Vec<_>>().join("\n")
}
