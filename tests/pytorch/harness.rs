//! A driver under way: that of PyTorch in a container, or the embedded one on this machine to compare with.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use llem_model::SyntheticSpec;
use llem_protocol::{EngineSpec, FailureClass, Message, ModelLocation, Request, RequestRecord, Stretch, WorkloadLine};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A user that owns nothing.
const STRANGER: &str = "12345:12345";

/// A backend whose driver runs in an image of the tests.
pub(crate) struct Backend {
    /// Its folder under `images/` and its name in the protocol.
    pub(crate) name: &'static str,
    /// The image, made by the recipe of the same name under `tests/images`.
    pub(crate) image: &'static str,
    /// Attention heads and key-value heads of the model: engines have kernels for some widths only.
    pub(crate) heads: (u32, u32),
}

/// PyTorch.
const PYTORCH: Backend = Backend { name: "pytorch", image: "llem-tests/pytorch-cpu:2", heads: (4, 2) };

/// A model, a driver's files and workloads in a directory that everybody may read.
pub(crate) struct Kitchen {
    backend: &'static Backend,
    directory: TempDir,
    pub(crate) model: PathBuf,
}

impl Kitchen {
    /// With PyTorch.
    pub(crate) fn new() -> Option<Self> {
        Self::of(&PYTORCH)
    }

    /// `None`, with a line that says so, where the image is missing.
    pub(crate) fn of(backend: &'static Backend) -> Option<Self> {
        let inspection = Command::new("docker").args(["image", "inspect", backend.image]).output();
        if !inspection.is_ok_and(|inspection| inspection.status.success()) {
            let (image, name) = (backend.image, backend.name);
            let _ = writeln!(
                std::io::stderr(),
                "skipped: the Docker engine does not answer or has no image {image} (tests/images/{name}-cpu/build)"
            );
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        fs_err::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let spec = SyntheticSpec {
            layers: 2,
            hidden: 64,
            // A multiple of what bitsandbytes quantises together.
            intermediate: 128,
            heads: backend.heads.0,
            kv_heads: backend.heads.1,
            vocab: 512,
            max_positions: 128,
            ..SyntheticSpec::default()
        };
        let model = llem_model::ensure(&spec, directory.path()).unwrap().dir;
        let scripts = directory.path().join("driver");
        fs_err::create_dir(&scripts).unwrap();
        for source in ["common", backend.name] {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images").join(source);
            for entry in fs_err::read_dir(source).unwrap().map(Result::unwrap) {
                if entry.path().extension().is_some_and(|extension| extension == "py") {
                    fs_err::copy(entry.path(), scripts.join(entry.file_name())).unwrap();
                }
            }
        }
        Some(Self { backend, directory, model })
    }

    /// The driver of PyTorch, imported.
    pub(crate) fn pytorch(&self) -> Driver {
        self.driver(&[])
    }

    /// The backend's driver, imported, with these variables beside its own.
    pub(crate) fn driver(&self, variables: &[&str]) -> Driver {
        let place = self.directory.path().display();
        let mut command = Command::new("docker");
        command
            .args([
                "run",
                "--rm",
                "--interactive",
                "--network",
                "none",
                "--read-only",
                "--tmpfs",
                "/tmp",
                "--shm-size",
                "1g",
            ])
            .args(["--cap-drop", "ALL", "--user", STRANGER, "--env", "HOME=/tmp", "--env", "OMP_NUM_THREADS=1"])
            .args(variables.iter().flat_map(|variable| ["--env", variable]))
            .args(["--volume", &format!("{place}:{place}:ro"), self.backend.image, "python3"])
            .arg(format!("{place}/driver/driver.py"));
        Driver::start(command, self.backend.name)
    }

    /// What a driver is asked to load: float32, greedy.
    pub(crate) fn engine(&self, backend: &str, options: Value) -> EngineSpec {
        let Value::Object(options) = options else { panic!("options are an object") };
        EngineSpec {
            backend: backend.to_owned(),
            model: ModelLocation::Directory(self.model.clone()),
            dtype: "float32".to_owned(),
            options,
            extra: Map::new(),
            sampling: Map::new(),
            lora: None,
            random_seed: "42".to_owned(),
        }
    }

    /// A directory beside the model.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        let place = self.directory.path().join(name);
        fs_err::create_dir_all(&place).unwrap();
        place
    }

    /// PyTorch on the processor in batches of `size`.
    pub(crate) fn batches(&self, size: u32) -> EngineSpec {
        self.engine("pytorch", json!({"device_map": "cpu", "num_threads": 1, "batch_size": size}))
    }

    /// The request to load an engine with a workload.
    pub(crate) fn load(&self, engine: EngineSpec, workload: &[WorkloadLine], ignore_eos: bool) -> Request {
        let path = self.directory.path().join("workload.jsonl");
        let lines = workload.iter().map(|line| serde_json::to_string(line).unwrap() + "\n");
        fs_err::write(&path, lines.collect::<String>()).unwrap();
        Request::Load { engine: Box::new(engine), workload: path, ignore_eos }
    }

    /// The records of one pass of the embedded engine.
    pub(crate) fn by_candle(&self, workload: &[WorkloadLine], ignore_eos: bool) -> Vec<RequestRecord> {
        let candle = Path::new(env!("CARGO_BIN_EXE_llem")).with_file_name("llem-candle");
        let mut driver = Driver::start(Command::new(candle), "candle");
        driver.loads(&self.load(self.engine("candle", json!({"threads": 1})), workload, ignore_eos));
        driver.pass(0, true, false);
        driver.records().0
    }
}

/// Requests with the given prompt and output lengths; the tokens differ from request to request.
pub(crate) fn workload(lengths: &[(usize, u32)]) -> Vec<WorkloadLine> {
    (0_u32..)
        .zip(lengths)
        .map(|(index, (prompt, output_tokens))| WorkloadLine {
            index: u64::from(index),
            prompt_ids: (0..*prompt as u32).map(|position| (7 + 131 * index + 29 * position) % 512).collect(),
            output_tokens: *output_tokens,
        })
        .collect()
}

/// A running driver. Its stdin closed, it ends.
pub(crate) struct Driver {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub(crate) hello: Message,
}

/// The answer to a pass.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
}

impl Driver {
    fn start(mut command: Command, backend: &str) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let hello = receive(&mut stdout);
        assert!(matches!(&hello, Message::Hello { engine, .. } if engine == backend), "{hello:?}");
        Self { stdin: child.stdin.take(), child, stdout, hello }
    }

    pub(crate) fn send(&mut self, request: &Request) {
        let line = serde_json::to_string(request).unwrap();
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn receive(&mut self) -> Message {
        receive(&mut self.stdout)
    }

    /// Loads and gives the answer.
    pub(crate) fn loads(&mut self, request: &Request) -> Message {
        self.send(request);
        let answer = self.receive();
        assert!(matches!(answer, Message::Loaded { .. }), "{answer:?}");
        answer
    }

    /// Loads and gives the settings in effect with the stretches in which something was compiled.
    pub(crate) fn compiles(&mut self, request: &Request) -> (Value, Vec<Stretch>) {
        match self.loads(request) {
            Message::Loaded { settings, compile, .. } => (Value::Object(settings), compile.unwrap_or_default()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn pass(&mut self, pass: u32, record: bool, prefill_only: bool) -> Pass {
        self.send(&Request::Pass { pass, record, prefill_only });
        match self.receive() {
            Message::PassDone { pass: done, start_ns, end_ns, prompt_tokens, output_tokens } => {
                assert_eq!(done, pass);
                Pass { start_ns, end_ns, prompt_tokens, output_tokens }
            }
            other => panic!("{other:?}"),
        }
    }

    /// The kept records and the peak of memory.
    pub(crate) fn records(&mut self) -> (Vec<RequestRecord>, Option<u64>) {
        self.send(&Request::Records);
        let mut kept = Vec::new();
        loop {
            match self.receive() {
                Message::Record { record } => kept.push(record),
                Message::RecordsDone { records, peak_memory_bytes } => {
                    assert_eq!(records, kept.len() as u64);
                    return (kept, peak_memory_bytes);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The error that the driver ends with: class, kind, and text with causes.
    pub(crate) fn error(mut self) -> (Option<FailureClass>, String, String) {
        match self.receive() {
            Message::Error { class, kind, text, causes } => {
                assert_eq!(self.close().code(), Some(1));
                (class, kind, [vec![text], causes].concat().join(": "))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Closes stdin and waits.
    pub(crate) fn close(mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.child.wait().unwrap()
    }
}

fn receive(stdout: &mut BufReader<ChildStdout>) -> Message {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}
