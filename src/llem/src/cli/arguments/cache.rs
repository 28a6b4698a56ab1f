//! `llem cache`.

use clap::{Args, Subcommand};

use super::Format;

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
    #[arg(long, value_name = "SIZE", value_parser = crate::cli::cache::parse_size)]
    pub(crate) max_size: Option<u64>,
    /// Remove entries that were not used for this long, e.g. 30d.
    #[arg(long, value_name = "AGE", value_parser = crate::cli::cache::parse_age)]
    pub(crate) older_than: Option<std::time::Duration>,
    /// Remove all entries.
    #[arg(long)]
    pub(crate) all: bool,
    /// Say what would be removed, and leave it.
    #[arg(long)]
    pub(crate) dry_run: bool,
}
