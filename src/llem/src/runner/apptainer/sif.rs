//! The header of SIF files, as far as llem needs it: is it one, for which architecture, and what does it say of where it comes from?
//!
//! The format is that of the SIF project (github.com/apptainer/sif), version 01: a global header of 128 bytes, then descriptors of 585
//! bytes, each of one data object; integers are little-endian.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use fs_err::File;
use serde::{Deserialize, Serialize};

use super::error::ApptainerError;
use crate::printable::printable;
use crate::runner::ImageSource;

/// Where the magic is, behind the line that makes the file executable.
const MAGIC: (usize, &[u8]) = (32, b"SIF_MAGIC\0");

const HEADER_BYTES: usize = 128;
const DESCRIPTOR_BYTES: usize = 585;

/// Data type of JSON that only its writer understands.
const GENERIC_JSON: i32 = 0x4006;

/// Most descriptors that are read; files have fewer than ten.
const MAX_DESCRIPTORS: usize = 1024;

/// Most bytes of an object that is read.
const MAX_OBJECT_BYTES: u64 = 1 << 20;

/// Name of the object in which llem records the source.
pub(super) const SOURCE_NAME: &str = "llem-source.json";

/// Version of that record.
const SOURCE_VERSION: u32 = 1;

/// What llem records in a SIF file that it made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceRecord {
    schema_version: u32,
    /// Version of llem.
    llem_version: String,
    source: ImageSource,
}

impl SourceRecord {
    pub(super) fn new(source: ImageSource) -> Self {
        Self { schema_version: SOURCE_VERSION, llem_version: env!("CARGO_PKG_VERSION").to_owned(), source }
    }
}

/// What a SIF file's header tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// What it was made from, where llem made it.
    pub(super) source: Option<ImageSource>,
    /// Architecture as engines name it; empty where the file does not tell.
    pub(super) architecture: &'static str,
}

/// Reads a SIF file's header.
pub(super) fn read(path: &Path) -> Result<Header, ApptainerError> {
    let problem = |problem: String| ApptainerError::NoImage { path: path.to_owned(), problem };
    // What is neither a file nor a directory may never end.
    if !fs_err::metadata(path).is_ok_and(|found| found.is_file()) {
        return Err(problem("it is no plain file".to_owned()));
    }
    let mut file = File::open(path).map_err(|source| ApptainerError::Missing { path: path.to_owned(), source })?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(|_| problem("it is shorter than the header of a SIF file".to_owned()))?;
    let (at, magic) = MAGIC;
    if header.get(at..at + magic.len()) != Some(magic) {
        let is_sif = "it does not begin as a SIF file";
        return Err(problem(is_sif.to_owned()));
    }
    let architecture = architecture(header.get(45..47).unwrap_or_default());
    if let Some(found) = architecture.filter(|found| *found != own_architecture()) {
        return Err(ApptainerError::Architecture { path: path.to_owned(), found, own: own_architecture() });
    }
    let source = source(&mut file, &header).map_err(|error| problem(format!("its header is damaged: {error}")))?;
    Ok(Header { source, architecture: architecture.unwrap_or_default() })
}

/// The record of the source among the objects of a file.
fn source(file: &mut File, header: &[u8]) -> io::Result<Option<ImageSource>> {
    let (total, offset) = (number(header, 88), number(header, 96));
    let count = usize::try_from(total).unwrap_or(usize::MAX).min(MAX_DESCRIPTORS);
    file.seek(SeekFrom::Start(offset))?;
    let mut descriptors = vec![0; count * DESCRIPTOR_BYTES];
    file.read_exact(&mut descriptors)?;
    let Some(object) = descriptors.chunks_exact(DESCRIPTOR_BYTES).find(|descriptor| is_source(descriptor)) else {
        return Ok(None);
    };
    let (offset, size) = (number(object, 17), number(object, 25));
    file.seek(SeekFrom::Start(offset))?;
    let mut text = Vec::new();
    file.take(size.min(MAX_OBJECT_BYTES)).read_to_end(&mut text)?;
    let record: SourceRecord = serde_json::from_slice(&text)?;
    let ImageSource { reference, id, digests } = record.source;
    let digests = digests.iter().map(|digest| printable(digest)).collect();
    Ok(Some(ImageSource { reference: printable(&reference), id: printable(&id), digests }))
}

fn is_source(descriptor: &[u8]) -> bool {
    let kind = descriptor.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_le_bytes);
    let is_used = descriptor.get(4).is_some_and(|used| *used != 0);
    let name = descriptor.get(73..73 + 128).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
    is_used && kind == Some(GENERIC_JSON) && name == SOURCE_NAME.as_bytes()
}

/// An integer of 64 bits; none are negative in a file that is whole.
fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(u64::MAX, u64::from_le_bytes)
}

/// The name that engines give an architecture; `None` for one that llem's agent is not built for anyway.
fn architecture(code: &[u8]) -> Option<&'static str> {
    match code {
        b"01" => Some("386"),
        b"02" => Some("amd64"),
        b"03" => Some("arm"),
        b"04" => Some("arm64"),
        b"05" => Some("ppc64"),
        b"06" => Some("ppc64le"),
        _ => None,
    }
}

/// This machine's, likewise.
fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{DESCRIPTOR_BYTES, GENERIC_JSON, HEADER_BYTES, SOURCE_NAME, SourceRecord, own_architecture, read};
    use crate::runner::ImageSource;

    fn bytes(objects: &[(&str, &[u8])], architecture: &str) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES];
        header[32..42].copy_from_slice(b"SIF_MAGIC\0");
        header[42..45].copy_from_slice(b"01\0");
        header[45..47].copy_from_slice(architecture.as_bytes());
        header[88..96].copy_from_slice(&(objects.len() as u64).to_le_bytes());
        header[96..104].copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
        let mut data_at = HEADER_BYTES + objects.len() * DESCRIPTOR_BYTES;
        let mut data = Vec::new();
        for (name, content) in objects {
            let mut descriptor = vec![0; DESCRIPTOR_BYTES];
            descriptor[..4].copy_from_slice(&GENERIC_JSON.to_le_bytes());
            descriptor[4] = 1;
            descriptor[17..25].copy_from_slice(&(data_at as u64).to_le_bytes());
            descriptor[25..33].copy_from_slice(&(content.len() as u64).to_le_bytes());
            descriptor[73..73 + name.len()].copy_from_slice(name.as_bytes());
            header.extend(descriptor);
            data.extend_from_slice(content);
            data_at += content.len();
        }
        [header, data].concat()
    }

    fn own() -> &'static str {
        if own_architecture() == "amd64" { "02" } else { "04" }
    }

    fn error(content: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), content).unwrap();
        read(file.path()).unwrap_err().to_string()
    }

    #[test]
    fn the_recorded_source_is_found_among_other_objects() {
        let source = ImageSource { reference: "r:t".into(), id: "sha256:1".into(), digests: vec!["r@sha256:2".into()] };
        let record = serde_json::to_vec(&SourceRecord::new(source.clone())).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), bytes(&[("oci-config.json", b"{}"), (SOURCE_NAME, &record)], own())).unwrap();
        assert_eq!(read(file.path()).unwrap().source, Some(source));
        fs_err::write(file.path(), bytes(&[("oci-config.json", b"{}")], own())).unwrap();
        assert_eq!(read(file.path()).unwrap().source, None);
    }

    #[test]
    fn what_is_no_whole_sif_file_is_refused() {
        assert!(error(b"garbage").contains("shorter than the header"));
        assert!(error(&[b'x'; 4096]).contains("does not begin as a SIF file"));
        assert!(error(&bytes(&[(SOURCE_NAME, b"{")], own())).contains("header is damaged"));
        let whole = bytes(&[(SOURCE_NAME, b"{}")], own());
        assert!(error(&whole[..whole.len() - 400]).contains("header is damaged"));
        let other = if own() == "02" { "04" } else { "02" };
        assert!(error(&bytes(&[], other)).contains("and this machine is"));
    }

    #[test]
    fn numbers_that_lead_out_of_the_file_are_no_panic() {
        let mut content = bytes(&[(SOURCE_NAME, b"{}")], own());
        for at in [88, 96] {
            content[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
            assert!(error(&content).contains("header is damaged"));
        }
    }
}
