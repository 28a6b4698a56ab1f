use std::path::Path;

use llem::runner::Stop;
use llem::study::run_slurm_task;

use super::{Exit, Failure, Printer, runtime, signals};

/// `llem slurm-task`: what a job of an array runs on its node.
pub(crate) fn slurm_task(plan: &Path, printer: Printer) -> Result<Exit, Failure> {
    let stop = Stop::default();
    runtime()?.block_on(async {
        signals::listen(stop.clone(), printer, &signals::RUN)?;
        run_slurm_task(plan, &stop).await.map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Exit::Success)
    })
}
