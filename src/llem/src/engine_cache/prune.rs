//! Making room: what was not used for longest goes first, what is in use stays.

use std::time::Duration;

use jiff::Timestamp;

use super::EngineCache;
use super::acquire::Evicted;
use super::entries::Entry;
use super::error::CacheError;
use super::key::CacheKind;
use super::lock::{Mode, Tried, lock_soon};

/// What may go. Whatever one of the limits names, goes; without any, only what dead builders left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneRule {
    /// Entries that were not used for longest, until the rest holds no more bytes than this.
    pub max_bytes: Option<u64>,
    /// Entries that were not used for this long.
    pub older_than: Option<Duration>,
    /// All entries.
    pub all: bool,
    /// Say what would go, and leave it.
    pub dry_run: bool,
}

/// What went, and what did not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PruneReport {
    /// Entries that are gone, or would be.
    pub removed: Vec<Entry>,
    /// Entries that should have gone and are in use.
    pub in_use: Vec<Entry>,
    /// Entries that should have gone and could not be removed, with the reason.
    pub failed: Vec<(Entry, String)>,
    /// Directories that dead builders left, removed.
    pub leftovers: usize,
    /// Bytes of the entries that stay.
    pub kept_bytes: u64,
}

impl PruneReport {
    /// Bytes of the entries that are gone, or would be.
    pub fn removed_bytes(&self) -> u64 {
        self.removed.iter().map(|entry| entry.size_bytes).fold(0, u64::saturating_add)
    }

    /// What a run's record should say of it.
    pub(super) fn notes(&self) -> Vec<String> {
        let gone = self.removed.iter().map(|entry| format!("pruned {} {}", entry.kind, entry.short()));
        let stuck = self.failed.iter().map(|(entry, why)| format!("{} could not be pruned: {why}", entry.short()));
        gone.chain(stuck).collect()
    }
}

impl EngineCache {
    /// Makes room. Of several that do so at once, each waits for the one before, so that together they remove no more than one would.
    pub fn prune(&self, rule: &PruneRule) -> Result<PruneReport, CacheError> {
        let mut report = PruneReport::default();
        if !self.dir().is_dir() {
            return Ok(report);
        }
        let path = self.dir().join(".prune.lock");
        let _turn = match lock_soon(&path, Mode::Exclusive) {
            Tried::Locked(lock) => lock,
            Tried::Busy => return Err(failed("another llem is pruning; try again when it has finished".to_owned())),
            Tried::Unusable(why) => return Err(failed(why)),
        };
        if !rule.dry_run {
            report.leftovers = CacheKind::ALL.into_iter().map(|kind| self.bucket(kind).clean()).sum();
        }
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| entry.last_used);
        report.kept_bytes = entries.iter().map(|entry| entry.size_bytes).fold(0, u64::saturating_add);
        let now = Timestamp::now();
        for entry in entries {
            if goes(&entry, rule, report.kept_bytes, now) {
                self.let_go(entry, rule, &mut report);
            }
        }
        Ok(report)
    }

    fn let_go(&self, entry: Entry, rule: &PruneRule, report: &mut PruneReport) {
        let size = entry.size_bytes;
        let tried = match (rule.dry_run, rule.dry_run && self.is_used(&entry)) {
            (true, true) => Ok(Evicted::InUse),
            (true, false) => Ok(Evicted::Gone),
            (false, _) => self.remove(&entry),
        };
        let gone = match tried {
            // Somebody was quicker, and its bytes are free all the same.
            Ok(Evicted::Absent) => true,
            Ok(Evicted::InUse) => {
                report.in_use.push(entry);
                false
            }
            Ok(Evicted::Gone) => {
                report.removed.push(entry);
                true
            }
            Err(error) => {
                report.failed.push((entry, error.to_string()));
                false
            }
        };
        report.kept_bytes = report.kept_bytes.saturating_sub(if gone { size } else { 0 });
    }
}

/// Entries come with the one first that was not used for longest.
fn goes(entry: &Entry, rule: &PruneRule, kept_bytes: u64, now: Timestamp) -> bool {
    let age = entry.last_used.and_then(|used| Duration::try_from(now.duration_since(used)).ok());
    let too_old = rule.older_than.is_some_and(|limit| age.is_some_and(|age| age >= limit));
    let too_much = rule.max_bytes.is_some_and(|limit| kept_bytes > limit);
    rule.all || too_old || too_much
}

fn failed(why: String) -> CacheError {
    CacheError::Io(std::io::Error::other(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(used: i64) -> Entry {
        Entry {
            kind: CacheKind::TensorrtEngine,
            key: "0".repeat(64),
            path: "/x".into(),
            manifest: Err("x".to_owned()),
            size_bytes: 10,
            last_used: Timestamp::from_second(used).ok(),
        }
    }

    #[test]
    fn an_entry_goes_by_size_by_age_or_because_all_go() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let goes = |rule: &PruneRule, kept| goes(&entry(900_000), rule, kept, now);
        let none = PruneRule::default();
        assert!(!goes(&none, u64::MAX));
        assert!(goes(&PruneRule { all: true, ..none.clone() }, 0));
        let bytes = PruneRule { max_bytes: Some(100), ..none.clone() };
        assert!(goes(&bytes, 101) && !goes(&bytes, 100));
        let age = |seconds| PruneRule { older_than: Some(Duration::from_secs(seconds)), ..none.clone() };
        assert!(goes(&age(100_000), 0) && !goes(&age(100_001), 0));
        assert!(!super::goes(&entry(2_000_000), &age(1), 0, now), "a stamp from the future is young");
    }
}
