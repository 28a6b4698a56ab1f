//! The processor's energy counters, as Linux shows them under `/sys/class/powercap`.
//!
//! A zone is a directory with `name`, `energy_uj` and `max_energy_range_uj`; the counter wraps at the latter
//! (kernel documentation, `power/powercap/powercap.rst`). Packages are `intel-rapl:N` on Intel and AMD, their memory is
//! the sub-zone `intel-rapl:N:M` with the name `dram`. Cores and integrated graphics are contained in the package. `/sys/class/powercap`
//! shows all zones side by side, as links; the directories themselves, which containers see, lie inside each other.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::File;
use fs_err::os::unix::fs::FileExt;
use llem_protocol::{CurveKind, PowerDomain, PowerScope, PowerSourceKind};

use super::curve::Point;
use super::{Counter, DeviceState, PowerError, PowerSource};
use crate::clock;

/// A wrap-around that would mean more power than this is a reset. No processor package draws 10 kW.
const MAX_PLAUSIBLE_W: f64 = 10_000.0;

/// The directory of the control type, in which the zones lie.
const CONTROL_TYPE: &str = "intel-rapl";

/// Time between two refreshes of the counters: about 1 ms (Intel, Software Developer's Manual, volume 3, RAPL interfaces).
const COUNTER_PERIOD: Duration = Duration::from_millis(1);

/// Linux lets only root read the counters since 5.10 (CVE-2020-8694).
const HOW_TO_ALLOW: &str = "energy without it would be too low, so none is read; \
    `sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj` on the host allows it until the next boot";

/// Package and memory zones.
pub(crate) struct Rapl {
    zones: Vec<Zone>,
}

struct Zone {
    id: String,
    energy: File,
    range_uj: u64,
    last: RawCounter,
    /// Unwrapped energy up to `last`.
    total_uj: u64,
    /// Unwrapped energy and time of the last sample.
    sampled: Option<(u64, u64)>,
}

#[derive(Clone, Copy)]
struct RawCounter {
    t_ns: u64,
    uj: u64,
}

impl Rapl {
    /// Opens all zones below `root`: all or none, because energy without one of the packages or memories would pass for
    /// that of the whole machine. The error says what was looked for, what could not be read and how to allow it.
    pub(crate) fn open(root: Option<&Path>) -> Result<Self, String> {
        let Some(root) = root else { return Err("the machine shows no RAPL zones of its processor".to_owned()) };
        let looked_for = format!("looked for RAPL zones in {}", root.display());
        let directories = match zone_directories(root) {
            Ok(directories) => directories,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(format!("{looked_for}: no such directory"));
            }
            Err(error) => return Err(format!("{looked_for}: {error}")),
        };
        let mut zones = Vec::new();
        let mut problems = Vec::new();
        for directory in &directories {
            match zone_id(directory).and_then(|id| id.map(|id| Zone::open(directory, id)).transpose()) {
                Ok(zone) => zones.extend(zone),
                Err(error) => problems.push(error.to_string()),
            }
        }
        match (zones.is_empty(), problems.is_empty()) {
            (_, false) => Err(format!("{looked_for}: {}; {HOW_TO_ALLOW}", problems.join("; "))),
            (true, true) => Err(format!("{looked_for}: there are none")),
            (false, true) => Ok(Self { zones }),
        }
    }

    fn zone(&mut self, domain: usize) -> Result<&mut Zone, PowerError> {
        let missing = || PowerError::Value { sensor: "RAPL".to_owned(), value: format!("domain {domain}") };
        self.zones.get_mut(domain).ok_or_else(missing)
    }
}

impl PowerSource for Rapl {
    fn domains(&self) -> Vec<PowerDomain> {
        self.zones.iter().map(Zone::domain).collect()
    }

    fn curve_kind(&self, _: usize) -> CurveKind {
        CurveKind::Mean
    }

    fn pace(&self, _: usize) -> Option<Duration> {
        None
    }

    /// The mean power since the last call; the first one has nothing to compare with.
    fn power(&mut self, domain: usize, points: &mut Vec<Point>) -> Result<(), PowerError> {
        let zone = self.zone(domain)?;
        let now = zone.read()?;
        if let Some((t_ns, total_uj)) = zone.sampled.replace((now.t_ns, zone.total_uj)) {
            let seconds = clock::seconds_between(t_ns, now.t_ns);
            let energy_j = (zone.total_uj - total_uj) as f64 / 1e6;
            if seconds > 0.0 {
                points.push(Point { t_ns: now.t_ns, power_w: energy_j / seconds });
            }
        }
        Ok(())
    }

    fn state(&mut self, _: usize) -> Option<DeviceState> {
        None
    }

    fn counter(&mut self, domain: usize) -> Result<Option<Counter>, PowerError> {
        let zone = self.zone(domain)?;
        let now = zone.read()?;
        Ok(Some(Counter { t_ns: now.t_ns, energy_j: zone.total_uj as f64 / 1e6 }))
    }

    fn counter_period(&self) -> Duration {
        COUNTER_PERIOD
    }
}

/// The zones of a powercap directory, of the control type in it, and those inside them, in the order of their names.
fn zone_directories(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let zones_in = |directory: &Path| -> std::io::Result<Vec<PathBuf>> {
        let entries = fs_err::read_dir(directory)?.flatten().map(|entry| entry.path());
        Ok(entries.filter(|path| zone_name(path).is_some()).collect())
    };
    let mut found = zones_in(root)?;
    found.extend(zones_in(&root.join(CONTROL_TYPE)).unwrap_or_default());
    for package in found.clone() {
        found.extend(zones_in(&package).unwrap_or_default());
    }
    // Flat directories show the inner zones twice: as links of their own and inside their packages.
    found.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    found.dedup_by(|a, b| a.file_name() == b.file_name());
    Ok(found)
}

/// `0` or `0:1` of `intel-rapl:0` or `intel-rapl:0:1`.
fn zone_name(directory: &Path) -> Option<&str> {
    directory.file_name()?.to_str()?.strip_prefix("intel-rapl:")
}

impl Zone {
    fn domain(&self) -> PowerDomain {
        let scope = if self.id.starts_with("dram") { PowerScope::Memory } else { PowerScope::Package };
        PowerDomain { source: PowerSourceKind::Rapl, id: self.id.clone(), scope }
    }

    fn open(directory: &Path, id: String) -> Result<Self, PowerError> {
        let energy = File::open(directory.join("energy_uj"))?;
        let range_uj = number(&directory.display().to_string(), &fs_err::read(directory.join("max_energy_range_uj"))?)?;
        let last = read_counter(&energy)?;
        Ok(Self { id, energy, range_uj, last, total_uj: 0, sampled: None })
    }

    /// Reads the counter and carries the unwrapped total on.
    fn read(&mut self) -> Result<RawCounter, PowerError> {
        let now = read_counter(&self.energy)?;
        let last = std::mem::replace(&mut self.last, now);
        let wrapped = now.uj < last.uj;
        let step = if wrapped { self.range_uj.saturating_sub(last.uj) + now.uj } else { now.uj - last.uj };
        let seconds = clock::seconds_between(last.t_ns, now.t_ns);
        if wrapped && step as f64 / 1e6 > MAX_PLAUSIBLE_W * seconds {
            self.sampled = None;
            return Err(PowerError::Reset { sensor: self.id.clone() });
        }
        self.total_uj += step;
        Ok(now)
    }
}

/// `package-0` for a package, `dram-0` for the memory of package 0, `None` for what is not counted. A zone that does not say what it is may
/// be one that counts.
fn zone_id(directory: &Path) -> Result<Option<String>, PowerError> {
    let Some(zone) = zone_name(directory) else { return Ok(None) };
    let name = fs_err::read_to_string(directory.join("name"))?;
    Ok(match (zone.split_once(':'), name.trim()) {
        (None, package) if package.starts_with("package") => Some(package.to_owned()),
        (Some((package, _)), "dram") => Some(format!("dram-{package}")),
        _ => None,
    })
}

fn read_counter(energy: &File) -> Result<RawCounter, PowerError> {
    let mut buffer = [0; 32];
    let count = energy.read_at(&mut buffer, 0)?;
    let t_ns = clock::monotonic_ns();
    let uj = number(&energy.path().display().to_string(), buffer.get(..count).unwrap_or_default())?;
    Ok(RawCounter { t_ns, uj })
}

fn number(sensor: &str, text: &[u8]) -> Result<u64, PowerError> {
    let text = String::from_utf8_lossy(text);
    let wrong = |_| PowerError::Value { sensor: sensor.to_owned(), value: text.trim().to_owned() };
    text.trim().parse().map_err(wrong)
}

#[cfg(test)]
mod tests;
