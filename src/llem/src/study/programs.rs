use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::runner::docker::{CandleImage, ImageError};

/// llem's own binaries that are not the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The agent.
    pub agent: PathBuf,
    /// The embedded backend's driver.
    pub candle: PathBuf,
    /// A directory with all files of the embedded backend's image, as a bundle has them; absent: the image is made of this machine's.
    pub candle_root: Option<PathBuf>,
}

/// A binary is not where it should be.
#[derive(Debug, Error)]
#[error("{0}: not found; llem's binaries must lie in one directory, `cargo build --workspace` makes them all")]
pub struct ProgramsError(pub PathBuf);

impl Programs {
    /// The binaries beside the running program, or one directory above it, where Cargo keeps them for tests and examples.
    pub fn locate() -> Result<Self, ProgramsError> {
        let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("."));
        let beside = own.parent().unwrap_or(Path::new("."));
        let above = beside.parent().unwrap_or(beside);
        Self::in_directory(beside).or_else(|missing| Self::in_directory(above).map_err(|_| missing))
    }

    /// The embedded backend's image for these binaries.
    ///
    /// # Errors
    ///
    /// A file is missing or cannot be read.
    pub fn candle_image(&self) -> Result<CandleImage, ImageError> {
        match &self.candle_root {
            Some(root) => CandleImage::from_root(root),
            None => CandleImage::from_host(&self.candle, &self.agent),
        }
    }

    /// SHA-256 of the agent's binary, hexadecimal.
    pub(crate) fn agent_sha256(&self) -> Result<String, ProgramsError> {
        sha256(&self.agent)
    }

    /// SHA-256 of the embedded backend's driver, hexadecimal.
    pub(super) fn candle_sha256(&self) -> Result<String, ProgramsError> {
        sha256(&self.candle)
    }

    /// The binaries of a directory.
    pub fn in_directory(dir: &Path) -> Result<Self, ProgramsError> {
        let find = |name: &str| {
            let path = dir.join(name);
            if path.is_file() { Ok(path) } else { Err(ProgramsError(path)) }
        };
        Ok(Self { agent: find("llem-agent")?, candle: find("llem-candle")?, candle_root: None })
    }
}

fn sha256(program: &Path) -> Result<String, ProgramsError> {
    let content = fs_err::read(program).map_err(|_| ProgramsError(program.to_owned()))?;
    Ok(hex::encode(Sha256::digest(content)))
}
