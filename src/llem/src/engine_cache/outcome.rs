//! What a run's record says about the cache.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::key::{CacheKind, Summary};
use super::lock::Holder;

/// What became of the wish for an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// The cache was not asked: there is no key, or nobody may ask.
    Off,
}

impl CacheOutcome {
    /// The name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Rebuilt => "rebuilt",
            Self::Private => "private",
            Self::Off => "off",
        }
    }
}

/// The cache in a run's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CacheRecord {
    /// What is cached.
    pub kind: CacheKind,
    /// The whole key; `llem cache explain` takes its beginning. Null where an input is not known.
    pub key: Option<String>,
    /// What became of the wish for an engine.
    pub outcome: CacheOutcome,
    /// Why it was rebuilt, is private, or the cache was not asked.
    pub why: Option<String>,
    /// Model, engine version, device; null without a key.
    pub summary: Option<Summary>,
    /// Size of the engine in bytes; null where it was not looked at.
    pub size_bytes: Option<u64>,
    /// When it was built, UTC: for a hit, before this run. Null where it is not known to be whole.
    pub built: Option<String>,
    /// Seconds that the build took, whenever that was.
    pub build_seconds: Option<f64>,
    /// Energy of the build in joules, whenever that was; part of no window.
    pub build_energy_j: Option<f64>,
    /// Seconds that this run waited for other builders of the same engine.
    pub wait_seconds: f64,
    /// What else the user should know: no place to note the last use, another GPU driver, …
    pub notes: Vec<String>,
}

impl CacheRecord {
    /// The record of a run that compiles without the cache, or whose engine is not kept.
    pub fn without_engine(kind: CacheKind, outcome: CacheOutcome, why: impl Into<String>) -> Self {
        Self {
            kind,
            key: None,
            outcome,
            why: Some(why.into()),
            summary: None,
            size_bytes: None,
            built: None,
            build_seconds: None,
            build_energy_j: None,
            wait_seconds: 0.0,
            notes: Vec::new(),
        }
    }
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
