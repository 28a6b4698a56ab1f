//! The last lines of a study that did not go well: which runs failed, why, and where their logs are.

use std::path::Path;

use llem::result::{ExperimentResult, RunStatus, StudyResult};

use super::table;

/// Failed runs that are listed.
const LISTED: usize = 20;

/// One line for each failed run and each experiment that was left; empty when there is none.
pub(crate) fn lines(result: &StudyResult) -> Vec<String> {
    let failed =
        result.experiments.iter().flat_map(|experiment| experiment.runs.iter().map(move |run| (experiment, run)));
    let failed = failed.filter(|(_, run)| run.status == RunStatus::Failed).map(|(experiment, run)| {
        let why = run.failure.as_ref().map_or_else(|| "unknown".to_owned(), |failure| failure.class.to_string());
        let logs = Path::new(&result.directory).join("runs").join(&run.run_id);
        format!("failed: {} · cycle {}: {why}; logs: {}", name(experiment), run.cycle, table::path(&logs))
    });
    let skipped = result.experiments.iter().filter_map(|experiment| {
        let skipped = experiment.skipped.as_ref()?;
        let cycles = table::count(skipped.cycles.len(), "further cycle");
        Some(format!("left out: {} of {}: {}", cycles, name(experiment), skipped.failure))
    });
    let mut lines: Vec<String> = failed.chain(skipped).collect();
    let more = lines.len().saturating_sub(LISTED);
    lines.truncate(LISTED);
    lines.extend((more > 0).then(|| format!("and {more} more: `study.json` has them all")));
    lines
}

fn name(experiment: &ExperimentResult) -> &str {
    if experiment.label.is_empty() { &experiment.experiment_id } else { &experiment.label }
}
