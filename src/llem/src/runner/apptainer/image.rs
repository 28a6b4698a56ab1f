//! Images as files: SIF files, sandbox directories, and the minimal root of the embedded backend.
//!
//! ```text
//! <cache>/apptainer/
//!   candle-<hash>/        the embedded backend's driver and the libraries that it and the agent load; named by their content
//!   sif-<sha256>/         a SIF file unpacked, where this user cannot mount it
//!   llem-run-<boot>-…/    one of both in the making; what a killed llem left goes at the next start
//! ```

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::File;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::error::ApptainerError;
use super::program::{Apptainer, complaint};
use super::{sif, tree};
use crate::hash_notes::file_sha256;
use crate::runner::ImageSource;
use crate::runner::docker::CandleImage;
use crate::runner::left::Scratch;

/// How long a SIF file of tens of gigabytes may take to be unpacked.
const UNPACK_LIMIT: Duration = Duration::from_secs(3600);

/// Directories that Apptainer mounts something on, which no image must lack.
const MOUNT_POINTS: [&str; 7] = ["dev", "etc", "llem", "proc", "sys", "tmp", "var/tmp"];

/// Where trees that containers are made from are kept.
pub(super) fn directory(cache_root: &Path) -> PathBuf {
    cache_root.join("apptainer")
}

/// An image, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// As the study or the user config names it.
    pub(super) reference: String,
    /// The SIF file or directory.
    pub(super) path: PathBuf,
    /// What containers are made from: `path`, or the directory that it was unpacked into.
    pub(super) root: PathBuf,
    /// `sha256:…` of the content.
    pub(super) id: String,
    /// What a SIF file was made from.
    pub(super) source: Option<ImageSource>,
    /// Architecture of a SIF file; empty where it is not known.
    pub(super) architecture: String,
    /// Size of a SIF file in bytes; 0 for a directory.
    pub(super) size_bytes: u64,
    pub(super) stamp: Stamp,
}

/// By what a file is known to be the same without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    size_bytes: u64,
    modified: (i64, i64),
    inode: u64,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Result<Self, ApptainerError> {
        let found = fs_err::metadata(path);
        let found = found.map_err(|source| ApptainerError::Missing { path: path.to_owned(), source })?;
        Ok(Self { size_bytes: found.len(), modified: (found.mtime(), found.mtime_nsec()), inode: found.ino() })
    }
}

impl Image {
    /// Looks at a SIF file or a sandbox directory and hashes it; what was hashed before is not read again where `cache_root` has its note.
    pub(super) fn identify(reference: &str, path: PathBuf, cache_root: &Path) -> Result<Self, ApptainerError> {
        let stamp = Stamp::of(&path)?;
        let doing = || ApptainerError::files(format!("image {}", path.display()));
        let (sha256, source, architecture, size_bytes) = if path.is_dir() {
            (tree::sha256(&path).map_err(doing())?, None, "", 0)
        } else {
            let sif::Header { source, architecture } = sif::read(&path)?;
            (file_sha256(&path, cache_root).map_err(doing())?, source, architecture, stamp.size_bytes)
        };
        let (reference, root, id) = (reference.to_owned(), path.clone(), format!("sha256:{sha256}"));
        let architecture = architecture.to_owned();
        Ok(Self { reference, path, root, id, source, architecture, size_bytes, stamp })
    }

    /// The minimal root of the embedded backend, laid into the cache.
    pub(super) fn embedded(image: &CandleImage, cache_root: &Path) -> Result<Self, ApptainerError> {
        let tag: String = image.sha256.chars().take(16).collect();
        let path = directory(cache_root).join(format!("candle-{tag}"));
        if !path.is_dir() {
            publish(&path, |part| lay_out(image, part))
                .map_err(ApptainerError::files(format!("{}", path.display())))?;
        }
        let (stamp, root) = (Stamp::of(&path)?, path.clone());
        let (reference, id) = (image.reference.clone(), format!("sha256:{}", image.sha256));
        Ok(Self { reference, path, root, id, source: None, architecture: String::new(), size_bytes: 0, stamp })
    }

    /// Whether the file is as it was when it was identified.
    pub(super) fn is_unchanged(&self) -> bool {
        Stamp::of(&self.path).is_ok_and(|stamp| stamp == self.stamp)
    }

    /// Whether the very file was written to since it was identified: one that replaced it does not change what runs from the old one.
    pub(super) fn was_written(&self) -> bool {
        Stamp::of(&self.path).is_ok_and(|stamp| stamp.inode == self.stamp.inode && stamp != self.stamp)
    }

    /// Finds out whether a SIF file can be mounted by this user, and unpacks it into the cache where it cannot. Why it was unpacked, if so.
    pub(super) async fn make_startable(
        &mut self,
        apptainer: &Apptainer,
        agent: &Path,
        cache_root: &Path,
        stop: &CancellationToken,
    ) -> Result<Option<String>, ApptainerError> {
        if self.path.is_dir() {
            return Ok(None);
        }
        let directory = directory(cache_root).join(self.id.replace(':', "-").replace("sha256-", "sif-"));
        if directory.is_dir() {
            self.root = directory;
            return Ok(None);
        }
        let output = apptainer.agent_version(&self.path, agent, stop).await?;
        let Some(mount) = why_not_mounted(&output.stderr) else { return Ok(None) };
        debug!(image = self.reference, why = mount, "unpack");
        let unpacked = self.unpack(&directory, stop).await;
        match unpacked {
            Ok(()) => self.root = directory,
            Err(ApptainerError::Stopped) => return Err(ApptainerError::Stopped),
            Err(error) => {
                let free = rustix::fs::statvfs(directory.parent().unwrap_or(Path::new("/")));
                let free = free.map(|found| found.f_bavail.saturating_mul(found.f_frsize) / 1_000_000);
                let free = free.map(|mb| format!("; {mb} MB are free there")).unwrap_or_default();
                let (path, unpack) = (self.path.clone(), format!("{error}{free}"));
                return Err(ApptainerError::Unusable { path, mount, directory, unpack });
            }
        }
        Ok(Some(mount))
    }

    async fn unpack(&self, directory: &Path, stop: &CancellationToken) -> Result<(), ApptainerError> {
        let parent = directory.parent().unwrap_or(Path::new("/"));
        let files = || ApptainerError::files(format!("{}", parent.display()));
        fs_err::create_dir_all(parent).map_err(files())?;
        let part = Scratch::new_in(parent).map_err(files())?;
        let tree = part.path().join("root");
        let arguments = [
            "build".as_ref(),
            "--disable-cache".as_ref(),
            "--sandbox".as_ref(),
            tree.as_os_str(),
            self.path.as_os_str(),
        ];
        let output = Apptainer::tool(&arguments, part.path(), part.path(), UNPACK_LIMIT, stop).await?;
        if !output.succeeded {
            let source = std::io::Error::other(complaint(&output.stderr));
            return Err(ApptainerError::Files { doing: "apptainer build --sandbox".to_owned(), source });
        }
        put_in_place(&tree, directory).map_err(files())
    }
}

/// Why Apptainer did not mount a SIF file; `None` when it did.
fn why_not_mounted(stderr: &str) -> Option<String> {
    // It would unpack the whole image for every run, into a temporary directory, which may fail for reasons of its own.
    let unpacks = stderr.lines().any(|line| line.contains("temporary sandbox"));
    if !unpacks && stderr.lines().any(|line| line.starts_with("FATAL")) {
        return Some(complaint(stderr));
    }
    let lacking = || stderr.lines().find(|line| line.contains("squashfuse")).unwrap_or("it does not say why");
    unpacks.then(|| lacking().trim_start_matches("INFO:").trim().to_owned())
}

/// Makes a directory under another name, then gives it its own: it is there whole or not at all.
fn publish(path: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs_err::create_dir_all(parent)?;
    let part = Scratch::new_in(parent)?;
    let tree = part.path().join("root");
    fs_err::create_dir(&tree)?;
    make(&tree)?;
    put_in_place(&tree, path)
}

/// Another llem may have been faster with the same content.
fn put_in_place(tree: &Path, path: &Path) -> std::io::Result<()> {
    rustix::fs::syncfs(File::open(tree)?.file())?;
    match fs_err::rename(tree, path) {
        Err(_) if path.is_dir() => Ok(()),
        other => other,
    }
}

fn lay_out(image: &CandleImage, root: &Path) -> std::io::Result<()> {
    for (path, content) in &image.files {
        let target = root.join(path.strip_prefix("/").unwrap_or(path));
        fs_err::create_dir_all(target.parent().unwrap_or(root))?;
        fs_err::write(&target, content)?;
        fs_err::set_permissions(&target, std::fs::Permissions::from_mode(0o755))?;
    }
    MOUNT_POINTS.iter().try_for_each(|name| fs_err::create_dir_all(root.join(name)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Image, why_not_mounted};

    #[test]
    fn a_file_that_was_written_anew_is_another_image() {
        let (cache, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = place.path().join("root");
        fs_err::create_dir(&root).unwrap();
        fs_err::write(root.join("f"), "x").unwrap();
        let image = Image::identify("./root", root.clone(), cache.path()).unwrap();
        assert!(image.is_unchanged() && image.id.starts_with("sha256:"));
        fs_err::write(root.join("g"), "y").unwrap();
        assert!(!image.is_unchanged());
        assert_ne!(Image::identify("./root", root, cache.path()).unwrap().id, image.id);
    }

    #[test]
    fn what_is_not_there_is_named_with_the_command_that_makes_it() {
        let error = Image::identify("/no/x.sif", "/no/x.sif".into(), Path::new("/no")).unwrap_err().to_string();
        assert!(error.contains("/no/x.sif") && error.contains("llem image export"), "{error}");
    }

    #[test]
    fn an_image_that_would_be_unpacked_every_time_is_not_mounted() {
        let text = "INFO:    squashfuse not found, will not be able to mount SIF or other squashfs files\nINFO:    Converting SIF file to temporary sandbox...\n";
        assert_eq!(
            why_not_mounted(text).unwrap(),
            "squashfuse not found, will not be able to mount SIF or other squashfs files"
        );
        let full = format!("{text}FATAL:   while extracting: no space\n");
        assert!(why_not_mounted(&full).unwrap().starts_with("squashfuse not found"));
        assert_eq!(why_not_mounted("FATAL:   no loop devices\n").unwrap(), "no loop devices");
        assert_eq!(why_not_mounted("WARNING: x\n/llem/agent: version `GLIBC_2.34' not found\n"), None);
    }
}
