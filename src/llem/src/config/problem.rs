//! What is wrong with a file, in the words that the user reads.

use std::fmt;
use std::path::PathBuf;

/// Everything that is wrong with a study or user file, not only the first thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order of the file.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the field, e.g. `pytorch.attn.implementation`, or the `--set` argument. Empty: the whole file.
    pub path: String,
    /// Where in the file; absent when the value came from elsewhere.
    pub location: Option<Location>,
    /// What is wrong, as a fragment in lower case.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file, as the user named it.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line's text.
    pub source_line: String,
}

impl Problem {
    /// A problem that no place in a file belongs to.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), location: None, message: message.into(), hint: None }
    }

    /// Adds where it is.
    #[must_use]
    pub fn at(mut self, location: Option<Location>) -> Self {
        self.location = location;
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn position(&self) -> (usize, usize) {
        self.location.as_ref().map_or((usize::MAX, 0), |place| (place.line, place.column))
    }
}

impl ConfigError {
    /// The problems in the order of the file, each once.
    pub(crate) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(Problem::position);
        problems.dedup();
        Self { problems }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().take(MAX_SHOWN).enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        match self.problems.len() {
            0 | 1 => Ok(()),
            many if many > MAX_SHOWN => write!(f, "\n\n{many} problems, of which the first {MAX_SHOWN} are shown"),
            many => write!(f, "\n\n{many} problems"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&clean(&self.message))?;
        } else {
            let path: String = clean(&self.path).chars().take(SHOWN_CHARS).collect();
            write!(f, "{path}: {}", clean(&self.message))?;
        }
        let gutter = self.location.as_ref().map_or(0, |place| place.line.to_string().len());
        if let Some(place) = &self.location {
            write!(f, "\n{place}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n{:gutter$} = {}", "", hint.replace('\n', &format!("\n{:gutter$}   ", ""))),
            None => Ok(()),
        }
    }
}

/// The most problems that are printed.
const MAX_SHOWN: usize = 100;

/// The longest part of a source line or path that is shown, in characters.
const SHOWN_CHARS: usize = 160;

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = number.len();
        write!(f, "{:gutter$}--> {}:{}:{}", "", self.file.display(), self.line, self.column)?;
        let shown: String = self.source_line.chars().take(SHOWN_CHARS).map(visible).collect();
        if shown.trim().is_empty() {
            return Ok(());
        }
        write!(f, "\n{:gutter$} |\n{number} | {shown}", "")?;
        if self.column <= SHOWN_CHARS {
            write!(f, "\n{:gutter$} | {:indent$}^", "", "", indent = self.column.saturating_sub(1))?;
        }
        Ok(())
    }
}

fn clean(text: &str) -> String {
    text.chars().map(visible).collect()
}

/// Control characters would let a file write to the user's terminal.
fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}
