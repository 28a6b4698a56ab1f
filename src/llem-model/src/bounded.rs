use std::io::{self, Read};
use std::path::Path;

/// Reads a whole file that must not be longer than `limit_bytes`.
pub(crate) fn read(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs_err::File::open(path)?.take(limit_bytes + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit_bytes {
        let text = format!("{} is longer than {limit_bytes} bytes, the most that is read", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(content)
}
