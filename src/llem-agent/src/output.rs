//! The files of a run. Data first, the report last and whole: its presence means that the rest is there.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use fs_err::{File, OpenOptions};
use llem_protocol::{FailureClass, Report, files};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::fault::Fault;

/// Writes one JSON object a line. A file that could not be finished is removed. Returns the number of lines.
pub(crate) fn write_lines<T: Serialize>(
    directory: &Path,
    name: &str,
    rows: impl Iterator<Item = T>,
) -> Result<u64, Fault> {
    let mut count = 0;
    write_file(directory, name, |out| {
        for row in rows {
            serde_json::to_writer(&mut *out, &row)?;
            out.write_all(b"\n")?;
            count += 1;
        }
        Ok(())
    })?;
    Ok(count)
}

/// Writes a file through `fill`. A file that could not be finished is removed.
pub(crate) fn write_file(
    directory: &Path,
    name: &str,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), Fault> {
    let path = directory.join(name);
    let written = create(&path).and_then(|file| {
        let mut out = BufWriter::new(file);
        fill(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()
    });
    written.map_err(|error| {
        let _ = fs_err::remove_file(&path);
        Fault::new(FailureClass::OutputUnwritable, format!("cannot write {}: {error}", path.display()))
    })
}

/// Writes the report under a temporary name and renames it. Returns the SHA-256 of the file, hexadecimal.
pub(crate) fn write_report(directory: &Path, report: &Report) -> Result<String, Fault> {
    let unwritable =
        |error: io::Error| Fault::new(FailureClass::OutputUnwritable, format!("cannot write the report: {error}"));
    let text = serde_json::to_vec_pretty(report).map_err(|error| unwritable(error.into()))?;
    let temporary = format!(".{}.partial", files::REPORT);
    write_file(directory, &temporary, |out| out.write_all(&text))?;
    fs_err::rename(directory.join(&temporary), directory.join(files::REPORT)).map_err(unwritable)?;
    // Makes the new name survive a power loss.
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(unwritable)?;
    Ok(hex::encode(Sha256::digest(&text)))
}

/// A new file. The driver can write here too: what it left under this name, a link included, is replaced, not followed.
fn create(path: &Path) -> io::Result<File> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_and_old_content_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join("rows"), "old old old").unwrap();
        assert_eq!(write_lines(directory.path(), "rows", [1, 2].into_iter()), Ok(2));
        assert_eq!(fs_err::read_to_string(directory.path().join("rows")).unwrap(), "1\n2\n");
    }

    #[test]
    fn a_link_that_the_driver_left_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs_err::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("rows")).unwrap();
        write_lines(directory.path(), "rows", [1].into_iter()).unwrap();
        assert_eq!(fs_err::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_directory_that_is_not_there_is_unwritable() {
        let fault = write_lines(Path::new("/nowhere"), "rows", [1].into_iter()).unwrap_err();
        assert_eq!(fault.class, FailureClass::OutputUnwritable);
        assert!(fault.message.contains("/nowhere/rows"), "{fault}");
    }
}
