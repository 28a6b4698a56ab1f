//! From a key to an engine: found, or to be built by exactly one.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::content::{self, Finding};
use super::error::CacheError;
use super::key::{Key, short};
use super::lease::{Lease, Ticket};
use super::lock::{Holder, Lock, Mode, POLL, Tried, lock_soon, try_lock};
use super::manifest::Manifest;
use super::outcome::{CacheOutcome, WaitNotice};
use super::staging::{self, CONTENT, Staging};
use super::{Bucket, EngineCache, random_digits};
use crate::files;

/// Longest time between two looks at whether another builder has finished.
const SLOW_POLL: Duration = Duration::from_millis(250);

/// Time after which a user is told again that something waits.
const REMINDER: Duration = Duration::from_secs(60);

/// What there is for a key.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each run")]
pub enum Acquired {
    /// A whole engine.
    Hit(Lease),
    /// Nothing: build it.
    Build(Ticket),
}

/// What became of the wish to take an entry away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// It is gone.
    Gone,
    /// Somebody uses it: it stays.
    InUse,
    /// It was not there.
    Absent,
}

/// What lies under a key.
enum Found {
    Whole(Box<Manifest>, Lock),
    Absent,
    Damaged(String),
    Unusable(String),
}

/// An entry that an engine did not accept.
struct Refused {
    build_id: String,
    reason: String,
}

/// What waiting for the other builders came to.
enum Turn {
    Ours(Lock),
    TooLate(String),
    Unusable(String),
}

impl EngineCache {
    /// The engine of a key, checked byte for byte, or the task to build it.
    ///
    /// Where another process builds it, `on_wait` is called a few times a second until that has finished, for
    /// [`super::CacheSettings::wait`] at most.
    pub fn acquire(
        &self,
        key: &Key,
        on_wait: impl FnMut(&WaitNotice) -> ControlFlow<()>,
    ) -> Result<Acquired, CacheError> {
        match self.look_up(key) {
            Found::Whole(manifest, lock) => Ok(Acquired::Hit(Lease::hit(self, key, *manifest, lock, 0.0))),
            Found::Unusable(why) => self.outside(key, why, 0.0),
            Found::Absent | Found::Damaged(_) => self.take_turn(key, None, on_wait),
        }
    }

    /// Another engine in place of one that does not load, whatever its hashes say: it is thrown away and built anew. `reason` is what
    /// the engine said. The second time for one key is an error.
    pub fn replace(
        &self,
        lease: Lease,
        reason: &str,
        on_wait: impl FnMut(&WaitNotice) -> ControlFlow<()>,
    ) -> Result<Acquired, CacheError> {
        let (key, build_id) = (lease.key().clone(), lease.manifest().build_id.clone());
        let was_private = lease.outcome() == CacheOutcome::Private;
        drop(lease);
        if was_private {
            self.note_thrown_away(&key, reason)?;
        }
        self.take_turn(&key, Some(&Refused { build_id, reason: reason.to_owned() }), on_wait)
    }

    /// Takes an entry away unless somebody uses it.
    pub fn evict(&self, key: &Key) -> Result<Evicted, CacheError> {
        Ok(take_away(&self.bucket(key.kind()), key.hex(), try_lock)?)
    }

    fn take_turn(
        &self,
        key: &Key,
        refused: Option<&Refused>,
        on_wait: impl FnMut(&WaitNotice) -> ControlFlow<()>,
    ) -> Result<Acquired, CacheError> {
        let bucket = self.bucket(key.kind());
        if let Err(error) = bucket.prepare() {
            return self.outside(key, format!("the cache cannot be written to: {error}"), 0.0);
        }
        let started = Instant::now();
        let turn = self.wait_for_turn(&bucket, key, started, on_wait)?;
        let wait_s = started.elapsed().as_secs_f64();
        match turn {
            Turn::Ours(lock) => self.build(&bucket, key, refused, lock, wait_s),
            Turn::TooLate(why) => self.inside(&bucket, key, None, (Some(why), None), wait_s),
            Turn::Unusable(why) => self.outside(key, why, wait_s),
        }
    }

    fn wait_for_turn(
        &self,
        bucket: &Bucket,
        key: &Key,
        started: Instant,
        mut on_wait: impl FnMut(&WaitNotice) -> ControlFlow<()>,
    ) -> Result<Turn, CacheError> {
        let (path, limit) = (bucket.build_lock(key.hex()), self.settings.wait);
        let (mut pause, mut told, mut holder) = (POLL, None::<Instant>, None);
        loop {
            match try_lock(&path, Mode::Exclusive) {
                Tried::Locked(lock) => {
                    lock.sign();
                    return Ok(Turn::Ours(lock));
                }
                Tried::Unusable(why) => return Ok(Turn::Unusable(why)),
                Tried::Busy => {}
            }
            if started.elapsed() >= limit {
                let seconds = limit.as_secs();
                return Ok(Turn::TooLate(format!("another process was still building it after {seconds} s")));
            }
            let now = Holder::read(&path);
            let is_news = told.is_none_or(|at| at.elapsed() >= REMINDER) || now != holder;
            told = if is_news { Some(Instant::now()) } else { told };
            holder.clone_from(&now);
            let notice = WaitNotice {
                kind: key.kind(),
                key: key.short().to_owned(),
                holder: now,
                waited_s: started.elapsed().as_secs_f64(),
                limit_s: limit.as_secs_f64(),
                is_news,
            };
            if on_wait(&notice).is_break() {
                return Err(CacheError::Interrupted);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(SLOW_POLL);
        }
    }

    /// What is there may have changed while this process waited for `lock`, with which nobody else builds the key.
    fn build(
        &self,
        bucket: &Bucket,
        key: &Key,
        refused: Option<&Refused>,
        lock: Lock,
        wait_s: f64,
    ) -> Result<Acquired, CacheError> {
        bucket.clean();
        let problem = match self.look_up(key) {
            Found::Whole(manifest, shared) => match refused {
                Some(refused) if manifest.build_id == refused.build_id => {
                    drop(shared);
                    refused.reason.clone()
                }
                _ => return Ok(Acquired::Hit(Lease::hit(self, key, *manifest, shared, wait_s))),
            },
            Found::Absent => {
                let reason = refused.map(|refused| refused.reason.clone());
                return self.inside(bucket, key, Some(lock), (None, reason), wait_s);
            }
            Found::Unusable(why) => return self.outside(key, why, wait_s),
            Found::Damaged(problem) => problem,
        };
        match take_away(bucket, key.hex(), lock_soon) {
            Ok(Evicted::InUse) => {
                let why = format!("the entry is bad ({problem}) and somebody still uses it");
                self.inside(bucket, key, Some(lock), (Some(why), None), wait_s)
            }
            Ok(Evicted::Gone | Evicted::Absent) => {
                self.note_thrown_away(key, &problem)?;
                self.inside(bucket, key, Some(lock), (None, Some(problem)), wait_s)
            }
            Err(error) => {
                self.outside(key, format!("the entry is bad ({problem}) and cannot be taken away: {error}"), wait_s)
            }
        }
    }

    /// A build in the cache, which can be published; with it, why nobody else is kept from building, and what it replaces.
    fn inside(
        &self,
        bucket: &Bucket,
        key: &Key,
        lock: Option<Lock>,
        (why_private, rebuilt): (Option<String>, Option<String>),
        wait_s: f64,
    ) -> Result<Acquired, CacheError> {
        match Staging::create(&bucket.staging(), key.hex()) {
            Ok(staging) if staging.is_locked() => {
                let ticket = Ticket::inside(self, key, staging, lock, wait_s).because(why_private, rebuilt);
                Ok(Acquired::Build(ticket))
            }
            Ok(_) => self.outside(key, "nothing can be locked in the cache".to_owned(), wait_s),
            Err(error) => self.outside(key, format!("the cache cannot be written to: {error}"), wait_s),
        }
    }

    /// A build beside the cache, for this run alone.
    fn outside(&self, key: &Key, why: String, wait_s: f64) -> Result<Acquired, CacheError> {
        let parent = &self.settings.private_dir;
        staging::clean(parent);
        let staging = Staging::create(parent, key.short())?;
        Ok(Acquired::Build(Ticket::outside(self, key, staging, wait_s).because(Some(why), None)))
    }

    fn look_up(&self, key: &Key) -> Found {
        let bucket = self.bucket(key.kind());
        let entry = bucket.entry(key.hex());
        let absent = || fs_err::symlink_metadata(&entry).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if absent() {
            return Found::Absent;
        }
        let lock = match lock_soon(&bucket.use_lock(key.hex()), Mode::Shared) {
            Tried::Locked(lock) => lock,
            Tried::Busy => return Found::Unusable("another process has the entry to itself".to_owned()),
            Tried::Unusable(why) => return Found::Unusable(why),
        };
        if absent() {
            return Found::Absent;
        }
        let checked = Manifest::read(&entry, key.kind(), key.hex())
            .and_then(|manifest| content::check(&entry.join(CONTENT), &manifest.files).map(|()| manifest));
        match checked {
            Ok(manifest) => Found::Whole(Box::new(manifest), lock),
            Err(Finding::Damaged(problem)) => Found::Damaged(problem),
            Err(Finding::Unreadable(problem)) => Found::Unusable(format!("the entry cannot be read: {problem}")),
        }
    }

    fn note_thrown_away(&self, key: &Key, problem: &str) -> Result<(), CacheError> {
        let mut thrown_away = self.thrown_away.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if thrown_away.insert(key.hex().to_owned()) {
            return Ok(());
        }
        Err(CacheError::DamagedAgain { key: short(key.hex()).to_owned(), problem: problem.to_owned() })
    }
}

/// Renames an entry into the trash under its exclusive lock, then deletes it.
pub(super) fn take_away(
    bucket: &Bucket,
    key: &str,
    lock: impl Fn(&std::path::Path, Mode) -> Tried,
) -> std::io::Result<Evicted> {
    let _alone = match lock(&bucket.use_lock(key), Mode::Exclusive) {
        Tried::Locked(lock) => lock,
        Tried::Busy => return Ok(Evicted::InUse),
        Tried::Unusable(why) => return Err(std::io::Error::other(why)),
    };
    fs_err::create_dir_all(bucket.trash())?;
    let grave = bucket.trash().join(format!("{key}-{}", random_digits()));
    match fs_err::rename(bucket.entry(key), &grave) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Evicted::Absent),
        other => other?,
    }
    // What is left of it has no name that counts; the next builder or pruner tries again.
    let _ = files::remove_tree(&grave);
    Ok(Evicted::Gone)
}
