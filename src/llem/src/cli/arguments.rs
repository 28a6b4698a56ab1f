use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use llem::config::{Backend, Profile, RunnerKind};

use super::printer::Output;

/// Measures what an LLM deployment costs in energy and time, reproducibly.
///
/// Exit codes: 0 all measured; 1 something failed; 2 bad usage or config; 130 interrupted.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
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
    /// Check, describe or start a config file.
    Config(ConfigArguments),
    /// List, make, fetch or probe images.
    Image(ImageArguments),
    /// List, check, prune or compare compiled engines.
    Cache(CacheArguments),
    /// Remove containers that a killed llem left.
    Clean,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Study file in YAML; a file without a sweep is one experiment.
    #[arg(value_name = "FILE", required_unless_present = "resume")]
    pub(crate) file: Option<PathBuf>,
    /// Directory in which the study's directory is made.
    #[arg(short, long, value_name = "DIR", default_value = "results", env = "LLEM_OUTPUT")]
    pub(crate) output: PathBuf,
    /// Set a value of the study file, e.g. `--set workload.n=16`; the value is YAML. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Defaults for what the file leaves open.
    #[arg(long, value_enum, default_value_t = ProfileName::Standard)]
    pub(crate) profile: ProfileName,
    /// Show the plan and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
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
}

impl From<RunnerName> for RunnerKind {
    fn from(name: RunnerName) -> Self {
        match name {
            RunnerName::Auto => Self::Auto,
            RunnerName::Docker => Self::Docker,
            RunnerName::Process => Self::Process,
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
pub(crate) struct ConfigArguments {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
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
    /// Say what is in an image: versions, options, whether llem's agent starts. Starts it once; the answer is kept by its content id.
    ///
    /// Exit codes: 0 said; 1 the image is missing or cannot be looked into; 2 bad usage.
    Probe(ProbeArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ProbeArguments {
    /// Image reference.
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
    /// Say in which inputs two entries differ, or one from the nearest others.
    Explain {
        /// Beginning of the key of an entry.
        #[arg(value_name = "A")]
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
