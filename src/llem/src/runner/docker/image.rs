//! Images that llem makes and lists. The embedded backend's image is made of this machine's own files, so no registry is needed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::LABEL_IMAGE;
use super::archive::Archive;
use super::client::{Engine, EngineError};
use super::neighbour::NotShared;
use crate::runner::inside::CANDLE_DRIVER;

/// Repository name of the embedded backend's image.
const CANDLE_REPO: &str = "llem/candle";

/// What can go wrong with images.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A file of this machine is missing or unreadable.
    #[error("the image needs {path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// llem was told to stop.
    #[error("stopped while an image was looked at")]
    Stopped,
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A directory of the machine's owner that the engine does not see.
    #[error(transparent)]
    NotShared(#[from] NotShared),
}

/// The embedded backend's image, as it must be for the binaries at hand.
#[derive(Clone, Debug)]
pub struct CandleImage {
    /// `llem/candle:HASH`, where the hash covers every file in the image.
    pub reference: String,
    /// SHA-256 of all names and contents, hexadecimal; the tag is its beginning.
    pub sha256: String,
    /// What is in it, by absolute path.
    pub(in crate::runner) files: BTreeMap<PathBuf, Vec<u8>>,
}

impl CandleImage {
    /// Collects the driver and the shared libraries that it and the agent load on this machine.
    pub fn from_host(driver: &Path, agent: &Path) -> Result<Self, ImageError> {
        let mut files = BTreeMap::from([(PathBuf::from(CANDLE_DRIVER), read(driver)?)]);
        for library in [driver, agent].into_iter().map(libraries).collect::<Result<Vec<_>, _>>()?.concat() {
            if let Entry::Vacant(slot) = files.entry(library) {
                let content = read(slot.key())?;
                slot.insert(content);
            }
        }
        // Names for the user that the image starts with; engines and C libraries look them up.
        files.insert("/etc/passwd".into(), b"root:x:0:0:root:/tmp:/sbin/nologin\n".to_vec());
        Ok(Self::of(files))
    }

    /// The image of exactly the files below a directory, as [`Self::files`] named them.
    pub fn from_root(root: &Path) -> Result<Self, ImageError> {
        let (mut files, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
        while let Some(directory) = open.pop() {
            let unreadable = |e: std::io::Error| ImageError::File { path: directory.clone(), problem: e.to_string() };
            for entry in fs_err::read_dir(&directory).map_err(unreadable)? {
                let path = entry.map_err(unreadable)?.path();
                let inside = Path::new("/").join(path.strip_prefix(root).unwrap_or(&path));
                match fs_err::symlink_metadata(&path).map_err(unreadable)?.file_type() {
                    kind if kind.is_dir() => open.push(path),
                    kind if kind.is_file() => drop(files.insert(inside, read(&path)?)),
                    _ => return Err(ImageError::File { path, problem: "neither file nor directory".to_owned() }),
                }
            }
        }
        Ok(Self::of(files))
    }

    /// Its files by their absolute paths, and whether they are programs or libraries.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &[u8], bool)> {
        self.files.iter().map(|(path, content)| (path.as_path(), content.as_slice(), is_executable(path)))
    }

    fn of(files: BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let mut hash = Sha256::new();
        for (path, content) in &files {
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(content);
        }
        let sha256 = hex::encode(hash.finalize());
        let tag = sha256.chars().take(16).collect::<String>();
        Self { reference: format!("{CANDLE_REPO}:{tag}"), sha256, files }
    }

    fn archive(&self) -> std::io::Result<bytes::Bytes> {
        let mut archive = Archive::new();
        archive.directory(Path::new("tmp"), 0o1777)?;
        for (path, content) in &self.files {
            let name = path.strip_prefix("/").unwrap_or(path);
            let mode = if is_executable(path) { 0o755 } else { 0o644 };
            archive.file(name, mode, content)?;
        }
        archive.finish()
    }
}

fn is_executable(path: &Path) -> bool {
    !path.starts_with("/etc")
}

/// Makes the embedded backend's image unless the engine has it. True when it was made now.
pub async fn build_candle(engine: &Engine, image: &CandleImage) -> Result<bool, ImageError> {
    if engine.image(&image.reference).await?.is_some() {
        return Ok(false);
    }
    let archive = image
        .archive()
        .map_err(|error| ImageError::File { path: image.reference.clone().into(), problem: error.to_string() })?;
    engine.import(archive, &image.reference, &format!("LABEL {LABEL_IMAGE}=candle")).await?;
    Ok(true)
}

/// A line of `llem image ls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    /// `repo:tag`, or the id of an image without a name.
    pub reference: String,
    /// The backend that the image was made for.
    pub backend: String,
    /// `sha256:…`.
    pub id: String,
    /// Size on disk in bytes.
    pub size_bytes: u64,
    /// Unix time of creation in seconds.
    pub created_s: i64,
}

/// The images that llem made.
pub async fn images(engine: &Engine) -> Result<Vec<ImageRow>, EngineError> {
    let mut rows: Vec<ImageRow> = engine
        .images(LABEL_IMAGE)
        .await?
        .into_iter()
        .map(|image| ImageRow {
            reference: image.repo_tags.iter().find(|tag| !tag.starts_with('<')).unwrap_or(&image.id).clone(),
            backend: image.labels.get(LABEL_IMAGE).cloned().unwrap_or_default(),
            size_bytes: u64::try_from(image.size).unwrap_or_default(),
            created_s: image.created,
            id: image.id,
        })
        .collect();
    rows.sort_by(|a, b| b.created_s.cmp(&a.created_s).then_with(|| a.reference.cmp(&b.reference)));
    Ok(rows)
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    fs_err::read(path).map_err(|e| ImageError::File { path: path.to_owned(), problem: e.to_string() })
}

/// The program interpreter of a binary and every library that it makes the interpreter load on this machine.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let fail = |problem: String| ImageError::File { path: binary.to_owned(), problem };
    let interpreter = interpreter(&read(binary)?).ok_or_else(|| fail("not a dynamic x86-64 Linux binary".into()))?;
    let listing = Command::new(&interpreter)
        .arg("--list")
        .arg(binary)
        .output()
        .map_err(|e| fail(format!("{}: {e}", interpreter.display())))?;
    let text = String::from_utf8_lossy(&listing.stdout);
    if !listing.status.success() || text.contains("not found") {
        return Err(fail(format!("{}{}", text.trim(), String::from_utf8_lossy(&listing.stderr).trim())));
    }
    let mut paths = parse_listing(&text);
    paths.push(interpreter);
    Ok(paths)
}

/// Paths in the loader's listing, whose lines read `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`.
fn parse_listing(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_once("=> ")?.1.split_whitespace().next())
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn interpreter(content: &[u8]) -> Option<PathBuf> {
    let header = elf::FileHeader64::<Endianness>::parse(content).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, content).ok()?;
    let bytes = segments.iter().find_map(|segment| segment.interpreter(endian, content).ok().flatten())?;
    Some(PathBuf::from(std::str::from_utf8(bytes).ok()?))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{CandleImage, interpreter, libraries, parse_listing};

    #[test]
    fn the_loaders_listing_is_read() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(parse_listing(text), [PathBuf::from("/lib/x86_64-linux-gnu/libm.so.6")]);
    }

    #[test]
    fn this_test_binary_needs_a_loader_and_a_c_library() {
        let own = std::env::current_exe().unwrap();
        let found = libraries(&own).unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(found.iter().any(|path| name(path).starts_with("libc.so")), "{found:?}");
        assert!(found.iter().any(|path| name(path).starts_with("ld-")), "{found:?}");
        assert!(found.iter().all(|path| path.exists()), "{found:?}");
    }

    #[test]
    fn what_is_no_program_is_refused_by_name() {
        assert_eq!(interpreter(b"#!/bin/sh\n"), None);
        let error = CandleImage::from_host(Path::new("/etc/hostname"), Path::new("/etc/hostname")).unwrap_err();
        assert!(error.to_string().contains("/etc/hostname"), "{error}");
    }

    #[test]
    fn the_tag_follows_the_content() {
        let own = std::env::current_exe().unwrap();
        let same = |driver: &Path| CandleImage::from_host(driver, &own).unwrap().reference;
        assert_eq!(same(&own), same(&own));
        assert_ne!(same(&own), same(Path::new("/bin/sh")));
    }
}
