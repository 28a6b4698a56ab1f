use serde::Serialize;

/// How a check of the machine came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Runs work; their numbers, or a part of the studies, may suffer.
    Warning,
    /// No run works.
    Fails,
}

impl CheckState {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fails => "fails",
        }
    }
}

/// One thing about the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, e.g. `container engine`.
    pub what: String,
    /// How it came out.
    pub state: CheckState,
    /// What was found.
    pub found: String,
    /// What to do; absent where there is nothing to do.
    pub todo: Option<String>,
}

impl Check {
    /// As it should be.
    pub(super) fn ok(what: &str, found: impl Into<String>) -> Self {
        Self { what: what.to_owned(), state: CheckState::Ok, found: found.into(), todo: None }
    }

    /// Worth a change.
    pub(super) fn warning(what: &str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { what: what.to_owned(), state: CheckState::Warning, found: found.into(), todo: Some(todo.into()) }
    }

    /// Must change.
    pub(super) fn fails(what: &str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { state: CheckState::Fails, ..Self::warning(what, found, todo) }
    }
}
