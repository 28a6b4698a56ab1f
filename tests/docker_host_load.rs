//! Other work on the machine beside a run. That a quiet machine is not flagged is shown with recorded accounts (`host/load.rs`): the machine
//! that these tests run on need not be quiet.

use std::process::{Child, Command, Stdio};

use llem::result::RunResult;
use llem_protocol::{ReasonCode, Severity};
use serde_json::json;

use crate::support::Bench;

/// Programs that compute and do nothing else.
struct Burners(Vec<Child>);

impl Burners {
    /// Two for each processor.
    fn start() -> Self {
        let count = 2 * std::thread::available_parallelism().unwrap().get();
        let burner = || Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        Self((0..count).map(|_| burner()).collect())
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A run with a window of a second and its load.
fn run(mut bench: Bench, runner: &str) -> RunResult {
    bench.study["measurement"]["min_seconds"] = json!(1);
    let finished = bench.run(&["--runner", runner]);
    finished.exits(0);
    finished.results().remove(0)
}

fn is_flagged(result: &RunResult) {
    let load = result.host_load.unwrap_or_else(|| panic!("{:?}", result.reasons));
    let window = result.window.as_ref().unwrap();
    let machine_s =
        (window.end_ns - window.start_ns) as f64 / 1e9 * f64::from(result.host.as_ref().unwrap().cpus.unwrap());
    assert!(load.run_cpu_s > 0.0 && load.run_cpu_s < machine_s, "{load:?} of {machine_s} s");
    assert!(load.others_share > 0.25 && load.others_share <= 1.0, "{load:?}");
    let reason = result.reasons.iter().find(|reason| reason.code == ReasonCode::HostBusy).unwrap();
    let share = format!("other programs used {:.0} % of the machine's processors", load.others_share * 100.0);
    assert!(reason.severity == Severity::Note && reason.message.contains(&share), "{reason}");
}

#[test]
fn a_run_beside_other_work_says_how_much_of_it_there_was() {
    let _burners = Burners::start();
    is_flagged(&run(Bench::new("load-process"), "process"));
    if let Some(bench) = Bench::docker("load-docker") {
        is_flagged(&run(bench, "docker"));
    }
}
