//! What can be wrong with a bundle, or keep one from being made.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::super::StudyError;
use crate::config::{Backend, ConfigError, RunnerKind};
use crate::runner::apptainer::ExportError;
use crate::runner::docker::{EngineError, ImageError};

/// Why a bundle was not made, or not taken.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The study, or what it needs.
    #[error(transparent)]
    Study(#[from] StudyError),
    /// A file of this machine; names it.
    #[error("{0}")]
    Files(io::Error),
    /// It was stopped.
    #[error("stopped")]
    Stopped,
    /// The target is there.
    #[error("{} is there already; `--force` replaces it", .0.display())]
    Exists(PathBuf),
    /// A directory or a device, which no bundle replaces.
    #[error("{} is there and is no file: name another", .0.display())]
    NoFile(PathBuf),
    /// Another bundle has the same target.
    #[error("another `llem bundle` is writing {}", .0.display())]
    Busy(PathBuf),
    /// The disk.
    #[error("{what} needs {needed_gb:.3} GB in {}, and {free_gb:.3} GB are free there; make room or name another place with {other_place}", directory.display())]
    NoSpace {
        /// What for.
        what: &'static str,
        /// What names another place.
        other_place: &'static str,
        /// How much.
        needed_gb: f64,
        /// How much there is.
        free_gb: f64,
        /// Where.
        directory: PathBuf,
    },
    /// Writing failed.
    #[error("{} could not be written: {source}; nothing is left of it", path.display())]
    Unwritten {
        /// The bundle.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The access token is part of the study, or of a file that it needs.
    #[error("{}: the access token of the model hub is in it, and a bundle is given to others: remove it, and take the token back if the file was shared", .0.display())]
    Token(PathBuf),
    /// A file that cannot be packed.
    #[error("{}: {problem}", path.display())]
    Unpackable {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// An image that cannot be packed.
    #[error("image `{reference}`: {problem}")]
    Image {
        /// The image.
        reference: String,
        /// Why not.
        problem: String,
    },
    /// A SIF file could not be made.
    #[error("image `{reference}`: {source}")]
    Export {
        /// The image.
        reference: String,
        /// What is wrong.
        source: Box<ExportError>,
    },
    /// Not a bundle at all.
    #[error("{} is no bundle: {problem}; `llem bundle FILE --output X.llem.tar` makes one", path.display())]
    NoBundle {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        problem: String,
    },
    /// A byte is not what it was.
    #[error("{} is damaged: {place}: {problem}; nothing of it was used: copy it anew, or make it anew", bundle.display())]
    Damaged {
        /// The bundle.
        bundle: PathBuf,
        /// Where: the name of a member, with the part of it.
        place: String,
        /// What was found.
        problem: String,
    },
    /// A manifest that asks for something that no bundle has.
    #[error("{} is no bundle that llem made: its manifest says {problem}; nothing of it was used", bundle.display())]
    Hostile {
        /// The bundle.
        bundle: PathBuf,
        /// What.
        problem: String,
    },
    /// Made by another llem.
    #[error(
        "{} was made by llem {made_by}, and this is {own}: figures of one study come from one llem; take the same, or the one in the bundle: \
         `tar -xf {} bin` and `bin/llem run …`",
        bundle.display(), bundle.display()
    )]
    OtherLlem {
        /// The bundle.
        bundle: PathBuf,
        /// Version and commit.
        made_by: String,
        /// This one's.
        own: String,
    },
    /// Made on another kind of machine.
    #[error("{} holds programs for {made_for}, and this machine is {}: make it on a machine of this kind", bundle.display(), std::env::consts::ARCH)]
    OtherArchitecture {
        /// The bundle.
        bundle: PathBuf,
        /// The machine that it was made for.
        made_for: String,
    },
    /// The study does not resolve.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `--set` asks for other experiments.
    #[error(
        "`--set` changes the experiments of the bundle, and they are fixed; make another bundle: `llem bundle FILE --set …`"
    )]
    OtherExperiments,
    /// The runner has no use for the images.
    #[error(
        "the bundle was made for the runner `{}` of backend `{backend}`, here it would be `{}`{}: make one with `llem bundle --runner {}`, or \
         leave the choice to the bundle",
        made_for.name(),
        here.name(),
        if here == wanted { "" } else { " (`slurm.node_runner` of the user config says what its nodes start)" },
        wanted.name()
    )]
    OtherRunner {
        /// The backend.
        backend: Backend,
        /// By the bundle.
        made_for: RunnerKind,
        /// By the command line or the user config.
        here: RunnerKind,
        /// What carries out the runs with that.
        wanted: RunnerKind,
    },
    /// Weights of which only the hashes are in the bundle.
    #[error("the bundle has the hashes of `{reference}` only, and this machine does not have its files: {problem}")]
    Weights {
        /// As the study names them.
        reference: String,
        /// The file, and what is wrong with it or what to do.
        problem: String,
    },
    /// The engine has another image of that name.
    #[error(
        "the container engine has another image `{reference}` ({found}) than the bundle ({wanted}), and loading would take its name away: \
         give it another (`docker tag`, then `docker rmi {reference}`)"
    )]
    OtherImage {
        /// The image.
        reference: String,
        /// Its id here.
        found: String,
        /// Its id in the bundle.
        wanted: String,
    },
    /// The engine took an image, and it is not what it should be.
    #[error("the container engine loaded {file} of the bundle, and `{reference}` is {found} there, not {wanted}")]
    NotLoaded {
        /// The archive.
        file: String,
        /// The image.
        reference: String,
        /// Its id in the bundle.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The container engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The embedded backend's image.
    #[error(transparent)]
    EmbeddedImage(#[from] ImageError),
}

impl BundleError {
    /// Whether the study, the command line or the user config has to change before another try can help.
    pub fn is_config(&self) -> bool {
        match self {
            Self::Study(error) => error.is_config(),
            Self::Config(_) | Self::OtherExperiments | Self::OtherRunner { .. } | Self::NoBundle { .. } => true,
            _ => false,
        }
    }
}
