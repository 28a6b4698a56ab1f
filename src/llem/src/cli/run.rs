use std::path::{Path, PathBuf};

use llem::config::{BundleOrigin, Experiment, Profile, RunnerKind, StudyConfig, UserConfig};
use llem::result::StudyStatus;
use llem::runner::Stop;
use llem::study::{
    BundledStudy, Forecast, ForecastOptions, Overrides, RunOptions, StudyError, bundle_of, find_resumable, is_bundle,
    open_bundle, run_study, slurm_plan, study_of,
};
use tokio::sync::mpsc::unbounded_channel;

use super::arguments::{Format, RunArguments};
use super::bundle::View;
use super::progress::Progress;
use super::{Exit, Failure, Printer, dry_run, dry_run_images, engines, failures, runtime, signals, table};

/// What shall be run.
struct Asked {
    study: StudyConfig,
    /// The directory of the study that it goes on with.
    resume: Option<PathBuf>,
    /// The machine's settings, with what a bundle decides.
    user: UserConfig,
    runner: Option<RunnerKind>,
    bundle: Option<BundledStudy>,
}

impl Asked {
    /// The batch system carries out the whole of a study or nothing.
    fn is_on_slurm(&self) -> bool {
        let kind = |e: &Experiment| self.user.runner_of(e.config.backend, self.runner);
        self.study.experiments.iter().any(|experiment| kind(experiment) == RunnerKind::Slurm)
    }
}

/// `llem run`.
pub(crate) fn run(arguments: &RunArguments, printer: Printer) -> Result<Exit, Failure> {
    let stop = Stop::default();
    let asked = match asked(arguments, &stop, printer) {
        Err(_) if stop.soft.is_cancelled() => return Ok(Exit::Interrupted),
        other => other?,
    };
    if arguments.dry_run { plan(&asked, arguments, printer) } else { carry_out(asked, arguments, &stop, printer) }
}

/// `llem run --dry-run`.
fn plan(asked: &Asked, arguments: &RunArguments, printer: Printer) -> Result<Exit, Failure> {
    let Asked { study, user, runner, .. } = asked;
    let images = runtime()?.block_on(dry_run_images::look(study, user, *runner))?;
    let assumed_memory_bytes = arguments.vram_gib.map(|gib| (gib * f64::from(1 << 30)) as u64);
    let options =
        ForecastOptions { output: &arguments.output, user, assumed_memory_bytes, elsewhere: asked.is_on_slurm() };
    let forecast = Forecast::of(study, &options)?;
    let exit = dry_run::dry_run(study, &forecast, &images, arguments.format, printer)?;
    let engines = engines::plan_line(study, user, *runner);
    runtime()?.block_on(engines)?.iter().for_each(|line| printer.line(line));
    slurm_lines(asked, arguments)?.iter().for_each(|line| printer.line(line));
    Ok(exit)
}

fn carry_out(asked: Asked, arguments: &RunArguments, stop: &Stop, printer: Printer) -> Result<Exit, Failure> {
    let on_slurm = asked.is_on_slurm();
    let Asked { study, resume, user, runner, bundle } = asked;
    let (events, received) = unbounded_channel();
    let mut options = RunOptions {
        output: arguments.output.clone(),
        resume,
        runner,
        user,
        programs: None,
        locked: arguments.locked.clone().map(|lock| lock.unwrap_or_else(|| default_lock(&study))),
        events: Some(events),
        stop: stop.clone(),
    };
    runtime()?.block_on(async {
        signals::listen(stop.clone(), printer, if on_slurm { &signals::JOBS } else { &signals::CONTAINER })?;
        if let Some(bundle) = &bundle {
            bundle.equip(&mut options);
            let view = View::new(printer);
            let notify = |event| view.show(event);
            tokio::select! {
                loaded = bundle.load_images(&options, &notify) => loaded?,
                () = stop.soft.cancelled() => return Ok(Exit::Interrupted),
            }
        }
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
fn slurm_lines(asked: &Asked, arguments: &RunArguments) -> Result<Vec<String>, Failure> {
    let (user, runner) = (asked.user.clone(), asked.runner);
    let options = RunOptions { output: arguments.output.clone(), user, runner, ..RunOptions::default() };
    let Some(plan) = runtime()?.block_on(slurm_plan(&asked.study, &options))? else { return Ok(Vec::new()) };
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

/// The study that is asked for, from its file or its bundle, or as it was begun.
fn asked(arguments: &RunArguments, stop: &Stop, printer: Printer) -> Result<Asked, Failure> {
    let user = UserConfig::load()?;
    let runner = arguments.runner.map(Into::into);
    let begun = match (&arguments.file, &arguments.resume) {
        (None, Some(Some(directory))) if arguments.set.is_empty() => {
            bundle_of(directory).map(|begun| (begun, directory))
        }
        _ => None,
    };
    let added = Overrides::Added(&arguments.set);
    match (&arguments.file, begun) {
        (Some(file), _) if is_bundle(file) => from_bundle(file, added, user, runner, arguments, stop, printer),
        (None, Some(((origin, overrides), directory))) => {
            let all = Overrides::All(&overrides);
            let asked = from_bundle(&origin.path, all, user, runner, arguments, stop, printer);
            let asked = asked.map_err(|failure| begun_in_bundle(failure, &origin, directory))?;
            let same = asked.study.bundled().is_some_and(|bundled| bundled.origin.sha256 == origin.sha256);
            let another = || Failure::usage(format!("{} is another bundle now", origin.path.display()));
            if same { Ok(asked) } else { Err(begun_in_bundle(another(), &origin, directory)) }
        }
        _ => {
            let (study, resume) = study(arguments)?;
            Ok(Asked { study, resume, user, runner, bundle: None })
        }
    }
}

fn begun_in_bundle(failure: Failure, origin: &BundleOrigin, directory: &Path) -> Failure {
    let (message, sha256, directory) = (failure.message, &origin.sha256, directory.display());
    let message = format!(
        "{message}\nthe study in {directory} came in the bundle sha256:{sha256}: where it lies elsewhere now, \
         `llem run BUNDLE --resume {directory}` goes on"
    );
    Failure { message, ..failure }
}

fn from_bundle(
    file: &Path,
    overrides: Overrides<'_>,
    mut user: UserConfig,
    mut runner: Option<RunnerKind>,
    arguments: &RunArguments,
    stop: &Stop,
    printer: Printer,
) -> Result<Asked, Failure> {
    if arguments.profile.is_some() || arguments.locked.is_some() {
        let text = "a bundle has its profile and its lock file: leave out `--profile` and `--locked`";
        return Err(Failure::usage(text));
    }
    let view = View::new(printer);
    let opened = runtime()?.block_on(async {
        signals::listen(stop.clone(), printer, &signals::FILES)?;
        Ok::<_, Failure>(open_bundle(file, overrides, &user, &|event| view.show(event), stop).await?)
    });
    view.clear();
    let bundle = opened?;
    bundle.settle(&mut user, &mut runner)?;
    let study = bundle.study.clone();
    let resume = match &arguments.resume {
        Some(Some(directory)) => Some(directory.clone()),
        Some(None) => Some(find_resumable(&study, &arguments.output)?),
        None => None,
    };
    Ok(Asked { study, resume, user, runner, bundle: Some(bundle) })
}

/// The study that is asked for, and the directory of the one that it goes on with.
fn study(arguments: &RunArguments) -> Result<(StudyConfig, Option<PathBuf>), Failure> {
    let from_file = |file: &Path| {
        StudyConfig::from_file(file, &arguments.set, arguments.profile.map_or_else(Profile::default, Into::into))
    };
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
