//! Takes up a study where a controller left it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::difference::Differences;
use super::ledger::{Ledger, Recovery};
use super::lock::StudyLock;
use super::{RunOptions, StudyError, StudyEvent, machine};
use crate::config::{ConfigError, StudyConfig, UserConfig};
use crate::host::HostSnapshot;
use crate::result::{Design, NumberedRuns, RunId, RunResult, StoreError, StudyDirectory, StudyFiles, number_runs};
use crate::runner::docker::container_name;

/// A study that goes on, locked.
#[derive(Debug)]
pub(super) struct Resumed {
    pub(super) directory: StudyDirectory,
    /// Oldest first; not empty.
    pub(super) designs: Vec<Design>,
    pub(super) ledger: Ledger,
    pub(super) recovery: Recovery,
}

impl Resumed {
    /// Locks the study that the options name, and checks that `study` may go on in it. `None` for a study that starts anew.
    pub(super) fn open(study: &StudyConfig, options: &RunOptions) -> Result<Option<Self>, StudyError> {
        let Some(path) = &options.resume else { return Ok(None) };
        let directory = StudyDirectory::open(path).map_err(StudyError::NotOpened)?;
        let designs = directory.files().designs().map_err(StudyError::NotOpened)?;
        let last = designs.last().ok_or_else(|| StoreError::NoStudy(directory.path().to_owned()))?;
        if let Some(differences) = Differences::find(study, last, directory.files()).map_err(StudyError::NotOpened)? {
            return Err(StudyError::Changed(Box::new(differences)));
        }
        let (ledger, recovery) = Ledger::read(directory.files(), &designs).map_err(StudyError::NotOpened)?;
        Ok(Some(Self { directory, designs, ledger, recovery }))
    }

    /// Names of the containers of runs that were begun and have no result.
    pub(super) fn container_names(&self) -> Vec<String> {
        container_names(self.directory.files(), &self.ledger.open_attempts())
    }

    /// The design that holds from here on, where it is not the last one.
    pub(super) fn extension(&self, mut design: Design) -> Option<Design> {
        let last = self.designs.last()?;
        design.revision = last.revision + 1;
        (!last.is_same(&design)).then_some(design)
    }

    /// Refuses to go on with other means than the finished runs had. Whether the study's lock file has all of `lock`: a controller that
    /// died early, or when it had just extended the study, may not have come to write it.
    pub(super) fn keeps(
        &self,
        design: &Design,
        lock: &StudyLock,
        notify: &impl Fn(StudyEvent),
    ) -> Result<bool, StudyError> {
        self.refuse_other_runner(design)?;
        let path = self.directory.lock_file();
        let mut is_locked = path.exists();
        if is_locked {
            is_locked = lock.check_extends(&path)?;
        } else if self.ledger.has_ended_runs() {
            let text = format!(
                "{} is gone: that finished runs had the same images, weights and llem is not known",
                path.display()
            );
            notify(StudyEvent::Notice { text });
        }
        Ok(is_locked)
    }

    /// Refuses to go on elsewhere than where a measured run was, by its result. Runs of a batch system may be on any of its nodes.
    pub(super) fn refuse_other_machine(&self, user: &UserConfig) -> Result<(), StudyError> {
        let Some(run) = self.ledger.any_completed() else { return Ok(()) };
        let directory = self.directory.files().run(&run.to_string());
        // What cannot be read is told, and repeated, when the study ends.
        let text = fs_err::read(directory.result_file()).unwrap_or_default();
        let Ok(result) = RunResult::from_json(&text) else { return Ok(()) };
        let job = directory.read_job();
        let had_gpus = job.as_ref().map(|job| job.gpus.as_slice());
        let differences = machine::differences(&result, had_gpus, user, &HostSnapshot::read());
        if differences.is_empty() {
            return Ok(());
        }
        Err(StudyError::OtherMachine { directory: self.directory.path().to_owned(), differences })
    }

    /// Figures of one study come from one kind of runner.
    fn refuse_other_runner(&self, design: &Design) -> Result<(), StudyError> {
        match self.designs.last() {
            Some(last) if !is_among(&design.runner, &last.runner) => {
                let (had, has) = (last.runner.clone(), design.runner.clone());
                Err(StudyError::OtherRunner { directory: self.directory.path().to_owned(), had, has })
            }
            _ => Ok(()),
        }
    }
}

/// What the containers of runs are, or would have been, called, by the jobs that were written for them.
pub(super) fn container_names(files: &StudyFiles, runs: &[RunId]) -> Vec<String> {
    runs.iter().filter_map(|run| files.run(&run.to_string()).read_job()).map(|job| container_name(&job)).collect()
}

/// Whether the names of one list of runners are all in another.
fn is_among(names: &str, all: &str) -> bool {
    names.split(", ").all(|name| all.split(", ").any(|other| other == name))
}

/// Why no study was found that could go on.
#[derive(Debug, Error)]
pub enum ResumeError {
    /// There is none of that name.
    #[error("no study `{name}` that could be resumed is in {}; run it without --resume, or name its directory", output.display())]
    None {
        /// The study's name.
        name: String,
        /// Where it was looked for.
        output: PathBuf,
    },
    /// The study came from no file.
    #[error("{}: this study came from no file; it can be resumed by the program that started it", .0.display())]
    NoFile(PathBuf),
    /// What is there cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is there is no config.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The directory under `output` in which a study can go on: the newest one of its name and design that has something left to do; else
/// the newest of its name and design; else the newest of its name, which then says in what it differs.
pub fn find_resumable(study: &StudyConfig, output: &Path) -> Result<PathBuf, ResumeError> {
    let none = || ResumeError::None { name: study.name.clone(), output: output.to_owned() };
    let mut candidates: Vec<(String, PathBuf)> = Vec::new();
    for entry in fs_err::read_dir(output).map_err(|_| none())? {
        let path = entry.map_err(StoreError::from)?.path();
        let stamp = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(&study.name));
        if let Some(stamp) =
            stamp.and_then(|rest| rest.strip_prefix('_')).filter(|_| path.join("design.json").is_file())
        {
            candidates.push((stamp.to_owned(), path.clone()));
        }
    }
    candidates.sort_by(|(one, _), (other, _)| order_of(other).cmp(&order_of(one)));
    let ids: HashSet<&str> = study.experiments.iter().map(|experiment| experiment.id.as_str()).collect();
    let (mut of_design, mut newest) = (None, None);
    for (_, path) in candidates {
        let Some((designs, is_finished)) = state_of(&path, study)? else { continue };
        newest = newest.or_else(|| Some(path.clone()));
        let fits = designs.last().is_some_and(|last| last.experiments.iter().all(|e| ids.contains(e.id.as_str())));
        match (fits, is_finished) {
            (true, false) => return Ok(path),
            (true, true) => of_design = of_design.or(Some(path)),
            (false, _) => {}
        }
    }
    of_design.or(newest).ok_or_else(none)
}

/// Stamps of one second have a counter: `-2` comes after none, and `-10` after `-9`.
fn order_of(stamp: &str) -> (&str, u32) {
    stamp.split_once('-').map_or((stamp, 1), |(stamp, counter)| (stamp, counter.parse().unwrap_or(0)))
}

/// The designs of the study in a directory, and whether `study` would find nothing to do there; `None` for another study's directory.
fn state_of(path: &Path, study: &StudyConfig) -> Result<Option<(Vec<Design>, bool)>, ResumeError> {
    // Nothing is locked for a look: what is being written right now is unfinished.
    let files = StudyFiles::of(path.to_owned());
    let mut designs = files.designs()?;
    if designs.last().is_none_or(|design| design.name != study.name) {
        return Ok(None);
    }
    let (ledger, _) = Ledger::read(&files, &designs)?;
    let asked = Design::of(study, "");
    let had = designs.clone();
    designs.push(asked);
    let NumberedRuns { planned, .. } = number_runs(&designs);
    let is_finished = planned.iter().all(|run| ledger.is_completed(run.number));
    Ok(Some((had, is_finished)))
}

/// The study in a directory as it was asked for last.
pub fn study_of(directory: &Path) -> Result<StudyConfig, ResumeError> {
    let looked = StudyFiles::of(directory.to_owned());
    let design = looked.designs()?.pop().ok_or_else(|| StoreError::NoStudy(directory.to_owned()))?;
    let path = design.source.as_ref().ok_or_else(|| ResumeError::NoFile(directory.to_owned()))?;
    let text = looked.source(&design)?;
    Ok(StudyConfig::from_text(path, &text, &design.overrides, design.profile)?)
}

#[cfg(test)]
mod tests {
    use super::is_among;

    #[test]
    fn a_study_keeps_to_the_runners_that_it_had() {
        assert!(is_among("docker", "docker, process") && is_among("slurm", "slurm"));
        assert!(!is_among("slurm", "slurm+apptainer") && !is_among("docker, process", "docker"));
    }
}
