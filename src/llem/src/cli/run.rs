use std::path::{Path, PathBuf};

use llem::config::{StudyConfig, UserConfig};
use llem::result::StudyStatus;
use llem::runner::Stop;
use llem::study::{Forecast, ForecastOptions, RunOptions, StudyError, run_study};
use tokio::sync::mpsc::unbounded_channel;

use super::arguments::{Format, RunArguments};
use super::progress::Progress;
use super::{Exit, Failure, Printer, dry_run, dry_run_images, engines, runtime, signals, table};

/// `llem run`.
pub(crate) fn run(arguments: &RunArguments, printer: Printer) -> Result<Exit, Failure> {
    if arguments.resume.is_some() {
        let message = "--resume is not available in this version; run the study again";
        return Err(Failure::usage(message));
    }
    let file = arguments.file.as_deref().unwrap_or(Path::new("study.yaml"));
    let user = UserConfig::load()?;
    let study = StudyConfig::from_file(file, &arguments.set, arguments.profile.into())?;
    if arguments.dry_run {
        let images = runtime()?.block_on(dry_run_images::look(&study, &user, arguments.runner.map(Into::into)))?;
        let assumed_memory_bytes = arguments.vram_gib.map(|gib| (gib * f64::from(1 << 30)) as u64);
        let options = ForecastOptions { output: &arguments.output, user: &user, assumed_memory_bytes };
        let forecast = Forecast::of(&study, &options)?;
        let exit = dry_run::dry_run(&study, &forecast, &images, arguments.format, printer)?;
        let engines = engines::plan_line(&study, &user, arguments.runner.map(Into::into));
        runtime()?.block_on(engines)?.iter().for_each(|line| printer.line(line));
        return Ok(exit);
    }
    let stop = Stop::default();
    let (events, received) = unbounded_channel();
    let options = RunOptions {
        output: arguments.output.clone(),
        runner: arguments.runner.map(Into::into),
        user,
        programs: None,
        locked: locked(arguments, file),
        events: Some(events),
        stop: stop.clone(),
    };
    runtime()?.block_on(async {
        signals::listen(stop.clone(), printer)?;
        let progress = tokio::spawn(Progress::new(printer, &study).follow(received));
        let result = run_study(study, options).await;
        let _ = progress.await;
        let result = match result {
            Err(StudyError::Stopped) => return Ok(Exit::Interrupted),
            other => other?,
        };
        match arguments.format {
            Format::Human => printer.result(&table::study(&result))?,
            Format::Json => {
                let text = serde_json::to_string_pretty(&result).map_err(|e| Failure::failed(e.to_string()))?;
                printer.result(&text)?;
            }
        }
        Ok(match result.status {
            StudyStatus::Completed => Exit::Success,
            StudyStatus::Failed => Exit::Failed,
            StudyStatus::Interrupted => Exit::Interrupted,
        })
    })
}

/// The lock file that was asked for: the named one, else the one beside the study file.
fn locked(arguments: &RunArguments, file: &Path) -> Option<PathBuf> {
    let named = arguments.locked.as_ref()?;
    Some(named.first().cloned().unwrap_or_else(|| file.with_extension("lock.json")))
}
