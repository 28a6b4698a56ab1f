//! `llem run --dry-run`: what would be run, in which order, what it needs, for how long.

mod json;

use std::collections::BTreeMap;
use std::fmt::Write;

use llem::config::{CycleOrder, Experiment, StudyConfig};
use llem::plan::estimate::memory::{MemoryEstimate, Verdict};
use llem::study::{DiskForecast, Forecast, PlannedGpus, WeightsForecast};

use super::arguments::Format;
use super::dry_run_images::{ImageLine, ImageLines};
use super::{Exit, Failure, Printer, table};

/// Rows of each list that are shown unless `-v` asks for all.
const SHOWN: usize = 40;

/// More varied keys than this go into one column.
const KEY_COLUMNS: usize = 2;

const GIB: f64 = (1_u64 << 30) as f64;

/// Prints the plan of a study. What cannot work on this machine is printed last, and makes the command fail.
pub(crate) fn dry_run(
    study: &StudyConfig,
    forecast: &Forecast,
    images: &ImageLines,
    format: Format,
    printer: Printer,
) -> Result<Exit, Failure> {
    match format {
        Format::Human => printer.result(&human(study, forecast, &images.lines, printer.is_verbose()))?,
        Format::Json => printer.result(&format!("{:#}", json::plan(study, forecast, &images.lines)))?,
    }
    let impossible = forecast.impossible();
    let mut lines: Vec<_> =
        impossible.iter().map(|(why, numbers)| format!("  {}{why}", of_experiments(numbers))).collect();
    match &images.missing {
        None if lines.is_empty() => return Ok(Exit::Success),
        Some(missing) if lines.is_empty() => return Err(Failure::failed(missing.to_string())),
        Some(missing) => lines.push(format!("  {missing}")),
        None => {}
    }
    Err(Failure::failed(format!("this cannot work here:\n{}", lines.join("\n"))))
}

fn human(study: &StudyConfig, forecast: &Forecast, images: &[ImageLine], all: bool) -> String {
    let limit = if all { usize::MAX } else { SHOWN };
    let mut text = head(study, forecast);
    text.push_str(&experiments(study, forecast, limit));
    rest(&mut text, study.experiments.len(), limit, "experiments");
    for merged in study.merged.iter().take(limit) {
        let number = study.experiments.iter().position(|e| e.id == merged.experiment).map_or(0, |index| index + 1);
        line(&mut text, &format!("merged: {} equals experiment {number} and is run with it", merged.point));
    }
    rest(&mut text, study.merged.len(), limit, "merged points");
    text.push('\n');
    let numbers: Vec<String> = forecast.plan.iter().take(limit).map(|run| (run.experiment + 1).to_string()).collect();
    let more = if forecast.plan.len() > limit { " …" } else { "" };
    line(&mut text, &format!("order: {}{more}", numbers.join(" ")));
    for note in memory_notes(forecast) {
        line(&mut text, &note);
    }
    for weights in forecast.weights.iter().take(limit) {
        line(&mut text, &weights_line(weights));
    }
    for image in images {
        line(&mut text, &image.text());
    }
    for disk in &forecast.disk {
        line(&mut text, &disk_line(disk));
    }
    line(
        &mut text,
        "s/run: at least; the second number where a power sensor is readable: with idle baseline, thermal floor and prefill \
         passes; loading and the rest of warm-up and passes come on top; ~ is the median of earlier runs",
    );
    text
}

/// One paragraph of the list below the table, broken at the width of the terminal.
fn line(text: &mut String, content: &str) {
    let width = textwrap::Options::new(Printer::width()).subsequent_indent("  ").break_words(false);
    // Names of images and models have hyphens that must stay.
    let width = width.word_splitter(textwrap::WordSplitter::NoHyphenation);
    text.push_str(&textwrap::fill(content, &width));
    text.push('\n');
}

fn head(study: &StudyConfig, forecast: &Forecast) -> String {
    let execution = &study.execution;
    let order = match execution.cycle_order {
        CycleOrder::Sequential => "sequential".to_owned(),
        CycleOrder::Interleaved => "interleaved".to_owned(),
        CycleOrder::Shuffled => format!("shuffled with seed {}", execution.shuffle_seed),
    };
    let mut text = String::new();
    let runs = table::count(forecast.plan.len(), "run");
    let cycles = table::count(execution.n_cycles as usize, "cycle");
    let experiments = table::count(study.experiments.len(), "experiment");
    line(
        &mut text,
        &format!("{}: {experiments} in {cycles}, {runs}; {order}; profile {}", study.name, study.profile.name()),
    );
    let (between_runs, between_cycles) = (execution.experiment_gap_seconds, execution.cycle_gap_seconds);
    if between_runs > 0.0 || between_cycles > 0.0 {
        let cycles = duration(between_cycles.max(between_runs));
        line(&mut text, &format!("rest: {} between runs, {cycles} between cycles", duration(between_runs)));
    }
    line(&mut text, &time_line(forecast));
    text.push('\n');
    text
}

/// `time: at least 4 min 0 s; where a power sensor is readable 12 min 0 s`.
fn time_line(forecast: &Forecast) -> String {
    let time = &forecast.time;
    let mut text = format!("time: at least {}", duration(time.least_s));
    if time.least_with_sensor_s > time.least_s {
        let _ = write!(text, "; where a power sensor is readable {}", duration(time.least_with_sensor_s));
    }
    if let Some(expected) = time.expected_s {
        let (known, all) = (time.measured_runs, forecast.plan.len());
        let _ = write!(text, "; about {} by earlier runs", duration(expected));
        if known < all {
            let _ = write!(text, " ({known} of {all} runs have some, the others count with their least)");
        }
    }
    text
}

fn experiments(study: &StudyConfig, forecast: &Forecast, limit: usize) -> String {
    let keys: Vec<&String> = study.varied_keys.iter().filter(|key| *key != "backend").collect();
    let keys = if keys.len() > KEY_COLUMNS || keys.is_empty() { Vec::new() } else { keys };
    let on_gpu = forecast.experiments.iter().any(|one| one.memory.verdict != Verdict::NoGpu);
    let several_backends = study.varied_keys.iter().any(|key| key == "backend");
    let mut head = vec!["no".to_owned()];
    if keys.is_empty() {
        head.push("experiment".to_owned());
    } else {
        if several_backends {
            head.push("backend".to_owned());
        }
        head.extend(keys.iter().map(|key| table::short(key, &study.varied_keys)));
    }
    let names = head.len();
    if on_gpu {
        head.extend(["weights", "KV", "GiB/GPU", "fits"].map(str::to_owned));
    }
    head.push("s/run".to_owned());
    let rows = study.experiments.iter().zip(&forecast.experiments).enumerate().take(limit);
    let rows = rows.map(|(index, (experiment, needs))| {
        let mut row = vec![(index + 1).to_string()];
        if keys.is_empty() {
            row.push(label(experiment, several_backends));
        } else {
            if several_backends {
                row.push(experiment.config.backend.name().to_owned());
            }
            row.extend(keys.iter().map(|key| varied(experiment, key)));
        }
        if on_gpu {
            row.extend(memory_cells(&needs.memory));
        }
        row.push(seconds(&needs.time));
        row
    });
    let mut text = table::grid(head, rows, names);
    text.push('\n');
    text
}

fn label(experiment: &Experiment, with_backend: bool) -> String {
    let backend = experiment.config.backend.name();
    match (experiment.label.is_empty(), with_backend && !experiment.label.contains("backend=")) {
        (true, _) => backend.to_owned(),
        (false, true) => format!("{backend} {}", experiment.label),
        (false, false) => experiment.label.clone(),
    }
}

fn varied(experiment: &Experiment, key: &str) -> String {
    let found = experiment.varied.iter().find(|(name, _)| name == key);
    found.map_or_else(|| "-".to_owned(), |(_, value)| table::value(value))
}

/// Weights, cache, sum, and whether it fits.
fn memory_cells(memory: &MemoryEstimate) -> [String; 4] {
    if memory.verdict == Verdict::NoGpu {
        return ["-", "-", "-", "-"].map(str::to_owned);
    }
    let gib = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), |bytes| format!("{:.1}", bytes as f64 / GIB));
    let fits = match memory.verdict {
        Verdict::NoGpu => "-",
        Verdict::Fits => "yes",
        Verdict::Tight => "tight",
        Verdict::TooLarge => "no?",
        Verdict::Impossible => "NO",
        Verdict::Unknown => "?",
    };
    [gib(memory.weights_bytes), gib(memory.kv_cache_bytes), gib(memory.needed_bytes), fits.to_owned()]
}

/// `~42` by earlier runs, else `10/80`: at least, without and with a sensor.
fn seconds(time: &llem::plan::estimate::time::RunTime) -> String {
    let short = |seconds: f64| format!("{seconds:.*}", usize::from(seconds < 10.0 && seconds.fract() > 0.0));
    match time.measured_s {
        Some(measured) => format!("~{}", short(measured)),
        None if time.least_with_sensor_s > time.least_s => {
            format!("{}/{}", short(time.least_s), short(time.least_with_sensor_s))
        }
        None => short(time.least_s),
    }
}

/// What the columns of memory mean and do not know, each thing once with its experiments.
fn memory_notes(forecast: &Forecast) -> Vec<String> {
    let of_gpu = |memory: &MemoryEstimate| memory.verdict != Verdict::NoGpu;
    if !forecast.experiments.iter().any(|one| of_gpu(&one.memory)) {
        return Vec::new();
    }
    let mut notes = vec![gpus_line(&forecast.gpus)];
    notes.push(
        "GiB/GPU: weights, key-value cache of the requests that run at once, activations and an allowance, by the rules of the \
         documentation; ? is not known"
            .to_owned(),
    );
    let mut said: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, (memory, peak)) in
        forecast.experiments.iter().map(|one| (&one.memory, one.measured_peak_memory_bytes)).enumerate()
    {
        let mut say = |what: String| said.entry(what).or_default().push(index + 1);
        if let (Some(taken), Some(pool)) = (memory.taken_bytes, memory.kv_pool_bytes)
            && memory.verdict != Verdict::Impossible
        {
            let (taken, pool) = (taken as f64 / GIB, pool as f64 / GIB);
            say(format!("the engine takes {taken:.1} GiB of a GPU, {pool:.1} of them for its key-value cache"));
        }
        if let Some(peak) = peak.filter(|_| of_gpu(memory)) {
            say(format!("its engine had {:.1} GiB at most in earlier runs", peak as f64 / GIB));
        }
        if memory.verdict != Verdict::Impossible
            && let Some(why) = &memory.why
        {
            say(format!("warning: {why}"));
        }
        for reason in &memory.unknown {
            say(format!("not known: {reason}"));
        }
    }
    let mut said: Vec<_> = said.into_iter().collect();
    said.sort_by(|(_, a), (_, b)| a.cmp(b));
    notes.extend(said.into_iter().map(|(what, numbers)| format!("{}{what}", of_experiments(&numbers))));
    notes
}

fn gpus_line(gpus: &PlannedGpus) -> String {
    if let Some(bytes) = gpus.assumed_memory_bytes {
        return format!("GPUs: planned for {:.1} GiB each, as asked", bytes as f64 / GIB);
    }
    let Some(present) = &gpus.present else {
        let found = if gpus.elsewhere { "those of the nodes, not known here" } else { "none asked for" };
        return format!("GPUs: {found}");
    };
    let known = present.gpus().iter().map(|gpu| {
        let memory =
            gpu.memory_bytes.map_or_else(|| "? GiB".to_owned(), |bytes| format!("{:.1} GiB", bytes as f64 / GIB));
        format!("{} ({memory})", gpu.name.as_deref().unwrap_or(&gpu.uuid))
    });
    let known: Vec<_> = known.collect();
    match &present.problem {
        None => format!("GPUs: {}", known.join(", ")),
        Some(problem) => format!("GPUs: {problem}; `--vram-gib GIB` plans for others"),
    }
}

fn weights_line(weights: &WeightsForecast) -> String {
    let name = if weights.reference.is_empty() { "synthetic" } else { &weights.reference };
    let size = |bytes: u64| match bytes {
        0..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    };
    match (weights.state, weights.to_write_bytes) {
        ("here", _) => format!("{} {name}: here", weights.key),
        ("without_weights", _) => format!("{} {name}: here, without safetensors files that can be read", weights.key),
        ("to_make", bytes) => format!("{} {name}: llem makes it, {}", weights.key, size(bytes.unwrap_or_default())),
        (_, Some(bytes)) => format!("{} {name}: to download, {}", weights.key, size(bytes)),
        (_, None) => format!("{} {name}: to download, of a size that is not known here", weights.key),
    }
}

fn disk_line(disk: &DiskForecast) -> String {
    let free =
        disk.free_bytes.map_or_else(|| "free space not known".to_owned(), |b| format!("{:.1} GB free", b as f64 / 1e9));
    format!("{}: {} ({free})", disk.what, table::path(&disk.directory))
}

/// `experiments 1, 3–9: `; nothing for none.
fn of_experiments(numbers: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let named: Vec<_> = ranges.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}–{b}") }).collect();
    match numbers.len() {
        0 => String::new(),
        1 => format!("experiment {}: ", named.join(", ")),
        _ => format!("experiments {}: ", named.join(", ")),
    }
}

fn rest(text: &mut String, total: usize, limit: usize, what: &str) {
    if total > limit {
        let _ = writeln!(text, "… {} more {what} (-v or --format json lists all)", total - limit);
    }
}

pub(super) fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests;
