//! The live view: bars on a terminal, plain lines elsewhere. A consumer of the study's events like any other.

use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use llem::config::StudyConfig;
use llem::result::{Metrics, RunRow, RunStatus};
use llem::study::StudyEvent;
use llem_protocol::{EventBody, Phase};
use tokio::sync::mpsc::UnboundedReceiver;

use super::dry_run::duration;
use super::{Printer, table};

/// Lines of a driver's log that are shown under a failure.
const TAIL: usize = 10;

/// A bar's length where only the share that is done is known.
const STEPS: u64 = 1000;

/// How often bars move by themselves; often enough to see life, seldom enough not to be measured.
const TICK: Duration = Duration::from_millis(250);

/// Follows a study on the user's terminal.
pub(crate) struct Progress {
    printer: Printer,
    bars: Option<Bars>,
    title: String,
    runs: usize,
    run_started: Instant,
    finished_s: Vec<f64>,
    /// Runs that were measured before.
    completed: usize,
    /// Runs that are under way at the same time.
    at_a_time: usize,
}

/// One bar for the study, one for the run, one for its phase.
struct Bars {
    all: MultiProgress,
    study: ProgressBar,
    run: ProgressBar,
    phase: ProgressBar,
}

impl Progress {
    /// A view that has seen nothing yet.
    pub(crate) fn new(printer: Printer, study: &StudyConfig) -> Self {
        let bars = printer.bars().map(|target| Bars::new(MultiProgress::with_draw_target(target)));
        let title = format!("{} · {}", study.name, table::count(study.experiments.len(), "experiment"));
        Self {
            printer,
            bars,
            title,
            runs: 0,
            run_started: Instant::now(),
            finished_s: Vec::new(),
            completed: 0,
            at_a_time: 1,
        }
    }

    /// Shows events until there are no more.
    pub(crate) async fn follow(mut self, mut events: UnboundedReceiver<StudyEvent>) {
        while let Some(event) = events.recv().await {
            self.show(event);
        }
        if let Some(bars) = &self.bars {
            bars.clear();
        }
    }

    fn show(&mut self, event: StudyEvent) {
        match event {
            StudyEvent::Preparing { what } => self.say(|printer| printer.line(&format!("preparing {what}"))),
            StudyEvent::Detail { text } => self.say(|printer| printer.detail(&text)),
            StudyEvent::Notice { text } => self.say(|printer| printer.notice(&text)),
            StudyEvent::Started { directory, runs, completed, runner, .. } => {
                (self.runs, self.completed) = (runs, completed);
                let before = if completed > 0 { format!(" ({completed} measured before)") } else { String::new() };
                let text = format!("{} · {}{before} · runner {runner}", self.title, table::count(runs, "run"));
                self.say(|printer| printer.line(&format!("{text}\n{}", table::path(&directory))));
                if let Some(bars) = &self.bars {
                    bars.study.set_length(runs as u64);
                    bars.study.set_position(completed as u64);
                    bars.start();
                }
            }
            StudyEvent::RunStarted { number, label, cycle, run_id } => {
                self.run_started = Instant::now();
                self.say(|printer| printer.detail(&format!("[{number}] {run_id}")));
                if let Some(bars) = &self.bars {
                    bars.run.set_position(0);
                    bars.run.set_message(name(&label, cycle));
                }
                self.expect();
            }
            StudyEvent::Agent { event } => self.agent(&event.body),
            StudyEvent::RunFinished { number, row, directory, wall_s } => {
                self.finished(number, &row, &directory, wall_s);
            }
            StudyEvent::Jobs { waiting, running } => {
                self.at_a_time = running.max(1);
                let text = format!("{} waiting, {running} running", table::count(waiting, "job"));
                self.say(|printer| printer.detail(&text));
                if let Some(bars) = &self.bars {
                    bars.phase(text);
                }
            }
            StudyEvent::Gap { seconds } => {
                self.say(|printer| printer.detail(&format!("resting {}", duration(seconds))));
                if let Some(bars) = &self.bars {
                    bars.phase(format!("rest {}", duration(seconds)));
                }
            }
            StudyEvent::Finished { .. } => {}
        }
    }

    /// Prints above the bars.
    fn say(&self, print: impl FnOnce(Printer)) {
        match &self.bars {
            Some(bars) => bars.all.suspend(|| print(self.printer)),
            None => print(self.printer),
        }
    }

    fn agent(&mut self, event: &EventBody) {
        match event {
            EventBody::PhaseStarted { phase, .. } => {
                if let Some(bars) = &self.bars {
                    bars.phase(phase_name(*phase).to_owned());
                }
                self.expect();
            }
            EventBody::Progress { phase, done, total, unit } => {
                if let Some(bars) = &self.bars {
                    bars.progress(*phase, *done, *total, unit);
                }
                self.expect();
            }
            EventBody::Warning { reason } => self.say(|printer| printer.detail(&reason.to_string())),
            EventBody::Log { text, .. } => self.say(|printer| printer.detail(text)),
            EventBody::PhaseFinished { phase, seconds } => {
                self.say(|printer| printer.detail(&format!("  {:<12} {seconds:8.3} s", phase_name(*phase))));
            }
            _ => {}
        }
    }

    /// Time left, from the runs that are finished.
    fn expect(&self) {
        let Some(bars) = &self.bars else { return };
        if self.finished_s.is_empty() {
            return;
        }
        let mean = self.finished_s.iter().sum::<f64>() / self.finished_s.len() as f64;
        let run_left = (mean - self.run_started.elapsed().as_secs_f64()).max(0.0);
        let open = self.runs.saturating_sub(self.completed + self.finished_s.len() + 1) as f64;
        bars.study.set_message(format!("about {} left", duration(run_left + open * mean / self.at_a_time as f64)));
        bars.run.set_length((mean * 1000.0) as u64);
        bars.run.set_position((self.run_started.elapsed().as_millis() as u64).min(bars.run.length().unwrap_or(0)));
        bars.run.set_prefix(format!("about {} left · ", duration(run_left)));
    }

    fn finished(&mut self, number: usize, row: &RunRow, directory: &Path, seconds: f64) {
        self.finished_s.push(seconds);
        let head = format!("[{number}/{}] {}", self.runs, name(&row.label, row.cycle));
        let text = match (&row.metrics, &row.failure) {
            (Some(metrics), None) => format!("{head}  {}  {seconds:.1} s", figures(metrics)),
            (Some(metrics), Some(failure)) => {
                let figures = figures(metrics);
                format!("{head}  {}  {figures}  {seconds:.1} s\n{}", row.status.name(), explain(failure, directory))
            }
            (None, Some(failure)) => format!("{head}  {}\n{}", row.status.name(), explain(failure, directory)),
            (None, None) => format!("{head}  {}", row.status.name()),
        };
        let failed = row.status == RunStatus::Failed;
        self.say(|printer| if failed { printer.error_line(&text) } else { printer.line(&text) });
        if let Some(bars) = &self.bars {
            bars.study.inc(1);
        }
    }
}

impl Bars {
    fn new(all: MultiProgress) -> Self {
        let bar = |template: &str| {
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = all.add(ProgressBar::new(0));
            bar.set_style(style.progress_chars("━━─"));
            bar
        };
        let study = bar("study {bar:24} {pos}/{len} runs · {elapsed} · {msg}");
        let run = bar("run   {bar:24} {prefix}{wide_msg}");
        let phase = bar("phase {bar:24} {wide_msg}");
        for bar in [&run, &phase] {
            // An unknown length is an empty bar, not a full one.
            bar.set_length(STEPS);
        }
        Self { all, study, run, phase }
    }

    fn start(&self) {
        for bar in [&self.study, &self.run, &self.phase] {
            bar.enable_steady_tick(TICK);
        }
    }

    fn phase(&self, message: String) {
        self.phase.set_position(0);
        self.phase.set_message(message);
    }

    fn progress(&self, phase: Phase, done: f64, total: Option<f64>, unit: &str) {
        if let Some(total) = total.filter(|total| *total > 0.0) {
            self.phase.set_position((STEPS as f64 * (done / total).clamp(0.0, 1.0)) as u64);
            self.phase.set_message(format!("{} {done:.1}/{total:.1} {unit}", phase_name(phase)));
        } else {
            self.phase.set_message(format!("{} {done:.1} {unit}", phase_name(phase)));
        }
    }

    fn clear(&self) {
        let _ = self.all.clear();
        for bar in [&self.study, &self.run, &self.phase] {
            bar.finish_and_clear();
        }
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Warmup => "warm-up",
        Phase::ThermalGate => "thermal gate",
        other => other.name(),
    }
}

fn name(label: &str, cycle: u32) -> String {
    if label.is_empty() { format!("cycle {cycle}") } else { format!("{label} · cycle {cycle}") }
}

fn figures(metrics: &Metrics) -> String {
    let ms = |name: &str, value: Option<f64>| value.map(|v| format!("{name} {} ms", table::number(v)));
    let parts = [
        Some(format!("{} tokens/s", table::number(metrics.output_tokens_per_s))),
        ms("TTFT", metrics.ttft_ms.map(|d| d.p50)),
        ms("ITL", metrics.itl_ms.map(|d| d.p50)),
        metrics.energy.energy_per_output_token_j.map(|j| format!("{} J/token", table::number(j))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

/// What happened, what to do, what the driver said last, where the rest is.
fn explain(failure: &llem_protocol::Failure, directory: &Path) -> String {
    let skipped = failure.log_tail.len().saturating_sub(TAIL);
    let mut lines = vec![format!("  {failure}")];
    lines.extend(failure.log_tail.iter().skip(skipped).map(|line| format!("  | {line}")));
    lines.push(format!("  hint: {}", failure.class.advice()));
    lines.push(format!("  logs: {}", table::path(directory)));
    lines.join("\n")
}
