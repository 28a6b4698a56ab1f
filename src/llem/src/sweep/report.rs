//! Problems of points: one message for all points that share it.

use std::collections::HashMap;

use crate::config::{Finding, Problem, Source};

/// Problems by what they say, with the points that have them.
#[derive(Default)]
pub(super) struct PointProblems {
    order: Vec<Entry>,
    known: HashMap<(String, String), usize>,
}

struct Entry {
    path: String,
    finding: Finding,
    first: String,
    points: usize,
}

impl PointProblems {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Adds a finding about the field `path` at the point `origin`.
    pub(super) fn add(&mut self, path: &str, finding: Finding, origin: String) {
        let key = (path.to_owned(), finding.message.clone());
        if let Some(entry) = self.known.get(&key).and_then(|index| self.order.get_mut(*index)) {
            entry.points += 1;
            return;
        }
        self.known.insert(key, self.order.len());
        self.order.push(Entry { path: path.to_owned(), finding, first: origin, points: 1 });
    }

    /// Hands the problems over, each with the points that have it unless all have.
    pub(super) fn into_problems(self, source: &Source, all: usize, problems: &mut Vec<Problem>) {
        for Entry { path, mut finding, first, points } in self.order {
            finding.message = match points {
                _ if first.is_empty() || points == all || finding.is_secret => finding.message,
                1 => format!("{} ({first})", finding.message),
                more => format!("{} ({first}, and {} more)", finding.message, more - 1),
            };
            problems.push(source.problem_of(&path, finding));
        }
    }
}
