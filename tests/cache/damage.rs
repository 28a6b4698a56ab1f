//! Entries that are not what was published.

use std::path::Path;

use llem::engine_cache::{Acquired, CacheError, CacheOutcome, EngineCache, Evicted};

use super::harness::{Kitchen, Machine, fill};
use super::worker::is_right;

/// Does something to the directory of an entry.
type Change = fn(&Path);

/// Ways to damage an entry, with a part of what is then said about it.
const DAMAGES: [(&str, &str, Change); 15] = [
    ("a truncated file", "rank0.engine has 100 bytes, not 65536", |entry| {
        let file = fs_err::OpenOptions::new().write(true).open(entry.join("content/rank0.engine")).unwrap();
        file.set_len(100).unwrap();
    }),
    ("a flipped byte", "the content of rank0.engine is not what was published", |entry| {
        let path = entry.join("content/rank0.engine");
        let mut content = fs_err::read(&path).unwrap();
        content[40_000] ^= 1;
        fs_err::write(&path, content).unwrap();
    }),
    ("a missing file", "config.json", |entry| fs_err::remove_file(entry.join("content/config.json")).unwrap()),
    ("a file too many", "content/x was not in it", |entry| fs_err::write(entry.join("content/x"), "y").unwrap()),
    ("a link in place of a file", "neither a file nor a directory", |entry| {
        let path = entry.join("content/rank0.engine");
        fs_err::rename(&path, entry.join("elsewhere")).unwrap();
        fs_err::os::unix::fs::symlink(entry.join("elsewhere"), path).unwrap();
    }),
    ("no manifest", "manifest.json", |entry| fs_err::remove_file(entry.join("manifest.json")).unwrap()),
    ("a manifest cut short", "manifest.json cannot be read", |entry| {
        let text = fs_err::read(entry.join("manifest.json")).unwrap();
        fs_err::write(entry.join("manifest.json"), &text[..text.len() / 2]).unwrap();
    }),
    ("other inputs", "manifest.json is of another entry", |entry| {
        let text = fs_err::read_to_string(entry.join("manifest.json")).unwrap();
        fs_err::write(entry.join("manifest.json"), text.replace("10.14.1", "10.14.2")).unwrap();
    }),
    ("other joules", "manifest.json is not what was published", |entry| {
        rewrite(entry, "\"build_energy_j\": 48211.0", "\"build_energy_j\": 98211.0");
    }),
    ("another date", "manifest.json is not what was published", |entry| {
        rewrite(entry, "\"created\": \"2", "\"created\": \"1");
    }),
    ("a size that is none", "has a size that is not that of its files", |entry| {
        let text = fs_err::read_to_string(entry.join("manifest.json")).unwrap();
        let (before, after) = text.rsplit_once("\"size_bytes\": ").unwrap();
        let (_, after) = after.split_once(',').unwrap();
        fs_err::write(entry.join("manifest.json"), format!("{before}\"size_bytes\": {},{after}", u64::MAX)).unwrap();
    }),
    ("a field too many", "unknown field `x`", |entry| rewrite(entry, "\"build_id\"", "\"x\": 0, \"build_id\"")),
    ("a pipe in place of the manifest", "manifest.json: not a plain file", |entry| {
        fs_err::remove_file(entry.join("manifest.json")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(entry.join("manifest.json")).status().unwrap();
        assert!(made.success());
    }),
    ("a link in place of the entry", "the entry is not a directory", |entry| {
        let elsewhere = entry.parent().unwrap().join("elsewhere");
        fs_err::rename(entry, &elsewhere).unwrap();
        fs_err::os::unix::fs::symlink(elsewhere, entry).unwrap();
    }),
    ("nothing at all", "manifest.json", |entry| {
        fs_err::remove_dir_all(entry).unwrap();
        fs_err::create_dir(entry).unwrap();
    }),
];

/// Changes a manifest as an editor, or a disk, would.
fn rewrite(entry: &Path, from: &str, to: &str) {
    let text = fs_err::read_to_string(entry.join("manifest.json")).unwrap();
    assert!(text.contains(from), "{text}");
    fs_err::write(entry.join("manifest.json"), text.replace(from, to)).unwrap();
}

#[test]
fn what_is_damaged_is_thrown_away_and_built_anew_once() {
    for (what, said, damage) in DAMAGES {
        let kitchen = Kitchen::new();
        let other = Machine::with_model("other");
        drop((kitchen.lease(&Machine::usual()), kitchen.lease(&other)));
        damage(&kitchen.bucket().join(Machine::usual().key().hex()));
        let answer = kitchen.start(&[kitchen.order(&Machine::usual())]).answer();
        assert_eq!((answer.outcome(), kitchen.builds()), (CacheOutcome::Rebuilt, 1), "{what}: {answer:?}");
        let said = said.trim_start_matches("content/");
        assert!(answer.why().contains(said), "{what}: {answer:?}");
        assert_eq!(kitchen.lease(&Machine::usual()).outcome(), CacheOutcome::Hit, "{what}");
        assert_eq!(kitchen.lease(&other).outcome(), CacheOutcome::Hit, "{what}");
        assert_eq!(kitchen.leftovers().len(), 0, "{what}");
    }
}

/// The engine of another key, moved under this one, is whole and still the wrong one.
#[test]
fn the_engine_of_another_key_is_not_used() {
    let kitchen = Kitchen::new();
    let (usual, other) = (Machine::usual(), Machine { gpu: "NVIDIA H200".to_owned(), ..Machine::usual() });
    drop((kitchen.lease(&usual), kitchen.lease(&other)));
    let entry = |machine: &Machine| kitchen.bucket().join(machine.key().hex());
    fs_err::remove_dir_all(entry(&usual)).unwrap();
    fs_err::rename(entry(&other), entry(&usual)).unwrap();
    let answer = kitchen.start(&[kitchen.order(&usual)]).answer();
    assert_eq!(answer.outcome(), CacheOutcome::Rebuilt);
    assert!(answer.why().contains("of another entry"), "{answer:?}");
}

#[test]
fn what_is_damaged_twice_is_an_error() {
    let kitchen = Kitchen::new();
    let cache = kitchen.cache();
    let (machine, damage) = (Machine::usual(), DAMAGES[1].2);
    drop(kitchen.lease(&machine));
    damage(&kitchen.bucket().join(machine.key().hex()));
    let Acquired::Build(ticket) = ask(&cache, &machine).unwrap() else { panic!("it is damaged") };
    assert!(ticket.rebuilds().unwrap().contains("rank0.engine"));
    drop(fill(ticket, &machine));
    damage(&kitchen.bucket().join(machine.key().hex()));
    let error = ask(&cache, &machine).unwrap_err();
    assert!(matches!(error, CacheError::DamagedAgain { .. }), "{error}");
    assert!(error.to_string().contains("engine_cache_dir"), "{error}");
}

#[test]
fn an_engine_that_does_not_load_is_replaced_once() {
    let kitchen = Kitchen::new();
    let (cache, machine) = (kitchen.cache(), Machine::usual());
    let reason = "the engine plan file is generated on an incompatible device";
    let replace = |lease| cache.replace(lease, reason, |_| std::ops::ControlFlow::Continue(()));
    let Acquired::Build(ticket) = replace(kitchen.lease(&machine)).unwrap() else { panic!("it was refused") };
    let lease = fill(ticket, &machine);
    assert_eq!((lease.outcome(), lease.record().why.as_deref()), (CacheOutcome::Rebuilt, Some(reason)));
    let error = replace(lease).unwrap_err();
    assert!(error.to_string().contains(reason), "{error}");
}

/// Somebody else has replaced it already: that one is used.
#[test]
fn an_engine_that_was_replaced_meanwhile_is_found() {
    let kitchen = Kitchen::new();
    let machine = Machine::usual();
    let lease = kitchen.lease(&machine);
    let cache = kitchen.cache();
    fs_err::remove_dir_all(kitchen.bucket().join(machine.key().hex())).unwrap();
    drop(kitchen.lease(&machine));
    let found = cache.replace(lease, "bad", |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert!(matches!(found, Acquired::Hit(_)));
}

#[test]
fn a_damaged_entry_that_somebody_uses_stays_and_another_is_built_beside_it() {
    let kitchen = Kitchen::new();
    let machine = Machine::usual();
    let lease = kitchen.lease(&machine);
    DAMAGES[3].2(&kitchen.bucket().join(machine.key().hex()));
    let answer = kitchen.start(&[kitchen.order(&machine)]).answer();
    assert_eq!(answer.outcome(), CacheOutcome::Private);
    assert!(answer.why().contains("was not in it") && answer.why().contains("still uses it"), "{answer:?}");
    is_right(&lease);
    assert_eq!(kitchen.cache().evict(&machine.key()).unwrap(), Evicted::InUse);
    drop(lease);
    assert_eq!(kitchen.cache().evict(&machine.key()).unwrap(), Evicted::Gone);
    assert_eq!(kitchen.cache().evict(&machine.key()).unwrap(), Evicted::Absent);
}

#[test]
fn a_copy_is_checked_and_may_be_changed() {
    let kitchen = Kitchen::new();
    let lease = kitchen.lease(&Machine::usual());
    let copy = kitchen.path("copy");
    lease.copy_to(&copy).unwrap();
    fs_err::write(copy.join("lora/adapter.bin"), "changed").unwrap();
    is_right(&lease);
    fs_err::write(lease.dir().join("config.json"), "changed").unwrap();
    let error = lease.copy_to(&kitchen.path("second")).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}

/// What a builder leaves besides files and directories never becomes an entry.
#[test]
fn links_and_pipes_and_odd_names_are_refused() {
    let kitchen = Kitchen::new();
    let builds: [(&str, Change); 4] = [
        ("neither a file nor a directory", |dir| {
            fs_err::os::unix::fs::symlink("/etc/passwd", dir.join("rank0.engine")).unwrap();
        }),
        ("neither a file nor a directory", |dir| {
            let made = std::process::Command::new("mkfifo").arg(dir.join("pipe")).status().unwrap();
            assert!(made.success());
        }),
        ("a name that is not plain text", |dir| fs_err::write(dir.join("a\u{1b}[2J"), "x").unwrap()),
        ("the builder left no file", |dir| fs_err::create_dir(dir.join("empty")).unwrap()),
    ];
    for (problem, build) in builds {
        let Acquired::Build(ticket) = kitchen.acquire(&Machine::usual()) else { panic!("nothing is there") };
        build(&ticket.dir());
        let error = ticket.publish(llem::engine_cache::BuildFacts::default()).unwrap_err().to_string();
        assert!(error.contains(problem) && !error.contains('\u{1b}'), "{error}");
        assert_eq!((kitchen.leftovers().len(), kitchen.cache().entries().unwrap().len()), (0, 0));
    }
}

fn ask(cache: &EngineCache, machine: &Machine) -> Result<Acquired, CacheError> {
    cache.acquire(&machine.key(), |_| std::ops::ControlFlow::Continue(()))
}
