//! What an entry says of itself.

use std::io::{ErrorKind, Read};
use std::path::Path;

use fs_err::File;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::content::{FileRecord, Finding, is_inside};
use super::key::{CacheKind, Key, Summary, key_of};
use super::lock::host_name;
use super::random_digits;

/// Name of the file beside `content/`.
pub(super) const MANIFEST: &str = "manifest.json";

/// Changes when programs before it could not read it.
const MANIFEST_SCHEMA_VERSION: u32 = 1;

/// Longest manifest that is read, in bytes.
const MAX_BYTES: u64 = 1 << 26;

/// `manifest.json` of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this record's form.
    pub schema_version: u32,
    /// What is cached.
    pub kind: CacheKind,
    /// The entry's name: the hash of `inputs`.
    pub key: String,
    /// Tells one build of a key from another.
    pub build_id: String,
    /// Everything that decided the content, in the clear.
    pub inputs: Value,
    /// The same in the words of a list.
    pub summary: Summary,
    /// All files of `content/`.
    pub files: Vec<FileRecord>,
    /// Their size together.
    pub size_bytes: u64,
    /// Seconds that the build took; null where nobody measured.
    pub build_seconds: Option<f64>,
    /// Energy that the build took, in joules; null where no sensor could be read.
    pub build_energy_j: Option<f64>,
    /// When it was published, UTC.
    pub created: String,
    /// Version of the llem that published it.
    pub llem_version: String,
    /// The machine that built it.
    pub host: String,
    /// Version of the GPU driver that it was built with; not part of the key.
    pub driver: Option<String>,
}

/// What is known of a build besides its files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BuildFacts {
    /// Seconds that the build took.
    pub seconds: Option<f64>,
    /// Energy that it took, in joules.
    pub energy_j: Option<f64>,
    /// Version of the GPU driver.
    pub driver: Option<String>,
}

impl Manifest {
    pub(super) fn new(key: &Key, files: Vec<FileRecord>, facts: BuildFacts) -> Self {
        Self {
            schema_version: MANIFEST_SCHEMA_VERSION,
            kind: key.kind(),
            key: key.hex().to_owned(),
            build_id: random_digits(),
            inputs: key.inputs().clone(),
            summary: key.summary().clone(),
            size_bytes: files.iter().map(|file| file.size_bytes).sum(),
            files,
            build_seconds: facts.seconds,
            build_energy_j: facts.energy_j,
            created: Timestamp::now().strftime("%FT%TZ").to_string(),
            llem_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: host_name(),
            driver: facts.driver,
        }
    }

    /// Reads the manifest of the entry `key` in `entry`. One that does not belong to the key's inputs is damaged: nothing it says counts.
    pub(super) fn read(entry: &Path, kind: CacheKind, key: &str) -> Result<Self, Finding> {
        let path = entry.join(MANIFEST);
        let text = read_bounded(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::FileTooLarge => {
                Finding::Damaged(error.to_string())
            }
            _ => Finding::Unreadable(error.to_string()),
        })?;
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|error| Finding::Damaged(format!("{MANIFEST} cannot be read: {error}")))?;
        if let Some(problem) = manifest.problem(kind, key) {
            return Err(Finding::Damaged(format!("{MANIFEST} {problem}")));
        }
        Ok(manifest)
    }

    fn problem(&self, kind: CacheKind, key: &str) -> Option<&'static str> {
        let own = key_of(&self.inputs).ok();
        if self.schema_version != MANIFEST_SCHEMA_VERSION {
            Some("has another schema version")
        } else if own.as_deref() != Some(key) || self.key != key || self.kind != kind {
            Some("is of another entry")
        } else if self.files.is_empty() || !self.files.iter().all(|file| is_inside(&file.path)) {
            Some("lists no files or such outside the entry")
        } else {
            None
        }
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        let problem = format!("{}: longer than {MAX_BYTES} bytes", path.display());
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}
