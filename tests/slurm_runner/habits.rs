//! What sites and their users do around SLURM: wrappers of its commands, limits, odd paths; and commands that do not answer.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use llem::result::RunStatus;
use llem_protocol::{FailureClass, Phase};
use rustix::process::Signal;
use serde_json::json;

use super::site::Site;
use super::{PATIENT, journal, measured_each_once, runs, sweep};
use crate::support::Bench;

/// Puts a site's own wrapper before a command of SLURM's.
fn wrap(bench: &mut Bench, command: &str, script: &str) {
    let directory = bench.path("wrappers");
    fs_err::create_dir_all(&directory).unwrap();
    let path = std::env::var("PATH").unwrap();
    let script = format!("#!/bin/sh\nPATH='{path}'\ncd '{}'\n{script}\n", directory.display());
    fs_err::write(directory.join(command), script).unwrap();
    fs_err::set_permissions(directory.join(command), PermissionsExt::from_mode(0o755)).unwrap();
    bench.variables.insert("PATH", format!("{}:{path}", directory.display()));
}

#[test]
fn wrappers_that_talk_and_queues_that_say_half_lose_nothing() {
    let Some(site) = Site::start() else { return };
    let mut bench = site.bench("slurm-wrappers").patient(PATIENT);
    sweep(&mut bench, 2);
    bench.study["measurement"]["min_seconds"] = json!(4);
    // `sbatch` takes `%j` for a number, wherever it is.
    bench.output = bench.path("100 %j's");
    wrap(&mut bench, "sbatch", "echo 'Welcome! 12 hours left.'\nexec sbatch \"$@\"");
    // Two of three answers have no jobs.
    let half = "echo >> looks\n[ $(($(wc -l < looks) % 3)) = 0 ] || { echo 'try later'; exit 0; }\nexec squeue \"$@\"";
    wrap(&mut bench, "squeue", half);
    let finished = bench.run(&[]);
    finished.exits(0);
    measured_each_once(&finished, 8);
    assert_eq!(runs(&finished.study_dir()).len(), 8, "nothing is tried again");
    site.is_idle();
}

#[test]
fn a_directory_that_sbatch_cannot_be_told_is_refused() {
    let Some(site) = Site::start() else { return };
    let mut bench = site.bench("slurm-backslash");
    bench.output = bench.path("a\\b");
    bench.run(&[]).exits(1).says(&["no directory with a backslash in its path", "--output"]);
    assert!(site.jobs("all").is_empty());
}

#[test]
fn limits_of_the_site_are_kept_and_told() {
    // A plugin in place of a limit in accounts, which need a database: at most three jobs in an array.
    let partition = "PartitionName=short Nodes=n1 MaxTime=1 State=UP\nMaxArraySize=10\nJobSubmitPlugins=lua";
    let plugin = "function slurm_job_submit(job, parts, uid)\n\
                  local last = string.match(job.array_inx or '0-0', '^%d+%-(%d+)')\n\
                  if last ~= nil and tonumber(last) > 2 then slurm.log_user('too many jobs') return slurm.ERROR end\n\
                  return slurm.SUCCESS\nend\n\
                  function slurm_job_modify() return slurm.SUCCESS end\nreturn slurm.SUCCESS\n";
    let Some(site) = Site::start_with_files(&["n1"], partition, &[("job_submit.lua", plugin)]) else { return };
    let mut bench = site.bench("slurm-limits");
    sweep(&mut bench, 3);
    let finished = bench.run(&[]);
    finished.exits(0).says(&["too many jobs", "trying arrays of at most"]);
    measured_each_once(&finished, 12);
    let arrays: Vec<u64> = journal(&finished.study_dir())
        .iter()
        .filter(|line| line["event"] == "array_submitted")
        .map(|line| line["job"].as_u64().unwrap())
        .collect();
    assert!(arrays.len() >= 4, "{arrays:?}");

    bench.user["slurm"]["partition"] = json!("short");
    bench.user["slurm"]["time_limit_minutes"] = json!(2);
    let mut program = bench.start(&[]);
    program.until("jobs waiting for `PartitionTimeLimit`: their time limit is above the partition's");
    program.signal(Signal::INT);
    program.finish().exits(130);
    site.is_idle();
}

#[test]
fn commands_that_hang_do_not_hold_who_leaves() {
    let Some(site) = Site::start() else { return };
    let mut bench = site.bench("slurm-hang").long_window();
    bench.study["execution"] = json!({"n_cycles": 2});
    for command in ["sbatch", "squeue", "scancel"] {
        // It works until the test says otherwise.
        let hang = format!("if [ -e hang ]; then sleep 600; fi\nexec {command} \"$@\"");
        wrap(&mut bench, command, &hang);
    }
    let mut program = bench.start(&[]);
    program.until("0 jobs waiting, 2 running");
    program.until("[2] ");
    let hang = bench.path("wrappers/hang");
    fs_err::write(&hang, "").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let clock = Instant::now();
    program.signal(Signal::INT);
    program.until("cancelling 2 jobs");
    program.signal(Signal::INT);
    let finished = program.finish();
    finished.exits(130).says(&[
        "`scancel` did not answer in time: jobs may be left",
        "--resume takes these up",
        "scancel ",
    ]);
    assert!(clock.elapsed() < Duration::from_secs(60), "{:?}", clock.elapsed());
    assert_eq!(site.jobs("RUNNING").len(), 2, "nobody could cancel them");
    assert!(runs(&finished.study_dir()).iter().all(|(_, run)| run.is_none()), "they are under way");

    fs_err::remove_file(&hang).unwrap();
    let study = finished.study_dir().display().to_string();
    let mut program = bench.start(&["--resume", &study]);
    program.until("going on with 2 runs that an earlier controller submitted");
    program.signal(Signal::INT);
    let finished = program.finish();
    finished.exits(130);
    site.is_idle();
    let left = runs(&finished.study_dir());
    assert!(left.iter().all(|(_, run)| run.as_ref().unwrap().status == RunStatus::Interrupted), "{left:?}");

    // A first `sbatch` that hangs is no reason to wait, either.
    fs_err::write(&hang, "").unwrap();
    let program = bench.start(&[]);
    std::thread::sleep(Duration::from_secs(3));
    program.signal(Signal::INT);
    std::thread::sleep(Duration::from_secs(1));
    program.signal(Signal::INT);
    program.finish().exits(130);
    fs_err::remove_file(&hang).unwrap();
    site.is_idle();
}

/// Nothing of such a study has begun, and all of it waits in the queue.
#[test]
fn jobs_that_wait_are_cancelled_though_scancel_fails_at_first() {
    let Some(site) = Site::start() else { return };
    let mut bench = site.bench("slurm-scancel").patient(PATIENT);
    bench.study["execution"] = json!({"n_cycles": 2});
    wrap(&mut bench, "sbatch", "exec sbatch --hold \"$@\"");
    let fails = "echo >> tries\n[ $(wc -l < tries) -gt 2 ] || { echo 'busy' >&2; exit 1; }\nexec scancel \"$@\"";
    wrap(&mut bench, "scancel", fails);
    let mut program = bench.start(&[]);
    program.until("2 jobs waiting for `JobHeldUser`: somebody holds them");
    program.signal(Signal::INT);
    let finished = program.finish();
    finished.exits(130);
    site.is_idle();
    assert!(runs(&finished.study_dir()).is_empty(), "what has not begun leaves nothing");
}

/// Jobs can wait for days, and llem be installed anew meanwhile.
#[test]
fn a_program_that_is_replaced_while_jobs_wait_measures_nothing() {
    let Some(site) = Site::start() else { return };
    let mut bench = site.bench("slurm-replaced");
    let own = bench.path("bin");
    fs_err::create_dir(&own).unwrap();
    for program in ["llem", "llem-agent", "llem-candle"] {
        fs_err::copy(bench.program.with_file_name(program), own.join(program)).unwrap();
    }
    bench.program = own.join("llem");
    let agent = own.join("llem-agent");
    wrap(&mut bench, "sbatch", &format!("printf x >> '{}'\nexec sbatch \"$@\"", agent.display()));
    let finished = bench.run(&[]);
    let failure = finished.fails_with(FailureClass::JobDied, Phase::Start);
    assert!(failure.log_tail.iter().any(|line| line.contains("llem-agent: SHA-256")), "{failure:?}");
    site.is_idle();
}
