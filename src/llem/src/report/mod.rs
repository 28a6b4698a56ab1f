//! Reports: one analysis in several formats.

use std::io;
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

/// Writes a report: readers of the file see all of it, or what was there before.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    crate::files::write_atomic(&directory.join(path.file_name().unwrap_or_default()), text.as_bytes())
}
