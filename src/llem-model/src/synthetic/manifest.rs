use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bounded;

use super::spec::SyntheticSpec;

/// Version of `manifest.json`.
const SCHEMA_VERSION: u32 = 1;
/// Name of the manifest in a model's directory.
pub(super) const MANIFEST: &str = "manifest.json";
/// The most that is read of a manifest.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024;

/// What a synthetic model consists of.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    schema_version: u32,
    id: String,
    parameters: u64,
    spec: SyntheticSpec,
    files: BTreeMap<String, FileRecord>,
}

/// Length and digest of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRecord {
    bytes: u64,
    sha256: String,
}

impl Manifest {
    pub(super) fn new(spec: &SyntheticSpec) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            id: spec.id(),
            parameters: spec.geometry().parameters(),
            spec: spec.clone(),
            files: BTreeMap::new(),
        }
    }

    /// Writes a file of the model through to the disk and notes its length and digest.
    pub(super) fn write_file(
        &mut self,
        dir: &Path,
        name: &str,
        write: impl FnOnce(&mut Hashed) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut out = Hashed::create(&dir.join(name))?;
        write(&mut out)?;
        self.files.insert(name.to_owned(), out.finish()?);
        Ok(())
    }

    /// Writes the manifest itself.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let mut out = Hashed::create(&dir.join(MANIFEST))?;
        serde_json::to_writer_pretty(&mut out, self)?;
        out.finish().map(drop)
    }

    /// Whether a directory holds the model of `spec` with every file in its full length. Content is not read.
    pub(super) fn is_whole(dir: &Path, spec: &SyntheticSpec) -> bool {
        let Ok(content) = bounded::read(&dir.join(MANIFEST), MAX_MANIFEST_BYTES) else { return false };
        let Ok(manifest) = serde_json::from_slice::<Self>(&content) else { return false };
        manifest.schema_version == SCHEMA_VERSION
            && manifest.id == spec.id()
            && super::build::FILES.iter().all(|name| {
                let length = fs_err::symlink_metadata(dir.join(name)).ok().filter(std::fs::Metadata::is_file);
                let expected = manifest.files.get(*name).map(|file| file.bytes);
                expected.is_some() && length.map(|file| file.len()) == expected
            })
    }
}

/// A file under construction that is hashed on the way.
pub(super) struct Hashed {
    file: BufWriter<fs_err::File>,
    hasher: Sha256,
    bytes: u64,
}

impl Hashed {
    fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::with_capacity(1 << 20, fs_err::File::create(path)?);
        Ok(Self { file, hasher: Sha256::new(), bytes: 0 })
    }

    fn finish(self) -> io::Result<FileRecord> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        // Readable for the user of a container, whatever the umask.
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.sync_all()?;
        Ok(FileRecord { bytes: self.bytes, sha256: hex::encode(self.hasher.finalize()) })
    }
}

impl Write for Hashed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
