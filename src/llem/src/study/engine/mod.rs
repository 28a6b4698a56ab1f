//! The compiled engine of a run: taken from the cache before its container is made, or built by it and kept afterwards.
//!
//! ```text
//! nothing is compiled ─► None         no key ─► Off: the container compiles for itself, and nothing is kept
//!
//! acquire ─► Hit ───► run, the engine mounted read-only (compilers get a copy) ───► hit
//!         │              └─ it does not load ─► replace, once ─┐
//!         └► Build ─► run, an empty directory mounted ◄────────┘
//!                        ├─ whole, and the container gone ─► publish ─► miss or rebuilt
//!                        └─ else ────────────────────────────────────► private
//! ```

mod inputs;
mod lookup;
mod place;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use llem_protocol::{Failure, FailureClass, Phase};
use serde_json::json;
use tokio::sync::mpsc::unbounded_channel;

pub(super) use inputs::compiled_kind;
pub use lookup::{Effort, EngineLookup, look_up_engines};

use super::StudyEvent;
use super::job::gpus;
use super::prepare::blocking;
use super::run::RunContext;
use crate::config::UserConfig;
use crate::engine_cache::{
    Acquired, BuildFacts, CacheError, CacheKind, CacheOutcome, CacheRecord, Key, Lease, Ticket, WaitNotice,
};
use crate::printable::printable;
use crate::result::{RunDirectory, RunResult};
use crate::runner::{EngineMount, Stop};
use inputs::KeySource;
use place::Copy;

/// The longest words of an engine that are kept.
const REASON_CHARS: usize = 500;

/// Called while somebody else builds the same engine.
type OnWait = Box<dyn FnMut(&WaitNotice) -> ControlFlow<()> + Send>;

/// What a run has of the cache.
#[derive(Debug)]
pub(super) enum RunEngine {
    /// It compiles nothing.
    None,
    /// It compiles for itself, or what it had is gone: what its record says.
    Off(Box<CacheRecord>),
    /// An engine that is there. Compilers write beside what they read, and get a copy.
    Hit(Box<Lease>, Option<Copy>),
    /// A directory to build one in.
    Build(Box<Ticket>),
}

/// What is known of a build when its run has ended.
pub(super) struct RunEnd<'a> {
    /// The run's record, but for the engine.
    pub(super) result: &'a RunResult,
    /// Whether the agent said that all went well.
    pub(super) measured: bool,
    /// Whether the container may still be there.
    pub(super) container_left: bool,
}

impl RunEngine {
    /// The engine of a run that goes on in the container of a controller that died, and its lock on the engine with it.
    pub(super) fn of_dead_controller(context: &RunContext<'_>) -> Self {
        Self::without(context, "llem was started anew while the run was under way")
    }

    /// The engine of a run that compiles for itself, for a reason that does not depend on its key.
    pub(super) fn without(context: &RunContext<'_>, why: &str) -> Self {
        let record = |kind| CacheRecord::without_engine(kind, CacheOutcome::Private, why);
        compiled_kind(&context.experiment.config, context.user)
            .map_or(Self::None, |kind| Self::Off(Box::new(record(kind))))
    }

    /// The engine for a run. Waits for another builder, unless the user stops the study: then the failure of the run.
    pub(super) async fn acquire(
        context: &RunContext<'_>,
        directory: &RunDirectory,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Self, Failure> {
        let config = &context.experiment.config;
        let Some(kind) = compiled_kind(config, context.user) else { return Ok(Self::None) };
        let runner = &context.runner;
        if let Some(why) = not_asked(kind, runner.kind(), runner.has_images(), context.user) {
            notify(StudyEvent::Notice { text: not_cached(context, kind, &why) });
            return Ok(Self::off(kind, why));
        }
        let source = KeySource {
            kind,
            config: config.clone(),
            weights: context.prepared.weights.clone(),
            workload_sha256: context.prepared.workload.sha256.clone(),
            facts: context.prepared.facts.clone(),
            gpus: gpus(config, context.user),
            processors: context.host.cpus,
            user: context.user.clone(),
        };
        let (cache, copy) = (context.cache.clone(), copy_place(directory));
        let work = move |on_wait: OnWait| match source.key() {
            Err(why) => Self::off(kind, why),
            Ok(key) => Self::of(cache.acquire(&key, on_wait), &key, &copy),
        };
        Self::in_thread(context, kind, work, notify).await
    }

    /// Another engine in place of one that does not load. Once it was tried, the same engine is not thrown away again.
    pub(super) async fn replace(
        self,
        context: &RunContext<'_>,
        directory: &RunDirectory,
        failure: &Failure,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Self, Failure> {
        let Self::Hit(lease, copy) = self else { return Ok(self) };
        drop(copy);
        let key = lease.key().clone();
        let reason: String = printable(&failure.message).chars().take(REASON_CHARS).collect();
        notify(StudyEvent::Notice {
            text: format!(
                "{}: {} {} does not load, and is built anew: {reason}",
                context.run_id,
                key.kind(),
                key.short()
            ),
        });
        let (cache, record) = (context.cache.clone(), lease.record());
        let (kind, copy) = (key.kind(), copy_place(directory));
        let work = move |on_wait: OnWait| match cache.replace(*lease, &reason, on_wait) {
            Err(CacheError::DamagedAgain { .. }) => {
                let why = format!("it does not load, as before it was built anew: {reason}");
                Self::Off(Box::new(CacheRecord { why: Some(why), ..record }))
            }
            other => Self::of(other, &key, &copy),
        };
        Self::in_thread(context, kind, work, notify).await
    }

    /// Whether a run that ended so has to be repeated with another engine.
    pub(super) fn is_refused(&self, failure: &Failure) -> bool {
        matches!(self, Self::Hit(..)) && failure.class == FailureClass::EngineStale
    }

    /// What the container gets to see.
    pub(super) fn mount(&self) -> Option<EngineMount> {
        match self {
            Self::None | Self::Off(_) => None,
            Self::Hit(_, Some(copy)) => Some(EngineMount { dir: copy.0.clone(), read_only: false }),
            Self::Hit(lease, None) => Some(EngineMount { dir: lease.dir().to_owned(), read_only: true }),
            Self::Build(ticket) => Some(EngineMount { dir: ticket.dir(), read_only: false }),
        }
    }

    /// The driver's variables, with the place that the runner gives the directory.
    pub(super) fn variables(&self, dir: Option<&Path>) -> BTreeMap<String, String> {
        match (self, dir) {
            (Self::Hit(lease, _), Some(dir)) => place::variables(lease.key().kind(), true, dir),
            (Self::Build(ticket), Some(dir)) => place::variables(ticket.key().kind(), false, dir),
            _ => BTreeMap::new(),
        }
    }

    /// Keeps what was built if it is certain to be whole, and gives the record of it all.
    pub(super) async fn conclude(self, end: &RunEnd<'_>, notify: &impl Fn(StudyEvent)) -> Option<CacheRecord> {
        let driver = end.result.host.as_ref().and_then(|host| host.nvidia.as_ref()?.driver.clone());
        match self {
            Self::None => None,
            Self::Off(record) => Some(*record),
            Self::Hit(lease, _) => {
                let mut record = lease.record();
                record.notes.extend(lease.driver_note(driver.as_deref()));
                Some(record)
            }
            Self::Build(ticket) => {
                let record = match end.unkept(ticket.key().kind()) {
                    Some(why) => ticket.abandon(&why),
                    None => publish(*ticket, end.build_facts(driver), notify).await,
                };
                if let (CacheOutcome::Private, Some(why)) = (record.outcome, &record.why) {
                    let text = format!("{}: its {} is not kept: {why}", end.result.run_id, record.kind);
                    notify(StudyEvent::Notice { text });
                }
                Some(record)
            }
        }
    }

    /// What the cache answered, ready for the container.
    fn of(answer: Result<Acquired, CacheError>, key: &Key, copy: &Path) -> Self {
        match answer {
            Ok(Acquired::Build(ticket)) => Self::Build(Box::new(ticket)),
            Ok(Acquired::Hit(lease)) if key.kind() == CacheKind::TensorrtEngine => Self::Hit(Box::new(lease), None),
            Ok(Acquired::Hit(lease)) => {
                let copy = Copy(copy.to_owned());
                match lease.copy_to(&copy.0) {
                    Ok(()) => Self::Hit(Box::new(lease), Some(copy)),
                    Err(error) => Self::off(key.kind(), error.to_string()),
                }
            }
            Err(error) => Self::off(key.kind(), error.to_string()),
        }
    }

    fn off(kind: CacheKind, why: impl Into<String>) -> Self {
        Self::Off(Box::new(CacheRecord::without_engine(kind, CacheOutcome::Off, why)))
    }

    /// Lets a thread wait for the cache while the user hears of it and may stop it.
    async fn in_thread(
        context: &RunContext<'_>,
        kind: CacheKind,
        work: impl FnOnce(OnWait) -> Self + Send + 'static,
        notify: &impl Fn(StudyEvent),
    ) -> Result<Self, Failure> {
        let (sender, mut news) = unbounded_channel();
        let Stop { soft, .. } = context.stop.clone();
        let on_wait: OnWait = Box::new(move |notice| {
            if notice.is_news {
                let _ = sender.send(notice.to_string());
            }
            if soft.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let work = blocking(format!("{kind}"), notify, move || work(on_wait));
        tokio::pin!(work);
        let told = |text: String| notify(StudyEvent::Notice { text: format!("{}: {text}", context.run_id) });
        let found = loop {
            tokio::select! {
                biased;
                () = context.stop.soft.cancelled() => {
                    let message = format!("stopped while it waited for its compiled engine ({kind})");
                    let (class, phase) = (FailureClass::Interrupted, Phase::Start);
                    return Err(Failure { class, phase, message, log_tail: Vec::new() });
                }
                Some(text) = news.recv() => told(text),
                done = &mut work => break done.unwrap_or_else(|error| Self::off(kind, error.to_string())),
            }
        };
        match &found {
            Self::Off(record) => {
                let why = record.why.as_deref().unwrap_or_default();
                notify(StudyEvent::Notice { text: not_cached(context, kind, why) });
            }
            Self::Build(ticket) => {
                ticket
                    .why_private()
                    .into_iter()
                    .for_each(|why| told(format!("{kind} is built for this run alone: {why}")));
            }
            Self::None | Self::Hit(..) => {}
        }
        Ok(found)
    }
}

impl RunEnd<'_> {
    /// Why what was built cannot be kept.
    fn unkept(&self, kind: CacheKind) -> Option<String> {
        let is_built = match kind {
            // Its driver says so when the engine was built, saved, and loaded again.
            CacheKind::TensorrtEngine => {
                let engine = self.result.engine.as_ref();
                engine.is_some_and(|engine| engine.settings.get("compiled_engine") == Some(&json!("built")))
            }
            // Compilers write until the engine ends.
            CacheKind::VllmCompile | CacheKind::TorchCompile => self.measured,
        };
        let compiled = self.result.phases.iter().any(|record| record.phase == Phase::Compile);
        let why = if self.container_left {
            "the run's container may still be there and write to it"
        } else if !is_built {
            "the run ended before it was certain to be whole"
        } else if !compiled {
            "the engine compiled nothing"
        } else {
            return None;
        };
        Some(why.to_owned())
    }

    fn build_facts(&self, driver: Option<String>) -> BuildFacts {
        let compile = self.result.phase_energy.iter().find(|record| record.phase == Phase::Compile);
        BuildFacts {
            seconds: compile.and_then(|record| record.seconds),
            energy_j: compile.and_then(|record| record.energy_j),
            driver,
        }
    }
}

/// Why the cache has nothing to do with a run, whatever its key.
fn not_asked(kind: CacheKind, runner: &str, has_images: bool, user: &UserConfig) -> Option<String> {
    if !has_images {
        return Some(format!("the `{runner}` runner has no image whose content is known"));
    }
    place::taken_by_user(kind, user).map(|name| format!("`env` of the user config sets {name}"))
}

fn not_cached(context: &RunContext<'_>, kind: CacheKind, why: &str) -> String {
    format!("{}: its {kind} is not kept: {why}", context.run_id)
}

/// Where a run's copy of an engine is.
fn copy_place(directory: &RunDirectory) -> PathBuf {
    directory.path().join(".engine")
}

/// Puts an engine into the cache, whether or not the user wants to leave: it is paid for.
async fn publish(ticket: Ticket, facts: BuildFacts, notify: &impl Fn(StudyEvent)) -> CacheRecord {
    let key = ticket.key().clone();
    let published = blocking(format!("{} {}", key.kind(), key.short()), notify, move || ticket.publish(facts));
    let why = match published.await {
        Ok(Ok(lease)) => return lease.record(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let record = CacheRecord::without_engine(key.kind(), CacheOutcome::Private, why);
    CacheRecord { key: Some(key.hex().to_owned()), summary: Some(key.summary().clone()), ..record }
}
