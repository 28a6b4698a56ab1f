//! What llem itself costs, beside what the same work costs without it.
//!
//! ```text
//! cargo build --release --workspace && cargo bench -p llem --bench cost             # some minutes
//! cargo build --release --workspace && cargo bench -p llem --bench cost -- --short  # under a minute
//! ```
//!
//! Time on a shared machine drifts by more than the differences sought here. So the two sides of a comparison alternate
//! in one run, figures are medians, and each has its quartiles beside it. A target that is missed is printed, not
//! failed: the exit status tells only whether the figures could be taken.
//!
//! - Time per experiment: rounds of a small study through the built `llem` and as many containers without it
//!   (`plain`), in an order that swaps from round to round. llem's side is taken from its journal, from `run_started` to
//!   `run_finished`, so that the files of a run are counted; the whole study per run, with its start and its own files,
//!   is printed too.
//! - `llem --version`: alternating with `/bin/true`, which is what starting any program costs here.
//! - `--dry-run` of 10,000 experiments: time and memory in separate starts, for watching memory costs time.
//! - The agent in the window: by its own account in `result.json`.

mod llem_program;
mod plain;
mod process;
mod table;

use std::error::Error;
use std::io::Write;

use bollard::Docker;

use llem_program::LlemProgram;
use plain::{PlainContainer, Steps};
use table::{Figure, Sample, Table};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How often everything is done.
struct Effort {
    /// Rounds of studies and plain containers.
    rounds: usize,
    /// Runs of one study, and plain containers, in a round.
    runs: usize,
    /// Starts of `llem --version`.
    starts: usize,
    /// Dry runs.
    dry_runs: usize,
    /// Length of the window in which the agent is looked at, in seconds.
    window_s: f64,
}

const FULL: Effort = Effort { rounds: 5, runs: 3, starts: 50, dry_runs: 5, window_s: 10.0 };
const SHORT: Effort = Effort { rounds: 2, runs: 2, starts: 15, dry_runs: 3, window_s: 3.0 };

/// A model so small that nearly all time is that of containers, files and processes.
const TINY: &str = "
name: tiny
model: {synthetic: {layers: 1, hidden: 64, intermediate: 128, heads: 4, kv_heads: 2, vocab: 512, max_positions: 256}}
backend: candle
dtype: float32
workload: {n: 2, input_tokens: 8, output_tokens: 4}
measurement: {warmup_passes: 1, baseline_seconds: 0}
execution: {n_cycles: 1}
";

/// Window of the small study, in seconds.
const TINY_WINDOW_S: f64 = 0.3;

/// The built-in model with passes of some hundred milliseconds.
const WINDOW: &str = "
name: window
model: synthetic
backend: candle
dtype: float32
workload: {n: 8, input_tokens: 64, output_tokens: 32}
measurement: {warmup_passes: 1, baseline_seconds: 0}
execution: {n_cycles: 1}
";

/// Exactly 10,000 experiments: 50 · 10 · (10 + 10).
const TEN_THOUSAND: &str = "
name: many
model: synthetic
backend: [vllm, pytorch]
sweep:
  random_seed: {from: 1, to: 50, num: 50}
  workload.n: {from: 1, to: 10, num: 10}
  vllm.max_num_seqs: {from: 1, to: 10, num: 10}
  pytorch.batch_size: {from: 1, to: 512, scale: pow2}
";

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --all-targets` starts benches too, without this argument.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return print("skipped: `cargo bench` measures");
    }
    let effort = if arguments.iter().any(|argument| argument == "--short") { SHORT } else { FULL };
    let llem = LlemProgram::new()?;
    let mut table = Table::new();
    experiment(&llem, &effort, &mut table)?;
    version(&llem, &effort, &mut table)?;
    dry_run(&llem, &effort, &mut table)?;
    agent(&llem, &effort, &mut table)?;
    print(&table.text())
}

/// Time per experiment over a plain container.
fn experiment(llem: &LlemProgram, effort: &Effort, table: &mut Table) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let docker = match runtime.block_on(connect()) {
        Ok(docker) => docker,
        Err(error) => {
            table.note(format!("time per experiment: not taken, no container engine answers ({error})"));
            return Ok(());
        }
    };
    let container = capture(llem, &runtime, &docker)?;
    let settings = [format!("execution.n_cycles={}", effort.runs), format!("measurement.min_seconds={TINY_WINDOW_S}")];
    let (mut runs_s, mut totals_s, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        for side in [round % 2, (round + 1) % 2] {
            if side == 0 {
                let study = llem.study(TINY, &settings)?;
                totals_s.push(study.total_s / effort.runs as f64);
                runs_s.extend(study.runs_s);
            } else {
                for _ in 0..effort.runs {
                    plain.push(runtime.block_on(container.run(&docker))?);
                }
            }
        }
    }
    experiment_rows(&runs_s, totals_s, &plain, table);
    Ok(())
}

async fn connect() -> Result<Docker, bollard::errors::Error> {
    let docker = Docker::connect_with_defaults()?;
    docker.ping().await?;
    Ok(docker)
}

/// Takes the container from a study that also makes model, workload and image; its times are not used.
fn capture(llem: &LlemProgram, runtime: &tokio::runtime::Runtime, docker: &Docker) -> Outcome<PlainContainer> {
    let long_enough = ["measurement.min_seconds=4".to_owned()];
    std::thread::scope(|scope| {
        let study = scope.spawn(|| llem.study(TINY, &long_enough));
        let ended = || study.is_finished();
        let captured = runtime.block_on(PlainContainer::capture(docker, &llem.scratch(), TINY_WINDOW_S, ended));
        study.join().map_err(|_| "the first study's thread panicked")??;
        captured
    })
}

fn experiment_rows(runs_s: &[f64], totals_s: Vec<f64>, plain: &[Steps], table: &mut Table) {
    let llem = Sample::new(runs_s.to_vec());
    let plain_s = Sample::new(plain.iter().map(total_s).collect());
    let pairs = runs_s.iter().zip(plain).map(|(llem, plain)| llem - total_s(plain));
    let (added, ratio) = (llem.median() - plain_s.median(), llem.median() / plain_s.median());
    table.row(Figure::new("llem, one run", "s", &llem));
    table.row(Figure::new("plain container, the same", "s", &plain_s));
    for (step, name) in plain::STEPS.iter().enumerate() {
        let seconds = plain.iter().filter_map(|steps| steps.get(step).copied());
        table.row(Figure::new(&format!("  {name}"), "s", &Sample::new(seconds.collect())));
    }
    let name = format!("added by llem ({ratio:.2} x)");
    table.row(Figure::new(&name, "s", &Sample::new(pairs.collect())).with_value(added).at_most(0.25));
    table.row(Figure::new("llem, whole study per run", "s", &Sample::new(totals_s)));
}

fn total_s(steps: &Steps) -> f64 {
    steps.iter().sum()
}

fn version(llem: &LlemProgram, effort: &Effort, table: &mut Table) -> Outcome<()> {
    let (mut own_ms, mut true_ms) = (Vec::new(), Vec::new());
    for _ in 0..effort.starts {
        own_ms.push(process::time_s(llem.command().arg("--version"))? * 1e3);
        true_ms.push(process::time_s(&mut std::process::Command::new("/bin/true"))? * 1e3);
    }
    table.row(Figure::new("llem --version", "ms", &Sample::new(own_ms)).at_most(10.0));
    table.row(Figure::new("/bin/true", "ms", &Sample::new(true_ms)));
    Ok(())
}

fn dry_run(llem: &LlemProgram, effort: &Effort, table: &mut Table) -> Outcome<()> {
    let file = llem.write_study("many.yaml", TEN_THOUSAND)?;
    let plan = || {
        let mut command = llem.command();
        // This machine may have no GPU: the plan is for others.
        command.arg("run").arg(&file).args(["--dry-run", "--vram-gib", "80"]);
        command
    };
    let output = plan().output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.contains("10000 experiments") {
        return Err(format!("the dry run does not plan 10000 experiments:\n{text}").into());
    }
    let (mut seconds, mut megabytes) = (Vec::new(), Vec::new());
    for _ in 0..effort.dry_runs {
        seconds.push(process::time_s(&mut plan())?);
        megabytes.push(process::peak_bytes(&mut plan())? as f64 / 1e6);
    }
    table.row(Figure::new("--dry-run of 10,000", "s", &Sample::new(seconds)).at_most(1.0));
    table.row(Figure::new("--dry-run of 10,000, peak memory", "MB", &Sample::new(megabytes)).at_most(100.0));
    Ok(())
}

fn agent(llem: &LlemProgram, effort: &Effort, table: &mut Table) -> Outcome<()> {
    let study = llem.study(WINDOW, &[format!("measurement.min_seconds={}", effort.window_s)])?;
    let result = study.last_result()?;
    let window = result.window.ok_or("the run of the window has no window")?;
    let share = Sample::new(vec![window.agent.cpu_share * 100.0]);
    let resident = Sample::new(window.agent.resident_bytes.iter().map(|bytes| *bytes as f64 / 1e6).collect());
    table.row(Figure::new("agent in the window", "% of a core", &share).at_most(1.0));
    table.row(Figure::new("agent in the window, resident", "MB", &resident).at_most(20.0));
    let sensors = match window.energy.devices.len() {
        0 => "this machine has no sensor, so none was read".to_owned(),
        count => format!("{count} sensor domains were read"),
    };
    let seconds = (window.end_ns - window.start_ns) as f64 / 1e9;
    table.note(format!("agent: window of {seconds:.1} s with {} passes; {sensors}", window.passes.len()));
    Ok(())
}

fn print(text: &str) -> Outcome<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
