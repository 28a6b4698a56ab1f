//! The study's journal: one line per change of state, appended, never rewritten.

use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs_err::File;
use jiff::Timestamp;
use llem_protocol::FailureClass;
use serde::{Deserialize, Serialize};

use super::{RunStatus, SCHEMA_VERSION, StoreError, StudyStatus};

/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// One line of the journal.
#[derive(Debug, Serialize)]
struct Line<'a> {
    schema_version: u32,
    time: String,
    #[serde(flatten)]
    event: &'a JournalEvent,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum JournalEvent {
    /// The study began.
    StudyStarted {
        /// The study's identity.
        study_id: String,
        /// Identity of the set of experiments.
        design_hash: String,
        /// Number of planned runs.
        runs: usize,
        /// Process id of the controller.
        pid: u32,
        /// The controller's version.
        llem_version: String,
    },
    /// Another controller goes on with the study.
    StudyResumed {
        /// Process id of the controller.
        pid: u32,
        /// The controller's version.
        llem_version: String,
        /// Runs that are measured already.
        completed: usize,
        /// Number of planned runs.
        runs: usize,
        /// Lines of this journal that could not be read, because a controller died while it wrote them.
        torn_lines: usize,
    },
    /// Experiments or cycles were added, or the study is carried out in another way from here on.
    StudyExtended {
        /// Number of the design that holds from here on.
        revision: u32,
        /// Identity of the set of experiments.
        design_hash: String,
        /// Number of planned runs.
        runs: usize,
    },
    /// A run began.
    RunStarted {
        /// The run.
        run_id: String,
        /// Its experiment.
        experiment_id: String,
        /// Its cycle, from 1.
        cycle: u32,
    },
    /// A job array is about to be submitted. Its plan, `slurm/{name}.json`, is on disk.
    ArrayPlanned {
        /// Name of its jobs.
        name: String,
        /// Number of jobs.
        jobs: usize,
        /// Number of runs.
        runs: usize,
    },
    /// The batch system has it.
    ArraySubmitted {
        /// Name of its jobs.
        name: String,
        /// The batch system's id.
        job: u64,
    },
    /// A run that a dead controller had started is followed again.
    RunAdopted {
        /// The run.
        run_id: String,
        /// The engine's id of its container.
        container: String,
    },
    /// A run's result file is on disk.
    RunFinished {
        /// The run.
        run_id: String,
        /// How it ended.
        status: RunStatus,
        /// Whether its numbers may be used.
        valid: bool,
        /// Why it failed.
        failure: Option<FailureClass>,
        /// Size of its `result.json`.
        #[serde(default)]
        result_bytes: Option<u64>,
        /// SHA-256 of its `result.json`, hexadecimal.
        #[serde(default)]
        result_sha256: Option<String>,
    },
    /// The `result.json` of a run that was finished is gone or damaged; the run counts as not carried out.
    ResultLost {
        /// The run.
        run_id: String,
    },
    /// The rest of an experiment is left out: it is too large for the machine.
    ExperimentSkipped {
        /// The experiment.
        experiment_id: String,
        /// What its last run died of.
        failure: FailureClass,
        /// The cycles that are left out.
        cycles: Vec<u32>,
    },
    /// The study ends before its plan does.
    StudyStopped {
        /// Why.
        cause: StopCause,
    },
    /// The study ended in order.
    StudyFinished {
        /// How.
        status: StudyStatus,
    },
}

/// Why a study ended before its plan did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// The container engine stopped answering and did not come back.
    ContainerEngineLost,
    /// Results could not be written.
    OutputUnwritable,
    /// As many runs failed one after the other as `execution.max_consecutive_failures` says.
    ConsecutiveFailures,
}

impl JournalEvent {
    /// Whether losing the line would lose or repeat work.
    fn is_boundary(&self) -> bool {
        !matches!(self, Self::RunStarted { .. } | Self::RunAdopted { .. })
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Creates the journal of a new study.
    pub(crate) fn create(path: &Path) -> Result<Self, StoreError> {
        let file = fs_err::OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Opens the journal of a study that goes on. A last line that was cut off is ended, so that it harms no line after it.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        refuse_others(path)?;
        let mut file = fs_err::OpenOptions::new().read(true).append(true).create(true).open(path)?;
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            std::io::Read::read_exact(&mut file, &mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends one line. Lines that end a run or a study are on disk when this returns.
    pub fn append(&mut self, event: &JournalEvent) -> Result<(), StoreError> {
        let line = Line { schema_version: SCHEMA_VERSION, time: Timestamp::now().to_string(), event };
        let mut text = serde_json::to_vec(&line).map_err(|source| StoreError::json(&self.path, source))?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        if event.is_boundary() {
            self.file.file().sync_data()?;
        }
        Ok(())
    }
}

/// Refuses what is no file: nobody wrote it for llem, and opening it may never end.
fn refuse_others(path: &Path) -> Result<(), StoreError> {
    match fs_err::metadata(path) {
        Ok(found) if !found.is_file() => {
            Err(StoreError::Damaged { path: path.to_owned(), problem: "it is no plain file".to_owned() })
        }
        _ => Ok(()),
    }
}

/// What a journal says, read from its beginning, one line at a time.
#[derive(Debug, Default)]
pub struct Reading {
    /// When the study began, in UTC, RFC 3339.
    pub started: Option<String>,
    /// Lines that are none: a controller died, or the power failed, while they were written.
    pub torn_lines: usize,
}

/// When a line was written.
#[derive(Deserialize)]
struct Written {
    time: String,
}

/// Hands every event of a journal to `take`. Lines that are none are counted and passed over: each line stands for itself, and what a lost
/// one said is found in the result files. A journal that is not there is empty.
pub fn read_journal(path: &Path, mut take: impl FnMut(JournalEvent)) -> Result<Reading, StoreError> {
    refuse_others(path)?;
    let mut reading = Reading::default();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(reading),
        Err(error) => return Err(error.into()),
    };
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut text = Vec::new();
    loop {
        text.clear();
        if reader.read_until(b'\n', &mut text)? == 0 {
            return Ok(reading);
        }
        match serde_json::from_slice::<JournalEvent>(&text) {
            Ok(event) => {
                if matches!(event, JournalEvent::StudyStarted { .. }) {
                    reading.started = serde_json::from_slice::<Written>(&text).ok().map(|line| line.time);
                }
                take(event);
            }
            Err(_) if text.trim_ascii().is_empty() => {}
            Err(_) => reading.torn_lines += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Journal, JournalEvent, read_journal};
    use crate::result::{RunStatus, StudyStatus};

    fn finished(run: usize) -> JournalEvent {
        JournalEvent::RunFinished {
            run_id: format!("{run:03}-0123456789ab-c1"),
            status: RunStatus::Completed,
            valid: true,
            failure: None,
            result_bytes: Some(12),
            result_sha256: Some("00".repeat(32)),
        }
    }

    fn events(path: &std::path::Path) -> (Vec<JournalEvent>, usize) {
        let mut events = Vec::new();
        let reading = read_journal(path, |event| events.push(event)).unwrap();
        (events, reading.torn_lines)
    }

    #[test]
    fn a_journal_that_is_cut_off_anywhere_keeps_every_whole_line_and_can_go_on() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("journal.jsonl");
        let mut journal = Journal::create(&path).unwrap();
        let all = [finished(1), finished(2), finished(3), JournalEvent::StudyFinished { status: StudyStatus::Failed }];
        for event in &all {
            journal.append(event).unwrap();
        }
        assert_eq!(events(&path), (all.to_vec(), 0));
        let whole = fs_err::read(&path).unwrap();
        let lines: Vec<usize> = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at).collect();
        for cut in lines[0] + 1..whole.len() {
            fs_err::write(&path, &whole[..cut]).unwrap();
            // A line that lacks nothing but its end says all that it has to say.
            let kept = lines.iter().filter(|end| **end <= cut).count();
            let torn = usize::from(cut > lines[kept - 1] + 1);
            assert_eq!(events(&path), (all[..kept].to_vec(), torn), "cut at {cut}");
            Journal::open(&path).unwrap().append(&finished(9)).unwrap();
            let expected = [&all[..kept], &[finished(9)]].concat();
            assert_eq!(events(&path), (expected, torn), "after a cut at {cut}");
        }
    }

    #[test]
    fn damage_in_the_middle_costs_its_own_lines_only() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("journal.jsonl");
        let line = |event| {
            let file = root.path().join("one");
            let _ = fs_err::remove_file(&file);
            Journal::create(&file).unwrap().append(event).unwrap();
            fs_err::read(&file).unwrap()
        };
        let zeros = [&[0; 100][..], b"\n"].concat();
        let newer = b"{\"schema_version\":9,\"time\":\"t\",\"event\":\"from_a_newer_llem\"}\n".to_vec();
        let text = [line(&finished(1)), zeros, newer, b"\xff\xfe\n".to_vec(), line(&finished(2))].concat();
        fs_err::write(&path, text).unwrap();
        assert_eq!(events(&path), (vec![finished(1), finished(2)], 3));
        assert_eq!(events(&root.path().join("absent")), (Vec::new(), 0));
    }

    #[test]
    fn a_pipe_in_place_of_a_journal_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("journal.jsonl");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(read_journal(&path, |_| {}).unwrap_err().to_string().contains("it is no plain file"));
        assert!(Journal::open(&path).is_err());
    }

    #[test]
    fn journals_of_earlier_builds_are_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("journal.jsonl");
        let line = r#"{"schema_version":2,"time":"t","event":"run_finished","run_id":"001-a-c1","status":"completed","valid":true,"failure":null}"#;
        fs_err::write(&path, format!("{line}\n")).unwrap();
        let (events, torn) = events(&path);
        assert!(
            matches!(&events[..], [JournalEvent::RunFinished { result_bytes: None, .. }]) && torn == 0,
            "{events:?}"
        );
    }
}
