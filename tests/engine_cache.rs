//! The engine cache under real processes that build, use, prune, crash and meet broken disks: never a wrong engine, never a lost good one.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

#[path = "cache/builders.rs"]
mod builders;
#[path = "cache/commands.rs"]
mod commands;
#[path = "cache/crashes.rs"]
mod crashes;
#[path = "cache/damage.rs"]
mod damage;
#[path = "cache/disks.rs"]
mod disks;
#[path = "support/faults.rs"]
mod faults;
#[path = "cache/harness.rs"]
mod harness;
#[path = "cache/prune.rs"]
mod prune;
#[path = "cache/worker.rs"]
mod worker;
