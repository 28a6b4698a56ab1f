//! The command line.

mod bundle;
mod cache;
mod image;

use std::path::PathBuf;

pub(crate) use bundle::{BundleArguments, ImagesName, ModelsName};
pub(crate) use cache::{CacheArguments, CacheCommand, PruneArguments};
use clap::{Args, Parser, Subcommand, ValueEnum};
pub(crate) use image::{ExportArguments, ImageArguments, ImageCommand, ProbeArguments};
use llem::config::{Backend, Profile, RunnerKind};
use llem::result::Figure;
use llem::schema::RecordKind;

use super::printer::Output;

/// Measures what an LLM deployment costs in energy and time, reproducibly.
///
/// Exit codes: 0 all measured; 1 something failed; 2 bad usage or config; 130 interrupted.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_long_help = llem::config::environment_help())]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print errors and results only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print every event; twice for llem's own log (RUST_LOG refines it).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an experiment or a study.
    Run(RunArguments),
    /// Pack a study with everything that it needs into one file, for machines without a network; `llem run` takes it.
    ///
    /// Exit codes: 0 made, or every byte as it was made; 1 failed, and nothing is left, or damaged; 2 bad usage or config.
    Bundle(BundleArguments),
    /// Say what a study found: a table, CSV, JSON, Markdown, or a page that opens offline.
    ///
    /// Exit codes: 0 said; 1 the results cannot be read; 2 bad usage, or no study there.
    Report(ReportArguments),
    /// Check this machine; or check, describe or start a config file.
    ///
    /// Without a command: whether runs work on this machine. Exit codes: 0 they do; 1 something must change first.
    Config(ConfigArguments),
    /// List, make, fetch or probe images.
    Image(ImageArguments),
    /// List, check, prune or compare compiled engines.
    Cache(CacheArguments),
    /// Hold a candidate against its baseline, and fail when a figure became worse.
    ///
    /// A and B are study directories, copies of their study.json, or single runs. Experiments are paired by their configs, or by all of
    /// them but the engine's image. Only valid runs count; at least two are needed on each side.
    ///
    /// Exit codes: 0 no rule failed; 1 a rule failed; 2 bad usage, or not comparable; 3 a rule could not be decided.
    Compare(CompareArguments),
    /// Print the JSON Schema of a file that llem writes.
    Schema {
        /// Which file.
        #[arg(value_enum)]
        record: RecordName,
    },
    /// Remove containers that a killed llem left.
    Clean,
    /// Carry out the runs of one job of SLURM. The `slurm` runner submits jobs that run this.
    #[command(hide = true)]
    SlurmTask {
        /// The array's plan.
        #[arg(long, value_name = "FILE")]
        plan: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// The baseline.
    #[arg(value_name = "A")]
    pub(crate) baseline: PathBuf,
    /// The candidate; with --by it may be absent: then experiments of A are compared with each other.
    #[arg(value_name = "B", required_unless_present = "by")]
    pub(crate) candidate: Option<PathBuf>,
    /// Fail when a figure of B is beyond a threshold, e.g. 'energy_per_output_token_j > +3%'; `none` never fails. Repeatable.
    /// Absent: more energy per token, or, without energy, fewer tokens per second.
    #[arg(long, value_name = "RULE")]
    pub(crate) fail_on: Vec<String>,
    /// Compare experiments that differ in this key only, e.g. vllm.image.
    #[arg(long, value_name = "KEY")]
    pub(crate) by: Option<String>,
    /// What to print on stdout, or to write to --output.
    #[arg(long, value_enum, default_value_t = CompareFormat::Table)]
    pub(crate) format: CompareFormat,
    /// Write the document to this file, and the table on stdout.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Compare what is not comparable, and mark what becomes of it.
    #[arg(long)]
    pub(crate) force: bool,
    /// Let experiments of A be absent from B.
    #[arg(long)]
    pub(crate) allow_missing: bool,
}

/// How a comparison is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompareFormat {
    /// A table for people.
    Table,
    /// One JSON document for programs.
    Json,
    /// For a pull request's comment or a job's summary.
    Markdown,
    /// A test report for CI systems.
    Junit,
}

/// Names of records on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordName {
    /// `result.json` of a run.
    Result,
    /// `study.json` of a study.
    Study,
    /// What `llem compare --format json` prints.
    Comparison,
}

impl From<RecordName> for RecordKind {
    fn from(name: RecordName) -> Self {
        match name {
            RecordName::Result => Self::Result,
            RecordName::Study => Self::Study,
            RecordName::Comparison => Self::Comparison,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Study file in YAML, where a file without a sweep is one experiment; or a bundle, as `llem bundle` makes it.
    #[arg(value_name = "FILE", required_unless_present = "resume")]
    pub(crate) file: Option<PathBuf>,
    /// Directory in which the study's directory is made.
    #[arg(short, long, value_name = "DIR", default_value = "results", env = "LLEM_OUTPUT")]
    pub(crate) output: PathBuf,
    /// Set a value of the study file, e.g. `--set workload.n=16`; the value is YAML. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Defaults for what the file leaves open. Absent: `standard`; a bundle has its own.
    #[arg(long, value_enum)]
    pub(crate) profile: Option<ProfileName>,
    /// Show the plan and what it needs, and stop; exit code 1 when something of it cannot work here.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// With --dry-run: plan for GPUs with this much memory each, not for those of this machine.
    #[arg(long, value_name = "GIB", requires = "dry_run", value_parser = gib)]
    pub(crate) vram_gib: Option<f64>,
    /// Refuse to start unless everything is as a lock file has it: images, weights, workloads, llem. Absent LOCK: FILE with
    /// `.lock.json` for its ending. Every study writes its own as `study.lock.json`.
    #[arg(long, value_name = "LOCK", num_args = 0..=1, conflicts_with = "dry_run")]
    #[expect(clippy::option_option, reason = "absent, without a file, with one")]
    pub(crate) locked: Option<Option<PathBuf>>,
    /// Go on with a study that was stopped, failed or shall have more cycles or points: the one in DIR, else the newest of FILE's name
    /// and experiments below the output directory. Without FILE, the study goes on as it was asked for.
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with = "dry_run")]
    #[expect(clippy::option_option, reason = "absent, without a directory, with one")]
    pub(crate) resume: Option<Option<PathBuf>>,
    /// Where the engines run, for all backends.
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) runner: Option<RunnerName>,
    /// What to print on stdout.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

/// Memory of a GPU in GiB.
fn gib(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    if (0.1..=1e6).contains(&number) { Ok(number) } else { Err("it must be from 0.1 to 1000000 GiB".to_owned()) }
}

#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    /// Directory of a study, as `llem run` made it.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// What to make.
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    pub(crate) format: ReportFormat,
    /// Write to this file instead of stdout.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// What experiments are compared by, e.g. `energy_per_output_token_j,ttft_p50_ms`. Default: energy per token and tokens per second; without
    /// energies, time to first token and tokens per second.
    #[arg(long, value_name = "FIGURES", value_delimiter = ',')]
    pub(crate) objectives: Vec<Figure>,
}

/// What `llem report` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// A table for terminals, the most important figures.
    Table,
    /// One row per experiment, all figures in full.
    Csv,
    /// Everything, for programs.
    Json,
    /// A table for issues and pull requests.
    Markdown,
    /// One self-contained page with plots.
    Html,
}

/// Names of profiles on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileName {
    /// 3 cycles, windows of 10 s.
    Standard,
    /// 1 cycle, windows of 2 s: does it work? Its runs are not valid measurements.
    Quick,
    /// 5 cycles, windows of 60 s, rests in between.
    Publication,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::Standard => Self::Standard,
            ProfileName::Quick => Self::Quick,
            ProfileName::Publication => Self::Publication,
        }
    }
}

/// Names of runners on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RunnerName {
    /// Containers when an engine answers, else processes.
    Auto,
    /// One container per run.
    Docker,
    /// Processes of this machine.
    Process,
    /// Job arrays of the site's batch system, SLURM.
    Slurm,
    /// One container of Apptainer's per run, without a daemon.
    Apptainer,
}

impl From<RunnerName> for RunnerKind {
    fn from(name: RunnerName) -> Self {
        match name {
            RunnerName::Auto => Self::Auto,
            RunnerName::Docker => Self::Docker,
            RunnerName::Process => Self::Process,
            RunnerName::Slurm => Self::Slurm,
            RunnerName::Apptainer => Self::Apptainer,
        }
    }
}

/// What goes to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables for people.
    Human,
    /// One JSON document for programs.
    Json,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConfigArguments {
    #[command(subcommand)]
    pub(crate) command: Option<ConfigCommand>,
    /// Directory in which study directories are made.
    #[arg(short, long, value_name = "DIR", default_value = "results", env = "LLEM_OUTPUT")]
    pub(crate) output: PathBuf,
    /// What to print on stdout.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a study file and list every problem.
    Check {
        /// Study file.
        file: PathBuf,
        /// Set a value of the study file before the check.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Print the JSON Schema of study files.
    Schema {
        /// The schema of the user config instead.
        #[arg(long)]
        user: bool,
    },
    /// Write a commented starter file.
    Init {
        /// The file; it must not exist.
        #[arg(default_value = "study.yaml")]
        file: PathBuf,
    },
}

/// Names of backends on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    /// PyTorch with transformers.
    Pytorch,
    /// vLLM.
    Vllm,
    /// TensorRT-LLM.
    Tensorrt,
    /// The embedded engine.
    Candle,
}

impl From<BackendName> for Backend {
    fn from(name: BackendName) -> Self {
        match name {
            BackendName::Pytorch => Self::Pytorch,
            BackendName::Vllm => Self::Vllm,
            BackendName::Tensorrt => Self::Tensorrt,
            BackendName::Candle => Self::Candle,
        }
    }
}

impl Arguments {
    /// How loud llem is.
    pub(crate) fn output(&self) -> Output {
        match (self.quiet, self.verbose) {
            (true, _) => Output::Quiet,
            (false, 0) => Output::Normal,
            (false, _) => Output::Verbose,
        }
    }

    /// llem's own log goes to stderr, off unless asked for.
    pub(crate) fn init_log(&self) {
        use tracing_subscriber::EnvFilter;
        let default = if self.verbose > 1 { "llem=debug" } else { "off" };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}
