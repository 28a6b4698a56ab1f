//! A bundle's files in the cache: `CACHE/bundles-v1/SHA256`, there whole or not at all, and checked whenever they are used.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::File;

use super::archive::{BundleContent, Sink, begin};
use super::meter::Meter;
use super::{BundleError, CONTROLLER, ImageForm, PackedFile};
use crate::files::remove_tree;
use crate::hash_notes::{Looked, note, note_written, notes_path, read_notes, write_notes};
use crate::host::free_bytes;
use crate::part_directory::PartDirectory;

/// Folder of llem's cache with unpacked bundles.
const BUCKET: &str = "bundles-v1";

/// Under this name it is noted that a bundle was compared with its manifest, and with which.
const VERIFIED: &str = "bundle";

/// How long until it is looked again whether another llem has unpacked the same bundle.
const PATIENCE: Duration = Duration::from_millis(300);

/// A bundle whose every byte was compared, and whose files are in the cache.
pub(super) struct Unpacked {
    pub(super) content: BundleContent,
    pub(super) root: PathBuf,
}

/// Verifies a bundle and unpacks it. What was done before is not done again: the archive is read again unless size, times and inode are those
/// of the file that was verified, and unpacked files likewise.
pub(super) fn unpack(content: BundleContent, cache_root: &Path, meter: &Meter) -> Result<Unpacked, BundleError> {
    let bucket = cache_root.join(BUCKET);
    let root = bucket.join(&content.sha256);
    let looked = Looked::at(&content.path).map_err(BundleError::Files)?;
    let is_verified = looked.noted(VERIFIED, cache_root).as_ref() == Some(&content.sha256);
    if root.is_dir() && is_whole(&content, &root, cache_root, meter)? {
        if !is_verified {
            read(&content, meter, |_| Ok(None))?;
        }
    } else {
        fs_err::create_dir_all(&bucket).map_err(BundleError::Files)?;
        fill(&content, &root, cache_root, meter)?;
    }
    looked.keep(VERIFIED, &content.sha256, cache_root);
    Ok(Unpacked { content, root })
}

/// Reads the archive from its beginning, which must be the one that is known.
fn read(
    content: &BundleContent,
    meter: &Meter,
    sink_of: impl FnMut(&PackedFile) -> Result<Option<Sink>, BundleError>,
) -> Result<(), BundleError> {
    let (reader, again) = begin(&content.path)?;
    if again != *content {
        return Err(reader.damaged("the file", "somebody replaced it while it was read"));
    }
    meter.reset();
    content.read(reader, meter, sink_of)
}

/// Unpacks into a place beside, and gives it its name when everything was compared.
fn fill(content: &BundleContent, root: &Path, cache_root: &Path, meter: &Meter) -> Result<(), BundleError> {
    let part = loop {
        if let Some(part) = PartDirectory::open(root).map_err(BundleError::Files)? {
            break part;
        }
        meter.wait();
        std::thread::sleep(PATIENCE);
        meter.add(0)?;
    };
    if root.is_dir() {
        if is_whole(content, root, cache_root, meter)? {
            return read(content, meter, |_| Ok(None));
        }
        remove_tree(root).map_err(BundleError::Files)?;
    }
    refuse_full_disk(content, part.target())?;
    let tree = part.path("root");
    read(content, meter, |file| {
        if !is_unpacked(content, file) {
            return Ok(None);
        }
        create(&tree.join(&file.name), file.executable).map(Some).map_err(BundleError::Files)
    })?;
    let publish = || {
        rustix::fs::syncfs(File::open(&tree)?.file())?;
        part.publish("root")
    };
    publish().map_err(BundleError::Files)?;
    for (directory, hashes) in by_directory(content) {
        // Without notes they are read once more.
        let _ = note_written(&root.join(directory), &hashes, cache_root);
    }
    Ok(())
}

fn create(path: &Path, executable: bool) -> std::io::Result<Sink> {
    fs_err::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let mut file = fs_err::OpenOptions::new().write(true).create_new(true).open(path)?;
    let mode = if executable { 0o555 } else { 0o444 };
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    Ok(Box::new(move |chunk| file.write_all(chunk).map_err(BundleError::Files)))
}

/// Whether a file is of use in the cache: archives of images go to the container engine from where they are.
fn is_unpacked(content: &BundleContent, file: &PackedFile) -> bool {
    let mut archives = content.manifest.images.iter().filter(|image| image.form == ImageForm::Archive);
    file.name != CONTROLLER && !archives.any(|image| image.file == file.name)
}

/// Names and hashes of the unpacked files, by their directories.
fn by_directory(content: &BundleContent) -> BTreeMap<PathBuf, BTreeMap<String, String>> {
    let mut found: BTreeMap<PathBuf, BTreeMap<String, String>> = BTreeMap::new();
    for file in content.manifest.files.iter().filter(|file| is_unpacked(content, file)) {
        let (directory, name) = file.name.rsplit_once('/').unwrap_or(("", &file.name));
        found.entry(directory.into()).or_default().insert(name.to_owned(), file.sha256.clone());
    }
    found
}

/// Whether the unpacked files are as the bundle has them, and no others: what lies beside weights would be taken for weights.
fn is_whole(content: &BundleContent, root: &Path, cache_root: &Path, meter: &Meter) -> Result<bool, BundleError> {
    let files = content.manifest.files.iter().filter(|file| is_unpacked(content, file));
    if !matches!(count_files(root), Ok(found) if found == files.count()) {
        return Ok(false);
    }
    for (directory, hashes) in by_directory(content) {
        let Ok(directory) = fs_err::canonicalize(root.join(directory)) else { return Ok(false) };
        let notes_file = notes_path(&directory, cache_root);
        let (old, mut notes) = (read_notes(&notes_file), BTreeMap::new());
        for (name, sha256) in hashes {
            meter.add(0)?;
            match note(&directory.join(&name), old.get(&name)) {
                Ok((found, _)) if found.sha256 != sha256 => return Ok(false),
                Ok((found, settled)) => drop(settled.then(|| notes.insert(name, found))),
                Err(_) => return Ok(false),
            }
        }
        if notes != old {
            let _ = write_notes(&notes_file, &notes);
        }
    }
    Ok(true)
}

/// How many things that are no directories lie below.
fn count_files(root: &Path) -> std::io::Result<usize> {
    let (mut count, mut open) = (0, vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs_err::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { open.push(entry.path()) } else { count += 1 }
        }
    }
    Ok(count)
}

fn refuse_full_disk(content: &BundleContent, target: &Path) -> Result<(), BundleError> {
    let files = content.manifest.files.iter().filter(|file| is_unpacked(content, file));
    let needed: u64 = files.fold(0, |sum, file| sum.saturating_add(file.size_bytes));
    match free_bytes(target) {
        Some((free, directory)) if free < needed => Err(BundleError::NoSpace {
            what: "unpacking the bundle",
            other_place: "`cache_dir` of the user config",
            needed_gb: needed as f64 / 1e9,
            free_gb: free as f64 / 1e9,
            directory,
        }),
        _ => Ok(()),
    }
}
