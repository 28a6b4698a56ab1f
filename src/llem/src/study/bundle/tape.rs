//! The bytes of a bundle. It is a tar archive that any `tar` reads, and in which nothing is left open: owner, times and modes are fixed, so that
//! every byte of headers and padding follows from the names and sizes in the manifest. A reader compares them all.

use std::io::{self, Read, Seek, SeekFrom, Write};

use fs_err::File;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::error::BundleError;
use super::manifest::PackedFile;

/// Members are padded to whole blocks.
const BLOCK: u64 = 512;

/// Zeros behind the last member.
const END: [u8; 1024] = [0; 1024];

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// What stands before the content of a member.
pub(super) fn preamble(name: &str, size_bytes: u64, executable: bool) -> io::Result<Vec<u8>> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size_bytes);
    let mut builder = Builder::new(Vec::new());
    builder.append_data(&mut header, name, io::empty())?;
    Ok(builder.get_ref().clone())
}

/// Zeros behind a content.
fn padding(size_bytes: u64) -> u64 {
    size_bytes.next_multiple_of(BLOCK) - size_bytes
}

/// Bytes of a member with all that belongs to it.
pub(super) fn member_bytes(name: &str, size_bytes: u64) -> io::Result<u64> {
    Ok(preamble(name, size_bytes, false)?.len() as u64 + size_bytes + padding(size_bytes))
}

/// Writes members one after the other; how large one is may turn out when it is written.
pub(super) struct Writer {
    file: File,
}

/// A member that is being written.
pub(super) struct OpenMember {
    name: String,
    executable: bool,
    start: u64,
    hash: Sha256,
    size_bytes: u64,
}

impl Writer {
    pub(super) fn new(file: File) -> Self {
        Self { file }
    }

    /// Begins a member.
    pub(super) fn begin(&mut self, name: &str, executable: bool) -> io::Result<OpenMember> {
        let start = self.file.stream_position()?;
        self.file.write_all(&preamble(name, 0, executable)?)?;
        Ok(OpenMember { name: name.to_owned(), executable, start, hash: Sha256::new(), size_bytes: 0 })
    }

    /// Continues it.
    pub(super) fn push(&mut self, member: &mut OpenMember, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk)?;
        member.hash.update(chunk);
        member.size_bytes += chunk.len() as u64;
        Ok(())
    }

    /// Ends it, and puts its size into its header.
    pub(super) fn end(&mut self, member: OpenMember) -> io::Result<PackedFile> {
        let OpenMember { name, executable, start, hash, size_bytes } = member;
        self.zeros(padding(size_bytes))?;
        let end = self.file.stream_position()?;
        self.file.seek(SeekFrom::Start(start))?;
        self.file.write_all(&preamble(&name, size_bytes, executable)?)?;
        self.file.seek(SeekFrom::Start(end))?;
        Ok(PackedFile { name, size_bytes, sha256: hex::encode(hash.finalize()), executable })
    }

    /// A member from memory.
    pub(super) fn member(&mut self, name: &str, content: &[u8]) -> io::Result<PackedFile> {
        let mut member = self.begin(name, false)?;
        self.push(&mut member, content)?;
        self.end(member)
    }

    /// Goes back to the beginning, to write again what stands there.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.file.rewind()
    }

    /// Writes the end of the archive.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.file.write_all(&END)
    }

    /// Puts everything on disk.
    pub(super) fn sync(self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        self.file.write_all(END.get(..count as usize).unwrap_or(&END))
    }
}

/// Reads an archive from its beginning to its end, and believes nothing.
pub(super) struct Reader<R> {
    source: R,
    bundle: std::path::PathBuf,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(source: R, bundle: &std::path::Path) -> Self {
        Self { source, bundle: bundle.to_owned() }
    }

    /// The size of the first member, whose header has nothing else to be compared with than itself.
    pub(super) fn first(&mut self, name: &str) -> Result<u64, BundleError> {
        let place = format!("the header of {name}");
        let mut header = Header::new_gnu();
        self.fill(header.as_mut_bytes(), &place)?;
        let size = header.entry_size().ok().filter(|size| *size > 0);
        let size = size.ok_or_else(|| self.damaged(&place, "it has no size"))?;
        match preamble(name, size, false) {
            Ok(expected) if expected == header.as_bytes() => Ok(size),
            _ => Err(self.damaged(&place, "it is not as llem writes it")),
        }
    }

    /// The header of a member must be as its name and size in the manifest make it.
    pub(super) fn header(&mut self, file: &PackedFile) -> Result<(), BundleError> {
        let expected = preamble(&file.name, file.size_bytes, file.executable).map_err(BundleError::Files)?;
        let place = format!("the header of {}", file.name);
        let mut found = vec![0; expected.len()];
        self.fill(&mut found, &place)?;
        if found == expected { Ok(()) } else { Err(self.damaged(&place, "it is not as the manifest has it")) }
    }

    /// Hands the content of a member on, piece by piece, and gives its SHA-256, hexadecimal.
    pub(super) fn content(
        &mut self,
        name: &str,
        size_bytes: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), BundleError>,
    ) -> Result<String, BundleError> {
        let (mut left, mut hash, mut buffer) = (size_bytes, Sha256::new(), vec![0; CHUNK]);
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..wanted).unwrap_or_default();
            self.fill(chunk, name)?;
            hash.update(&*chunk);
            sink(chunk)?;
            left -= wanted as u64;
        }
        let place = format!("the padding behind {name}");
        let mut zeros = vec![0; padding(size_bytes) as usize];
        self.fill(&mut zeros, &place)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(self.damaged(&place, "it is not zero"));
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// As [`Self::content`] for what must have a hash.
    pub(super) fn checked(
        &mut self,
        file: &PackedFile,
        sink: impl FnMut(&[u8]) -> Result<(), BundleError>,
    ) -> Result<(), BundleError> {
        let found = self.content(&file.name, file.size_bytes, sink)?;
        if found == file.sha256 {
            return Ok(());
        }
        Err(self.damaged(&file.name, &format!("its SHA-256 is {found}, by the manifest it is {}", file.sha256)))
    }

    /// Behind the last member are two blocks of zeros and nothing more.
    pub(super) fn end(&mut self) -> Result<(), BundleError> {
        let place = "the end of the archive";
        let mut found = [1; END.len()];
        self.fill(&mut found, place)?;
        if found != END {
            return Err(self.damaged(place, "it is not two blocks of zeros"));
        }
        let mut more = [0];
        match self.source.read(&mut more) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged(place, "more bytes follow")),
            Err(error) => Err(BundleError::Files(error)),
        }
    }

    pub(super) fn damaged(&self, place: &str, problem: &str) -> BundleError {
        BundleError::Damaged { bundle: self.bundle.clone(), place: place.to_owned(), problem: problem.to_owned() }
    }

    fn fill(&mut self, buffer: &mut [u8], place: &str) -> Result<(), BundleError> {
        self.source.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(place, "the file ends there"),
            _ => BundleError::Files(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{member_bytes, preamble};

    #[test]
    fn headers_are_those_that_tar_reads_whatever_the_name_and_the_size() {
        let long = format!("weights/{}/model.safetensors", "n".repeat(200));
        for (name, size) in [("a", 0), ("a/b.c", 511), (long.as_str(), 7), ("weights/größe", 1 << 40)] {
            let bytes = preamble(name, size, true).unwrap();
            assert_eq!(bytes.len() % 512, 0);
            assert_eq!(bytes.len(), preamble(name, 0, false).unwrap().len(), "the size does not change its length");
            let mut archive = tar::Archive::new(bytes.as_slice());
            let entry = archive.entries().unwrap().next().unwrap().unwrap();
            assert_eq!(entry.path().unwrap().to_str(), Some(name));
            assert_eq!((entry.size(), entry.header().mode().unwrap()), (size, 0o755));
        }
        assert_eq!(member_bytes("a", 1).unwrap(), 1024);
    }
}
