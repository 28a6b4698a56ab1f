use std::path::{Path, PathBuf};

use llem::config::{Experiment, RunnerKind, StudyConfig, UserConfig};
use llem::result::StudyStatus;
use llem::runner::Stop;
use llem::study::{Forecast, ForecastOptions, RunOptions, StudyError, find_resumable, run_study, slurm_plan, study_of};
use tokio::sync::mpsc::unbounded_channel;

use super::arguments::{Format, RunArguments};
use super::progress::Progress;
use super::{Exit, Failure, Printer, dry_run, dry_run_images, engines, failures, runtime, signals, table};

/// `llem run`.
pub(crate) fn run(arguments: &RunArguments, printer: Printer) -> Result<Exit, Failure> {
    let user = UserConfig::load()?;
    let (study, resume) = study(arguments)?;
    // It carries out the whole of a study or nothing.
    let kind = |e: &Experiment| user.runner_of(e.config.backend, arguments.runner.map(Into::into));
    let on_slurm = study.experiments.iter().any(|experiment| kind(experiment) == RunnerKind::Slurm);
    if arguments.dry_run {
        let images = runtime()?.block_on(dry_run_images::look(&study, &user, arguments.runner.map(Into::into)))?;
        let assumed_memory_bytes = arguments.vram_gib.map(|gib| (gib * f64::from(1 << 30)) as u64);
        let options =
            ForecastOptions { output: &arguments.output, user: &user, assumed_memory_bytes, elsewhere: on_slurm };
        let forecast = Forecast::of(&study, &options)?;
        let exit = dry_run::dry_run(&study, &forecast, &images, arguments.format, printer)?;
        let engines = engines::plan_line(&study, &user, arguments.runner.map(Into::into));
        runtime()?.block_on(engines)?.iter().for_each(|line| printer.line(line));
        slurm_lines(&study, &user, arguments)?.iter().for_each(|line| printer.line(line));
        return Ok(exit);
    }
    let stop = Stop::default();
    let (events, received) = unbounded_channel();
    let options = RunOptions {
        output: arguments.output.clone(),
        resume,
        runner: arguments.runner.map(Into::into),
        user,
        programs: None,
        locked: arguments.locked.clone().map(|lock| lock.unwrap_or_else(|| default_lock(&study))),
        events: Some(events),
        stop: stop.clone(),
    };
    runtime()?.block_on(async {
        signals::listen(stop.clone(), printer, if on_slurm { &signals::JOBS } else { &signals::CONTAINER })?;
        let progress = tokio::spawn(Progress::new(printer, &study).follow(received));
        let result = run_study(study, options).await;
        let _ = progress.await;
        let (result, halted) = match result {
            Ok(result) => (result, None),
            Err(StudyError::Halted { cause, result }) => (*result, Some(*cause)),
            Err(StudyError::Stopped) => return Ok(Exit::Interrupted),
            Err(error) => return Err(error.into()),
        };
        match arguments.format {
            Format::Human => printer.result(&table::study(&result))?,
            Format::Json => {
                let text = serde_json::to_string_pretty(&result).map_err(|e| Failure::failed(e.to_string()))?;
                printer.result(&text)?;
            }
        }
        for line in failures::lines(&result) {
            printer.error_line(&line);
        }
        if let Some(cause) = halted {
            return Err(cause.into());
        }
        Ok(match result.status {
            StudyStatus::Completed => Exit::Success,
            StudyStatus::Failed => Exit::Failed,
            StudyStatus::Interrupted => Exit::Interrupted,
        })
    })
}

/// How a study would be submitted to the batch system.
fn slurm_lines(study: &StudyConfig, user: &UserConfig, arguments: &RunArguments) -> Result<Vec<String>, Failure> {
    let runner = arguments.runner.map(Into::into);
    let options = RunOptions { output: arguments.output.clone(), user: user.clone(), runner, ..RunOptions::default() };
    let Some(plan) = runtime()?.block_on(slurm_plan(study, &options))? else { return Ok(Vec::new()) };
    let jobs: usize = plan.arrays.iter().sum();
    let (jobs, arrays) = (table::count(jobs, "job"), table::count(plan.arrays.len(), "array"));
    Ok(vec![
        format!(
            "slurm: {jobs} in {arrays} (here at most {} jobs each), {} min for each job; SLURM {}",
            plan.max_array_jobs, plan.time_limit_minutes, plan.version
        ),
        plan.command,
    ])
}

/// The lock file beside a study file.
fn default_lock(study: &StudyConfig) -> PathBuf {
    study.source.as_ref().map(|source| source.path.with_extension("lock.json")).unwrap_or_default()
}

/// The study that is asked for, and the directory of the one that it goes on with.
fn study(arguments: &RunArguments) -> Result<(StudyConfig, Option<PathBuf>), Failure> {
    let from_file = |file: &Path| StudyConfig::from_file(file, &arguments.set, arguments.profile.into());
    match (&arguments.file, &arguments.resume) {
        (Some(file), None) => Ok((from_file(file)?, None)),
        (Some(file), Some(Some(directory))) => Ok((from_file(file)?, Some(directory.clone()))),
        (Some(file), Some(None)) => {
            let study = from_file(file)?;
            let directory = find_resumable(&study, &arguments.output)?;
            Ok((study, Some(directory)))
        }
        (None, Some(Some(directory))) if arguments.set.is_empty() => {
            Ok((study_of(directory)?, Some(directory.clone())))
        }
        (None, Some(Some(_))) => Err(Failure::usage("`--set` changes a study file: name the file, too")),
        (None, _) => Err(Failure::usage("name a study file, or the directory of a study after --resume")),
    }
}
