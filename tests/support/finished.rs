//! What a finished `llem` left, and the checks that hold for every ending.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use llem::result::{RunResult, RunStatus, StudyResult, StudyStatus};
use llem_protocol::{Failure, FailureClass, Phase};
use serde_json::Value;
use tempfile::TempDir;

use super::engine::containers_below;
use super::program::study_dirs;
use super::{containers_of, docker};

/// What a finished `llem` said and left.
pub(crate) struct Finished {
    status: ExitStatus,
    /// Everything on stdout.
    pub(crate) stdout: String,
    /// Everything on stderr.
    pub(crate) stderr: String,
    place: Place,
}

/// Where results are; exists as long as somebody may look at them.
#[derive(Clone)]
pub(crate) struct Place {
    pub(super) output: PathBuf,
    pub(super) patience: Duration,
    pub(super) _directory: Arc<Directory>,
}

/// A temporary directory. With it go the containers of the studies in it, which a failed test may leave.
pub(crate) struct Directory(pub(super) TempDir);

impl Drop for Directory {
    fn drop(&mut self) {
        for id in containers_below(self.0.path()) {
            let _ = docker(&["rm", "-f", &id]);
        }
    }
}

impl Finished {
    pub(super) fn new(status: ExitStatus, stdout: String, stderr: String, place: Place) -> Self {
        Self { status, stdout, stderr, place }
    }

    /// The exit code; `None` for a death by a signal.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// Checks that all `parts` are on stderr.
    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.stderr.contains(part), "no `{part}` in:\n{}", self.stderr);
        }
        self
    }

    /// The newest study directory.
    pub(crate) fn study_dir(&self) -> PathBuf {
        study_dirs(&self.place.output).pop().expect("a study directory")
    }

    /// `study.json`.
    pub(crate) fn study(&self) -> StudyResult {
        let text = fs_err::read(self.study_dir().join("study.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// The `result.json` files in the order of the runs.
    pub(crate) fn results(&self) -> Vec<RunResult> {
        let mut paths: Vec<_> =
            fs_err::read_dir(self.study_dir().join("runs")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
            .iter()
            .map(|path| serde_json::from_slice(&fs_err::read(path.join("result.json")).unwrap()).unwrap())
            .collect()
    }

    /// The lines of the journal.
    pub(crate) fn journal(&self) -> Vec<Value> {
        let text = fs_err::read_to_string(self.study_dir().join("journal.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Checks that no container of the study is left.
    #[track_caller]
    pub(crate) fn leaves_no_container(&self) -> &Self {
        let left = containers_of(&self.study_dir());
        assert!(left.is_empty(), "containers {left:?} are left");
        self
    }

    /// Checks that the last run failed as said, in all places that tell of it, and that its container is gone.
    #[track_caller]
    pub(crate) fn fails_with(&self, class: FailureClass, phase: Phase) -> Failure {
        self.ends_with(RunStatus::Failed, StudyStatus::Failed, 1, class, phase)
    }

    /// As [`Finished::fails_with`] for a run that was stopped.
    #[track_caller]
    pub(crate) fn is_interrupted_in(&self, phase: Phase) -> Failure {
        self.ends_with(RunStatus::Interrupted, StudyStatus::Interrupted, 130, FailureClass::Interrupted, phase)
    }

    #[track_caller]
    fn ends_with(
        &self,
        status: RunStatus,
        study_status: StudyStatus,
        exit: i32,
        class: FailureClass,
        phase: Phase,
    ) -> Failure {
        let result = self.results().pop().expect("a result");
        let failure = result.failure.clone().unwrap_or_else(|| panic!("{result:?}\n{}", self.stderr));
        assert_eq!((failure.class, failure.phase), (class, phase), "{failure}\n{}", self.stderr);
        assert_eq!((result.status, result.valid, result.metrics), (status, false, None));
        let study = self.study();
        assert_eq!(study.status, study_status);
        let row = study.experiments.iter().flat_map(|e| &e.runs).find(|run| run.run_id == result.run_id).unwrap();
        assert_eq!((row.status, row.failure.as_ref()), (status, Some(&failure)));
        let journal = self.journal();
        let finished = journal.iter().rfind(|line| line["event"] == "run_finished").unwrap();
        assert_eq!(finished["failure"], class.code(), "{finished}");
        self.exits(exit).leaves_no_container();
        failure
    }
}
