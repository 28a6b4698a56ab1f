//! `llem-agent JOB_FILE`: starts the driver of one run, measures it, and writes the results. `llem-agent --gpus`: the GPUs that are visible.

mod cgroup;
mod checks;
mod classify;
mod clock;
mod conversation;
mod cpus;
mod driver;
mod driver_log;
mod environment;
mod events;
mod fault;
mod inbox;
mod job;
mod lines;
mod output;
mod packages;
mod phases;
mod power;
mod process_tree;
mod records;
mod results;
mod run;
mod signals;
mod usage;
mod watchdog;
mod window;
mod workload;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(flag), None) if flag == "--version" => events::print_version(),
        (Some(flag), None) if flag == "--gpus" => events::print_gpus(&power::visible_gpus()),
        (Some(file), None) => run::run(Path::new(&file)),
        _ => events::print_usage(),
    }
}
