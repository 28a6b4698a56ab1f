use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
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
pub(crate) struct BundleArguments {
    /// Study file in YAML; with --list or --verify a bundle.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The bundle to make, e.g. study.llem.tar.
    #[arg(short = 'o', long = "output", value_name = "BUNDLE", required_unless_present_any = ["list", "verify"])]
    pub(crate) target: Option<PathBuf>,
    /// Replace a file that is there.
    #[arg(long)]
    pub(crate) force: bool,
    /// Form of the images. Absent: `sif` for the runner `apptainer`, `archive` for `docker`, none for the others.
    #[arg(long, value_enum, value_name = "FORM")]
    pub(crate) images: Option<ImagesName>,
    /// What becomes of models, adapters and draft models.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = ModelsName::Include)]
    pub(crate) models: ModelsName,
    /// Where the engines will run, for all backends. Absent: as `llem run` would choose here.
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) runner: Option<RunnerName>,
    /// Set a value of the study file, e.g. `--set workload.n=16`; the value is YAML. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Defaults for what the file leaves open. Absent: `standard`.
    #[arg(long, value_enum)]
    pub(crate) profile: Option<ProfileName>,
    /// Say what is in a bundle, by its manifest.
    #[arg(long, conflicts_with_all = ["target", "verify", "images", "runner", "set", "profile", "force"])]
    pub(crate) list: bool,
    /// Compare every byte of a bundle with its manifest, and say what is in it.
    #[arg(long, conflicts_with_all = ["target", "images", "runner", "set", "profile", "force"])]
    pub(crate) verify: bool,
    /// What --list and --verify print on stdout.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

/// Forms of images on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImagesName {
    /// SIF files, for Apptainer; images of the container engine are converted.
    Sif,
    /// What `docker save` writes, for container engines.
    Archive,
}

/// What becomes of models in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModelsName {
    /// Their files are packed.
    Include,
    /// Their hashes are: the files must be on the other machine, and are compared there.
    Manifest,
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

#[derive(Debug, Args)]
pub(crate) struct ImageArguments {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List the images that llem made.
    Ls,
    /// Make a backend's image without a registry.
    Build {
        /// The backend.
        #[arg(value_parser = ["candle"])]
        backend: String,
    },
    /// Fetch an image from its registry.
    Pull {
        /// Image reference.
        reference: String,
    },
    /// Make a SIF file for Apptainer, with what it was made from recorded in it.
    ///
    /// Needs Apptainer. Exit codes: 0 made; 1 failed, and nothing is left; 2 bad usage.
    Export(ExportArguments),
    /// Say what is in an image: versions, options, whether llem's agent starts. Starts it once; the answer is kept by its content id.
    ///
    /// Exit codes: 0 said; 1 the image is missing or cannot be looked into; 2 bad usage.
    Probe(ProbeArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// An image of the container engine; the path of an archive (`./image.tar`, `x.tar`), as `docker save` writes it; or a definition file of
    /// Apptainer (`*.def`).
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// The file to make.
    #[arg(long, value_name = "FILE")]
    pub(crate) sif: PathBuf,
    /// Replace a file that is there.
    #[arg(long)]
    pub(crate) force: bool,
    /// Set a variable of a definition file. Repeatable.
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    pub(crate) build_args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeArguments {
    /// Image reference, or the path of an image of Apptainer.
    pub(crate) reference: String,
    /// Backend that the image is meant for: with its Python of the user config.
    #[arg(long, value_enum)]
    pub(crate) backend: Option<BackendName>,
    /// Start the image although the answer is known.
    #[arg(long)]
    pub(crate) refresh: bool,
    /// What to print on stdout.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
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

#[derive(Debug, Args)]
pub(crate) struct CacheArguments {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List the entries.
    Ls {
        /// What to print on stdout.
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
    },
    /// Read every entry and compare it with its hashes; exit code 1 if one is bad.
    Verify {
        /// Remove entries that are damaged, unless they are in use.
        #[arg(long)]
        evict: bool,
    },
    /// Remove entries that are not in use, and what dead builders left.
    Prune(PruneArguments),
    /// Say in which inputs two entries differ, or one from the nearest others; or what a study would find in the cache.
    Explain {
        /// Beginning of the key of an entry, or a study file.
        #[arg(value_name = "A|FILE")]
        left: String,
        /// Beginning of the key of another; absent: the nearest three.
        #[arg(value_name = "B")]
        right: Option<String>,
        /// What to print on stdout.
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Remove entries that were not used for longest until the rest is no larger, e.g. 50GB.
    #[arg(long, value_name = "SIZE", value_parser = super::cache::parse_size)]
    pub(crate) max_size: Option<u64>,
    /// Remove entries that were not used for this long, e.g. 30d.
    #[arg(long, value_name = "AGE", value_parser = super::cache::parse_age)]
    pub(crate) older_than: Option<std::time::Duration>,
    /// Remove all entries.
    #[arg(long)]
    pub(crate) all: bool,
    /// Say what would be removed, and leave it.
    #[arg(long)]
    pub(crate) dry_run: bool,
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
