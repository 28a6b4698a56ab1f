//! An engine in use, and one in the making.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::content::{self, Finding};
use super::error::CacheError;
use super::key::Key;
use super::lock::{Lock, Mode, Tried, lock_soon};
use super::manifest::{BuildFacts, MANIFEST, Manifest};
use super::outcome::{CacheOutcome, CacheRecord};
use super::prune::PruneRule;
use super::staging::{CONTENT, Staging};
use super::{Bucket, EngineCache};
use crate::files;

/// An engine that stays as it is as long as this value lives: nobody takes it away, and what is private is deleted afterwards.
#[derive(Debug)]
pub struct Lease {
    key: Key,
    dir: PathBuf,
    manifest: Manifest,
    outcome: CacheOutcome,
    why: Option<String>,
    notes: Vec<String>,
    wait_s: f64,
    #[expect(dead_code, reason = "held, not looked at")]
    hold: Hold,
}

/// What keeps the engine where it is.
#[derive(Debug)]
#[expect(dead_code, reason = "held, not looked at")]
enum Hold {
    Entry(Lock),
    Private(Staging),
}

/// The task to build an engine. Dropped, it leaves nothing behind and nothing locked.
#[derive(Debug)]
pub struct Ticket {
    cache: EngineCache,
    key: Key,
    staging: Staging,
    /// Whether it is in the cache, so that it can be published.
    in_cache: bool,
    /// Keeps others from building the same; absent for a private build.
    lock: Option<Lock>,
    why_private: Option<String>,
    rebuilt: Option<String>,
    wait_s: f64,
}

impl Lease {
    pub(super) fn hit(cache: &EngineCache, key: &Key, manifest: Manifest, lock: Lock, wait_s: f64) -> Self {
        let touched = lock.touch().err();
        let notes = touched.map(|error| format!("the entry's last use cannot be noted: {error}"));
        Self {
            dir: cache.bucket(key.kind()).entry(key.hex()).join(CONTENT),
            key: key.clone(),
            manifest,
            outcome: CacheOutcome::Hit,
            why: None,
            notes: notes.into_iter().collect(),
            wait_s,
            hold: Hold::Entry(lock),
        }
    }

    /// The engine's directory. Give it to the engine read-only.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Hit, miss, rebuilt or private.
    pub fn outcome(&self) -> CacheOutcome {
        self.outcome
    }

    /// For the run's record.
    pub fn record(&self) -> CacheRecord {
        let manifest = &self.manifest;
        CacheRecord {
            kind: manifest.kind,
            key: Some(manifest.key.clone()),
            outcome: self.outcome,
            why: self.why.clone(),
            summary: Some(manifest.summary.clone()),
            size_bytes: Some(manifest.size_bytes),
            built: Some(manifest.created.clone()),
            build_seconds: manifest.build_seconds,
            build_energy_j: manifest.build_energy_j,
            wait_seconds: self.wait_s,
            notes: self.notes.clone(),
        }
    }

    /// Copies the engine to a directory that must not exist and that its user may change: what compile caches need, which write beside
    /// what they read. Every copied byte is checked; a copy that failed is left for the caller to remove.
    pub fn copy_to(&self, target: &Path) -> Result<(), CacheError> {
        content::copy(&self.dir, &self.manifest.files, target).map_err(|finding| {
            let (Finding::Damaged(problem) | Finding::Unreadable(problem)) = finding;
            CacheError::Content {
                path: target.to_owned(),
                problem: format!("the entry could not be copied: {problem}"),
            }
        })
    }

    /// A sentence, where the GPU driver is of another major version than the one that the engine was built with. Engines are expected
    /// to survive that; where this one does not, this is the first suspect.
    pub fn driver_note(&self, driver: Option<&str>) -> Option<String> {
        let (built, now) = (self.manifest.driver.as_deref()?, driver?);
        let major = |version: &str| version.split('.').next().unwrap_or_default().to_owned();
        let differs = major(built) != major(now);
        differs.then(|| format!("the engine was built with GPU driver {built} and is used with {now}"))
    }
}

impl Ticket {
    pub(super) fn inside(cache: &EngineCache, key: &Key, staging: Staging, lock: Option<Lock>, wait_s: f64) -> Self {
        Self {
            cache: cache.clone(),
            key: key.clone(),
            staging,
            in_cache: true,
            lock,
            why_private: None,
            rebuilt: None,
            wait_s,
        }
    }

    pub(super) fn outside(cache: &EngineCache, key: &Key, staging: Staging, wait_s: f64) -> Self {
        Self { in_cache: false, ..Self::inside(cache, key, staging, None, wait_s) }
    }

    pub(super) fn because(self, why_private: Option<String>, rebuilt: Option<String>) -> Self {
        Self { why_private, rebuilt, ..self }
    }

    /// The empty directory that the builder fills with the engine, and with nothing else: regular files and directories.
    pub fn dir(&self) -> PathBuf {
        self.staging.content()
    }

    /// What is to be built.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Why this is a private build, if it is one: say it to the user before the build begins.
    pub fn why_private(&self) -> Option<&str> {
        self.why_private.as_deref()
    }

    /// What was wrong with the entry that this build replaces, if there was one.
    pub fn rebuilds(&self) -> Option<&str> {
        self.rebuilt.as_deref()
    }

    /// Gives up: the directory is removed, others may build. Dropping does the same, without the record for the run, which says `why`.
    pub fn abandon(self, why: &str) -> CacheRecord {
        CacheRecord {
            key: Some(self.key.hex().to_owned()),
            summary: Some(self.key.summary().clone()),
            wait_seconds: self.wait_s,
            ..CacheRecord::without_engine(self.key.kind(), CacheOutcome::Private, why)
        }
    }

    /// Puts the engine into the cache and goes on using it. The builder must have ended. Where it cannot be put there (another one is
    /// there by now, the disk is full, …) it is used all the same, once.
    pub fn publish(self, facts: BuildFacts) -> Result<Lease, CacheError> {
        let files = content::seal(&self.staging.content())?;
        let manifest = Manifest::new(&self.key, files, facts);
        let bucket = self.cache.bucket(self.key.kind());
        match self.move_in(&bucket, &manifest) {
            Ok(lock) => Ok(self.published(&bucket, manifest, lock)),
            Err(why) => Ok(self.private(manifest, why)),
        }
    }

    /// Gives the directory its name. The error says why it stays private.
    fn move_in(&self, bucket: &Bucket, manifest: &Manifest) -> Result<Lock, String> {
        if !self.in_cache {
            return Err(self.why_private.clone().unwrap_or_default());
        }
        let kept = |error: std::io::Error| format!("it cannot be put into the cache: {error}");
        let text = serde_json::to_vec_pretty(manifest).map_err(|error| kept(error.into()))?;
        files::write_atomic(&self.staging.dir().join(MANIFEST), &text).map_err(kept)?;
        files::sync_directory(self.staging.dir()).map_err(kept)?;
        let lock = match lock_soon(&bucket.use_lock(self.key.hex()), Mode::Shared) {
            Tried::Locked(lock) => lock,
            Tried::Busy => return Err("another process has the entry to itself".to_owned()),
            Tried::Unusable(why) => return Err(why),
        };
        fs_err::rename(self.staging.dir(), bucket.entry(self.key.hex())).map_err(|error| match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => {
                self.why_private.clone().unwrap_or_else(|| "another process has published it first".to_owned())
            }
            _ => kept(error),
        })?;
        // Lost in a power cut, it is built again.
        let _ = files::sync_directory(&bucket.dir);
        let _ = lock.touch();
        Ok(lock)
    }

    fn published(self, bucket: &Bucket, manifest: Manifest, lock: Lock) -> Lease {
        let outcome = if self.rebuilt.is_some() { CacheOutcome::Rebuilt } else { CacheOutcome::Miss };
        let lease = Lease {
            dir: bucket.entry(self.key.hex()).join(CONTENT),
            key: self.key.clone(),
            manifest,
            outcome,
            why: self.rebuilt.or(self.why_private),
            notes: Vec::new(),
            wait_s: self.wait_s,
            hold: Hold::Entry(lock),
        };
        // Others may go on before anything is pruned.
        drop((self.lock, self.staging));
        let Some(max_bytes) = self.cache.settings.max_bytes else { return lease };
        match self.cache.prune(&PruneRule { max_bytes: Some(max_bytes), ..PruneRule::default() }) {
            Ok(report) => Lease { notes: report.notes(), ..lease },
            Err(error) => Lease { notes: vec![format!("the cache was not pruned: {error}")], ..lease },
        }
    }

    fn private(self, manifest: Manifest, why: String) -> Lease {
        Lease {
            dir: self.staging.content(),
            key: self.key,
            manifest,
            outcome: CacheOutcome::Private,
            why: Some(why),
            notes: Vec::new(),
            wait_s: self.wait_s,
            hold: Hold::Private(self.staging),
        }
    }
}
