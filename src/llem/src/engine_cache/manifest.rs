//! What an entry says of itself.

use std::collections::HashSet;
use std::io::{ErrorKind, Read};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::content::{FileRecord, Finding, MAX_BYTES as MAX_ENTRY_BYTES, is_inside, open_file};
use super::key::{CacheKind, Key, Summary, key_of};
use super::lock::host_name;
use super::random_digits;
use crate::config::canonical_sha256;
use crate::printable::printable;

/// Name of the file beside `content/`.
pub(super) const MANIFEST: &str = "manifest.json";

/// Changes when programs before it could not read it.
const MANIFEST_SCHEMA_VERSION: u32 = 2;

/// Longest manifest that is read, in bytes.
const MAX_BYTES: u64 = 1 << 26;

/// `manifest.json` of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// SHA-256 of all other fields as canonical JSON: what a build took goes into results, and nothing else vouches for it.
    pub manifest_sha256: String,
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
        let manifest = Self {
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
            host: printable(&host_name()),
            driver: facts.driver.map(|driver| printable(&driver)),
            manifest_sha256: String::new(),
        };
        Self { manifest_sha256: manifest.own_sha256().unwrap_or_default(), ..manifest }
    }

    /// What `manifest_sha256` must be.
    fn own_sha256(&self) -> Option<String> {
        let mut fields = serde_json::to_value(self).ok()?;
        fields.as_object_mut()?.remove("manifest_sha256");
        canonical_sha256(fields).ok()
    }

    /// Reads the manifest of the entry `key` in `entry`. One that does not belong to the key's inputs is damaged: nothing it says counts.
    pub(super) fn read(entry: &Path, kind: CacheKind, key: &str) -> Result<Self, Finding> {
        // A link in place of the entry would lead anywhere.
        let found = fs_err::symlink_metadata(entry).map_err(|error| finding(&error))?;
        if !found.is_dir() {
            return Err(Finding::Damaged("the entry is not a directory".to_owned()));
        }
        let text = read_bounded(&entry.join(MANIFEST)).map_err(|error| finding(&error))?;
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|error| Finding::Damaged(format!("{MANIFEST} cannot be read: {error}")))?;
        if let Some(problem) = manifest.problem(kind, key) {
            return Err(Finding::Damaged(format!("{MANIFEST} {problem}")));
        }
        Ok(manifest)
    }

    /// What is shown of it.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let summary = [&self.summary.model, &self.summary.engine, &self.summary.device];
        let own = [&self.build_id, &self.created, &self.llem_version, &self.host];
        summary.into_iter().chain(own).chain(&self.driver).map(String::as_str)
    }

    fn problem(&self, kind: CacheKind, key: &str) -> Option<&'static str> {
        let own = key_of(&self.inputs).ok();
        let sizes = self.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size_bytes));
        let names: HashSet<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        if self.schema_version != MANIFEST_SCHEMA_VERSION {
            Some("has another schema version")
        } else if own.as_deref() != Some(key) || self.key != key || self.kind != kind {
            Some("is of another entry")
        } else if self.files.is_empty() || !self.files.iter().all(|file| is_inside(&file.path)) {
            Some("lists no files or such outside the entry")
        } else if names.len() != self.files.len() {
            Some("lists a file twice")
        } else if sizes != Some(self.size_bytes) || self.size_bytes > MAX_ENTRY_BYTES {
            Some("has a size that is not that of its files")
        } else if self.own_sha256().as_deref() != Some(self.manifest_sha256.as_str()) {
            Some("is not what was published")
        } else if self.texts().any(|text| text.chars().any(char::is_control)) {
            Some("has text that no terminal should show")
        } else {
            None
        }
    }
}

/// A manifest that is not there, or is no plain file, is damaged; one that this user or this moment cannot read is not.
fn finding(error: &std::io::Error) -> Finding {
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::FileTooLarge
        | ErrorKind::InvalidInput => Finding::Damaged(error.to_string()),
        _ => Finding::Unreadable(error.to_string()),
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    open_file(path)?.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        let problem = format!("{}: longer than {MAX_BYTES} bytes", path.display());
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}
