//! Compiled engines, kept under the hash of everything that decided their content.
//!
//! ```text
//! engine-cache/
//!   .prune.lock                     one pruner at a time
//!   tensorrt-engine-v2/             one bucket for each kind and form of entry
//!     3f9c…(64 digits)/             an entry: whole, or not there
//!       manifest.json               inputs of the key in the clear; files with sizes and hashes; seconds and joules of the build
//!       content/                    what the engine is given, read-only
//!         config.json  rank0.engine
//!     .locks/
//!       3f9c….build                 exclusive: builds the entry; says who (process, host, since when)
//!       3f9c….use                   shared: uses the entry; exclusive: takes it away; its time stamp is the last use
//!     .staging/
//!       3f9c…-8a41…/                an entry in the making, with the lock of its builder beside it
//!       3f9c…-8a41….lock
//!     .trash/                       entries that were taken away and are being deleted
//!   vllm-compile-v2/
//!   torch-compile-v2/
//! ```
//!
//! # How it holds
//!
//! - An entry gets its name by one `rename` of a directory whose files were hashed and are on disk. It loses it by one `rename` under
//!   the exclusive lock of its use. Whatever is killed in between leaves a directory in `.staging` or `.trash`, whose lock nobody holds.
//! - Whoever uses an entry has checked, under the shared lock that it keeps, that the manifest belongs to the key and that every file has
//!   its hash. What fails is thrown away and built anew, once.
//! - Whatever cannot be relied on (no locks, a read-only cache, a builder that takes too long) ends in a private build: slower, never
//!   wrong. The outcome says so, with the reason.
//!
//! # How it is used
//!
//! ```no_run
//! # use llem::engine_cache::{Acquired, BuildFacts, CacheError, CacheSettings, EngineCache, Key, KeyInputs, Lease};
//! # use std::ops::ControlFlow;
//! # fn build(dir: &std::path::Path) -> BuildFacts { BuildFacts::default() }
//! # fn engine(inputs: &KeyInputs, user: &llem::config::UserConfig) -> Result<Lease, Box<dyn std::error::Error>> {
//! let cache = EngineCache::open(CacheSettings::of(user));
//! let key = Key::new(inputs)?; // the error says which inputs are not known: then build without a cache
//! let on_wait = |notice: &llem::engine_cache::WaitNotice| {
//!     if notice.is_news {
//!         eprintln!("{notice}");
//!     }
//!     ControlFlow::Continue(()) // Break: acquire returns CacheError::Interrupted
//! };
//! let lease = match cache.acquire(&key, on_wait)? {
//!     Acquired::Hit(lease) => lease,
//!     Acquired::Build(ticket) => {
//!         let facts = build(&ticket.dir()); // a container writes here and has ended when this returns
//!         ticket.publish(facts)?
//!     }
//! };
//! // lease.dir() is given to the engine read-only (compile caches: lease.copy_to(…)) and stays as long as the lease lives.
//! // An engine that does not load: cache.replace(lease, "the engine's words", on_wait), once. lease.record() goes into the result.
//! # Ok(lease)
//! # }
//! ```
//!
//! All of it blocks (hashing gigabytes, waiting for others): call it from a thread that may.

mod acquire;
mod content;
mod entries;
mod error;
mod explain;
mod inputs;
mod key;
mod lease;
mod location;
mod lock;
mod manifest;
mod model_content;
mod outcome;
mod prune;
mod staging;
mod target;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use acquire::{Acquired, Evicted};
pub use content::FileRecord;
pub use entries::{Condition, Entry};
pub use error::CacheError;
pub use explain::{Difference, Nearest, differences, nearest};
pub use inputs::{CompileSettings, KeyInputs, KindSettings, Software, Surroundings, TensorrtSettings};
pub use key::{CacheKind, Key, Summary, UnknownInputs};
pub use lease::{Lease, Ticket};
pub use location::CacheSettings;
pub use lock::Holder;
pub use manifest::{BuildFacts, Manifest};
pub(crate) use model_content::model_files;
pub use model_content::{ModelIdentity, content_sha256};
pub use outcome::{CacheOutcome, CacheRecord, WaitNotice};
pub use prune::{PruneReport, PruneRule};
pub use target::{CpuTarget, GpuTarget, Target};
pub use variables::compile_variables;

/// A cache of compiled engines. Clones are the same cache; processes and machines that share its directory share its entries.
#[derive(Clone, Debug)]
pub struct EngineCache {
    settings: Arc<CacheSettings>,
    /// Keys whose entries this process threw away because they were bad: it does so once.
    thrown_away: Arc<Mutex<BTreeSet<String>>>,
}

impl EngineCache {
    /// The cache in a directory. Nothing is made or read yet.
    pub fn open(settings: CacheSettings) -> Self {
        Self { settings: Arc::new(settings), thrown_away: Arc::default() }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    fn bucket(&self, kind: CacheKind) -> Bucket {
        Bucket { kind, dir: self.settings.dir.join(kind.bucket()) }
    }
}

/// The entries of one kind.
#[derive(Clone, Debug)]
struct Bucket {
    kind: CacheKind,
    dir: PathBuf,
}

impl Bucket {
    fn entry(&self, key: &str) -> PathBuf {
        self.dir.join(key)
    }

    fn locks(&self) -> PathBuf {
        self.dir.join(".locks")
    }

    fn build_lock(&self, key: &str) -> PathBuf {
        self.locks().join(format!("{key}.build"))
    }

    fn use_lock(&self, key: &str) -> PathBuf {
        self.locks().join(format!("{key}.use"))
    }

    fn staging(&self) -> PathBuf {
        self.dir.join(".staging")
    }

    fn trash(&self) -> PathBuf {
        self.dir.join(".trash")
    }

    fn prepare(&self) -> std::io::Result<()> {
        [self.locks(), self.staging(), self.trash()].iter().try_for_each(fs_err::create_dir_all)
    }

    /// Removes what dead builders left, and what was taken away and is still there.
    fn clean(&self) -> usize {
        let trash = fs_err::read_dir(self.trash()).into_iter().flatten().flatten();
        // Another process may be deleting the same.
        trash.for_each(|entry| drop(crate::files::remove_tree(&entry.path())));
        staging::clean(&self.staging())
    }
}

/// What keeps names apart; guessing it would gain nobody anything.
fn random_digits() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}
