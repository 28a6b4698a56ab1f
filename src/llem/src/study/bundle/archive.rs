//! A bundle as a file: is it one, what does it say of itself, and is every byte of it as it was made?

use std::io::Read;
use std::path::{Path, PathBuf};

use fs_err::File;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::manifest::{CHECKSUM, MANIFEST, MAX_MANIFEST_BYTES, MadeBy};
use super::meter::{Meter, in_thread};
use super::tape::{Reader, member_bytes};
use super::{BUNDLE_FORMAT, BundleError, BundleEvent, Manifest, PackedFile};
use crate::printable::printable;

/// How files of bundles end.
const ENDING: &str = ".llem.tar";

/// What a bundle says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleContent {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// SHA-256 of the manifest, which determines every byte.
    pub sha256: String,
    /// The manifest.
    pub manifest: Manifest,
    /// Size of the manifest in the archive.
    manifest_bytes: u64,
}

/// Whether a file is meant to be a bundle: by its name, or by how it begins.
pub fn is_bundle(path: &Path) -> bool {
    let named = path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ENDING));
    let begins = || {
        let mut start = [0; MANIFEST.len()];
        let is_file = fs_err::metadata(path).is_ok_and(|found| found.is_file());
        let is_read = is_file && File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok();
        is_read && start == MANIFEST.as_bytes()
    };
    named || begins()
}

/// Reads what a bundle says of itself, and nothing else of it.
///
/// # Errors
///
/// It is none, its manifest is damaged, or another version of llem made it.
pub fn inspect_bundle(path: &Path) -> Result<BundleContent, BundleError> {
    Ok(begin(path)?.1)
}

/// Compares every byte of a bundle with its manifest.
///
/// # Errors
///
/// The first place that is not as it was made.
pub async fn verify_bundle(
    path: &Path,
    notify: &impl Fn(BundleEvent),
    stop: &CancellationToken,
) -> Result<BundleContent, BundleError> {
    let total_bytes = fs_err::metadata(path).map_or(0, |found| found.len());
    let path = path.to_owned();
    in_thread("verifying", total_bytes, &Meter::new(stop), notify, move |meter| {
        let (reader, content) = begin(&path)?;
        content.read(reader, meter, |_| Ok(None))?;
        Ok(content)
    })
    .await
}

/// Where the content of a member goes.
pub(super) type Sink = Box<dyn FnMut(&[u8]) -> Result<(), BundleError>>;

/// Opens a bundle and reads its manifest; the reader stands before the first file.
pub(super) fn begin(path: &Path) -> Result<(Reader<File>, BundleContent), BundleError> {
    let no_bundle = |problem: String| BundleError::NoBundle { path: path.to_owned(), problem };
    let metadata = fs_err::metadata(path).map_err(|error| no_bundle(error.to_string()))?;
    if !metadata.is_file() {
        return Err(no_bundle("it is no file".to_owned()));
    }
    let mut reader = Reader::new(File::open(path).map_err(BundleError::Files)?, path);
    let size_bytes = reader.first(MANIFEST)?;
    if size_bytes > MAX_MANIFEST_BYTES {
        return Err(reader.damaged(&format!("the header of {MANIFEST}"), "it is larger than any manifest"));
    }
    let mut text = Vec::new();
    let sha256 = reader.content(MANIFEST, size_bytes, |chunk| {
        text.extend_from_slice(chunk);
        Ok(())
    })?;
    checksum(&mut reader, &sha256)?;
    let manifest = parse(path, &text)?;
    let (path, manifest_bytes) = (std::path::absolute(path).map_err(BundleError::Files)?, size_bytes);
    Ok((reader, BundleContent { path, size_bytes: metadata.len(), sha256, manifest, manifest_bytes }))
}

/// The text of the second member.
pub(super) fn checksum_text(manifest_sha256: &str) -> String {
    format!("{manifest_sha256}  {MANIFEST}\n")
}

fn checksum(reader: &mut Reader<File>, manifest_sha256: &str) -> Result<(), BundleError> {
    let expected = checksum_text(manifest_sha256);
    let size_bytes = expected.len() as u64;
    let sha256 = hex::encode(Sha256::digest(&expected));
    let file = PackedFile { name: CHECKSUM.to_owned(), size_bytes, sha256, executable: false };
    reader.header(&file)?;
    let found = reader.content(CHECKSUM, size_bytes, |_| Ok(()))?;
    if found == file.sha256 {
        return Ok(());
    }
    let problem = format!("{MANIFEST} and its hash in {CHECKSUM} do not belong together");
    Err(reader.damaged(&format!("{MANIFEST} or {CHECKSUM}"), &problem))
}

/// The manifest, once its bytes are known to be those that were written. A stranger may have written them.
fn parse(path: &Path, text: &[u8]) -> Result<Manifest, BundleError> {
    let hostile = |problem: String| BundleError::Hostile { bundle: path.to_owned(), problem: printable(&problem) };
    let made_by: MadeBy = serde_json::from_slice(text).map_err(|error| hostile(error.to_string()))?;
    if made_by.format != BUNDLE_FORMAT {
        let made_by = format!("{} (bundles of format {})", printable(&made_by.llem_version), made_by.format);
        let own = format!("{} (format {BUNDLE_FORMAT})", env!("CARGO_PKG_VERSION"));
        return Err(BundleError::OtherLlem { bundle: path.to_owned(), made_by, own });
    }
    let manifest: Manifest = serde_json::from_slice(text).map_err(|error| hostile(error.to_string()))?;
    manifest.problem().map_or(Ok(manifest), |problem| Err(hostile(problem)))
}

impl BundleContent {
    /// Reads all files to the end of the archive, and compares them. `sink_of` says where the content of a file goes.
    pub(super) fn read(
        &self,
        mut reader: Reader<File>,
        meter: &Meter,
        mut sink_of: impl FnMut(&PackedFile) -> Result<Option<Sink>, BundleError>,
    ) -> Result<(), BundleError> {
        for file in &self.manifest.files {
            reader.header(file)?;
            let mut sink = sink_of(file)?;
            reader.checked(file, |chunk| {
                meter.add(chunk.len() as u64)?;
                sink.as_mut().map_or(Ok(()), |sink| sink(chunk))
            })?;
        }
        reader.end()
    }

    /// Where the content of a file begins.
    pub(super) fn offset(&self, name: &str) -> Option<u64> {
        let checksum = checksum_text(&self.sha256).len() as u64;
        let mut at = member_bytes(MANIFEST, self.manifest_bytes).ok()? + member_bytes(CHECKSUM, checksum).ok()?;
        for file in &self.manifest.files {
            if file.name == name {
                return Some(at + super::tape::preamble(name, file.size_bytes, file.executable).ok()?.len() as u64);
            }
            at += member_bytes(&file.name, file.size_bytes).ok()?;
        }
        None
    }
}
