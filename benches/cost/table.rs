//! The one table, and where it was taken.

use std::process::Command;

use comfy_table::{CellAlignment, Table as Grid, presets};
use jiff::Timestamp;

/// Values of one figure, in ascending order.
pub(crate) struct Sample {
    sorted: Vec<f64>,
}

impl Sample {
    /// Of values in any order.
    pub(crate) fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { sorted: values }
    }

    /// The value in the middle; NaN without values.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Between the two nearest values, linearly (type 7 of Hyndman and Fan 1996).
    fn quantile(&self, share: f64) -> f64 {
        let position = share * self.sorted.len().saturating_sub(1) as f64;
        let value = |index: f64| self.sorted.get(index as usize).copied().unwrap_or(f64::NAN);
        let (below, above) = (value(position.floor()), value(position.ceil()));
        below + (above - below) * position.fract()
    }
}

/// A line of the table.
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
    quartiles: (f64, f64),
    count: usize,
    limit: Option<f64>,
}

impl Figure {
    /// The median of a sample, without a target.
    pub(crate) fn new(name: &str, unit: &'static str, sample: &Sample) -> Self {
        let quartiles = (sample.quantile(0.25), sample.quantile(0.75));
        Self { name: name.to_owned(), unit, value: sample.median(), quartiles, count: sample.sorted.len(), limit: None }
    }

    /// Another value than the sample's median.
    pub(crate) fn with_value(self, value: f64) -> Self {
        Self { value, ..self }
    }

    /// With a target.
    pub(crate) fn at_most(self, limit: f64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    fn cells(&self) -> Vec<String> {
        let (target, met) = match self.limit {
            Some(limit) => (format!("<= {limit}"), if self.value <= limit { "yes" } else { "no" }),
            None => (String::new(), ""),
        };
        let (low, high) = self.quartiles;
        let spread = if self.count > 1 { format!("{} - {}", number(low), number(high)) } else { String::new() };
        let name = format!("{}, {}", self.name, self.unit);
        vec![name, number(self.value), spread, self.count.to_string(), target, met.to_owned()]
    }
}

/// Three significant digits.
fn number(value: f64) -> String {
    let before_point = value.abs().max(1e-3).log10().floor() as i32 + 1;
    format!("{value:.*}", usize::try_from(3 - before_point).unwrap_or(0).min(4))
}

/// Lines in the order in which they were taken.
pub(crate) struct Table {
    machine: String,
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Table {
    /// An empty table; the machine is described as it is now.
    pub(crate) fn new() -> Self {
        Self { machine: machine(), figures: Vec::new(), notes: Vec::new() }
    }

    /// Adds a line.
    pub(crate) fn row(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Adds a sentence below the table.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// The whole table.
    pub(crate) fn text(&self) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        grid.set_header(["figure", "median", "quartiles", "n", "target", "met"]);
        grid.add_rows(self.figures.iter().map(Figure::cells));
        for column in grid.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!("{}\n{}\n", self.machine, grid.trim_fmt());
        for note in &self.notes {
            text.push_str(note);
            text.push('\n');
        }
        text + "load average at the end " + &load()
    }
}

/// Processor, cores, load, date and commit.
fn machine() -> String {
    let cpuinfo = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let date = Timestamp::now().strftime("%Y-%m-%d %H:%M UTC");
    format!("{model}, {cores} cores, load average {}, {date}, commit {}", load(), commit())
}

fn load() -> String {
    let text = fs_err::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Short hash of the checkout, marked when files differ from it.
fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--exclude=*"]).output();
    let hash = output.ok().filter(|output| output.status.success());
    hash.map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
