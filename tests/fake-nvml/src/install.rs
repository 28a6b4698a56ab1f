//! Where cargo put the shared library, and putting it where a loader finds it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::script::{Script, ScriptError};
use crate::world::SCRIPT_VARIABLE;

/// The name under which programs load NVML.
pub const LIBRARY_NAME: &str = "libnvidia-ml.so.1";

/// What cargo calls the library. Older cargos add a hash: `libfake_nvml-0123456789abcdef.so`.
const BUILT_STEM: &str = "libfake_nvml";

/// Why the library cannot be put in place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Cargo has not built it, or put it somewhere else.
    #[error("no {BUILT_STEM}.so or {BUILT_STEM}-*.so in {}: is fake-nvml a dev-dependency of this package?", list(.looked_in))]
    Missing {
        /// The directories that were searched.
        looked_in: Vec<PathBuf>,
    },
    /// A file cannot be read or written; the error names it.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// The script cannot be written.
    #[error(transparent)]
    Script(#[from] ScriptError),
}

/// The built library. It is looked for around the running test: cargo builds a dev-dependency into `target/PROFILE/deps`,
/// where the tests are too, and binaries and examples lie in or below `target/PROFILE`. The newest file counts.
pub fn library_path() -> Result<PathBuf, InstallError> {
    newest_library(&search_directories(&std::env::current_exe()?))
}

/// Copies the library into `directory` under the name of the real one; the copy's path. A directory that a container mounts
/// needs a file and not a link to elsewhere.
pub fn install(directory: &Path) -> Result<PathBuf, InstallError> {
    let installed = directory.join(LIBRARY_NAME);
    fs_err::copy(library_path()?, &installed)?;
    Ok(installed)
}

/// Puts library and script into `directory`; the environment that makes a program load and replay them.
pub fn stage(directory: &Path, script: &Script) -> Result<[(&'static str, PathBuf); 2], InstallError> {
    install(directory)?;
    let path = directory.join("fake-nvml.json");
    script.write(&path)?;
    Ok([("LD_LIBRARY_PATH", directory.to_owned()), (SCRIPT_VARIABLE, path)])
}

fn search_directories(executable: &Path) -> Vec<PathBuf> {
    let near = executable.ancestors().skip(1).take(2);
    near.flat_map(|directory| [directory.join("deps"), directory.to_owned()]).collect()
}

fn newest_library(directories: &[PathBuf]) -> Result<PathBuf, InstallError> {
    let found = directories.iter().filter_map(|directory| fs_err::read_dir(directory).ok()).flatten().flatten();
    let libraries = found.map(|entry| entry.path()).filter(|path| is_library(path));
    let newest = libraries.max_by_key(|path| modified(path));
    newest.ok_or_else(|| InstallError::Missing { looked_in: directories.to_owned() })
}

fn is_library(path: &Path) -> bool {
    let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".so"));
    let rest = stem.and_then(|stem| stem.strip_prefix(BUILT_STEM));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs_err::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn list(directories: &[PathBuf]) -> String {
    directories.iter().map(|directory| directory.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_with_and_without_a_hash() {
        let dir = tempfile::tempdir().unwrap();
        let deps = dir.path().join("target/debug/deps");
        fs_err::create_dir_all(&deps).unwrap();
        let directories = search_directories(&deps.join("some_test-0123"));
        let missing = newest_library(&directories).unwrap_err().to_string();
        assert!(missing.contains("libfake_nvml.so") && missing.contains(&deps.display().to_string()), "{missing}");
        fs_err::write(deps.join("libfake_nvml.rlib"), "").unwrap();
        fs_err::write(deps.join("libfake_nvml_other.so"), "").unwrap();
        assert!(newest_library(&directories).is_err());
        let hashed = deps.join("libfake_nvml-0123456789abcdef.so");
        fs_err::write(&hashed, "").unwrap();
        assert_eq!(newest_library(&directories).unwrap(), hashed);
        let of_binary = search_directories(&dir.path().join("target/debug/llem-agent"));
        assert_eq!(newest_library(&of_binary).unwrap(), hashed);
    }
}
