//! What a run's record says about the cache.

use serde::{Deserialize, Serialize};

use super::key::{CacheKind, Summary};
use super::lock::Holder;

/// What became of the wish for an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheOutcome {
    /// It was there.
    Hit,
    /// It was built, and is there now.
    Miss,
    /// What was there was bad: it was thrown away, built anew, and is there now.
    Rebuilt,
    /// It was built for this run alone and is not kept.
    Private,
}

/// The cache in a run's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// What is cached.
    pub kind: CacheKind,
    /// The whole key; `llem cache explain` takes its beginning.
    pub key: String,
    /// Hit, miss, rebuilt or private.
    pub outcome: CacheOutcome,
    /// Why it was rebuilt, or is private.
    pub why: Option<String>,
    /// Model, engine version, device.
    pub summary: Summary,
    /// Size of the engine in bytes.
    pub size_bytes: u64,
    /// When it was built, UTC: for a hit, before this run.
    pub built: String,
    /// Seconds that the build took, whenever that was.
    pub build_seconds: Option<f64>,
    /// Energy of the build in joules, whenever that was; part of no window.
    pub build_energy_j: Option<f64>,
    /// Seconds that this run waited for other builders of the same engine.
    pub wait_seconds: f64,
    /// What else the user should know: no place to note the last use, another GPU driver, …
    pub notes: Vec<String>,
}

/// Somebody else builds the same engine.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitNotice {
    /// What is built.
    pub kind: CacheKind,
    /// The first digits of its key.
    pub key: String,
    /// Who builds it, if that can be known.
    pub holder: Option<Holder>,
    /// Seconds waited so far.
    pub waited_s: f64,
    /// Seconds after which this process builds its own.
    pub limit_s: f64,
    /// Whether a user should see it: the first notice, one of another builder, and one a minute.
    pub is_news: bool,
}

impl std::fmt::Display for WaitNotice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let holder = match &self.holder {
            Some(Holder { pid, host, since }) => format!("process {pid} on {host} builds it since {since}"),
            None => "another process builds it".to_owned(),
        };
        let rest = (self.limit_s - self.waited_s).max(0.0);
        write!(
            f,
            "waiting for {} {}: {holder}; without it in {rest:.0} s, this run builds its own \
             (engine_cache_wait_seconds in the user config)",
            self.kind, self.key
        )
    }
}
