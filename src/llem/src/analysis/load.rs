//! The one way by which results come back from disk. Whoever made the files may have edited, cut off or invented them: sizes are bounded,
//! nothing outside of the directory is read, and numbers that contradict each other are an error, never a statement.

mod check;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use fs_err::File;
use thiserror::Error;

use crate::printable::printable;
use crate::result::{RecordError, RunResult, RunRow, StudyResult};

/// Largest `study.json` that is read, in bytes.
const STUDY_BYTES: u64 = 512 * 1024 * 1024;
/// Largest `result.json` that is read, in bytes.
const RESULT_BYTES: u64 = 64 * 1024 * 1024;
/// Largest `study.yaml` and `study.lock.json` that are read, in bytes.
const TEXT_BYTES: u64 = 16 * 1024 * 1024;
/// Largest Parquet file that is opened, in bytes.
const TABLE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Results that cannot be read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Nothing there that results could be in.
    #[error("{}: {problem}", .path.display())]
    NoStudy {
        /// What was asked for.
        path: PathBuf,
        /// What is there instead, and what to do.
        problem: String,
    },
    /// A file operation failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's account.
        source: std::io::Error,
    },
    /// A link leads out of the study's directory.
    #[error("{}: leads out of the study's directory, to {}; llem reads results from their own directory only", .path.display(), .target.display())]
    Outside {
        /// The file.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// Not a file, or one that no llem writes.
    #[error("{}: {problem}", .path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Not a record.
    #[error("{}: {source}", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RecordError,
    },
    /// Numbers that cannot all be true.
    #[error("{}: {problem}; the file was edited or damaged: restore it, or run the study again", .path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// What contradicts what.
        problem: String,
    },
}

/// A study's directory, with its `study.json` read and checked.
#[derive(Debug)]
pub struct StudyFiles {
    root: PathBuf,
    study: StudyResult,
}

impl StudyFiles {
    /// Opens a study's directory, or its `study.json`. `study.json` of any schema version up to this one is read.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let given = path.file_name().is_some_and(|name| name == "study.json").then(|| path.parent()).flatten();
        let directory =
            given.map_or(path, |parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        let root = fs_err::canonicalize(directory).map_err(|source| missing(directory, source))?;
        let file = root.join("study.json");
        if !file.is_file() {
            return Err(LoadError::NoStudy { path: path.to_owned(), problem: what_is_there(&root) });
        }
        let study = parse_study(&file, &read(&root, &file, STUDY_BYTES)?)?;
        Ok(Self { root, study })
    }

    /// The directory, without links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `study.json`.
    pub fn study(&self) -> &StudyResult {
        &self.study
    }

    /// `result.json` of a run of this study, held against its row in `study.json`; nothing where the file is not there.
    pub fn run(&self, row: &RunRow) -> Result<Option<RunResult>, LoadError> {
        let path = self.run_directory(row).join("result.json");
        if !path.exists() {
            return Ok(None);
        }
        let result = parse_run(&path, &read(&self.root, &path, RESULT_BYTES)?)?;
        let same = (&result.run_id, result.cycle, result.status, result.valid, &result.metrics)
            == (&row.run_id, row.cycle, row.status, row.valid, &row.metrics);
        if !same {
            let problem = "says something else than study.json about the same run".to_owned();
            return Err(LoadError::Contradiction { path, problem });
        }
        Ok(Some(result))
    }

    /// `study.yaml`, as it was run; nothing where it is not there.
    pub fn source(&self) -> Result<Option<String>, LoadError> {
        self.text("study.yaml")
    }

    /// `study.lock.json`: what it was run with; nothing where it is not there.
    pub fn lock(&self) -> Result<Option<String>, LoadError> {
        self.text("study.lock.json")
    }

    fn text(&self, name: &str) -> Result<Option<String>, LoadError> {
        let path = self.root.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let text = read(&self.root, &path, TEXT_BYTES)?;
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }

    /// A Parquet file of a run, open; nothing where it is not there.
    pub fn table(&self, row: &RunRow, name: &str) -> Result<Option<(PathBuf, std::fs::File)>, LoadError> {
        let path = self.run_directory(row).join(name);
        if !path.exists() {
            return Ok(None);
        }
        let file = open(&self.root, &path, TABLE_BYTES)?;
        Ok(Some((path, file.into_parts().0)))
    }

    /// The directory of a run.
    pub fn run_directory(&self, row: &RunRow) -> PathBuf {
        self.root.join("runs").join(&row.run_id)
    }
}

/// Reads one run's `result.json`, given itself or by its directory, of any schema version up to this one.
pub fn read_run(path: &Path) -> Result<RunResult, LoadError> {
    let directory = path.is_dir();
    let file = if directory { path.join("result.json") } else { path.to_owned() };
    let file = fs_err::canonicalize(&file).map_err(|source| missing(&file, source))?;
    let root = file.parent().unwrap_or_else(|| Path::new("/")).to_owned();
    parse_run(&file, &read(&root, &file, RESULT_BYTES)?)
}

/// Reads a `study.json` of any name and of any schema version up to this one: a copy is enough, without the directories of its runs.
pub fn read_study(path: &Path) -> Result<StudyResult, LoadError> {
    let file = fs_err::canonicalize(path).map_err(|source| missing(path, source))?;
    let root = file.parent().unwrap_or_else(|| Path::new("/")).to_owned();
    parse_study(path, &read(&root, &file, STUDY_BYTES)?)
}

fn parse_study(path: &Path, text: &[u8]) -> Result<StudyResult, LoadError> {
    let study = StudyResult::from_json(text).map_err(|source| LoadError::Record { path: path.to_owned(), source })?;
    check::study(&study).map_err(|problem| LoadError::Contradiction { path: path.to_owned(), problem })?;
    Ok(study)
}

fn parse_run(path: &Path, text: &[u8]) -> Result<RunResult, LoadError> {
    let run = RunResult::from_json(text).map_err(|source| LoadError::Record { path: path.to_owned(), source })?;
    check::run(&run).map_err(|problem| LoadError::Contradiction { path: path.to_owned(), problem })?;
    Ok(run)
}

fn missing(path: &Path, source: std::io::Error) -> LoadError {
    match source.kind() {
        std::io::ErrorKind::NotFound => LoadError::NoStudy {
            path: path.to_owned(),
            problem: "is not there; give a directory that `llem run` made, e.g. results/NAME_TIME".to_owned(),
        },
        _ => LoadError::Io { path: path.to_owned(), source },
    }
}

/// What a directory without `study.json` is, and what to do.
fn what_is_there(root: &Path) -> String {
    if root.is_file() {
        return "is a file; give the directory that `llem run` made, e.g. results/NAME_TIME".to_owned();
    }
    if root.join("result.json").exists() {
        return "is the directory of one run; give its study's directory, two levels up".to_owned();
    }
    if root.join("journal.jsonl").exists() {
        return "has no study.json: the study is still running, or did not end in order; `llem run --resume DIR` goes on with it"
            .to_owned();
    }
    let entries = fs_err::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let studies: BTreeSet<PathBuf> = entries.filter(|path| path.join("study.json").is_file()).collect();
    match studies.last() {
        Some(last) => format!(
            "has no study.json; give {} in it, e.g. {}",
            if studies.len() == 1 { "the study".to_owned() } else { format!("one of the {} studies", studies.len()) },
            printable(&last.display().to_string())
        ),
        None => "has no study.json; give a directory that `llem run` made, e.g. results/NAME_TIME".to_owned(),
    }
}

/// Opens a regular file that is, links followed, inside `root`.
fn open(root: &Path, path: &Path, limit: u64) -> Result<File, LoadError> {
    let io = |source| LoadError::Io { path: path.to_owned(), source };
    let target = std::fs::canonicalize(path).map_err(io)?;
    if !target.starts_with(root) {
        return Err(LoadError::Outside { path: path.to_owned(), target });
    }
    let refused = |problem: String| LoadError::NotAFile { path: path.to_owned(), problem };
    if !std::fs::metadata(&target).map_err(io)?.is_file() {
        return Err(refused("is not a regular file".to_owned()));
    }
    let file = File::open(&target).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > limit {
        return Err(refused(format!("has {bytes} bytes; llem reads at most {limit} of such a file")));
    }
    Ok(file)
}

fn read(root: &Path, path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    let mut content = Vec::new();
    let file = open(root, path, limit)?;
    file.take(limit).read_to_end(&mut content).map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
    Ok(content)
}

#[cfg(test)]
mod tests;
