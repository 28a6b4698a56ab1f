//! Tar archives for the engine: what is injected into a container, what an image is made of.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tar::{Builder, EntryType, Header};

/// A tar archive in memory, owned by root, with fixed times: the same files give the same bytes.
pub(super) struct Archive {
    builder: Builder<Vec<u8>>,
    directories: BTreeSet<PathBuf>,
}

impl Archive {
    pub(super) fn new() -> Self {
        Self { builder: Builder::new(Vec::new()), directories: BTreeSet::new() }
    }

    /// Adds a directory and its parents; `path` has no leading slash.
    pub(super) fn directory(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        if path.as_os_str().is_empty() || !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent, 0o755)?;
        }
        let mut header = header(EntryType::Directory, mode, 0);
        self.builder.append_data(&mut header, path, io::empty())
    }

    /// Adds a file; `path` has no leading slash.
    pub(super) fn file(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.directory(parent, 0o755)?;
        }
        let mut header = header(EntryType::Regular, mode, content.len() as u64);
        self.builder.append_data(&mut header, path, content)
    }

    pub(super) fn finish(self) -> io::Result<Bytes> {
        self.builder.into_inner().map(Bytes::from)
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}
