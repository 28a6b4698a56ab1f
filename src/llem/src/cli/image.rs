use llem::config::UserConfig;
use llem::runner::docker::{CandleImage, Engine, Probe, build_candle, images, probe};
use llem::study::Programs;

use super::arguments::{ImageArguments, ImageCommand};
use super::{Exit, Failure, Printer, table};

/// `llem image ls|build|pull|probe`.
pub(crate) async fn image(arguments: ImageArguments, printer: Printer) -> Result<Exit, Failure> {
    let user = UserConfig::load()?;
    let engine = Engine::connect(user.docker_host.as_deref()).await?;
    match arguments.command {
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
            let image = CandleImage::from_host(&programs.candle, &programs.agent)?;
            let made = build_candle(&engine, &image).await?;
            printer.line(if made { "made" } else { "already there" });
            printer.result(&image.reference)?;
        }
        ImageCommand::Pull { reference } => {
            engine.pull(&reference, |status| printer.detail(status)).await?;
            printer.result(&reference)?;
        }
        ImageCommand::Probe { reference } => {
            let found = probe(&engine, &reference, &programs()?.agent).await?;
            printer.result(&describe(&reference, &found))?;
            return Ok(if found.agent.is_some() { Exit::Success } else { Exit::Failed });
        }
    }
    Ok(Exit::Success)
}

fn programs() -> Result<Programs, Failure> {
    Programs::locate().map_err(|error| Failure::failed(error.to_string()))
}

fn describe(reference: &str, probe: &Probe) -> String {
    let none = || "-".to_owned();
    let digests =
        if probe.digests.is_empty() { "none (not from a registry)".to_owned() } else { probe.digests.join(" ") };
    let agent = probe.agent.clone().unwrap_or_else(|| format!("does not start: {}", probe.problem));
    let engine = probe.engine.as_ref().map_or_else(none, |(name, version)| format!("{name} {version}"));
    [
        format!("image     {reference}"),
        format!("id        {}", probe.id),
        format!("digests   {digests}"),
        format!("platform  {}", probe.platform),
        format!("agent     {agent}"),
        format!("engine    {engine}"),
    ]
    .join("\n")
}
