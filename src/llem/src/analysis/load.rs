//! The one way by which results come back from disk. Whoever made the files may have edited, cut off or invented them: sizes are bounded,
//! nothing outside of the directory is read, and numbers that contradict each other are an error, never a statement.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use fs_err::File;
use thiserror::Error;

use crate::printable::printable;
use crate::result::{DomainEnergy, EnergyFigures, Figure, Metrics, RecordError, RunResult, RunRow, StudyResult};

/// Largest `study.json` that is read, in bytes.
const STUDY_BYTES: u64 = 512 * 1024 * 1024;
/// Largest `result.json` that is read, in bytes.
const RESULT_BYTES: u64 = 64 * 1024 * 1024;
/// Largest `study.yaml` that is read, in bytes.
const SOURCE_BYTES: u64 = 16 * 1024 * 1024;
/// Largest Parquet file that is opened, in bytes.
const TABLE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// How far two numbers that say the same may be apart, relative.
const SAME: f64 = 1e-6;

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
        let path = self.root.join("study.yaml");
        if !path.exists() {
            return Ok(None);
        }
        let text = read(&self.root, &path, SOURCE_BYTES)?;
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
    check_study(&study).map_err(|problem| LoadError::Contradiction { path: path.to_owned(), problem })?;
    Ok(study)
}

fn parse_run(path: &Path, text: &[u8]) -> Result<RunResult, LoadError> {
    let run = RunResult::from_json(text).map_err(|source| LoadError::Record { path: path.to_owned(), source })?;
    if run.valid && !RunResult::judge(run.status, &run.reasons) {
        return Err(LoadError::Contradiction { path: path.to_owned(), problem: JUDGED.to_owned() });
    }
    if let Some(problem) = run.metrics.as_ref().and_then(contradiction) {
        return Err(LoadError::Contradiction { path: path.to_owned(), problem });
    }
    Ok(run)
}

const JUDGED: &str = "calls a run valid that failed, or that has a reason against it";

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
    if root.join("result.json").exists() {
        return "is the directory of one run; give its study's directory, two levels up".to_owned();
    }
    if root.join("journal.jsonl").exists() {
        return "has no study.json: the study did not end in order, or is still running".to_owned();
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

/// The first contradiction in a study.
fn check_study(study: &StudyResult) -> Result<(), String> {
    let mut experiments = BTreeSet::new();
    let mut runs = BTreeSet::new();
    for experiment in &study.experiments {
        if !experiments.insert(&experiment.experiment_id) {
            return Err(format!("the experiment `{}` is there twice", shown(&experiment.experiment_id)));
        }
        for row in &experiment.runs {
            check_row(row).map_err(|problem| format!("the run `{}` {problem}", shown(&row.run_id)))?;
            if !runs.insert(&row.run_id) {
                return Err(format!("the run `{}` is there twice", shown(&row.run_id)));
            }
        }
    }
    Ok(())
}

fn check_row(row: &RunRow) -> Result<(), String> {
    let mut parts = Path::new(&row.run_id).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) || row.run_id.contains(['/', '\0']) {
        return Err("has a name that is no name of a directory".to_owned());
    }
    if row.valid && !RunResult::judge(row.status, &row.reasons) {
        return Err("is called valid, though it failed or has a reason against it".to_owned());
    }
    row.metrics.as_ref().and_then(contradiction).map_or(Ok(()), Err)
}

/// What of a run's figures cannot be true.
fn contradiction(metrics: &Metrics) -> Option<String> {
    let impossible = |figure: &Figure| {
        let value = figure.of(metrics)?;
        (!value.is_finite() || (value < 0.0 && !figure.may_be_negative())).then(|| format!("has {value} as {figure}"))
    };
    if metrics.window_s.is_nan() || metrics.window_s <= 0.0 {
        return Some(format!("has a window of {} s", metrics.window_s));
    }
    let tokens = metrics.output_tokens as f64;
    let per_token = |energy: Option<f64>| energy.filter(|_| tokens > 0.0).map(|energy| energy / tokens);
    let energy = &metrics.energy;
    let said_twice = [
        (Figure::OutputTokensPerS, Some(tokens / metrics.window_s)),
        (Figure::EnergyPerOutputTokenJ, per_token(energy.energy_j)),
        (Figure::EnergyNetPerOutputTokenJ, per_token(energy.energy_net_j)),
    ];
    let differs = |(figure, computed): &(Figure, Option<f64>)| {
        let (said, computed) = (figure.of(metrics)?, (*computed)?);
        let apart = (said - computed).abs() > SAME * said.abs().max(computed.abs());
        apart.then(|| format!("says {said} as {figure}, and {computed} by its tokens"))
    };
    let figures = Figure::ALL.iter().find_map(impossible).or_else(|| said_twice.iter().find_map(differs));
    figures.or_else(|| energy_contradiction(energy, metrics.window_s))
}

/// What of the energies contradicts the sensors that they are sums of, what was taken off, or what their uncertainties are made of.
fn energy_contradiction(energy: &EnergyFigures, window_s: f64) -> Option<String> {
    let counted: Vec<&DomainEnergy> = energy.domains.iter().filter(|domain| domain.counted).collect();
    let sum = |figure: fn(&DomainEnergy) -> Option<f64>| {
        counted.iter().map(|domain| figure(domain)).sum::<Option<f64>>().filter(|_| !counted.is_empty())
    };
    let net_j = energy.energy_j.zip(energy.baseline_power_w).map(|(energy_j, idle_w)| energy_j - idle_w * window_s);
    let scale = energy.energy_j.unwrap_or_default().abs();
    let pairs = [
        ("energy_j", energy.energy_j, sum(|domain| domain.energy_j), "by its sensors"),
        ("energy_raw_j", energy.energy_raw_j, sum(|domain| domain.energy_raw_j), "by its sensors"),
        ("energy_net_j", energy.energy_net_j, net_j, "by what idling takes"),
    ];
    let differs = |(name, said, computed, by): (&str, Option<f64>, Option<f64>, &str)| {
        let (said, computed) = (said?, computed?);
        let apart = (said - computed).abs() > SAME * said.abs().max(computed.abs()).max(scale);
        apart.then(|| format!("says {said} as {name}, and {computed} {by}"))
    };
    let domains = energy.domains.iter().filter_map(|domain| domain.uncertainty.as_ref());
    let mut budgets = [&energy.uncertainty, &energy.net_uncertainty].into_iter().flatten().chain(domains);
    let odd = budgets.any(|budget| !budget.adds_up(SAME));
    let odd = || odd.then(|| "has an uncertainty that is not what its components make together".to_owned());
    pairs.into_iter().find_map(differs).or_else(odd)
}

/// A name of a file's making, fit for a terminal, its first characters.
fn shown(name: &str) -> String {
    let short: String = printable(name).chars().take(80).collect();
    if short.len() < name.len() { format!("{short}…") } else { short }
}

#[cfg(test)]
mod tests;
