//! The fuzz targets' corpora, mutated for a few seconds with a seeded generator: what a stable toolchain can do of fuzzing.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says what it did")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use llem::config::{Profile, StudyConfig};
use llem_protocol::decode_event;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Sets how long each corpus is mutated; a nightly job may give it minutes.
const SECONDS_VARIABLE: &str = "LLEM_MUTATION_SECONDS";
const DEFAULT_SECONDS: u64 = 3;
/// Fragments that parsers stumble over.
const FRAGMENTS: [&str; 24] = [
    "<<: ", "&a ", "*a", "!t ", "{", "}", "[", "]", ": ", "- ", "\n", "\n  ", "\t", "'", "\"", "\\", "|\n", "? ", "#",
    "~", ".inf", "1e999", "-0", "\u{feff}",
];

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folders =
        [root.join("fuzz/corpus").join(name), root.join(if name == "study" { "tests/bad-configs" } else { "none" })];
    let files = folders.iter().filter_map(|folder| fs_err::read_dir(folder).ok()).flatten();
    let paths =
        files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_none_or(|kind| kind != "snap"));
    let mut paths: Vec<_> = paths.collect();
    paths.sort();
    let seeds: Vec<_> = paths.into_iter().map(|path| fs_err::read(path).unwrap()).collect();
    assert!(seeds.len() >= 5, "the corpus of `{name}` is missing");
    seeds
}

fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut impl Rng) {
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=input.len());
        let end = (at + random.random_range(0..12)).min(input.len());
        match random.random_range(0..5) {
            0 => drop(input.drain(at..end)),
            1 => drop(input.splice(at..end, FRAGMENTS[random.random_range(0..FRAGMENTS.len())].bytes())),
            2 if at < input.len() => input[at] = random.random(),
            3 => {
                let from = random.random_range(0..=other.len());
                drop(input.splice(at..end, other[from..].iter().copied().take(40)));
            }
            _ => {
                let copy: Vec<u8> = input[at..end].to_vec();
                drop(input.splice(at..at, copy));
            }
        }
    }
}

fn mutation_time() -> Duration {
    let seconds = std::env::var(SECONDS_VARIABLE).ok().map_or(DEFAULT_SECONDS, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

fn for_mutations(name: &str, mut run: impl FnMut(&[u8])) {
    let seeds = corpus(name);
    let mut random = ChaCha8Rng::seed_from_u64(42);
    for seed in &seeds {
        run(seed);
    }
    let (start, time) = (Instant::now(), mutation_time());
    let mut rounds = 0_u64;
    while start.elapsed() < time {
        let mut input = seeds[random.random_range(0..seeds.len())].clone();
        let other = &seeds[random.random_range(0..seeds.len())];
        mutate(&mut input, other, &mut random);
        run(&input);
        rounds += 1;
    }
    println!("{name}: {rounds} mutations");
}

#[test]
fn mutated_studies_get_an_answer() {
    for_mutations("study", |input| {
        let text = String::from_utf8_lossy(input);
        if let Err(error) = StudyConfig::from_text(Path::new("study.yaml"), &text, &[], Profile::Standard) {
            assert!(!error.problems.is_empty(), "refused without a reason:\n{text}");
            let message = error.to_string();
            assert!(!message.contains('\u{1b}'), "a file writes to the terminal:\n{message:?}");
        }
    });
}

#[test]
fn mutated_events_are_events_or_not() {
    for_mutations("event", |input| {
        if let Some(event) = decode_event(input) {
            let again = serde_json::to_vec(&event).unwrap();
            assert_eq!(decode_event(&again).map(|read| read.seq), Some(event.seq));
        }
    });
}
