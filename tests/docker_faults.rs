//! Controllers that die at random moments, again and again, until their study is done.
//!
//! `LLEM_KILLS` is the number of kills (default 4), `LLEM_FAULT_SEED` the seed of their moments (default 1). The long form:
//! `LLEM_KILLS=200 cargo nextest run --workspace --no-capture -E 'test(docker_faults)'`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use llem::result::StudyStatus;
use rand::{RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::docker_resume::{identity, results};
use crate::support::{Bench, Program, containers_of, eventually};

/// The longest time that a controller lives before it is killed; most of a study of twelve runs takes longer.
const LONGEST_LIFE: Duration = Duration::from_secs(6);

/// Twelve short runs: four experiments in three cycles.
fn twelve(name: &str) -> Bench {
    let mut bench = Bench::new(name).patient(Duration::from_secs(300));
    bench.study["candle"] = json!({});
    bench.study["sweep"] = json!({"candle.batch_size": [1, 2, 3, 4]});
    bench.study["execution"] = json!({"n_cycles": 3});
    bench
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// What was lost or repeated of what had a result.
#[derive(Debug, Default)]
struct Account {
    kills: u64,
    adopted: usize,
    repeated_unfinished: usize,
}

/// The order in which runs were begun for the first time.
fn order(study: &Path) -> Vec<String> {
    let mut seen = Vec::new();
    for line in fs_err::read_to_string(study.join("journal.jsonl")).unwrap().lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let name = line["run_id"].as_str().unwrap_or_default().split("-r").next().unwrap().to_owned();
        if line["event"] == "run_started" && !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

/// Ends controllers of one study with the `blows` in turn, signals that follow each other, until it is done or `kills` are used up; gives
/// its directory.
fn survive(bench: &Bench, kills: u64, blows: &[&[Signal]], random: &mut ChaCha8Rng, account: &mut Account) -> PathBuf {
    let mut finished: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut study: Option<PathBuf> = None;
    for kill in 0..kills {
        let mut arguments = vec!["--runner", "docker"];
        let directory = study.as_ref().map(|path| path.display().to_string());
        if let Some(directory) = &directory {
            arguments.extend(["--resume", directory]);
        }
        let mut program = bench.start(&arguments);
        if study.is_none() {
            program.until("results/");
            study = Some(program.study_dir());
        }
        let life = LONGEST_LIFE.mul_f64(random.random::<f64>());
        std::thread::sleep(life);
        let has_ended = !program.is_running();
        match blows[usize::try_from(kill).unwrap() % blows.len()] {
            [Signal::KILL] => program.kill(),
            signals => stop(program, signals),
        }
        account.kills += u64::from(!has_ended);
        check(study.as_ref().unwrap(), &mut finished);
        if has_ended {
            break;
        }
    }
    let study = study.unwrap();
    let directory = study.display().to_string();
    // A run that somebody else's `llem` took the container of has failed: it is tried again.
    for _ in 0..5 {
        let done = bench.run(&["--runner", "docker", "--resume", &directory]);
        check(&study, &mut finished);
        if done.stderr.contains("(12 measured before)") {
            done.exits(0).leaves_no_container();
            break;
        }
    }
    let journal = fs_err::read_to_string(study.join("journal.jsonl")).unwrap();
    account.adopted += journal.matches(r#""event":"run_adopted""#).count();
    account.repeated_unfinished += finished.keys().filter(|name| name.contains("-r")).count();
    study
}

/// Sends signals, the second when the first has been heard, and checks what the exit code says.
fn stop(mut program: Program, signals: &[Signal]) {
    for (nth, signal) in signals.iter().enumerate() {
        if nth > 0 {
            eventually("the answer to the first signal", || {
                (!program.is_running() || program.said().contains("stopping: ")).then_some(())
            });
        }
        if program.is_running() {
            program.signal(*signal);
        }
    }
    let stopped = program.finish();
    let code = stopped.code();
    // Before llem listens and after its last run, a signal finds nothing to stop.
    let nothing_to_stop = || stopped.stderr.is_empty() || stopped.study().status == StudyStatus::Completed;
    assert!(code == Some(130) || (nothing_to_stop() && matches!(code, Some(0) | None)), "{code:?}: {}", stopped.stderr);
}

/// What has a result keeps it, and a run that was measured is not measured again.
fn check(study: &Path, finished: &mut BTreeMap<String, Vec<u8>>) {
    let now = results(study);
    for (name, text) in finished.iter() {
        assert!(now.get(name) == Some(text), "the result of {name} was lost or changed");
    }
    let completed = now.iter().filter(|(_, text)| {
        let result: Value = serde_json::from_slice(text).unwrap();
        result["status"] == "completed"
    });
    let mut runs = std::collections::BTreeSet::new();
    for (name, _) in completed {
        assert!(runs.insert(name.split("-r").next().unwrap().to_owned()), "{name} was measured twice");
    }
    *finished = now;
}

fn survives(name: &str, kills: u64, blows: &[&[Signal]]) {
    let Some(undisturbed) = Bench::docker(name).map(|_| twelve(name).run(&["--runner", "docker"])) else { return };
    undisturbed.exits(0);
    let expected = (identity(&undisturbed.study_dir()), order(&undisturbed.study_dir()));
    let mut random = ChaCha8Rng::seed_from_u64(setting("LLEM_FAULT_SEED", 1));
    let (mut account, mut studies) = (Account::default(), 0);
    while account.kills < kills {
        let bench = twelve(name);
        let study = survive(&bench, kills - account.kills, blows, &mut random, &mut account);
        assert_eq!(identity(&study), expected.0);
        assert_eq!(order(&study), expected.1);
        assert_eq!(containers_of(&study), Vec::<String>::new());
        studies += 1;
    }
    let _ = writeln!(std::io::stderr(), "{name}: {studies} studies of 12 runs, {account:?}");
}

#[test]
fn nothing_is_lost_or_repeated_when_the_controller_is_killed() {
    survives("killed-often", setting("LLEM_KILLS", 4), &[&[Signal::KILL]]);
}

#[test]
fn nothing_is_lost_or_repeated_when_the_controller_is_terminated() {
    const BLOWS: &[&[Signal]] = &[&[Signal::TERM], &[Signal::TERM, Signal::TERM], &[Signal::KILL], &[Signal::INT]];
    survives("terminated-often", setting("LLEM_KILLS", 4), BLOWS);
}
