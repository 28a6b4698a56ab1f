//! Which runs of a study are done, by its journal and its result files.

use std::collections::{BTreeMap, HashMap};

use llem_protocol::FailureClass;

use super::policy::Streak;
use crate::plan::order::PlannedRun;
use crate::result::{
    Design, FileIdentity, Journal, JournalEvent, NumberedRuns, Reading, RunId, RunResult, RunRow, RunStatus,
    StoreError, StudyFiles, number_runs,
};

/// Directories of others that are named.
const LISTED: usize = 5;

/// How an attempt at a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// The attempt.
    pub(super) run: RunId,
    /// How it ended.
    pub(super) status: RunStatus,
    /// Why it failed.
    pub(super) failure: Option<FailureClass>,
    /// Its `result.json`, where the journal tells what it is known by.
    pub(super) file: Option<FileIdentity>,
}

/// What is known of one run.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// Attempts that were begun.
    attempts: u32,
    /// The newest attempt that has a result.
    ended: Option<Ended>,
    /// The newest attempt, where it has a directory and no result.
    open: Option<RunId>,
    /// The newest attempt whose result was found to be gone or damaged: whatever is in its directory now, it is not used.
    lost: u32,
}

/// The runs of a study by their numbers. Small, whatever the runs were: figures stay in the result files.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<usize, Entry>,
}

/// The runs that a study has, by their numbers: of which experiment and cycle they are.
struct Plan {
    runs: HashMap<usize, (String, u32)>,
}

impl Plan {
    fn of(designs: &[Design]) -> Self {
        let NumberedRuns { planned, beside } = number_runs(designs);
        let name = |run: &PlannedRun| Some(designs.last()?.experiments.get(run.experiment)?.id.clone());
        let entry = |run: &PlannedRun| Some((run.number, (name(run)?, run.cycle)));
        Self { runs: planned.iter().chain(&beside).filter_map(entry).collect() }
    }

    fn has(&self, run: &RunId) -> bool {
        self.runs
            .get(&run.number)
            .is_some_and(|(experiment, cycle)| *experiment == run.experiment && *cycle == run.cycle)
    }

    /// The run of that name, if the study has it.
    fn run(&self, name: &str) -> Option<RunId> {
        name.parse().ok().filter(|run| self.has(run))
    }
}

/// What was found out when a study was taken up again.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// When the study began; `None` when its controller died before it said so.
    pub(super) started: Option<String>,
    /// Lines of the journal that could not be read.
    pub(super) torn_lines: usize,
    /// Failed runs in a row when the last controller died.
    pub(super) streak: Streak,
    /// Directories of runs that the study does not have.
    strangers: Vec<RunId>,
    /// Runs whose result is there and not in the journal.
    found: Vec<(RunId, RunRow, FileIdentity)>,
    /// Runs whose result is in the journal and not there any more.
    lost: Vec<RunId>,
}

impl Ledger {
    /// Reads the state of a study from its journal and the files of its runs. What is said of runs that its designs do not have is not
    /// believed.
    pub(super) fn read(directory: &StudyFiles, designs: &[Design]) -> Result<(Self, Recovery), StoreError> {
        let plan = Plan::of(designs);
        let (mut ledger, mut streak) = (Self::default(), Streak::default());
        let reading = directory.read_journal(|event| {
            streak.take(&event);
            ledger.take(event, &plan);
        })?;
        let Reading { started, torn_lines } = reading;
        let mut recovery = Recovery { started, torn_lines, streak, ..Recovery::default() };
        for run in directory.runs()? {
            if plan.has(&run) {
                ledger.begun(&run);
            } else {
                recovery.strangers.push(run);
            }
        }
        for entry in ledger.entries.values_mut() {
            entry.check(directory, &mut recovery);
        }
        Ok((ledger, recovery))
    }

    fn take(&mut self, event: JournalEvent, plan: &Plan) {
        match event {
            JournalEvent::RunStarted { run_id, .. } => {
                if let Some(run) = plan.run(&run_id) {
                    self.entry(&run).attempts = self.entry(&run).attempts.max(run.attempt);
                }
            }
            JournalEvent::RunFinished { run_id, status, failure, result_bytes, result_sha256, .. } => {
                if let Some(run) = plan.run(&run_id) {
                    let identity = |(bytes, sha256)| FileIdentity { bytes, sha256 };
                    let file = result_bytes.zip(result_sha256).map(identity);
                    self.finished(Ended { run, status, failure, file });
                }
            }
            JournalEvent::ResultLost { run_id } => {
                if let Some(run) = plan.run(&run_id) {
                    self.lost(&run);
                }
            }
            _ => {}
        }
    }

    fn entry(&mut self, run: &RunId) -> &mut Entry {
        self.entries.entry(run.number).or_default()
    }

    /// An attempt has a directory.
    pub(super) fn begun(&mut self, run: &RunId) {
        let entry = self.entry(run);
        let is_newest = entry.open.as_ref().is_none_or(|open| open.attempt < run.attempt);
        let is_ended = entry.ended.as_ref().is_some_and(|ended| ended.run.attempt >= run.attempt);
        if is_newest && !is_ended && run.attempt > entry.lost {
            entry.open = Some(run.clone());
        }
        entry.attempts = entry.attempts.max(run.attempt);
    }

    /// An attempt that never began is taken back: its name is free again.
    pub(super) fn withdrawn(&mut self, run: &RunId) {
        let entry = self.entry(run);
        if entry.open.as_ref() == Some(run) {
            entry.open = None;
            entry.attempts = entry.attempts.min(run.attempt.saturating_sub(1));
        }
    }

    /// An attempt has a result.
    pub(super) fn finished(&mut self, ended: Ended) {
        let entry = self.entry(&ended.run);
        entry.attempts = entry.attempts.max(ended.run.attempt);
        if entry.open.as_ref().is_some_and(|open| open.attempt <= ended.run.attempt) {
            entry.open = None;
        }
        if entry.ended.as_ref().is_none_or(|newest| newest.run.attempt <= ended.run.attempt) {
            entry.ended = Some(ended);
        }
    }

    /// The result of an attempt is gone.
    pub(super) fn lost(&mut self, run: &RunId) {
        let entry = self.entry(run);
        if entry.ended.as_ref().is_some_and(|ended| ended.run == *run) {
            entry.ended = None;
        }
        entry.lost = entry.lost.max(run.attempt);
    }

    /// How the newest attempt at a run ended, of those that have a result.
    pub(super) fn ended(&self, number: usize) -> Option<&Ended> {
        self.entries.get(&number)?.ended.as_ref()
    }

    /// Whether a run was measured.
    pub(super) fn is_completed(&self, number: usize) -> bool {
        self.ended(number).is_some_and(|ended| ended.status == RunStatus::Completed)
    }

    /// Whether any run has a result.
    pub(super) fn has_ended_runs(&self) -> bool {
        self.entries.values().any(|entry| entry.ended.is_some())
    }

    /// A run that was measured, the first by its number.
    pub(super) fn any_completed(&self) -> Option<&RunId> {
        let mut ended = self.entries.values().filter_map(|entry| entry.ended.as_ref());
        Some(&ended.find(|ended| ended.status == RunStatus::Completed)?.run)
    }

    /// The next attempt at a run, from 1.
    pub(super) fn next_attempt(&self, number: usize) -> u32 {
        self.entries.get(&number).map_or(0, |entry| entry.attempts) + 1
    }

    /// Attempts that were begun and have no result.
    pub(super) fn open_attempts(&self) -> Vec<RunId> {
        self.entries.values().filter_map(|entry| entry.open.clone()).collect()
    }
}

impl Entry {
    /// Holds what the journal says against the files.
    fn check(&mut self, directory: &StudyFiles, recovery: &mut Recovery) {
        if let Some(ended) = &self.ended
            && !is_there(directory, ended)
        {
            recovery.lost.push(ended.run.clone());
            self.ended = None;
        }
        let Some(run) = self.open.clone() else { return };
        if let Some((row, file)) = result_of(directory, &run) {
            let failure = row.failure.as_ref().map(|failure| failure.class);
            self.ended = Some(Ended { run: run.clone(), status: row.status, failure, file: Some(file.clone()) });
            self.open = None;
            recovery.found.push((run, row, file));
        }
    }
}

impl Recovery {
    /// Writes into the journal what was found out.
    pub(super) fn tell(&self, journal: &mut Journal) -> Result<(), StoreError> {
        for run in &self.lost {
            journal.append(&JournalEvent::ResultLost { run_id: run.to_string() })?;
        }
        for (run, row, file) in &self.found {
            journal.append(&run_finished(run, row, file))?;
        }
        Ok(())
    }

    /// What the user should know of it.
    pub(super) fn notices(&self) -> Vec<String> {
        let torn = (self.torn_lines > 0).then(|| {
            format!(
                "{} unreadable in journal.jsonl: what it said is taken from the result files",
                lines(self.torn_lines)
            )
        });
        let lost = self.lost.iter().map(|run| format!("the result of {run} is damaged or gone: the run is repeated"));
        let strangers = (!self.strangers.is_empty()).then(|| {
            let names: Vec<String> = self.strangers.iter().take(LISTED).map(ToString::to_string).collect();
            let more = if self.strangers.len() > LISTED { ", …" } else { "" };
            format!("no runs of this study, left as they are: {}{more}", names.join(", "))
        });
        torn.into_iter().chain(strangers).chain(lost).collect()
    }
}

fn lines(n: usize) -> String {
    if n == 1 { "1 line is".to_owned() } else { format!("{n} lines are") }
}

/// The line of a run that has ended.
pub(super) fn run_finished(run: &RunId, row: &RunRow, file: &FileIdentity) -> JournalEvent {
    JournalEvent::RunFinished {
        run_id: run.to_string(),
        status: row.status,
        valid: row.valid,
        failure: row.failure.as_ref().map(|failure| failure.class),
        result_bytes: Some(file.bytes),
        result_sha256: Some(file.sha256.clone()),
    }
}

/// Whether a result is there, by its size, with its tables. Its content is read, and held against its hash, when the study ends.
fn is_there(directory: &StudyFiles, ended: &Ended) -> bool {
    let run = directory.run(&ended.run.to_string());
    let found = fs_err::symlink_metadata(run.result_file());
    run.has_tables()
        && found.is_ok_and(|found| found.is_file() && ended.file.as_ref().is_none_or(|file| file.bytes == found.len()))
}

/// The result of an attempt that the journal does not know to have ended; `None` unless it is whole.
fn result_of(directory: &StudyFiles, run: &RunId) -> Option<(RunRow, FileIdentity)> {
    let found = directory.run(&run.to_string());
    let path = found.result_file();
    // What is no file was not written by llem, and reading it may never end.
    fs_err::symlink_metadata(&path).ok().filter(|path| path.is_file() && found.has_tables())?;
    let text = fs_err::read(path).ok()?;
    let result = RunResult::from_json(&text).ok().filter(|result| is_of(result, run))?;
    let file = FileIdentity::of(&text);
    Some((RunRow::of(&result, ""), file))
}

/// Whether a result says itself that it is of this attempt.
pub(super) fn is_of(result: &RunResult, run: &RunId) -> bool {
    result.run_id == run.to_string() && result.experiment_id == run.experiment && result.cycle == run.cycle
}

#[cfg(test)]
mod tests {
    use llem_protocol::FailureClass;

    use super::{Ended, Ledger};
    use crate::result::{RunId, RunStatus};

    fn run(attempt: u32) -> RunId {
        RunId { number: 7, experiment: "a".to_owned(), cycle: 1, attempt }
    }

    fn ended(attempt: u32, status: RunStatus) -> Ended {
        let failure = (status == RunStatus::Failed).then_some(FailureClass::DriverCrashed);
        Ended { run: run(attempt), status, failure, file: None }
    }

    #[test]
    fn the_newest_attempt_counts() {
        let mut ledger = Ledger::default();
        assert_eq!((ledger.is_completed(7), ledger.next_attempt(7)), (false, 1));
        ledger.begun(&run(1));
        assert_eq!((ledger.open_attempts(), ledger.next_attempt(7)), (vec![run(1)], 2));
        ledger.finished(ended(1, RunStatus::Failed));
        assert_eq!((ledger.open_attempts(), ledger.is_completed(7)), (vec![], false));
        ledger.begun(&run(2));
        assert_eq!(ledger.open_attempts(), [run(2)]);
        ledger.finished(ended(2, RunStatus::Completed));
        // Directories are read in no order.
        ledger.begun(&run(1));
        assert_eq!((ledger.open_attempts(), ledger.is_completed(7), ledger.next_attempt(7)), (vec![], true, 3));
        ledger.lost(&run(1));
        assert!(ledger.is_completed(7));
        ledger.lost(&run(2));
        assert_eq!((ledger.is_completed(7), ledger.next_attempt(7)), (false, 3));
        ledger.begun(&run(2));
        assert_eq!(ledger.open_attempts(), [], "what is in the directory of a damaged result is not used");
    }
}
