//! One file per command.

mod arguments;
mod bundle;
mod cache;
mod clean;
mod compare;
mod config;
mod dry_run;
mod dry_run_images;
mod engines;
mod exit;
mod failures;
mod image;
mod printer;
mod progress;
mod report;
mod run;
mod signals;
mod slurm_task;
mod table;

pub(crate) use arguments::Arguments;
pub(crate) use exit::{Exit, Failure};
pub(crate) use printer::Printer;

use arguments::Command;

/// Runs the command that was asked for.
pub(crate) fn dispatch(arguments: Arguments, printer: Printer) -> Result<Exit, Failure> {
    match arguments.command {
        Command::Run(run) => run::run(&run, printer),
        Command::Bundle(arguments) => bundle::bundle(&arguments, printer),
        Command::Report(report) => report::report(&report, printer),
        Command::Config(config) => config::config(config, printer),
        Command::Image(image) => runtime()?.block_on(image::image(image, printer)),
        Command::Cache(cache) => cache::cache(cache, printer),
        Command::Compare(arguments) => compare::compare(&arguments, printer),
        Command::Schema { record } => {
            printer.result(&format!("{:#}", llem::schema::record_schema(record.into())))?;
            Ok(Exit::Success)
        }
        Command::SlurmTask { plan } => slurm_task::slurm_task(&plan, printer),
        Command::Clean => runtime()?.block_on(clean::clean(printer)),
    }
}

/// The event loop. Two threads: one for the study, one so that a signal is never late.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the event loop could not be started: {error}")))
}
