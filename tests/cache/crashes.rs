//! `kill -9` before every single call that changes the cache, in order, until the work gets through.

use std::process::Command;

use llem::engine_cache::{CacheOutcome, PruneRule};

use super::faults::fault_library;
use super::harness::{Kitchen, Machine, Worker, eventually};
use super::worker::is_right;

/// More calls than any of the tested works makes.
const MOST_CALLS: u32 = 400;

/// Starts `command` with the fault library before the C library: it dies before its `call`-th change.
fn armed(kitchen: &Kitchen, mut command: Command, call: u32) -> Command {
    command.env("LD_PRELOAD", fault_library()).env("LLEM_FAULT_KILL", call.to_string());
    command.env("LLEM_FAULT_DIR", kitchen.cache_dir());
    command
}

fn armed_worker(kitchen: &Kitchen, machine: &Machine, call: u32) -> Worker {
    let command = armed(kitchen, Command::new(std::env::current_exe().unwrap()), call);
    kitchen.start_under(command, &[kitchen.order(machine)])
}

/// Whether the process got through; killed it must have been by the fault, not by a bug.
fn got_through(mut worker: Worker) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let status = eventually("the worker's end", || worker.child.try_wait().unwrap());
    assert!(status.success() || status.signal() == Some(9), "{status}");
    status.success()
}

/// After a crash: the engine is found or built, is right, nothing that a dead process left stays, and the bystander is untouched.
fn is_sound(kitchen: &Kitchen, machine: &Machine, bystander: &Machine, call: u32) -> CacheOutcome {
    let lease = kitchen.lease(machine);
    is_right(&lease);
    let other = kitchen.lease(bystander);
    is_right(&other);
    assert_eq!(other.outcome(), CacheOutcome::Hit, "call {call}");
    kitchen.cache().prune(&PruneRule::default()).unwrap();
    assert_eq!(kitchen.leftovers().len(), 0, "call {call}: {:?}", kitchen.leftovers());
    lease.outcome()
}

#[test]
fn a_builder_may_die_anywhere() {
    let kitchen = Kitchen::new();
    let (machine, bystander) = (Machine::usual(), Machine::with_model("bystander"));
    drop(kitchen.lease(&bystander));
    let (mut missed, mut published) = (0, 0);
    let calls = (1..MOST_CALLS).find(|call| {
        let through = got_through(armed_worker(&kitchen, &machine, *call));
        match is_sound(&kitchen, &machine, &bystander, *call) {
            CacheOutcome::Hit => published += 1,
            CacheOutcome::Miss => missed += 1,
            other => panic!("call {call}: {other:?}"),
        }
        kitchen.cache().evict(&machine.key()).unwrap();
        through
    });
    assert!(
        calls.is_some() && missed >= 10 && published >= 2,
        "{calls:?}: {missed} before the rename, {published} after"
    );
}

#[test]
fn a_builder_that_replaces_a_damaged_entry_may_die_anywhere() {
    let kitchen = Kitchen::new();
    let (machine, bystander) = (Machine::usual(), Machine::with_model("bystander"));
    drop((kitchen.lease(&bystander), kitchen.lease(&machine)));
    let calls = (1..MOST_CALLS).find(|call| {
        fs_err::write(kitchen.bucket().join(machine.key().hex()).join("content/config.json"), "wrong").unwrap();
        let through = got_through(armed_worker(&kitchen, &machine, *call));
        is_sound(&kitchen, &machine, &bystander, *call);
        through
    });
    assert!(calls.is_some_and(|calls| calls > 15), "{calls:?}");
}

#[test]
fn a_pruner_may_die_anywhere() {
    let kitchen = Kitchen::new();
    let (machine, bystander) = (Machine::usual(), Machine::with_model("bystander"));
    let used = kitchen.lease(&bystander);
    let calls = (1..MOST_CALLS).find(|call| {
        drop(kitchen.lease(&machine));
        let output = armed(&kitchen, kitchen.llem(&["cache", "prune", "--all"]), *call).output().unwrap();
        is_sound(&kitchen, &machine, &bystander, *call);
        output.status.success()
    });
    is_right(&used);
    assert!(calls.is_some_and(|calls| calls > 3), "{calls:?}");
}
