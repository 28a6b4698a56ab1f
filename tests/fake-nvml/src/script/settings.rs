//! What else a GPU tells: clocks, memory, processes, limits.

use serde::{Deserialize, Serialize};

use super::{Curve, Span};
use crate::shape::Power;

/// Clocks and their limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clocks {
    /// Clock of the multiprocessors in MHz; graphics and video clocks are told to be the same.
    pub sm_mhz: Curve,
    /// Clock of the memory in MHz.
    pub memory_mhz: Curve,
    /// Highest clock of the multiprocessors in MHz.
    pub max_sm_mhz: u32,
    /// Highest clock of the memory in MHz.
    pub max_memory_mhz: u32,
}

/// Clocks that were held back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Throttle {
    /// When.
    pub during: Span,
    /// Why: `nvmlClocksEventReason…` of nvml.h, combined (1 idle, 4 power cap, 8 hardware slowdown, 32 too hot, …).
    pub mask: u64,
}

/// Memory of a GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// All of it, in bytes.
    pub total_bytes: u64,
    /// Kept by the driver, in bytes. The first version of the call counts it as used, the second does not.
    pub reserved_bytes: u64,
    /// Used always, in bytes.
    pub used_bytes: u64,
    /// Used in addition for a while. Processes do not add to it.
    pub more: Vec<MemoryUse>,
}

/// Memory that is used for a while.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryUse {
    /// When.
    pub during: Span,
    /// How much, in bytes.
    pub bytes: u64,
}

/// A process on the GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Process {
    /// When it is there.
    pub during: Span,
    /// Which one.
    pub pid: Pid,
    /// Its memory in bytes; absent, the driver does not know.
    pub bytes: Option<u64>,
    /// In which list it is.
    pub kind: ProcessKind,
    /// Its name; absent, the driver does not find it.
    pub name: Option<String>,
}

/// A process identifier, in JSON a number or a string.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Pid {
    /// Known beforehand.
    Number(u32),
    /// The path of a file that is read at each call, or `env:NAME` for the path that the environment variable holds. Every
    /// number in it is a process; a file that is not there is none.
    File(String),
}

/// The list that a process is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessKind {
    /// It computes.
    #[default]
    Compute,
    /// It draws.
    Graphics,
}

/// Power limits, all in watts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The one that holds.
    pub enforced_w: f64,
    /// The one that the user set.
    pub management_w: f64,
    /// The one that the board starts with.
    pub default_w: f64,
    /// The lowest that a user can set.
    pub min_w: f64,
    /// The highest that a user can set.
    pub max_w: f64,
}

/// A board where a CPU shares the module with the GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grace {
    /// Power of the module without the GPU. The module's power is this and the GPU's.
    pub rest: Power,
}

impl Default for Clocks {
    fn default() -> Self {
        let (sm, memory) = (Curve::constant(1980.0), Curve::constant(2619.0));
        Self { sm_mhz: sm, memory_mhz: memory, max_sm_mhz: 1980, max_memory_mhz: 2619 }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { total_bytes: 81_559 << 20, reserved_bytes: 551 << 20, used_bytes: 4 << 20, more: Vec::new() }
    }
}

impl Default for Pid {
    fn default() -> Self {
        Self::Number(1)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { enforced_w: 700.0, management_w: 700.0, default_w: 700.0, min_w: 200.0, max_w: 700.0 }
    }
}

impl Memory {
    /// Used at `event_s` in bytes, without what the driver keeps.
    pub(crate) fn used_at(&self, event_s: f64) -> u64 {
        let more = self.more.iter().filter(|more| more.during.contains(event_s)).map(|more| more.bytes);
        more.fold(self.used_bytes, u64::saturating_add)
    }
}

impl Pid {
    /// The processes that it stands for now.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let path = match self {
            Self::Number(number) => return vec![*number],
            Self::File(file) => match file.strip_prefix("env:") {
                Some(name) => std::env::var_os(name).unwrap_or_default(),
                None => file.into(),
            },
        };
        let text = fs_err::read_to_string(path).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_processes_as_it_is_now() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pid = Pid::File(file.path().display().to_string());
        assert!(pid.numbers().is_empty());
        fs_err::write(file.path(), "12\n34\n").unwrap();
        assert_eq!(pid.numbers(), [12, 34]);
        assert!(Pid::File("env:NOT_SET_ANYWHERE".to_owned()).numbers().is_empty());
    }

    #[test]
    fn memory_is_added_up() {
        let more =
            vec![MemoryUse { during: Span::new(1.0, 3.0), bytes: 10 }, MemoryUse { bytes: 5, ..MemoryUse::default() }];
        let memory = Memory { used_bytes: 100, more, ..Memory::default() };
        assert_eq!([0.5, 2.0, 3.0].map(|t_s| memory.used_at(t_s)), [105, 115, 105]);
    }
}
