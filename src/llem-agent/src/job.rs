//! Reading the job, and what makes one unusable.

use std::io::Read;
use std::path::{Path, PathBuf};

use llem_protocol::{Job, PROTOCOL_VERSION, files};

/// The longest job file that is read, in bytes. Jobs hold settings, never prompts.
const MAX_JOB_BYTES: u64 = 4 * 1024 * 1024;

/// The longest time that a job may ask for, in seconds: one year. Longer ones are slips of the pen.
const MAX_SECONDS: f64 = 31_536_000.0;

/// Samples per second that make sense.
const SAMPLE_HZ: std::ops::RangeInclusive<f64> = 0.01..=1000.0;

/// The longest nonce file that is read, in bytes.
const MAX_NONCE_BYTES: u64 = 4096;

/// Why a job cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The file could not be read.
    #[error("cannot read the job: {0}")]
    Read(#[from] std::io::Error),
    /// The file is longer than any job.
    #[error("job file {path} is longer than {MAX_JOB_BYTES} bytes; is it the right file?")]
    TooLong {
        /// The job file.
        path: PathBuf,
    },
    /// The file is not a job.
    #[error("job file {path} is not a job of protocol version {PROTOCOL_VERSION}: {source}")]
    Parse {
        /// The job file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Controller and agent are of different versions.
    #[error(
        "job file {path} has protocol version {found}, this agent speaks {PROTOCOL_VERSION}; use the agent that \
             belongs to this llem"
    )]
    Version {
        /// The job file.
        path: PathBuf,
        /// The controller's version.
        found: u64,
    },
    /// A value that cannot be worked with.
    #[error("job file {path}: `{field}` is {value}; {expected}")]
    Value {
        /// The job file.
        path: PathBuf,
        /// Path of the field.
        field: String,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
}

/// Reads and checks a job file.
pub(crate) fn read_job(path: &Path) -> Result<Job, JobError> {
    let bytes = read_bounded(path, MAX_JOB_BYTES)?.ok_or_else(|| JobError::TooLong { path: path.to_owned() })?;
    let parse_error = |source| JobError::Parse { path: path.to_owned(), source };
    check_version(path, &bytes)?;
    let job: Job = serde_json::from_slice(&bytes).map_err(parse_error)?;
    match unusable_value(&job) {
        None => Ok(job),
        Some((field, value, expected)) => Err(JobError::Value { path: path.to_owned(), field, value, expected }),
    }
}

/// Whether the results volume is the controller's: its nonce file holds the job's nonce. The error says what was found.
pub(crate) fn check_nonce(job: &Job) -> Result<(), String> {
    let path = job.output_dir.join(files::NONCE);
    let content = read_bounded(&path, MAX_NONCE_BYTES).map_err(|error| error.to_string())?;
    match content {
        Some(bytes) if bytes.trim_ascii() == job.nonce.as_bytes() => Ok(()),
        _ => Err(format!("{} does not hold the job's nonce; the volume is not the controller's", path.display())),
    }
}

/// The version is read first and alone, because another version's job may have other fields.
fn check_version(path: &Path, bytes: &[u8]) -> Result<(), JobError> {
    let parse_error = |source| JobError::Parse { path: path.to_owned(), source };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(parse_error)?;
    match value.get("protocol_version").and_then(serde_json::Value::as_u64) {
        Some(found) if found != u64::from(PROTOCOL_VERSION) => Err(JobError::Version { path: path.to_owned(), found }),
        _ => Ok(()),
    }
}

/// The first field that no run could honour: its path, its value, and what was expected.
fn unusable_value(job: &Job) -> Option<(String, String, &'static str)> {
    let spec = &job.measurement;
    let seconds = [
        ("measurement.baseline_s", spec.baseline_s),
        ("measurement.thermal_floor_s", spec.thermal_floor_s),
        ("measurement.thermal_gate_timeout_s", spec.thermal_gate_timeout_s),
        ("measurement.prefill_min_s", spec.prefill_min_s),
        ("measurement.window_min_s", spec.window_min_s),
    ];
    for (field, value) in seconds {
        if !(0.0..=MAX_SECONDS).contains(&value) {
            return Some((field.to_owned(), value.to_string(), "expected seconds, 0 or more and at most a year"));
        }
    }
    // Exactly 0 switches sampling off.
    if spec.sample_hz.to_bits() != 0 && !SAMPLE_HZ.contains(&spec.sample_hz) {
        let value = spec.sample_hz.to_string();
        return Some(("measurement.sample_hz".to_owned(), value, "expected 0, or between 0.01 and 1000"));
    }
    for (phase, limit) in &job.timeouts_s {
        if !(*limit > 0.0 && *limit <= MAX_SECONDS) {
            let expected = "expected seconds, more than 0 and at most a year";
            return Some((format!("timeouts_s.{phase}"), limit.to_string(), expected));
        }
    }
    job.driver
        .programs
        .is_empty()
        .then(|| ("driver.programs".to_owned(), "empty".to_owned(), "expected the driver's program"))
}

/// The file's bytes, or `None` when there are more than `limit`.
fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    fs_err::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}
