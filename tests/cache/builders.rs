//! Many who want the same engine.

use std::time::{Duration, Instant};

use llem::engine_cache::{Acquired, CacheOutcome};

use super::harness::{Kitchen, Machine, eventually, fill};
use super::worker::is_right;

#[test]
fn eight_processes_that_ask_for_one_key_build_once() {
    let kitchen = Kitchen::new();
    let mut order = kitchen.order(&Machine::usual());
    order.build_ms = 1500;
    let workers: Vec<_> = (0..8).map(|_| kitchen.start(std::slice::from_ref(&order))).collect();
    let answers: Vec<_> = workers.into_iter().map(super::harness::Worker::answer).collect();
    let of = |outcome| answers.iter().filter(|answer| answer.outcome() == outcome).count();
    assert_eq!((of(CacheOutcome::Miss), of(CacheOutcome::Hit), kitchen.builds()), (1, 7, 1));
    let ids: std::collections::BTreeSet<_> = answers.iter().map(|answer| answer.build_id.clone()).collect();
    assert_eq!(ids.len(), 1, "all use the same build");
    let waited = answers.iter().filter(|answer| !answer.said.is_empty());
    for answer in waited.clone() {
        let said = &answer.said[0];
        assert!(said.contains("waiting for tensorrt-engine ") && said.contains(" builds it"), "{said}");
        assert!(answer.record().wait_seconds > 0.0);
    }
    assert!(waited.count() >= 1, "somebody came while it was built");
    assert_eq!(kitchen.leftovers(), [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn a_builder_that_is_killed_is_followed_by_the_next_who_cleans_up() {
    let kitchen = Kitchen::new();
    let mut slow = kitchen.order(&Machine::usual());
    slow.build_ms = 600_000;
    let builder = kitchen.start(&[slow]);
    eventually("the build", || (kitchen.builds() == 1).then_some(()));
    let waiting = kitchen.start(&[kitchen.order(&Machine::usual())]);
    std::thread::sleep(Duration::from_millis(500));
    let pid = builder.child.id();
    builder.kill();
    let answer = waiting.answer();
    assert_eq!((answer.outcome(), kitchen.builds()), (CacheOutcome::Miss, 2));
    assert!(answer.said[0].contains(&format!("process {pid} on ")), "{:?}", answer.said);
    assert_eq!(kitchen.leftovers().len(), 0, "{:?}", kitchen.leftovers());
}

#[test]
fn who_waited_too_long_builds_its_own_and_the_first_to_finish_publishes() {
    let kitchen = Kitchen::new();
    let Acquired::Build(slow) = kitchen.acquire(&Machine::usual()) else { panic!("nothing is there") };
    let mut hasty = kitchen.order(&Machine::usual());
    hasty.wait_ms = 300;
    let answer = kitchen.start(&[hasty]).answer();
    assert_eq!(answer.outcome(), CacheOutcome::Miss, "{answer:?}");
    assert!(answer.why().contains("still building it after"), "{answer:?}");
    let lease = fill(slow, &Machine::usual());
    assert_eq!(lease.outcome(), CacheOutcome::Private);
    assert!(lease.record().why.unwrap().contains("published it first"));
    is_right(&lease);
    let dir = lease.dir().to_owned();
    drop(lease);
    assert!(!dir.exists(), "what is private is thrown away");
    assert_eq!(kitchen.lease(&Machine::usual()).manifest().build_id, answer.build_id.unwrap());
}

#[test]
fn a_ticket_that_is_given_up_leaves_nothing_and_nothing_locked() {
    let kitchen = Kitchen::new();
    let Acquired::Build(ticket) = kitchen.acquire(&Machine::usual()) else { panic!("nothing is there") };
    fs_err::write(ticket.dir().join("x"), "half").unwrap();
    let record = ticket.abandon("given up");
    assert_eq!((record.outcome, record.why.as_deref()), (CacheOutcome::Private, Some("given up")));
    assert_eq!(kitchen.leftovers().len(), 0);
    let started = Instant::now();
    assert_eq!(kitchen.start(&[kitchen.order(&Machine::usual())]).answer().outcome(), CacheOutcome::Miss);
    assert!(started.elapsed() < Duration::from_secs(30), "nobody had to wait");
}

#[test]
fn waiting_can_be_given_up() {
    let kitchen = Kitchen::new();
    let Acquired::Build(_ticket) = kitchen.acquire(&Machine::usual()) else { panic!("nothing is there") };
    let mut calls = 0;
    let waited = kitchen.cache().acquire(&Machine::usual().key(), |_| {
        calls += 1;
        if calls == 3 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    });
    assert_eq!(waited.unwrap_err().to_string(), "waiting for another builder was interrupted");
}

#[test]
fn another_version_or_another_gpu_is_another_engine() {
    let kitchen = Kitchen::new();
    let usual = Machine::usual();
    let newer = Machine { engine: "1.2.2".to_owned(), ..usual.clone() };
    let other_gpu = Machine { gpu: "NVIDIA H200".to_owned(), ..usual.clone() };
    for machine in [&usual, &newer, &other_gpu] {
        assert_eq!(kitchen.start(&[kitchen.order(machine)]).answer().outcome(), CacheOutcome::Miss);
    }
    for machine in [&usual, &newer, &other_gpu] {
        let answer = kitchen.start(&[kitchen.order(machine)]).answer();
        assert_eq!(
            (answer.outcome(), &answer.record().summary.as_ref().unwrap().engine),
            (CacheOutcome::Hit, &machine.engine)
        );
    }
    assert_eq!(kitchen.builds(), 3);
}
