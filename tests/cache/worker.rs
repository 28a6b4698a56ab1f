//! A process that asks for engines and builds what is not there, as its order says.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use llem::engine_cache::{
    Acquired, BuildFacts, CacheError, CacheOutcome, CacheRecord, CacheSettings, EngineCache, Key, Lease, Ticket,
    WaitNotice,
};
use serde::{Deserialize, Serialize};

use super::harness::{Machine, expected_files};

/// The variable that turns the ignored test [`worker`] into a process at work.
pub(crate) const ORDER: &str = "LLEM_TEST_CACHE_ORDER";

/// What a worker does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) cache: PathBuf,
    pub(crate) private: PathBuf,
    /// What the engine is for.
    pub(crate) machine: Machine,
    pub(crate) wait_ms: u64,
    pub(crate) max_bytes: Option<u64>,
    /// How long building takes.
    pub(crate) build_ms: u64,
    /// How long the engine is used.
    pub(crate) hold_ms: u64,
    /// How often all of it is done.
    pub(crate) times: u32,
    /// A file that is filled until the disk is full, when the build has ended, and removed before the next order.
    pub(crate) filler: Option<PathBuf>,
    /// Gets a line for every build that was begun.
    pub(crate) log: PathBuf,
}

/// What came of one round of an order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) record: Option<CacheRecord>,
    pub(crate) build_id: Option<String>,
    pub(crate) error: Option<String>,
    /// What a user would have read while it waited.
    pub(crate) said: Vec<String>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn outcome(&self) -> CacheOutcome {
        self.record().outcome
    }

    #[track_caller]
    pub(crate) fn record(&self) -> &CacheRecord {
        self.record.as_ref().unwrap_or_else(|| panic!("{self:?}"))
    }

    #[track_caller]
    pub(crate) fn why(&self) -> &str {
        self.record().why.as_deref().unwrap_or_default()
    }
}

/// Started by the other tests as a process of its own, with orders in the environment and a file for the answers, a line each.
#[test]
#[ignore = "a process that other tests start"]
fn worker() {
    let Ok(orders) = std::env::var(ORDER) else { return };
    let (orders, answers): (Vec<Order>, PathBuf) = serde_json::from_str(&orders).unwrap();
    let mut answers = fs_err::OpenOptions::new().create(true).append(true).open(answers).unwrap();
    for order in orders {
        for _ in 0..order.times {
            let line = serde_json::to_string(&carry_out(&order)).unwrap();
            writeln!(answers, "{line}").unwrap();
        }
        if let Some(filler) = &order.filler {
            fs_err::remove_file(filler).unwrap();
        }
    }
}

fn carry_out(order: &Order) -> Answer {
    let mut said = Vec::new();
    match lease(order, &mut said) {
        Ok(lease) => {
            is_right(&lease);
            std::thread::sleep(Duration::from_millis(order.hold_ms));
            is_right(&lease);
            let build_id = Some(lease.manifest().build_id.clone());
            Answer { record: Some(lease.record()), build_id, error: None, said }
        }
        Err(error) => Answer { record: None, build_id: None, error: Some(error.to_string()), said },
    }
}

fn lease(order: &Order, said: &mut Vec<String>) -> Result<Lease, CacheError> {
    let cache = EngineCache::open(CacheSettings {
        dir: order.cache.clone(),
        private_dir: order.private.clone(),
        max_bytes: order.max_bytes,
        wait: Duration::from_millis(order.wait_ms),
    });
    let key = order.machine.key();
    let on_wait = |notice: &WaitNotice| {
        if notice.is_news {
            said.push(notice.to_string());
        }
        ControlFlow::Continue(())
    };
    match cache.acquire(&key, on_wait)? {
        Acquired::Hit(lease) => Ok(lease),
        Acquired::Build(ticket) => {
            build(order, &ticket)?;
            ticket.publish(BuildFacts { seconds: Some(12.0), energy_j: Some(3400.0), driver: Some("580.1".to_owned()) })
        }
    }
}

fn build(order: &Order, ticket: &Ticket) -> std::io::Result<()> {
    let mut log = fs_err::OpenOptions::new().create(true).append(true).open(&order.log)?;
    writeln!(log, "{}", ticket.key().short())?;
    write_files(&ticket.dir(), ticket.key(), order.machine.kilobytes)?;
    std::thread::sleep(Duration::from_millis(order.build_ms));
    if let Some(filler) = &order.filler {
        let mut file = fs_err::File::create(filler)?;
        let full = std::iter::repeat_with(|| file.write_all(&[0; 4096])).find_map(Result::err);
        assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);
    }
    Ok(())
}

/// Writes the engine of a key: whoever reads it can tell whose it is.
pub(crate) fn write_files(dir: &Path, key: &Key, kilobytes: usize) -> std::io::Result<()> {
    for (name, content) in expected_files(key, kilobytes) {
        let path = dir.join(name);
        fs_err::create_dir_all(path.parent().unwrap())?;
        fs_err::write(path, content)?;
    }
    Ok(())
}

/// Every byte is that of the engine that was asked for.
#[track_caller]
pub(crate) fn is_right(lease: &Lease) {
    let kilobytes = lease.manifest().inputs["variables"]["VLLM_TEST_KILOBYTES"].as_str().unwrap().parse().unwrap();
    for (name, content) in expected_files(lease.key(), kilobytes) {
        let found = fs_err::read(lease.dir().join(&name)).unwrap();
        assert!(found == content, "{name} of {} is another one", lease.key().short());
    }
}
