//! Files of Hugging Face repositories: from the local cache, or downloaded with the user's token.
//!
//! ```text
//! $HF_HUB_CACHE/ (default $HF_HOME/hub)      read only: what other tools have downloaded
//! └── models--ORG--NAME/ or datasets--ORG--NAME/
//!     ├── refs/main                          the commit that a branch or tag stands for
//!     ├── .no_exist/COMMIT/FILE              empty: the commit has no such file
//!     └── snapshots/COMMIT/FILE
//! CACHE/hub-v1/                              the same layout: what llem has downloaded itself
//! ```

mod cache;
mod download;
mod error;
mod file;
mod settings;
mod token;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::HubError;
pub use file::{HubFile, RepoKind};
pub use settings::{HubSettings, HubTimeouts};
pub use token::Token;

/// The folder of llem's cache that holds what llem has downloaded.
const CACHE_BUCKET: &str = "hub-v1";

/// The largest model description (`config.json`, `tokenizer.json`) that is downloaded, in bytes.
const MAX_MODEL_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// How long one weight file may take in all: 50 GB over a line of 5 Mbit/s.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// A file on this machine and the commit that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Where it is.
    pub path: PathBuf,
    /// The commit of its repository, 40 hexadecimal digits.
    pub commit: String,
}

/// A Hugging Face hub as this user reaches it.
#[derive(Clone, Debug)]
pub struct Hub {
    settings: HubSettings,
}

impl Hub {
    /// A hub with the given settings.
    pub fn new(settings: HubSettings) -> Self {
        Self { settings }
    }

    /// The hub as the environment describes it; see [`HubSettings::from_env`].
    pub fn from_env() -> Result<Self, HubError> {
        HubSettings::from_env().map(Self::new)
    }

    /// The settings in effect.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// The access token, if the user has one.
    pub fn token(&self) -> Option<&Token> {
        self.settings.token.as_ref()
    }

    /// Where a file is downloaded from.
    pub fn url(&self, file: &HubFile<'_>) -> String {
        file.url(&self.settings.endpoint)
    }

    /// Looks for a file in the user's Hugging Face cache. No network.
    pub fn cached(&self, file: &HubFile<'_>) -> Option<LocalFile> {
        cache::find(&self.settings.cache_dir, file)
    }

    /// Downloads a file to `dest`, at most `max_bytes` long, and returns the commit that the hub names, if it does.
    /// `dest` appears whole or not at all.
    pub fn fetch(&self, file: &HubFile<'_>, dest: &Path, max_bytes: u64) -> Result<Option<String>, HubError> {
        file.check()?;
        if self.settings.offline {
            return Err(HubError::offline(self, file, "HF_HUB_OFFLINE is set".into()));
        }
        download::download(self, file, dest, max_bytes)
    }

    /// A description file of a model (`config.json`, `tokenizer.json`): from the user's Hugging Face cache, from llem's
    /// own, or downloaded into the latter. A branch or tag is resolved once and then stays what it was; a commit is
    /// always what it says.
    pub fn model_file(
        &self,
        repo: &str,
        revision: Option<&str>,
        file: &str,
        cache_root: &Path,
    ) -> Result<LocalFile, HubError> {
        let file = HubFile { kind: RepoKind::Model, repo, revision: revision.unwrap_or("main"), file };
        file.check()?;
        match self.cached(&file) {
            Some(found) => Ok(found),
            None => self.own_file(&file, cache_root, MAX_MODEL_FILE_BYTES),
        }
    }

    /// As [`Self::own_file`] for a file that a commit may lack. That it does is asked once.
    pub(crate) fn own_file_if_any(
        &self,
        file: &HubFile<'_>,
        cache_root: &Path,
        max_bytes: u64,
    ) -> Result<Option<LocalFile>, HubError> {
        let own_cache = cache_root.join(CACHE_BUCKET);
        if cache::is_absent(&own_cache, file) {
            return Ok(None);
        }
        match self.own_file(file, cache_root, max_bytes) {
            Ok(found) => Ok(Some(found)),
            Err(HubError::Missing { .. }) => cache::note_absence(&own_cache, file).map(|()| None),
            Err(error) => Err(error),
        }
    }

    /// The same hub for files that take long on a slow line: only silence ends a download.
    pub(crate) fn patient(&self) -> Self {
        let mut hub = self.clone();
        hub.settings.timeouts.total = hub.settings.timeouts.total.max(PATIENCE);
        hub
    }

    /// Looks for a file in llem's own cache. No network.
    pub(crate) fn own_cached(file: &HubFile<'_>, cache_root: &Path) -> Option<LocalFile> {
        cache::find(&cache_root.join(CACHE_BUCKET), file)
    }

    /// A file in llem's own cache, downloaded when it is not there, at most `max_bytes` long.
    pub fn own_file(&self, file: &HubFile<'_>, cache_root: &Path, max_bytes: u64) -> Result<LocalFile, HubError> {
        file.check()?;
        let own_cache = cache_root.join(CACHE_BUCKET);
        match cache::find(&own_cache, file) {
            Some(found) => Ok(found),
            None => cache::store(&own_cache, file, |dest| self.fetch(file, dest, max_bytes)),
        }
    }
}
