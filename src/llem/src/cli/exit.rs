use std::process::ExitCode;

use llem::config::ConfigError;
use llem::result::StoreError;
use llem::runner::apptainer::ApptainerError;
use llem::runner::docker::{EngineError, ImageError};
use llem::study::{ResumeError, StudyError};

/// How llem ends. The numbers are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything that was asked for was done.
    Success,
    /// Something failed.
    Failed,
    /// Bad usage or a bad config; nothing was started.
    Usage,
    /// A comparison that nothing could be said of.
    Undecided,
    /// Stopped by a signal.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::Undecided => Self::from(3),
            Exit::Interrupted => Self::from(130),
        }
    }
}

/// A command that could not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What to print after `error: `; more than one line for a list of problems.
    pub(crate) message: String,
}

impl Failure {
    /// Something failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into() }
    }

    /// Bad usage.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(format!("the config cannot be used\n\n{error}"))
    }
}

impl From<StudyError> for Failure {
    fn from(error: StudyError) -> Self {
        let exit = if error.is_config() { Exit::Usage } else { Exit::Failed };
        Self { exit, message: chain(&error) }
    }
}

impl From<ApptainerError> for Failure {
    fn from(error: ApptainerError) -> Self {
        let exit = if error.is_config() { Exit::Usage } else { Exit::Failed };
        Self { exit, message: error.to_string() }
    }
}

impl From<ResumeError> for Failure {
    fn from(error: ResumeError) -> Self {
        match error {
            ResumeError::Config(error) => error.into(),
            ResumeError::Store(StoreError::NoStudy(_)) | ResumeError::None { .. } | ResumeError::NoFile(_) => {
                Self::usage(chain(&error))
            }
            ResumeError::Store(_) => Self::failed(chain(&error)),
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::failed(chain(&error))
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::failed(chain(&error))
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = inner.source();
    }
    text
}
