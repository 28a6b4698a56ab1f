//! Reports: one analysis in several formats.

use std::io::{self, Write};
use std::path::Path;

mod csv;
mod html;
mod markdown;
mod notes;
mod same_work;
pub mod words;

pub use csv::csv;
pub use html::{HtmlMaterial, html};
pub use markdown::markdown;
pub use notes::notes;
pub use same_work::notes as same_work_notes;

/// Writes a report. Readers of a file see all of it, or what was there before; a link is followed, and what is no file (a device, a pipe) is
/// written to, never replaced.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let target = fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match fs_err::metadata(&target) {
        Ok(found) if !found.is_file() => {
            fs_err::OpenOptions::new().write(true).open(&target)?.write_all(text.as_bytes())
        }
        _ => {
            let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = directory.unwrap_or_else(|| Path::new("."));
            crate::files::write_atomic(&directory.join(target.file_name().unwrap_or_default()), text.as_bytes())
        }
    }
}
