//! The drivers of the backends. That of the embedded backend is a binary beside llem; the others are scripts that llem carries with it and
//! lays into its cache, from where runners copy or start them.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Programs, StudyError};
use crate::config::{Backend, UserConfig};
use crate::files::write_atomic;
use crate::runner::DriverFiles;

/// Makes name and content of a file of `images/`.
macro_rules! script {
    ($directory:literal, $name:literal) => {
        ($name, include_str!(concat!("../../../../images/", $directory, "/", $name)))
    };
}

/// The driver of PyTorch; the first file is the one that is started.
const PYTORCH: &[(&str, &str)] = &[
    script!("pytorch", "driver.py"),
    script!("pytorch", "llem_adapter.py"),
    script!("pytorch", "llem_batch.py"),
    script!("pytorch", "llem_cache.py"),
    script!("pytorch", "llem_caches.py"),
    script!("pytorch", "llem_compile.py"),
    script!("pytorch", "llem_model.py"),
    script!("pytorch", "llem_pytorch.py"),
    script!("pytorch", "llem_quantization.py"),
    script!("pytorch", "llem_section.py"),
    script!("pytorch", "llem_settings.py"),
    script!("pytorch", "llem_speculation.py"),
    script!("common", "llem_channel.py"),
    script!("common", "llem_sampling.py"),
    script!("common", "llem_torch.py"),
];

/// The driver of TensorRT-LLM; likewise.
const TENSORRT: &[(&str, &str)] = &[
    script!("tensorrt", "driver.py"),
    script!("tensorrt", "llem_arguments.py"),
    script!("tensorrt", "llem_build.py"),
    script!("tensorrt", "llem_checkpoint.py"),
    script!("tensorrt", "llem_compiled.py"),
    script!("tensorrt", "llem_engines.py"),
    script!("tensorrt", "llem_options.py"),
    script!("tensorrt", "llem_stream.py"),
    script!("tensorrt", "llem_tensorrt.py"),
    script!("common", "llem_channel.py"),
    script!("common", "llem_sampling.py"),
];

/// The driver of vLLM; likewise.
const VLLM: &[(&str, &str)] = &[
    script!("vllm", "driver.py"),
    script!("vllm", "llem_engine.py"),
    script!("vllm", "llem_environment.py"),
    script!("vllm", "llem_settings.py"),
    script!("vllm", "llem_vllm.py"),
    script!("vllm", "llem_worker.py"),
    script!("common", "llem_channel.py"),
    script!("common", "llem_sampling.py"),
    script!("common", "llem_torch.py"),
];

/// The driver of a backend, ready on this machine.
pub(super) fn driver(backend: Backend, programs: &Programs, user: &UserConfig) -> Result<DriverFiles, StudyError> {
    let scripts = match backend {
        Backend::Candle => return Ok(DriverFiles::Program(programs.candle.clone())),
        Backend::Pytorch => PYTORCH,
        Backend::Tensorrt => TENSORRT,
        Backend::Vllm => VLLM,
    };
    let directory = unpack(&user.cache_root(), backend, scripts)?;
    let interpreters = user.interpreters(Some(backend));
    let names = scripts.iter().map(|(name, _)| (*name).to_owned()).collect();
    Ok(DriverFiles::Scripts { directory, names, interpreters })
}

/// Writes what is not there as it should be. The directory's name is the hash of its files, so that other versions of llem are not
/// disturbed.
fn unpack(cache_root: &Path, backend: Backend, scripts: &[(&str, &str)]) -> Result<PathBuf, StudyError> {
    let mut hash = Sha256::new();
    for (name, content) in scripts {
        hash.update(format!("{name} {}\n{content}", content.len()));
    }
    let tag: String = hex::encode(hash.finalize()).chars().take(16).collect();
    let directory = cache_root.join("drivers").join(format!("{backend}-{tag}"));
    let write_all = || {
        fs_err::create_dir_all(&directory)?;
        scripts.iter().try_for_each(|(name, content)| write(&directory.join(name), content))
    };
    match write_all() {
        Ok(()) => Ok(directory),
        Err(source) => Err(StudyError::DriverUnwritable { directory, source }),
    }
}

/// Puts a file in its place whole: another llem may start from it at the same time.
fn write(path: &Path, content: &str) -> io::Result<()> {
    if fs_err::read(path).is_ok_and(|present| present == content.as_bytes()) {
        return Ok(());
    }
    write_atomic(path, content.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{DriverFiles, PYTORCH, TENSORRT, VLLM, driver};
    use crate::config::{Backend, UserConfig};
    use crate::study::Programs;

    fn programs() -> Programs {
        Programs { agent: "/b/llem-agent".into(), candle: "/b/llem-candle".into(), candle_root: None }
    }

    fn user(cache: &tempfile::TempDir) -> UserConfig {
        UserConfig { cache_dir: Some(cache.path().to_owned()), ..UserConfig::default() }
    }

    #[test]
    fn scripts_are_laid_into_the_cache_and_mended() {
        for (backend, scripts) in [(Backend::Pytorch, PYTORCH), (Backend::Vllm, VLLM), (Backend::Tensorrt, TENSORRT)] {
            is_laid_and_mended(backend, scripts);
        }
    }

    fn is_laid_and_mended(backend: Backend, scripts: &[(&str, &str)]) {
        let cache = tempfile::tempdir().unwrap();
        let lay = || match driver(backend, &programs(), &user(&cache)).unwrap() {
            DriverFiles::Scripts { directory, names, interpreters } => (directory, names, interpreters),
            other @ DriverFiles::Program(_) => panic!("{other:?}"),
        };
        let (directory, names, interpreters) = lay();
        assert_eq!(names[0], "driver.py");
        assert_eq!(interpreters, ["python3", "python"]);
        fs_err::write(directory.join("driver.py"), "raise SystemExit").unwrap();
        fs_err::remove_file(directory.join("llem_channel.py")).unwrap();
        assert_eq!(lay().0, directory);
        for (name, content) in scripts {
            assert_eq!(fs_err::read_to_string(directory.join(name)).unwrap(), *content);
        }
        assert_eq!(fs_err::read_dir(&directory).unwrap().count(), scripts.len());
    }

    #[test]
    fn the_user_config_names_the_interpreter() {
        let cache = tempfile::tempdir().unwrap();
        let python = [(Backend::Pytorch, "/opt/torch/bin/python3".to_owned())].into();
        let user = UserConfig { python, ..user(&cache) };
        let found = driver(Backend::Pytorch, &programs(), &user).unwrap();
        assert!(
            matches!(found, DriverFiles::Scripts { interpreters, .. } if interpreters == ["/opt/torch/bin/python3"])
        );
    }
}
