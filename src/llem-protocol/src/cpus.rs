use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The highest number of a processor that a list may name; kernels are built for fewer.
const MOST: u32 = 8191;

/// Processors of a machine by their numbers, written as the kernel writes them: `0-3,8`. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(with = "String"))]
pub struct CpuList(BTreeSet<u32>);

/// The processors that a run is kept to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CpuPinning {
    /// Those of the engine: the driver and everything that it starts.
    pub engine: CpuList,
    /// Those of the agent.
    pub agent: CpuList,
}

/// Why a text is no list of processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotACpuList(String);

impl fmt::Display for NotACpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no list of processors such as `0-3,8`", self.0)
    }
}

impl std::error::Error for NotACpuList {}

impl CpuList {
    /// The numbers, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// Those of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// Those that `other` does not have; `None` when it has all.
    pub fn without(&self, other: &Self) -> Option<Self> {
        let rest: BTreeSet<u32> = self.0.difference(&other.0).copied().collect();
        (!rest.is_empty()).then_some(Self(rest))
    }
}

impl FromStr for CpuList {
    type Err = NotACpuList;

    fn from_str(text: &str) -> Result<Self, NotACpuList> {
        let refused = || NotACpuList(text.chars().take(80).collect());
        let number = |text: &str| {
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u32>().ok().filter(|number| is_plain && *number <= MOST).ok_or_else(refused)
        };
        let mut found = BTreeSet::new();
        for part in text.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(refused());
            }
            found.extend(first..=last);
        }
        Ok(Self(found))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = numbers.next() {
            let mut last = first;
            while let Some(next) = numbers.next_if(|next| *next == last + 1) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl TryFrom<String> for CpuList {
    type Error = NotACpuList;

    fn try_from(text: String) -> Result<Self, NotACpuList> {
        text.parse()
    }
}

impl From<CpuList> for String {
    fn from(list: CpuList) -> Self {
        list.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::CpuList;

    fn list(text: &str) -> CpuList {
        text.parse().unwrap()
    }

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for (text, written) in [("0", "0"), ("0-3,8\n", "0-3,8"), ("8,1,0", "0-1,8"), ("2-2,5,4-6", "2,4-6")] {
            assert_eq!(list(text).to_string(), written);
        }
        for text in ["", ",", "0-", "-1", "3-1", "a", "0,,1", "+1", "0 1", "0-99999", "1-2-3"] {
            assert!(text.parse::<CpuList>().is_err(), "{text}");
        }
        assert_eq!(serde_json::to_string(&list("1,0")).unwrap(), "\"0-1\"");
        assert!(serde_json::from_str::<CpuList>("\"x\"").is_err());
    }

    #[test]
    fn lists_are_compared() {
        assert_eq!(list("0-3,8").without(&list("0-4")), Some(list("8")));
        assert_eq!(list("0-3").without(&list("0-4")), None);
        assert_eq!(list("0-1").and(&list("3")), list("0-1,3"));
    }
}
