//! Files and directories that are there whole or not at all.

use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fs_err::File;
use sha2::{Digest, Sha256};

/// Bytes that are read at a time when a file is hashed.
const CHUNK: usize = 1 << 20;

/// Writes a file under another name in the same directory, then renames it: readers see all of it or nothing, even after a power cut.
/// Everybody may read it. Errors name the path.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    write_atomic_with(path, |file| file.write_all(content))
}

/// As [`write_atomic`] for content that is not all in memory at once.
pub(crate) fn write_atomic_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&std::fs::File>) -> io::Result<()>,
) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let name_path = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let mut builder = tempfile::Builder::new();
    let builder = builder.permissions(std::fs::Permissions::from_mode(0o644));
    let file = builder.tempfile_in(directory).map_err(name_path)?;
    let mut writer = BufWriter::new(file.as_file());
    write(&mut writer).and_then(|()| writer.flush()).map_err(name_path)?;
    drop(writer);
    file.as_file().sync_all().map_err(name_path)?;
    file.persist(path).map_err(|e| name_path(e.error))?;
    Ok(())
}

/// Makes the names in a directory survive a power cut.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes a directory that strangers wrote to, or does nothing when it is not there. Directories that they locked against their owner
/// are opened first; links are removed, not followed.
pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            unlock_directories(directory);
            match fs_err::remove_dir_all(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        }
        Ok(()) => Ok(()),
    }
}

/// Lets the owner into `directory` and all directories below. Links are not followed.
fn unlock_directories(directory: &Path) {
    if fs_err::symlink_metadata(directory).is_ok_and(|found| found.is_dir()) {
        let _ = fs_err::set_permissions(directory, std::fs::Permissions::from_mode(0o700));
    }
    let entries = fs_err::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        unlock_directories(&entry.path());
    }
}

/// Copies everything from `source` to `sink` and returns how many bytes that were and their SHA-256, hexadecimal.
pub(crate) fn hash_into(source: &mut impl Read, sink: &mut impl Write) -> io::Result<(u64, String)> {
    let mut buffer = vec![0; CHUNK];
    let (mut bytes, mut hash) = (0, Sha256::new());
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hex::encode(hash.finalize()))),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let chunk = buffer.get(..n).unwrap_or_default();
        hash.update(chunk);
        sink.write_all(chunk)?;
        bytes += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("f");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"two");
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 1);
        let error = write_atomic(&root.path().join("no/such/f"), b"x").unwrap_err();
        assert!(error.to_string().contains("no/such/f"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_removed_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (kept, tree) = (root.path().join("kept"), root.path().join("tree"));
        fs_err::create_dir_all(tree.join("a/b")).unwrap();
        fs_err::create_dir(&kept).unwrap();
        fs_err::write(kept.join("f"), "x").unwrap();
        fs_err::os::unix::fs::symlink(&kept, tree.join("a/link")).unwrap();
        fs_err::set_permissions(tree.join("a"), std::fs::Permissions::from_mode(0o500)).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && kept.join("f").exists());
    }

    #[test]
    fn hashing_copies() {
        let mut copy = Vec::new();
        let (bytes, hash) = hash_into(&mut &b"abc"[..], &mut copy).unwrap();
        assert_eq!((bytes, copy.as_slice()), (3, &b"abc"[..]));
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
