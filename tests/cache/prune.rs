//! Making room while others work.

use std::time::{Duration, SystemTime};

use llem::engine_cache::{CacheOutcome, PruneRule};

use super::harness::{Kitchen, Machine, fill};
use super::worker::is_right;

/// Processes that use engines while others prune.
const WORKERS: usize = 4;

/// How often each of them does.
const ROUNDS: usize = 60;

/// Two pruners without a pause, four processes that use and build three engines each many times over.
#[test]
fn two_controllers_prune_while_others_read() {
    let kitchen = Kitchen::new();
    let order = |n: usize| kitchen.order(&Machine::with_model(&format!("m{}", n % 3)));
    // Each goes through the engines in another order, so that every engine is now and then used by nobody.
    let orders = |worker: usize| (0..ROUNDS).map(|round| order(worker + round * (1 + worker % 2))).collect::<Vec<_>>();
    let workers: Vec<_> = (0..WORKERS).map(|worker| kitchen.start(&orders(worker))).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut hits, mut builds) = (0, 0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let (code, _, stderr) = kitchen.run(&["cache", "prune", "--all"]);
                    assert_eq!(code, 0, "{stderr}");
                }
            });
        }
        for worker in workers {
            for answer in worker.answers() {
                match answer.outcome() {
                    CacheOutcome::Hit => hits += 1,
                    CacheOutcome::Miss => builds += 1,
                    other => panic!("{other:?}: {answer:?}"),
                }
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!((hits + builds, kitchen.builds()), (WORKERS * ROUNDS, builds));
    assert!(builds > 3, "nothing was ever pruned");
    kitchen.cache().prune(&PruneRule { all: true, ..PruneRule::default() }).unwrap();
    assert_eq!((kitchen.leftovers().len(), kitchen.cache().entries().unwrap().len()), (0, 0));
}

#[test]
fn what_was_not_used_for_longest_goes_first_and_what_is_in_use_stays() {
    let kitchen = Kitchen::new();
    let machines: Vec<_> = (0..4).map(|n| Machine::with_model(&format!("m{n}"))).collect();
    for (hours, machine) in machines.iter().enumerate() {
        drop(kitchen.lease(machine));
        was_used(&kitchen, machine, Duration::from_secs(3600 * (10 - hours as u64)));
    }
    let oldest = kitchen.lease(&machines[0]);
    was_used(&kitchen, &machines[0], Duration::from_secs(3600 * 20));
    let size = oldest.manifest().size_bytes;
    let rule = PruneRule { max_bytes: Some(2 * size + 1), ..PruneRule::default() };
    let report = kitchen.cache().prune(&rule).unwrap();
    let removed: Vec<_> = report.removed.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(removed, [machines[1].key().hex(), machines[2].key().hex()]);
    assert_eq!((report.in_use.len(), report.kept_bytes), (1, 2 * size));
    is_right(&oldest);
}

#[test]
fn a_cache_with_a_limit_stays_below_it() {
    let kitchen = Kitchen::new();
    for n in 0..3 {
        let mut order = kitchen.order(&Machine::with_model(&format!("m{n}")));
        order.max_bytes = Some(140_000);
        let answer = kitchen.start(&[order]).answer();
        assert_eq!(answer.outcome(), CacheOutcome::Miss);
        assert_eq!(answer.record().notes.len(), usize::from(n == 2), "{answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let left: Vec<_> = kitchen.cache().entries().unwrap();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|entry| entry.key != Machine::with_model("m0").key().hex()));
}

#[test]
fn a_living_builder_is_not_cleaned_up() {
    let kitchen = Kitchen::new();
    let llem::engine_cache::Acquired::Build(ticket) = kitchen.acquire(&Machine::usual()) else { panic!("empty") };
    let (code, _, stderr) = kitchen.run(&["cache", "prune", "--all"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(fill(ticket, &Machine::usual()).outcome(), CacheOutcome::Miss);
}

fn was_used(kitchen: &Kitchen, machine: &Machine, ago: Duration) {
    let path = kitchen.bucket().join(format!(".locks/{}.use", machine.key().hex()));
    let file = fs_err::OpenOptions::new().write(true).open(path).unwrap();
    file.file().set_modified(SystemTime::now() - ago).unwrap();
}
