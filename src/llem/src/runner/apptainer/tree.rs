//! The content of a directory tree in one hash.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fs_err::File;
use sha2::{Digest, Sha256};

use crate::files::hash_into;

/// SHA-256, hexadecimal, over names, kinds, modes and contents of everything in a directory. Owners and times do not count: the same tree,
/// copied, is the same image.
pub(super) fn sha256(root: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    add(root, &mut hash)?;
    Ok(hex::encode(hash.finalize()))
}

fn add(directory: &Path, hash: &mut Sha256) -> io::Result<()> {
    let mut entries = fs_err::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs_err::DirEntry::file_name);
    for entry in entries {
        let (path, found) = (entry.path(), entry.metadata()?);
        let content = if found.is_symlink() {
            fs_err::read_link(&path)?.as_os_str().as_bytes().to_vec()
        } else if found.is_file() {
            hash_into(&mut File::open(&path)?, &mut io::sink())?.1.into_bytes()
        } else {
            Vec::new()
        };
        // Lengths keep a name from being read as a content.
        for part in [entry.file_name().as_bytes(), &found.mode().to_le_bytes(), &content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        if found.is_dir() {
            add(&path, hash)?;
            hash.update(b"end of directory");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::sha256;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs_err::create_dir(root.path().join("bin")).unwrap();
        fs_err::write(root.path().join("bin/sh"), "x").unwrap();
        fs_err::os::unix::fs::symlink("sh", root.path().join("bin/bash")).unwrap();
        root
    }

    #[test]
    fn a_copy_is_the_same_and_every_change_is_another() {
        let first = sha256(tree().path()).unwrap();
        assert_eq!(sha256(tree().path()).unwrap(), first);
        let changes: [&dyn Fn(&std::path::Path); 4] = [
            &|root| fs_err::write(root.join("bin/sh"), "y").unwrap(),
            &|root| fs_err::set_permissions(root.join("bin/sh"), std::fs::Permissions::from_mode(0o700)).unwrap(),
            &|root| fs_err::rename(root.join("bin/sh"), root.join("sh")).unwrap(),
            &|root| fs_err::create_dir(root.join("empty")).unwrap(),
        ];
        for change in changes {
            let root = tree();
            change(root.path());
            assert_ne!(sha256(root.path()).unwrap(), first);
        }
    }
}
