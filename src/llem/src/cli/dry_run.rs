//! `llem run --dry-run`: what would be run, in which order, for how long at least.

use std::fmt::Write;

use llem::config::StudyConfig;
use llem::plan::order::{PlannedRun, order};
use serde_json::json;

use super::arguments::Format;
use super::dry_run_images::ImageLine;
use super::{Failure, Printer, table};

/// Rows of each list that are shown unless `-v` asks for all.
const SHOWN: usize = 40;

/// Prints the plan of a study.
pub(crate) fn dry_run(
    study: &StudyConfig,
    images: &[ImageLine],
    format: Format,
    printer: Printer,
) -> Result<(), Failure> {
    let plan = order(study.experiments.len(), &study.execution);
    match format {
        Format::Human => printer.result(&human(study, &plan, images, printer.is_verbose())),
        Format::Json => printer.result(&format!("{:#}", as_json(study, &plan, images))),
    }
}

/// Seconds that the settings alone ask for. Loading and whole passes come on top and are not known before.
struct Least {
    /// Windows and rests, on any machine.
    anywhere: f64,
    /// With idle baseline, thermal floor and prefill passes, which are for machines with a readable power sensor; the thermal gate may
    /// open at once.
    with_sensor: f64,
}

fn least_seconds(study: &StudyConfig, plan: &[PlannedRun]) -> Least {
    let measurements = || {
        let experiments = plan.iter().filter_map(|run| study.experiments.get(run.experiment));
        experiments.map(|experiment| &experiment.config.measurement)
    };
    let windows: f64 = measurements().map(|m| m.min_seconds).sum();
    let around: f64 =
        measurements().map(|m| m.baseline_seconds + m.thermal_floor_seconds + m.prefill_min_seconds).sum();
    let gaps: f64 = plan
        .windows(2)
        .map(|pair| match pair {
            [a, b] if a.cycle == b.cycle => study.execution.experiment_gap_seconds,
            _ => study.execution.cycle_gap_seconds.max(study.execution.experiment_gap_seconds),
        })
        .sum();
    Least { anywhere: windows + gaps, with_sensor: windows + gaps + around }
}

/// `at least 4 min 0 s; where a power sensor is readable 12 min 0 s`.
fn at_least(least: &Least) -> String {
    let anywhere = format!("at least {}", duration(least.anywhere));
    if least.with_sensor > least.anywhere {
        format!("{anywhere}; where a power sensor is readable {}", duration(least.with_sensor))
    } else {
        anywhere
    }
}

fn human(study: &StudyConfig, plan: &[PlannedRun], images: &[ImageLine], all: bool) -> String {
    let execution = &study.execution;
    let mut text = format!(
        "{}: {}, {} ({}, {})\n{}\n\n",
        study.name,
        table::count(study.experiments.len(), "experiment"),
        table::count(plan.len(), "run"),
        table::count(execution.n_cycles as usize, "cycle"),
        table::value(&serde_json::to_value(execution.cycle_order).unwrap_or_default()),
        at_least(&least_seconds(study, plan)),
    );
    let limit = if all { usize::MAX } else { SHOWN };
    text.push_str(&experiments(study, limit));
    for merged in study.merged.iter().take(limit) {
        let _ = writeln!(text, "merged: {} equals experiment {} and is run with it", merged.point, merged.experiment);
    }
    rest(&mut text, study.merged.len(), limit, "merged points");
    let numbers: Vec<String> = plan.iter().take(limit).map(|run| (run.experiment + 1).to_string()).collect();
    let more = if plan.len() > limit { " …" } else { "" };
    let _ = writeln!(text, "\norder of the runs, by number: {}{more}", numbers.join(" "));
    for line in images {
        let _ = writeln!(text, "{}", line.text());
    }
    text.push_str("time: windows and rests, with a sensor also idle baseline, thermal floor and prefill passes;\n");
    text.push_str("loading and the rest of whole passes come on top\n");
    text
}

fn experiments(study: &StudyConfig, limit: usize) -> String {
    let keys = &study.varied_keys;
    let mut head = vec!["no".to_owned(), "experiment".to_owned(), "backend".to_owned()];
    head.extend(keys.iter().filter(|key| *key != "backend").map(|key| table::short(key, keys)));
    let rows = study.experiments.iter().enumerate().take(limit).map(|(index, experiment)| {
        let mut row = vec![(index + 1).to_string(), experiment.id.clone(), experiment.config.backend.name().to_owned()];
        row.extend(keys.iter().filter(|key| *key != "backend").map(|key| {
            let varied = experiment.varied.iter().find(|(name, _)| name == key);
            varied.map_or_else(|| "-".to_owned(), |(_, value)| table::value(value))
        }));
        row
    });
    let mut text = table::grid(head, rows, 3);
    text.push('\n');
    rest(&mut text, study.experiments.len(), limit, "experiments");
    text
}

fn rest(text: &mut String, total: usize, limit: usize, what: &str) {
    if total > limit {
        let _ = writeln!(text, "… {} more {what} (-v or --format json lists all)", total - limit);
    }
}

fn as_json(study: &StudyConfig, plan: &[PlannedRun], images: &[ImageLine]) -> serde_json::Value {
    let experiments: Vec<_> = study
        .experiments
        .iter()
        .map(|e| json!({"experiment_id": e.id, "label": e.label, "varied": varied(&e.varied), "config": e.config}))
        .collect();
    let runs: Vec<_> = plan
        .iter()
        .filter_map(|run| {
            let experiment = study.experiments.get(run.experiment)?;
            Some(json!({"number": run.number, "experiment_id": experiment.id, "cycle": run.cycle}))
        })
        .collect();
    let least = least_seconds(study, plan);
    json!({
        "schema_version": llem::result::SCHEMA_VERSION,
        "name": study.name,
        "profile": study.profile.name(),
        "design_hash": study.design_hash(),
        "execution": study.execution,
        "least_seconds": least.anywhere,
        "least_seconds_with_sensor": least.with_sensor,
        "experiments": experiments,
        "merged": study.merged,
        "runs": runs,
        "images": images.iter().map(ImageLine::as_json).collect::<Vec<_>>(),
    })
}

fn varied(pairs: &[(String, serde_json::Value)]) -> serde_json::Map<String, serde_json::Value> {
    pairs.iter().cloned().collect()
}

/// `45 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Least, at_least, duration};

    #[test]
    fn the_time_with_a_sensor_is_said_when_it_is_longer() {
        let text = |anywhere, with_sensor| at_least(&Least { anywhere, with_sensor });
        assert_eq!(text(240.0, 720.0), "at least 4 min 0 s; where a power sensor is readable 12 min 0 s");
        assert_eq!(text(2.0, 2.0), "at least 2 s");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([0.4, 45.0, 200.0, 7500.0].map(duration), ["0 s", "45 s", "3 min 20 s", "2 h 5 min"]);
    }
}
