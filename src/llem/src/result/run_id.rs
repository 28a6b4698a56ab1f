//! Names of runs: `{number}-{experiment}-c{cycle}`, and `-r{attempt}` from the second attempt on.

use std::fmt;
use std::str::FromStr;

/// Far more attempts than anybody makes: a name with more was not given by llem.
const MOST_ATTEMPTS: u32 = 1_000_000;

/// One attempt at a run. Its text is the name of its directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RunId {
    /// Number of the run in its study, from 1; stays when the study is extended.
    pub number: usize,
    /// Id of the experiment.
    pub experiment: String,
    /// Cycle, from 1.
    pub cycle: u32,
    /// Attempt, from 1.
    pub attempt: u32,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}-{}-c{}", self.number, self.experiment, self.cycle)?;
        if self.attempt > 1 { write!(f, "-r{}", self.attempt) } else { Ok(()) }
    }
}

/// A text that names no run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARunId;

impl FromStr for RunId {
    type Err = NotARunId;

    fn from_str(text: &str) -> Result<Self, NotARunId> {
        let mut parts = text.split('-');
        let mut part = || parts.next().ok_or(NotARunId);
        let number = part()?.parse().map_err(|_| NotARunId)?;
        let experiment = part()?.to_owned();
        let cycle = tagged(part()?, 'c')?;
        let attempt = parts.next().map_or(Ok(1), |part| tagged(part, 'r'))?;
        let id = Self { number, experiment, cycle, attempt };
        // One run has one name.
        if id.to_string() == text && attempt <= MOST_ATTEMPTS { Ok(id) } else { Err(NotARunId) }
    }
}

fn tagged(part: &str, tag: char) -> Result<u32, NotARunId> {
    part.strip_prefix(tag).and_then(|number| number.parse().ok()).ok_or(NotARunId)
}

#[cfg(test)]
mod tests {
    use super::{NotARunId, RunId};

    #[test]
    fn names_are_read_as_they_are_written() {
        for (attempt, text) in [(1, "007-0123456789ab-c3"), (2, "007-0123456789ab-c3-r2")] {
            let id = RunId { number: 7, experiment: "0123456789ab".to_owned(), cycle: 3, attempt };
            assert_eq!((id.to_string().as_str(), text.parse()), (text, Ok(id)));
        }
        assert_eq!("12345-a-c1".parse::<RunId>().unwrap().number, 12_345);
        for text in [
            "",
            "7-a-c1",
            "007-a",
            "007-a-3",
            "007-a-c3-r1",
            "007-a-c3-r2-x",
            "x-a-c1",
            "007-a-c03",
            ".tmp",
            "007-a-c1-r4294967295",
        ] {
            assert_eq!(text.parse::<RunId>(), Err(NotARunId), "{text}");
        }
    }
}
