//! Power that follows the program under test: its driver stand-in writes when it starts and stops to compute.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::shape::Power;

/// What a device draws while the program under test is busy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
    /// Lines `on NANOSECONDS` and `off NANOSECONDS`, stamped with `CLOCK_MONOTONIC`, oldest first. A file that does not exist
    /// yet has no lines; a last line without its line feed is still being written and is left for the next call.
    pub file: PathBuf,
    /// Power between `on` and `off`, in place of the device's own. It starts at its second 0 with each `on`.
    pub busy: Power,
}

/// One stretch of work, in seconds after the script's epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busy {
    /// When it started.
    pub from_s: f64,
    /// When it ended; infinite while it goes on.
    pub to_s: f64,
}

/// Appends a line to a load file, stamped now: `on` when work starts, `off` when it stops.
pub fn mark_load(file: &Path, busy: bool) -> std::io::Result<()> {
    let line = format!("{} {}\n", if busy { "on" } else { "off" }, clock::monotonic_ns());
    let mut file = fs_err::OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(line.as_bytes())
}

impl Load {
    /// The stretches of work so far, as the file has them now.
    pub(crate) fn read(&self, epoch_ns: u64) -> Vec<Busy> {
        fs_err::read_to_string(&self.file).map_or_else(|_| Vec::new(), |text| stretches(&text, epoch_ns))
    }
}

/// A second `on` or `off` in a row changes nothing.
fn stretches(text: &str, epoch_ns: u64) -> Vec<Busy> {
    let mut found: Vec<Busy> = Vec::new();
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in complete.lines() {
        let Some((word, stamp)) = line.split_once(' ') else { continue };
        let Ok(stamp_ns) = stamp.trim().parse::<u64>() else { continue };
        let t_s = (i128::from(stamp_ns) - i128::from(epoch_ns)) as f64 / 1e9;
        let open = found.last_mut().filter(|busy| busy.to_s.is_infinite());
        match (word, open) {
            ("on", None) => found.push(Busy { from_s: t_s, to_s: f64::INFINITY }),
            ("off", Some(busy)) => busy.to_s = t_s.max(busy.from_s),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_stretches() {
        let text = "on 2000000000\non 2100000000\noff 2500000000\noff 2600000000\njunk\non 3000000000\noff 30";
        let found = stretches(text, 1_000_000_000);
        assert_eq!(found, [Busy { from_s: 1.0, to_s: 1.5 }, Busy { from_s: 2.0, to_s: f64::INFINITY }]);
        assert!(stretches("", 0).is_empty() && stretches("on 5", 0).is_empty());
    }

    #[test]
    fn a_mark_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let load = Load { file: dir.path().join("load"), ..Load::default() };
        let before_ns = clock::monotonic_ns();
        assert!(load.read(before_ns).is_empty());
        mark_load(&load.file, true).unwrap();
        mark_load(&load.file, false).unwrap();
        let [busy] = load.read(before_ns)[..] else { panic!("one stretch") };
        assert!(busy.from_s >= 0.0 && busy.to_s >= busy.from_s && busy.to_s < 5.0);
    }
}
