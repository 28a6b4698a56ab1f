//! The files by which controller and nodes speak of one run, in its directory on the shared file system.
//!
//! ```text
//! .spec.json   controller  what is to be done; gone when it shall not be done any more
//! .begun       both        made by whoever comes first: the node that carries the run out, or the controller that takes it back
//! .task.json   node        how it ended; appears whole, by a rename
//! ```

use std::fs::Permissions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use llem_protocol::{Job, Reason};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::array::SCHEMA_VERSION;
use crate::files::{sync_directory, write_atomic_with};
use crate::gpu_watch::{GpuWait, Verdict};
use crate::host::load::LoadSeen;
use crate::host::{GpusSnapshot, HostSnapshot};
use crate::result::{RunDirectory, read_left};
use crate::runner::slurm::SlurmRecord;
use crate::runner::{RunOutcome, RunSpec};

const SPEC: &str = ".spec.json";
const BEGUN: &str = ".begun";
const RECORD: &str = ".task.json";

/// The largest of these files that is read, in bytes.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// What is kept of an agent's log, in bytes.
const LOG_BYTES: u64 = 1024 * 1024;

/// How long a client of a network file system may keep what it knows of a directory, and some more.
const NETWORK_SETTLE: Duration = Duration::from_secs(75);
/// The same where every process sees the same directory.
const LOCAL_SETTLE: Duration = Duration::from_secs(2);

/// What a node needs for a run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Staged {
    pub(super) spec: RunSpec,
    /// GPUs that the experiment computes on; null for all that the job is given.
    pub(super) gpus: Option<usize>,
}

/// Who began a run, and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Begun {
    /// In UTC, RFC 3339.
    pub(super) started: String,
    /// Null when the controller took the run back.
    pub(super) slurm: Option<SlurmRecord>,
}

/// How a run ended on its node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TaskRecord {
    pub(super) schema_version: u32,
    pub(super) run_id: String,
    pub(super) nonce: String,
    pub(super) outcome: RunOutcome,
    /// Whether the job was told to stop while the run was under way.
    pub(super) stopped: bool,
    pub(super) gpus: Vec<String>,
    pub(super) verdict: Verdict,
    pub(super) nvidia: Option<GpusSnapshot>,
    pub(super) wait: Option<GpuWait>,
    pub(super) load: LoadSeen,
    pub(super) host: HostSnapshot,
    pub(super) started: String,
    pub(super) wall_s: f64,
}

impl Staged {
    /// Others than the user may not read it: it has the variables of the user config.
    pub(super) fn write(&self, directory: &RunDirectory) -> io::Result<()> {
        // Not waited for until it is on disk: a job that does not find it does nothing, and its run is repeated.
        write_private(&directory.path().join(SPEC), self, false)
    }

    pub(super) fn read(directory: &RunDirectory) -> Option<Self> {
        read(directory, SPEC)
    }
}

impl TaskRecord {
    /// On disk when this returns.
    pub(super) fn write(&self, directory: &RunDirectory) -> io::Result<()> {
        let path = directory.path().join(RECORD);
        write_atomic_with(&path, |file| Ok(serde_json::to_writer(file, self)?))?;
        sync_directory(directory.path())
    }

    /// The record of this very attempt; `None` while there is none.
    pub(super) fn read(directory: &RunDirectory, job: &Job) -> Option<Self> {
        let mut record: Self = read(directory, RECORD)?;
        if record.schema_version != SCHEMA_VERSION || record.run_id != job.run_id || record.nonce != job.nonce {
            return None;
        }
        record.outcome.agent_log = read_left(directory.path(), "agent.log", LOG_BYTES).unwrap_or_default();
        for reason in &mut record.verdict.reasons {
            *reason = Reason { severity: reason.code.severity(), ..reason.clone() };
        }
        Some(record)
    }

    pub(super) fn is_there(directory: &RunDirectory) -> bool {
        directory.path().join(RECORD).exists()
    }
}

impl Begun {
    /// Whether the beginning of the run is the caller's. One `open` with `O_EXCL`, which is one operation on network file systems, too.
    pub(super) fn claim(&self, directory: &RunDirectory) -> io::Result<bool> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        match fs_err::OpenOptions::new().write(true).create_new(true).open(directory.path().join(BEGUN)) {
            Ok(mut file) => file.write_all(&text).map(|()| true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn is_there(directory: &RunDirectory) -> bool {
        directory.path().join(BEGUN).exists()
    }

    pub(super) fn read(directory: &RunDirectory) -> Option<Self> {
        read(directory, BEGUN)
    }
}

/// Removes all of them: the run has its result.
pub(super) fn clear(directory: &RunDirectory) {
    for name in [SPEC, BEGUN, RECORD] {
        // What cannot be removed harms no result.
        let _ = fs_err::remove_file(directory.path().join(name));
    }
}

/// Writes a file that only its owner may read, whole or not at all; where it `is_synced`, it is on disk when this returns.
pub(super) fn write_private(path: &Path, content: &impl Serialize, is_synced: bool) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(directory)?;
    file.write_all(&serde_json::to_vec(content)?)?;
    if is_synced {
        file.as_file().sync_all()?;
    }
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn read<T: DeserializeOwned>(directory: &RunDirectory, name: &str) -> Option<T> {
    serde_json::from_slice(&read_left(directory.path(), name, MOST_BYTES)?).ok()
}

/// How long it may take until a file that a node has written is seen in `directory` on this machine.
pub(super) fn settle_time(directory: &Path) -> Duration {
    /// Numbers of `statfs(2)`: ext, XFS, btrfs, tmpfs, overlay.
    const LOCAL: [u64; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630];
    let kind = rustix::fs::statfs(directory).map(|found| found.f_type as u64 & 0xFFFF_FFFF);
    if kind.is_ok_and(|kind| LOCAL.contains(&kind)) { LOCAL_SETTLE } else { NETWORK_SETTLE }
}

#[cfg(test)]
mod tests {
    use super::{Begun, LOCAL_SETTLE, RECORD, SCHEMA_VERSION, TaskRecord, settle_time};
    use crate::gpu_watch::Verdict;
    use crate::host::HostSnapshot;
    use crate::host::load::LoadSeen;
    use crate::result::StudyFiles;
    use crate::runner::RunOutcome;
    use crate::testing::job;

    #[test]
    fn a_run_is_begun_once() {
        let root = tempfile::tempdir().unwrap();
        let directory = StudyFiles::of(root.path().to_owned()).run("001-a-c1");
        fs_err::create_dir_all(directory.path()).unwrap();
        let begun = Begun { started: "t".to_owned(), slurm: None };
        let claims: Vec<bool> = std::thread::scope(|scope| {
            let claim = || begun.claim(&directory).unwrap();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(claim)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(claims.iter().filter(|mine| **mine).count(), 1);
        assert!(Begun::is_there(&directory) && Begun::read(&directory).is_some());
    }

    #[test]
    fn only_the_record_of_this_attempt_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let directory = StudyFiles::of(root.path().to_owned()).run("001-a-c1");
        fs_err::create_dir_all(directory.path()).unwrap();
        let write = |run_id: &str, nonce: &str| {
            let record = TaskRecord {
                schema_version: SCHEMA_VERSION,
                run_id: run_id.to_owned(),
                nonce: nonce.to_owned(),
                outcome: RunOutcome::default(),
                stopped: false,
                gpus: Vec::new(),
                verdict: Verdict::default(),
                nvidia: None,
                wait: None,
                load: LoadSeen::default(),
                host: HostSnapshot::default(),
                started: "t".to_owned(),
                wall_s: 1.0,
            };
            record.write(&directory).unwrap();
        };
        let job = job();
        assert!(TaskRecord::read(&directory, &job).is_none());
        for (run_id, nonce, is_taken) in [
            ("001-a-c1", "0123456789abcdef", true),
            ("001-a-c1", "another", false),
            ("002-a-c1", "0123456789abcdef", false),
        ] {
            write(run_id, nonce);
            assert_eq!(TaskRecord::read(&directory, &job).is_some(), is_taken, "{run_id} {nonce}");
        }
        write(&job.run_id, &job.nonce);
        let path = directory.path().join(RECORD);
        let whole = fs_err::read(&path).unwrap();
        fs_err::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(TaskRecord::read(&directory, &job).is_none(), "cut off");
        fs_err::rename(&path, root.path().join("elsewhere")).unwrap();
        fs_err::write(root.path().join("elsewhere"), whole).unwrap();
        fs_err::os::unix::fs::symlink(root.path().join("elsewhere"), &path).unwrap();
        assert!(TaskRecord::read(&directory, &job).is_none(), "a link");
    }

    #[test]
    fn local_directories_settle_soon() {
        assert_eq!(settle_time(tempfile::tempdir().unwrap().path()), LOCAL_SETTLE);
    }
}
