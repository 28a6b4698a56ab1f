//! Disks that are full, read-only, or without locks.

use std::process::Command;

use llem::engine_cache::CacheOutcome;

use super::faults::fault_library;
use super::harness::{Kitchen, Machine, with_mounts};

#[test]
fn a_full_disk_loses_nothing_and_is_survived() {
    let kitchen = Kitchen::new();
    fs_err::create_dir(kitchen.cache_dir()).unwrap();
    let Some(mut command) = with_mounts("mount -t tmpfs -o size=2m none \"$1\"", &kitchen.cache_dir()) else { return };
    command.arg(std::env::current_exe().unwrap());
    let small = kitchen.order(&Machine::with_model("small"));
    let large = kitchen.order(&Machine { kilobytes: 4096, ..Machine::with_model("large") });
    let mut tight = kitchen.order(&Machine::with_model("tight"));
    tight.filler = Some(kitchen.cache_dir().join("filler"));
    let roomy = kitchen.order(&Machine::with_model("tight"));
    let answers = kitchen.start_under(command, &[small.clone(), large, tight, roomy, small]).answers();
    assert_eq!(answers[0].outcome(), CacheOutcome::Miss);
    assert!(answers[1].error.as_ref().unwrap().contains("No space left"), "{answers:?}");
    assert_eq!(answers[2].outcome(), CacheOutcome::Private, "the engine fits, its manifest does not");
    assert!(answers[2].why().contains("No space left"), "{answers:?}");
    assert_eq!(answers[3].outcome(), CacheOutcome::Miss);
    assert_eq!(answers[4].outcome(), CacheOutcome::Hit);
}

#[test]
fn a_read_only_cache_is_read_and_what_it_lacks_is_built_privately() {
    let kitchen = Kitchen::new();
    let (there, not_there) = (Machine::usual(), Machine::with_model("not-there"));
    drop(kitchen.lease(&there));
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\"";
    let Some(mut command) = with_mounts(script, &kitchen.cache_dir()) else { return };
    command.arg(std::env::current_exe().unwrap());
    let answers = kitchen.start_under(command, &[kitchen.order(&there), kitchen.order(&not_there)]).answers();
    assert_eq!(answers[0].outcome(), CacheOutcome::Hit);
    assert!(answers[0].record().notes[0].contains("last use cannot be noted"), "{answers:?}");
    assert_eq!(answers[1].outcome(), CacheOutcome::Private);
    assert!(answers[1].why().contains("Read-only file system"), "{answers:?}");
    assert_eq!((kitchen.leftovers().len(), kitchen.cache().entries().unwrap().len()), (0, 1));
}

#[test]
fn pruning_a_read_only_cache_fails_and_says_so() {
    let kitchen = Kitchen::new();
    drop(kitchen.lease(&Machine::usual()));
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\"";
    let Some(mut command) = with_mounts(script, &kitchen.cache_dir()) else { return };
    let llem = kitchen.llem(&["cache", "prune", "--all"]);
    command.arg(llem.get_program()).args(llem.get_args());
    command.envs(llem.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (code, _, stderr) = super::harness::text_of(&command.output().unwrap());
    assert!(code == 1 && stderr.contains("Read-only file system"), "{code}: {stderr}");
    assert_eq!(kitchen.lease(&Machine::usual()).outcome(), CacheOutcome::Hit);
}

#[test]
fn without_locks_everything_is_private() {
    let kitchen = Kitchen::new();
    drop(kitchen.lease(&Machine::usual()));
    for machine in [Machine::usual(), Machine::with_model("other")] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("LD_PRELOAD", fault_library()).env("LLEM_FAULT_NOLOCK", "1");
        let answer = kitchen.start_under(command, &[kitchen.order(&machine)]).answer();
        assert_eq!(answer.outcome(), CacheOutcome::Private);
        assert!(answer.why().contains("cannot be locked"), "{answer:?}");
    }
    let mut prune = kitchen.llem(&["cache", "prune", "--all"]);
    let output = prune.env("LD_PRELOAD", fault_library()).env("LLEM_FAULT_NOLOCK", "1").output().unwrap();
    let (code, _, stderr) = super::harness::text_of(&output);
    assert!(code == 1 && stderr.contains("cannot be locked"), "{code}: {stderr}");
    assert_eq!(kitchen.lease(&Machine::usual()).outcome(), CacheOutcome::Hit, "it is still there");
    assert_eq!(kitchen.leftovers().len(), 0, "{:?}", kitchen.leftovers());
}
