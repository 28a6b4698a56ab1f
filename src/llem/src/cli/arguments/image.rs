//! `llem image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{BackendName, Format};

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
