use std::path::PathBuf;

use thiserror::Error;

/// What can go wrong with Apptainer and its images, with what to do.
#[derive(Debug, Error)]
pub enum ApptainerError {
    /// The program is not there.
    #[error(
        "there is no `apptainer` in PATH: load it as your site says (often `module load apptainer`), install it (https://apptainer.org), or \
         choose another runner"
    )]
    Absent,
    /// The program is there and does not work.
    #[error("`apptainer --version` failed: {0}")]
    Broken(String),
    /// It starts no container, whatever the flags.
    #[error(
        "{version} starts no container on this machine: {}; without a setuid installation, ordinary users need user namespaces \
         (`unshare --user true` must work, see user.max_user_namespaces) and an entry in the list of users (`getent passwd`), and the site's \
         apptainer.conf must allow binds and directories (`user bind control`, `allow container dir`, `enable overlay` or `enable underlay`): \
         ask who runs the machine", tried.join("; ")
    )]
    Refused {
        /// What it calls itself.
        version: String,
        /// What it said, by the flags that were tried.
        tried: Vec<String>,
    },
    /// A name that only a container engine knows.
    #[error(
        "`{0}` is no SIF file and no sandbox directory, and the apptainer runner takes nothing else: `llem image export {0} --sif FILE` makes a \
         SIF file; name it as a path (with `/` or `.sif`) in place of `{0}`"
    )]
    NoPath(String),
    /// Nothing is at that path.
    #[error("image {} is not there: {source}; `llem image export REFERENCE --sif FILE` makes one", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something else is at that path.
    #[error("image {} is no SIF file and no sandbox directory: {problem}; `llem image export REFERENCE --sif FILE` makes one", path.display())]
    NoImage {
        /// The path.
        path: PathBuf,
        /// What is there.
        problem: String,
    },
    /// For another machine.
    #[error("image {} is for {found}, and this machine is {own}: make one from the same image for {own}", path.display())]
    Architecture {
        /// The path.
        path: PathBuf,
        /// Architecture of the image.
        found: &'static str,
        /// Architecture of this machine.
        own: &'static str,
    },
    /// It is not what it was where the study was submitted.
    #[error(
        "image {} is another one than on the machine that submitted the run (there {expected}, here {found}): let no job run while images are \
         replaced, and run the study again", path.display()
    )]
    Another {
        /// The path.
        path: PathBuf,
        /// Content id on the other machine.
        expected: String,
        /// Content id here.
        found: String,
    },
    /// A SIF file that can be neither mounted nor unpacked.
    #[error(
        "image {} can be neither mounted ({mount}) nor unpacked into {} ({unpack}): look for squashfuse and /dev/fuse, or at the space there \
         (`cache_dir` of the user config)", path.display(), directory.display()
    )]
    Unusable {
        /// The path.
        path: PathBuf,
        /// Why it cannot be mounted.
        mount: String,
        /// Where it should have been unpacked.
        directory: PathBuf,
        /// Why that failed.
        unpack: String,
    },
    /// A file or directory of this machine.
    #[error("{doing}: {source}")]
    Files {
        /// What was done.
        doing: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// llem was told to stop.
    #[error("stopped while an image was looked at")]
    Stopped,
}

impl ApptainerError {
    /// For [`Result::map_err`].
    pub(super) fn files(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Files { doing, source }
    }

    /// Whether the study file or the user config has to change before another try can help.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::NoPath(_))
    }
}
