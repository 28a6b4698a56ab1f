use std::io;
use std::path::{Path, PathBuf};

use llem_protocol::{MAX_LINE_BYTES, WorkloadLine};
use sha2::{Digest, Sha256};

use super::dataset::write_atomically;
use super::{DatasetProvenance, Workload, WorkloadError};

/// The folder of llem's cache for workloads.
const CACHE_BUCKET: &str = "workloads-v1";

/// The folder of workload files.
pub(super) fn folder(cache_root: &Path) -> PathBuf {
    cache_root.join(CACHE_BUCKET)
}

/// Keeps the requests in the file that their content names. A file that is there and whole is left alone: others may be
/// reading it, and writers of the same content cannot disturb each other.
pub(super) fn keep(
    cache_root: &Path,
    lines: &[WorkloadLine],
    dataset: DatasetProvenance,
) -> Result<Workload, WorkloadError> {
    let bytes = encode(lines)?;
    let sha256 = hex::encode(Sha256::digest(&bytes));
    let path = folder(cache_root).join(format!("{sha256}.jsonl"));
    if !has_content(&path, &bytes)? {
        write_atomically(&path, &bytes)?;
    }
    Ok(describe(path, sha256, lines, dataset))
}

/// The workload of that hash, if its file is there and whole.
pub(super) fn find(cache_root: &Path, sha256: &str, dataset: DatasetProvenance) -> Option<Workload> {
    let path = folder(cache_root).join(format!("{sha256}.jsonl"));
    let bytes = fs_err::read(&path).ok()?;
    if hex::encode(Sha256::digest(&bytes)) != sha256 {
        return None;
    }
    let lines = serde_json::Deserializer::from_slice(&bytes).into_iter().collect::<Result<Vec<_>, _>>().ok()?;
    Some(describe(path, sha256.to_owned(), &lines, dataset))
}

/// Prompt and output tokens of each request of a workload file.
pub(super) fn lengths(path: &Path) -> io::Result<Vec<(u32, u32)>> {
    let bytes = fs_err::read(path)?;
    let lines = serde_json::Deserializer::from_slice(&bytes).into_iter::<WorkloadLine>();
    Ok(lines
        .map(|line| line.map(|line| (line.prompt_ids.len() as u32, line.output_tokens)))
        .collect::<Result<_, _>>()?)
}

fn describe(path: PathBuf, sha256: String, lines: &[WorkloadLine], dataset: DatasetProvenance) -> Workload {
    let total = |line: &WorkloadLine| line.prompt_ids.len() as u64 + u64::from(line.output_tokens);
    Workload {
        path,
        sha256,
        requests: lines.len() as u64,
        prompt_tokens: lines.iter().map(|line| line.prompt_ids.len() as u64).sum(),
        output_tokens: lines.iter().map(|line| u64::from(line.output_tokens)).sum(),
        max_total_tokens: lines.iter().map(total).max().unwrap_or(0),
        dataset,
    }
}

fn encode(lines: &[WorkloadLine]) -> Result<Vec<u8>, WorkloadError> {
    let mut bytes = Vec::new();
    for line in lines {
        let start = bytes.len();
        serde_json::to_writer(&mut bytes, line).map_err(io::Error::from)?;
        bytes.push(b'\n');
        if bytes.len() - start > MAX_LINE_BYTES {
            return Err(WorkloadError::RequestTooLong { index: line.index, tokens: line.prompt_ids.len() });
        }
    }
    Ok(bytes)
}

fn has_content(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    match fs_err::metadata(path) {
        Ok(metadata) if metadata.len() == bytes.len() as u64 => Ok(fs_err::read(path)? == bytes),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
