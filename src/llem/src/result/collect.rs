//! Takes an agent's files from the results volume. The container wrote them: nothing in them is trusted.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use fs_err::File;
use fs_err::os::unix::fs::OpenOptionsExt;
use llem_protocol::{
    Failure, FailureClass, Job, MAX_LINE_BYTES, Phase, PowerSample, REPORT_SCHEMA_VERSION, Report, RequestRecord, files,
};
use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// Largest report that is read, in bytes.
const REPORT_BYTES: u64 = 64 * 1024 * 1024;
/// Largest table that is read, in bytes.
const TABLE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Largest driver log that is kept, in bytes.
const LOG_BYTES: u64 = 64 * 1024 * 1024;

/// What an agent left.
#[derive(Debug, Default)]
pub struct Collected {
    /// The report.
    pub report: Option<Report>,
    /// Records of the window.
    pub requests: Vec<RequestRecord>,
    /// Power samples of the whole run.
    pub samples: Vec<PowerSample>,
    /// What the driver and its engine wrote.
    pub driver_log: Vec<u8>,
}

/// Reads the files of a run. With `expected_sha256`, the agent said that the run is whole: then anything missing or different is a
/// failure. Without, whatever is there and readable is taken.
pub fn collect(volume: &Path, job: &Job, expected_sha256: Option<&str>) -> Result<Collected, Failure> {
    let mut collected = Collected { driver_log: driver_log(volume), ..Collected::default() };
    let strict = expected_sha256.is_some();
    match report(volume, job, expected_sha256) {
        Ok(report) => collected.report = Some(report),
        Err(problem) if strict => return Err(failure(files::REPORT, &problem)),
        Err(_) => return Ok(collected),
    }
    let (requests, samples) = collected.report.as_ref().map_or((0, 0), |r| (r.request_records, r.power_samples));
    match (table(volume, files::REQUESTS, requests), table(volume, files::SAMPLES, samples)) {
        (Ok(requests), Ok(samples)) => (collected.requests, collected.samples) = (requests, samples),
        (Err(problem), _) if strict => return Err(failure(files::REQUESTS, &problem)),
        (_, Err(problem)) if strict => return Err(failure(files::SAMPLES, &problem)),
        _ => {}
    }
    Ok(collected)
}

/// A file that a run left beside its volume; `None` when it is not there, is no regular file, or is larger than `limit` bytes.
pub(crate) fn read_left(directory: &Path, name: &str, limit: u64) -> Option<Vec<u8>> {
    bytes(directory, name, limit).ok()
}

/// What the driver and its engine wrote; empty when it cannot be read.
pub(super) fn driver_log(volume: &Path) -> Vec<u8> {
    bytes(volume, files::DRIVER_LOG, LOG_BYTES).unwrap_or_default()
}

fn report(volume: &Path, job: &Job, expected_sha256: Option<&str>) -> Result<Report, String> {
    let text = bytes(volume, files::REPORT, REPORT_BYTES)?;
    if let Some(expected) = expected_sha256 {
        let found = hex::encode(Sha256::digest(&text));
        if found != expected {
            return Err(format!("its SHA-256 is {found}, the agent announced {expected}"));
        }
    }
    let report: Report = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if report.schema_version != REPORT_SCHEMA_VERSION {
        return Err(format!("schema version {}, expected {REPORT_SCHEMA_VERSION}", report.schema_version));
    }
    if report.run_id != job.run_id {
        return Err(format!("it is about run `{}`, expected `{}`", report.run_id, job.run_id));
    }
    Ok(report)
}

/// Reads a file of JSON lines that must have as many lines as the report says.
fn table<T: DeserializeOwned>(volume: &Path, name: &str, expected: u64) -> Result<Vec<T>, String> {
    let mut reader = BufReader::new(open(volume, name)?.take(TABLE_BYTES));
    let mut rows = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read =
            reader.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).map_err(|e| e.to_string())?;
        if read == 0 {
            break;
        }
        let number = rows.len() + 1;
        rows.push(serde_json::from_slice(&line).map_err(|e| format!("line {number}: {e}"))?);
    }
    if rows.len() as u64 == expected {
        Ok(rows)
    } else {
        Err(format!("{} lines, the report says {expected}", rows.len()))
    }
}

fn bytes(volume: &Path, name: &str, limit: u64) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let read = open(volume, name)?.take(limit + 1).read_to_end(&mut content).map_err(|e| e.to_string())? as u64;
    if read > limit { Err(format!("larger than {limit} bytes")) } else { Ok(content) }
}

/// Opens a regular file of the volume. Links, devices and pipes that a container might have put there are refused.
fn open(volume: &Path, name: &str) -> Result<File, String> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = fs_err::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(volume.join(name))
        .map_err(|e| e.to_string())?;
    let kind = file.metadata().map_err(|e| e.to_string())?;
    if kind.is_file() { Ok(file) } else { Err("not a regular file".to_owned()) }
}

fn failure(name: &str, problem: &str) -> Failure {
    let message = format!("`{name}` on the results volume: {problem}");
    Failure { class: FailureClass::Protocol, phase: Phase::Write, message, log_tail: Vec::new() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use llem_protocol::{FailureClass, Job, PowerSample, REPORT_SCHEMA_VERSION, files};
    use serde_json::json;
    use sha2::{Digest, Sha256};

    use super::{bytes, collect, open, table};
    use crate::testing::job;

    #[test]
    fn links_pipes_and_directories_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs_err::write(&secret, "s").unwrap();
        symlink(&secret, dir.path().join("link")).unwrap();
        fs_err::create_dir(dir.path().join("dir")).unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for name in ["link", "dir", "pipe", "absent"] {
            assert!(open(dir.path(), name).is_err(), "{name}");
        }
        assert!(open(dir.path(), "secret").is_ok());
    }

    #[test]
    fn sizes_are_bounded_and_lines_counted() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("f"), "0123456789").unwrap();
        assert_eq!(bytes(dir.path(), "f", 10).unwrap().len(), 10);
        assert!(bytes(dir.path(), "f", 9).unwrap_err().contains("larger than 9 bytes"));
        fs_err::write(dir.path().join("t"), "").unwrap();
        assert_eq!(table::<PowerSample>(dir.path(), "t", 0).unwrap().len(), 0);
        assert!(table::<PowerSample>(dir.path(), "t", 1).unwrap_err().contains("0 lines, the report says 1"));
        fs_err::write(dir.path().join("t"), "{\"t_ns\": NaN}\n").unwrap();
        assert!(table::<PowerSample>(dir.path(), "t", 1).unwrap_err().starts_with("line 1: "));
    }

    /// A job and a volume with the report of a run that failed early.
    fn volume(run_id: &str) -> (tempfile::TempDir, Job, String) {
        let dir = tempfile::tempdir().unwrap();
        let clock = json!({"monotonic_ns": 1, "realtime_ns": 2});
        let report = json!({
            "schema_version": REPORT_SCHEMA_VERSION, "run_id": run_id, "agent_version": "0", "clock_start": clock, "clock_end": clock,
            "environment": {"gpus": []}, "phases": [], "reasons": [], "request_records": 0, "power_samples": 0
        });
        let text = serde_json::to_vec(&report).unwrap();
        fs_err::write(dir.path().join(files::REPORT), &text).unwrap();
        for name in [files::REQUESTS, files::SAMPLES] {
            fs_err::write(dir.path().join(name), "").unwrap();
        }
        let sha256 = hex::encode(Sha256::digest(&text));
        (dir, job(), sha256)
    }

    #[test]
    fn a_run_that_claims_to_be_whole_must_be() {
        let (dir, job, sha256) = volume("001-a-c1");
        assert!(collect(dir.path(), &job, Some(&sha256)).unwrap().report.is_some());
        let refused = |sha256: &str| collect(dir.path(), &job, Some(sha256)).unwrap_err();
        assert_eq!(refused("00").class, FailureClass::Protocol);
        assert!(refused("00").message.contains("the agent announced 00"), "{}", refused("00").message);
        fs_err::remove_file(dir.path().join(files::SAMPLES)).unwrap();
        assert!(refused(&sha256).message.contains("samples.jsonl"));
        // Without a claim, what is there is taken.
        assert!(collect(dir.path(), &job, None).unwrap().report.is_some());
    }

    #[test]
    fn the_report_of_another_run_is_not_taken() {
        let (dir, job, sha256) = volume("002-b-c1");
        let failure = collect(dir.path(), &job, Some(&sha256)).unwrap_err();
        assert!(failure.message.contains("`002-b-c1`, expected `001-a-c1`"), "{}", failure.message);
        assert!(collect(dir.path(), &job, None).unwrap().report.is_none());
    }
}
