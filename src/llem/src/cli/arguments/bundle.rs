//! `llem bundle`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Format, ProfileName, RunnerName};

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
