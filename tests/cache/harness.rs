//! A cache of one test, and the processes at it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use llem::config::{Profile, StudyConfig};
use llem::engine_cache::{
    Acquired, BuildFacts, CacheSettings, EngineCache, GpuTarget, Key, KeyInputs, Lease, ModelIdentity, Software,
    Surroundings, Target, Ticket,
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::worker::{Answer, ORDER, Order, write_files};

/// How long anything may take that takes a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// What an engine is built with and for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) engine: String,
    pub(crate) gpu: String,
    /// Another name is another engine.
    pub(crate) model: String,
    /// Size of its largest file.
    pub(crate) kilobytes: usize,
}

impl Machine {
    /// The one that tests begin with.
    pub(crate) fn usual() -> Self {
        let text = str::to_owned;
        Self { engine: text("1.2.1"), gpu: text("NVIDIA H100 80GB HBM3"), model: text("tiny"), kilobytes: 64 }
    }

    /// The same for another model.
    pub(crate) fn with_model(model: &str) -> Self {
        Self { model: model.to_owned(), ..Self::usual() }
    }

    /// The key of its engine, through a study file as a user would write it.
    pub(crate) fn key(&self) -> Key {
        let text = r#"{"model": "synthetic", "backend": "tensorrt", "dtype": "bfloat16",
            "workload": {"dataset": "synthetic", "n": 1, "input_tokens": 8, "output_tokens": 4},
            "tensorrt": {"engine": "tensorrt", "build": {"max_batch_size": 8, "max_input_len": 128, "max_seq_len": 256}}}"#;
        let study = StudyConfig::from_text(Path::new("study.yaml"), text, &[], Profile::Quick).unwrap();
        let known = |text: &str| Some(text.to_owned());
        let gpu = GpuTarget {
            name: known(&self.gpu),
            compute_capability: known("9.0"),
            cuda_cores: Some(16_896),
            memory_bytes: Some(85_520_809_984),
        };
        let around = Surroundings {
            software: Software {
                image_digest: known("sha256:0123"),
                engine: known(&self.engine),
                tensorrt: known("10.14.1"),
                cuda: known("13.1"),
                torch: known("2.9.1"),
                ..Software::default()
            },
            target: Target::Gpus(vec![gpu]),
            model: ModelIdentity {
                content_sha256: known(&self.model),
                label: self.model.clone(),
                ..ModelIdentity::default()
            },
            draft_model: None,
            adapter: None,
            variables: BTreeMap::from([("VLLM_TEST_KILOBYTES".to_owned(), self.kilobytes.to_string())]),
            gpus_per_node: None,
            calibration_data_sha256: None,
            workload_sha256: None,
        };
        Key::new(&KeyInputs::tensorrt_engine(&study.experiments[0].config, around)).unwrap()
    }
}

/// Names and contents of an engine's files: they follow from its key.
pub(crate) fn expected_files(key: &Key, kilobytes: usize) -> Vec<(String, Vec<u8>)> {
    let repeated = key.hex().bytes().cycle().take(kilobytes * 1024).collect();
    vec![
        ("config.json".to_owned(), format!("{{\"key\": \"{}\"}}", key.hex()).into_bytes()),
        ("rank0.engine".to_owned(), repeated),
        ("lora/adapter.bin".to_owned(), key.hex().as_bytes().to_vec()),
    ]
}

/// A directory with a cache in it, and what its processes need beside it.
pub(crate) struct Kitchen {
    directory: TempDir,
}

impl Kitchen {
    pub(crate) fn new() -> Self {
        let parent = fs_err::canonicalize(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { directory: tempfile::tempdir_in(parent).unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn cache_dir(&self) -> PathBuf {
        self.path("cache")
    }

    pub(crate) fn bucket(&self) -> PathBuf {
        self.cache_dir().join("tensorrt-engine-v2")
    }

    /// Names of all directories in which engines are in the making or on their way out.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let folders = [self.bucket().join(".staging"), self.bucket().join(".trash"), self.path("private")];
        let entries = folders.iter().flat_map(|folder| fs_err::read_dir(folder).into_iter().flatten());
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// The cache through the library, in this process.
    pub(crate) fn cache(&self) -> EngineCache {
        EngineCache::open(CacheSettings {
            dir: self.cache_dir(),
            private_dir: self.path("private"),
            max_bytes: None,
            wait: PATIENCE,
        })
    }

    pub(crate) fn order(&self, machine: &Machine) -> Order {
        Order {
            cache: self.cache_dir(),
            private: self.path("private"),
            machine: machine.clone(),
            wait_ms: PATIENCE.as_millis() as u64,
            max_bytes: None,
            build_ms: 0,
            hold_ms: 0,
            times: 1,
            filler: None,
            log: self.path("builds.log"),
        }
    }

    /// How often something was built.
    pub(crate) fn builds(&self) -> usize {
        fs_err::read_to_string(self.path("builds.log")).unwrap_or_default().lines().count()
    }

    /// A worker with these orders.
    pub(crate) fn start(&self, orders: &[Order]) -> Worker {
        self.start_under(Command::new(std::env::current_exe().unwrap()), orders)
    }

    /// The same behind a command that starts a program with arguments.
    pub(crate) fn start_under(&self, mut command: Command, orders: &[Order]) -> Worker {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let answers = self.path(&format!("answers-{number}"));
        let order = serde_json::to_string(&(orders, &answers)).unwrap();
        command.args(["--exact", "worker::worker", "--ignored", "--nocapture"]).env(ORDER, order);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Worker { child, answers }
    }

    /// `llem` with a user config that names the cache.
    pub(crate) fn llem(&self, arguments: &[&str]) -> Command {
        let config = self.path("config.yaml");
        let text = serde_json::json!({"engine_cache_dir": self.cache_dir(), "cache_dir": self.path("xdg")});
        fs_err::write(&config, text.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_llem"));
        command.args(arguments).env("LLEM_CONFIG", config).env("COLUMNS", "80");
        command
    }

    /// Runs `llem` to its end: exit code, stdout, stderr.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        text_of(&self.llem(arguments).output().unwrap())
    }

    /// The engine of a machine, in this process: built when it is not there.
    pub(crate) fn lease(&self, machine: &Machine) -> Lease {
        match self.acquire(machine) {
            Acquired::Hit(lease) => lease,
            Acquired::Build(ticket) => fill(ticket, machine),
        }
    }

    pub(crate) fn acquire(&self, machine: &Machine) -> Acquired {
        self.cache().acquire(&machine.key(), |_| std::ops::ControlFlow::Continue(())).unwrap()
    }
}

/// Builds and publishes.
pub(crate) fn fill(ticket: Ticket, machine: &Machine) -> Lease {
    write_files(&ticket.dir(), ticket.key(), machine.kilobytes).unwrap();
    ticket.publish(BuildFacts { seconds: Some(312.4), energy_j: Some(48_211.0), driver: None }).unwrap()
}

pub(crate) fn text_of(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A process at work.
pub(crate) struct Worker {
    pub(crate) child: Child,
    answers: PathBuf,
}

impl Worker {
    /// Waits for its end and reads its answers.
    #[track_caller]
    pub(crate) fn answers(mut self) -> Vec<Answer> {
        let status = eventually("the worker's end", || self.child.try_wait().unwrap());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut said).unwrap();
        assert!(status.success(), "{status}: {said}");
        let text = fs_err::read_to_string(&self.answers).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The only answer.
    #[track_caller]
    pub(crate) fn answer(self) -> Answer {
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.pop().unwrap()
    }

    /// Ends it as nothing can be prepared for.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Waits until `condition` gives something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A command that runs the program in its further arguments in a mount namespace of its own, after `script` has changed the mounts;
/// `None`, with a line that says so, where that is not allowed.
pub(crate) fn with_mounts(script: &str, directory: &Path) -> Option<Command> {
    let probe = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        let _ = writeln!(std::io::stderr(), "skipped: mounting needs root and `unshare`");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{script} && shift && exec \"$@\""), "sh"]).arg(directory);
    Some(command)
}
