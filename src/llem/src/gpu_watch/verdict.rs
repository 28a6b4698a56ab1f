//! Whose the processes are, and what that means for a run.

use std::collections::BTreeSet;
use std::fmt;

use llem_protocol::{Reason, ReasonCode};
use serde::{Deserialize, Serialize};

use super::process::ProcessFacts;
use super::record::{GpuProcess, named};
use super::sightings::Sighting;
use super::{Expected, PERIOD, Watched};

/// A process that holds less than this on a GPU holds no model there, in bytes.
const NEXT_TO_NOTHING: u64 = 64 << 20;

/// Parameters that fit into a byte in the smallest format in use.
const PARAMETERS_PER_BYTE: u64 = 2;

/// How the processes of a run are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// By the full id of its container, which is part of their control group.
    Container(String),
    /// By the agent's process id: it is a child subreaper, so that everything below it stays below it.
    Agent(u32),
}

/// What a watch means for a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What is wrong, and what could not be found out.
    pub reasons: Vec<Reason>,
    /// Whether somebody else was on the run's GPUs while idle power was measured.
    pub baseline_disturbed: bool,
    /// Whether somebody else was there in the passes of prefill alone.
    pub prefill_disturbed: bool,
    /// Everything that was seen.
    pub processes: Vec<GpuProcess>,
}

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Own,
    Foreign,
    /// It cannot be looked up from here.
    Hidden,
}

impl Owner {
    pub(super) fn has(&self, pid: u32, facts: &ProcessFacts) -> bool {
        match self {
            // A shorter text is no id and might be part of any path.
            Self::Container(id) => id.len() >= 32 && facts.cgroups.contains(id.as_str()),
            Self::Agent(agent) => pid == *agent || facts.group == *agent || facts.ancestors.contains(agent),
        }
    }
}

impl Watched {
    /// Judges a run. Without a window there is nothing to judge; what was seen is kept.
    pub fn judge(&self, owner: Option<&Owner>, expected: Option<Expected>) -> Verdict {
        let judge = Judge { watched: self, whose: self.whose(owner) };
        let reasons = match (expected, owner) {
            (None, _) => Vec::new(),
            (Some(_), None) => vec![unavailable("the run's container is not known")],
            (Some(expected), Some(_)) => judge.reasons(expected),
        };
        let says = |code| reasons.iter().any(|reason| reason.code == code);
        Verdict {
            baseline_disturbed: says(ReasonCode::BaselineDisturbed),
            prefill_disturbed: says(ReasonCode::PrefillDisturbed),
            processes: judge.processes(owner.is_some()),
            reasons,
        }
    }

    /// For each sighting, whose it is. A process that could not be looked up on one GPU may have been known on another.
    fn whose(&self, owner: Option<&Owner>) -> Vec<Whose> {
        let list = &self.sightings.list;
        let is_own = |s: &Sighting| s.facts.as_ref().zip(owner).is_some_and(|(facts, owner)| owner.has(s.pid, facts));
        let own: BTreeSet<u32> = list.iter().filter(|s| is_own(s)).map(|s| s.pid).collect();
        let has_hidden = !self.sees_all && list.iter().any(|s| s.facts.is_none() && !own.contains(&s.pid));
        let whose = |s: &Sighting| match &s.facts {
            None if own.contains(&s.pid) => Whose::Own,
            Some(_) if is_own(s) => Whose::Own,
            // In a PID namespace of its own, what is hidden may be the run's, and an id that is found may be another process's.
            _ if has_hidden => Whose::Hidden,
            _ => Whose::Foreign,
        };
        list.iter().map(whose).collect()
    }
}

/// The judgement of one run.
struct Judge<'a> {
    watched: &'a Watched,
    /// In the order of the sightings.
    whose: Vec<Whose>,
}

impl Judge<'_> {
    fn reasons(&self, expected: Expected) -> Vec<Reason> {
        let mut problems = self.unavailable(expected);
        if problems.is_empty() {
            problems = self.unavailable_elsewhere(expected);
        }
        let mut reasons: Vec<Reason> = problems.into_iter().map(unavailable).collect();
        reasons.extend(self.foreign(expected));
        reasons.extend(self.wrong_device(expected));
        reasons.extend(self.watched.of_run.iter().filter_map(|gpu| self.not_used(gpu, expected)));
        reasons
    }

    /// What could not be looked at.
    fn unavailable(&self, expected: Expected) -> Vec<String> {
        if let Some(problem) = &self.watched.problem {
            return vec![problem.clone()];
        }
        let mut problems: Vec<String> = Vec::new();
        if !self.watched.sees_all {
            problems.push("llem runs in a PID namespace (a container) that need not show all processes".to_owned());
        }
        let window = (expected.start_ns, expected.end_ns);
        problems.extend(self.watched.of_run.iter().filter_map(|gpu| self.unwatched(gpu, window, "window")));
        problems
    }

    /// What could not be looked at beside the window, where the window could.
    fn unavailable_elsewhere(&self, expected: Expected) -> Vec<String> {
        let elsewhere = [(expected.baseline, "baseline"), (expected.prefill, "passes of prefill alone")];
        let known = elsewhere.into_iter().filter_map(|(stretch, name)| Some((stretch?, name)));
        known
            .flat_map(|(stretch, name)| {
                self.watched.of_run.iter().filter_map(move |gpu| self.unwatched(gpu, stretch, name))
            })
            .collect()
    }

    /// Why a GPU was not looked at all through a stretch.
    fn unwatched(&self, gpu: &str, (start_ns, end_ns): (u64, u64), name: &str) -> Option<String> {
        let sightings = &self.watched.sightings;
        let Some(looks) = sightings.gpus.iter().position(|uuid| uuid == gpu).and_then(|i| sightings.looks.get(i))
        else {
            return Some(format!("NVML does not list {gpu}"));
        };
        let unwatched_ns = looks.unwatched_ns(start_ns, end_ns);
        let why = looks.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        let seconds = unwatched_ns as f64 / 1e9;
        (unwatched_ns > 0)
            .then(|| format!("the processes of {gpu} could not be listed for {seconds:.1} s of the {name}{why}"))
    }

    /// Strangers by what they spoil; one that spoils nothing that is measured is told of all the same.
    fn foreign(&self, expected: Expected) -> Vec<Reason> {
        let foreign: Vec<&Sighting> = self.sightings(Whose::Foreign).filter(|s| self.is_of_run(s)).collect();
        let measured = [
            (Some((expected.start_ns, expected.end_ns)), ReasonCode::ForeignProcess, "in the window"),
            (expected.baseline, ReasonCode::BaselineDisturbed, "while idle power was measured"),
            (expected.prefill, ReasonCode::PrefillDisturbed, "in the passes of prefill alone"),
        ];
        let is_in = |s: &Sighting, stretch: Option<(u64, u64)>| {
            stretch.is_some_and(|(start_ns, end_ns)| overlap_ns(s, start_ns, end_ns) > 0)
        };
        let reason = |found: &[&Sighting], code, when: &str| {
            let happened = format!("{} is not of this run and was there {when}", self.name(found));
            (!found.is_empty()).then(|| Reason::new(code, happened))
        };
        let inside = measured.iter().filter_map(|(stretch, code, when)| {
            let found: Vec<&Sighting> = foreign.iter().copied().filter(|s| is_in(s, *stretch)).collect();
            reason(&found, *code, when)
        });
        let spoils = |s: &&Sighting| measured.iter().any(|(stretch, ..)| is_in(s, *stretch));
        let outside: Vec<&Sighting> = foreign.iter().copied().filter(|s| !spoils(s)).collect();
        inside.chain(reason(&outside, ReasonCode::ForeignProcessOutside, "outside of what was measured")).collect()
    }

    fn wrong_device(&self, expected: Expected) -> Option<Reason> {
        let own = self
            .sightings(Whose::Own)
            .filter(|s| !self.is_of_run(s) && overlap_ns(s, expected.start_ns, expected.end_ns) > 0);
        let elsewhere: Vec<_> = own.collect();
        let happened = format!("{} is of this run, which was not given that GPU", self.name(&elsewhere));
        (!elsewhere.is_empty()).then(|| Reason::new(ReasonCode::WrongDevice, happened))
    }

    /// Whether a GPU of the run did nothing for it. Where the GPU could not be watched, nobody knows.
    fn not_used(&self, gpu: &str, expected: Expected) -> Option<Reason> {
        if !self.unavailable(expected).is_empty() {
            return None;
        }
        let in_window = |s: &&Sighting| self.gpu(s) == gpu && overlap_ns(s, expected.start_ns, expected.end_ns) > 0;
        let own: Vec<_> = self.sightings(Whose::Own).filter(in_window).collect();
        let unknown = self.sightings(Whose::Foreign).filter(in_window).any(|s| s.facts.is_none());
        let happened = match own.as_slice() {
            [] if unknown => return None,
            [] => format!("no process of the run was on {gpu} in the window"),
            own => self.holds_nothing(own, expected)?,
        };
        Some(Reason::new(ReasonCode::GpuNotUsed, happened))
    }

    /// Whether processes hold too little on their GPU for its share of the model.
    fn holds_nothing(&self, own: &[&Sighting], expected: Expected) -> Option<String> {
        let parameters = expected.parameters?;
        let share = parameters / PARAMETERS_PER_BYTE / self.watched.of_run.len().max(1) as u64;
        let held = own.iter().map(|s| s.memory_bytes).sum::<Option<u64>>()?;
        (held < NEXT_TO_NOTHING && share > NEXT_TO_NOTHING)
            .then(|| format!("{} holds too little there for its share of {parameters} parameters", self.name(own)))
    }

    fn sightings(&self, whose: Whose) -> impl Iterator<Item = &Sighting> {
        let list = self.watched.sightings.list.iter().zip(&self.whose);
        list.filter(move |(_, is)| **is == whose).map(|(sighting, _)| sighting)
    }

    fn gpu(&self, sighting: &Sighting) -> &str {
        self.watched.sightings.gpus.get(sighting.gpu).map_or("", String::as_str)
    }

    fn is_of_run(&self, sighting: &Sighting) -> bool {
        self.watched.of_run.iter().any(|gpu| gpu == self.gpu(sighting))
    }

    /// The first few by their names.
    fn name(&self, found: &[&Sighting]) -> String {
        let records: Vec<_> = found.iter().map(|sighting| self.watched.sightings.record(sighting, None)).collect();
        named(&records)
    }

    fn processes(&self, has_owner: bool) -> Vec<GpuProcess> {
        let list = self.watched.sightings.list.iter().zip(&self.whose);
        let own = |whose| (has_owner && whose != Whose::Hidden).then_some(whose == Whose::Own);
        list.map(|(sighting, whose)| self.watched.sightings.record(sighting, own(*whose))).collect()
    }
}

/// For how long a stay, which may have lasted a period longer than it was seen, lay between two moments, in nanoseconds.
fn overlap_ns(sighting: &Sighting, start_ns: u64, end_ns: u64) -> u64 {
    let last_ns = sighting.last_seen_ns.saturating_add(PERIOD.as_nanos() as u64);
    last_ns.min(end_ns).saturating_sub(sighting.first_seen_ns.max(start_ns))
}

fn unavailable(why: impl fmt::Display) -> Reason {
    Reason::new(ReasonCode::ForeignCheckUnavailable, why)
}

#[cfg(test)]
mod tests;
