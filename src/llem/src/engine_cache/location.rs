//! Where the cache is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, access};

use crate::config::UserConfig;

/// The directory of the cache in a checkout and in llem's XDG cache.
const DIRECTORY: &str = "engine-cache";

/// How long another builder is waited for, unless the user config says otherwise: a large engine takes half an hour to build.
const WAIT: Duration = Duration::from_secs(3600);

/// How the cache is set up.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheSettings {
    /// Its directory; made when it is first written to.
    pub dir: PathBuf,
    /// Where engines are built that are not kept.
    pub private_dir: PathBuf,
    /// Bytes that it may hold; absent: no limit.
    pub max_bytes: Option<u64>,
    /// How long another builder of the same engine is waited for.
    pub wait: Duration,
}

impl CacheSettings {
    /// As the user configuration has it, else: `engine-cache` of the checkout that this program was built in, else of llem's cache
    /// directory.
    pub fn of(user: &UserConfig) -> Self {
        let root = user.cache_root();
        let in_checkout = || std::env::current_exe().ok().and_then(|program| checkout(&program));
        let dir = user.engine_cache_dir.clone().or_else(in_checkout).unwrap_or_else(|| root.join(DIRECTORY));
        Self {
            dir,
            private_dir: root.join("private-builds"),
            max_bytes: user.engine_cache_max_gb.map(|gb| (gb * 1e9) as u64),
            wait: user.engine_cache_wait_seconds.map_or(WAIT, |seconds| Duration::from_secs(seconds.into())),
        }
    }
}

/// `engine-cache` of the checkout that a program lies in, if it may be written to: a directory above it with the workspace's manifest
/// and the cache's own description.
fn checkout(program: &Path) -> Option<PathBuf> {
    let program = fs_err::canonicalize(program).ok()?;
    let cache = program.ancestors().find(|dir| is_checkout(dir))?.join(DIRECTORY);
    access(&cache, Access::WRITE_OK | Access::EXEC_OK).ok().map(|()| cache)
}

fn is_checkout(dir: &Path) -> bool {
    let names_llem = |text: String| text.contains("[workspace]") && text.contains("\"src/llem-agent\"");
    dir.join(DIRECTORY).join("README.md").is_file()
        && fs_err::read_to_string(dir.join("Cargo.toml")).is_ok_and(names_llem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_is_known_by_its_workspace_and_the_caches_description() {
        let root = tempfile::tempdir().unwrap();
        let root = fs_err::canonicalize(root.path()).unwrap();
        let program = root.join("target/release/llem");
        fs_err::create_dir_all(program.parent().unwrap()).unwrap();
        fs_err::write(&program, "").unwrap();
        assert_eq!(checkout(&program), None);
        fs_err::create_dir(root.join("engine-cache")).unwrap();
        fs_err::write(root.join("engine-cache/README.md"), "").unwrap();
        fs_err::write(root.join("Cargo.toml"), "[package]\n").unwrap();
        assert_eq!(checkout(&program), None, "another project's");
        fs_err::write(root.join("Cargo.toml"), "[workspace]\nmembers = [\"src/llem-agent\"]\n").unwrap();
        assert_eq!(checkout(&program), Some(root.join("engine-cache")));
    }

    #[test]
    fn this_repository_is_a_checkout() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        assert!(is_checkout(&root));
        assert!(root.join("engine-cache/.gitignore").is_file());
    }

    #[test]
    fn the_user_decides_first() {
        let user = UserConfig {
            engine_cache_dir: Some("/srv/engines".into()),
            engine_cache_max_gb: Some(1.5),
            engine_cache_wait_seconds: Some(7),
            cache_dir: Some("/srv/llem".into()),
            ..UserConfig::default()
        };
        let settings = CacheSettings::of(&user);
        assert_eq!(settings.dir, Path::new("/srv/engines"));
        assert_eq!(settings.private_dir, Path::new("/srv/llem/private-builds"));
        assert_eq!((settings.max_bytes, settings.wait.as_secs()), (Some(1_500_000_000), 7));
    }
}
