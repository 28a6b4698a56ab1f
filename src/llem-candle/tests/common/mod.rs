//! Starts the built driver and speaks its protocol, as the agent does.
#![allow(dead_code, reason = "every test file uses another part")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use llem_model::{Architecture, SyntheticSpec};
use llem_protocol::{EngineSpec, FailureClass, Message, ModelLocation, Request, RequestRecord, WorkloadLine};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A running `llem-candle`.
pub(crate) struct Driver {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// What the driver answered to a pass: its counts and, if kept, its records.
pub(crate) struct PassDone {
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
}

impl Driver {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_llem-candle"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut driver = Self { child, stdin, stdout };
        let hello = driver.receive();
        assert!(matches!(&hello, Message::Hello { engine, .. } if engine == "candle"), "{hello:?}");
        driver
    }

    /// A driver that has loaded `engine` with the given workload.
    pub(crate) fn loaded(dir: &Path, engine: EngineSpec, workload: &[WorkloadLine], ignore_eos: bool) -> Self {
        let mut driver = Self::start();
        driver.load(dir, engine, workload, ignore_eos);
        let answer = driver.receive();
        assert!(matches!(answer, Message::Loaded { .. }), "{answer:?}");
        driver
    }

    pub(crate) fn load(&mut self, dir: &Path, engine: EngineSpec, workload: &[WorkloadLine], ignore_eos: bool) {
        let path = write_workload(dir, workload);
        self.send(&Request::Load { engine: Box::new(engine), workload: path, ignore_eos });
    }

    pub(crate) fn send(&mut self, request: &Request) {
        self.send_text(&serde_json::to_string(request).unwrap());
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{text}").unwrap();
        stdin.flush().unwrap();
    }

    pub(crate) fn receive(&mut self) -> Message {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub(crate) fn pass(&mut self, pass: u32, record: bool) -> PassDone {
        self.pass_of(pass, record, false)
    }

    /// A pass in which every request stops after its first token.
    pub(crate) fn prefill(&mut self, pass: u32, record: bool) -> PassDone {
        self.pass_of(pass, record, true)
    }

    fn pass_of(&mut self, pass: u32, record: bool, prefill_only: bool) -> PassDone {
        self.send(&Request::Pass { pass, record, prefill_only });
        match self.receive() {
            Message::PassDone { pass: done, start_ns, end_ns, prompt_tokens, output_tokens } => {
                assert_eq!(done, pass);
                PassDone { start_ns, end_ns, prompt_tokens, output_tokens }
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn records(&mut self) -> Vec<RequestRecord> {
        self.send(&Request::Records);
        let mut kept = Vec::new();
        loop {
            match self.receive() {
                Message::Record { record } => kept.push(record),
                Message::RecordsDone { records, peak_memory_bytes } => {
                    assert_eq!(records, kept.len() as u64);
                    assert!(peak_memory_bytes.is_some_and(|bytes| bytes > 1_000_000), "{peak_memory_bytes:?}");
                    return kept;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Threads of the driver's process.
    pub(crate) fn threads(&self) -> usize {
        fs_err::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }

    /// Closes stdin and waits.
    pub(crate) fn close(mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.child.wait().unwrap()
    }

    /// The error that the driver ends with: class, text and causes in one line.
    pub(crate) fn error(mut self) -> (Option<FailureClass>, String) {
        match self.receive() {
            Message::Error { class, text, causes, .. } => {
                assert_eq!(self.close().code(), Some(1));
                (class, [vec![text], causes].concat().join(": "))
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The records of one pass.
pub(crate) fn generate(
    dir: &Path,
    engine: EngineSpec,
    workload: &[WorkloadLine],
    ignore_eos: bool,
) -> Vec<RequestRecord> {
    let mut driver = Driver::loaded(dir, engine, workload, ignore_eos);
    driver.pass(0, true);
    let records = driver.records();
    assert!(driver.close().success());
    records
}

pub(crate) fn outputs(records: &[RequestRecord]) -> Vec<&[u32]> {
    records.iter().map(|record| record.output_ids.as_slice()).collect()
}

/// A model small enough for tests that do not measure.
pub(crate) fn small(architecture: Architecture, tie_word_embeddings: bool) -> SyntheticSpec {
    SyntheticSpec {
        architecture,
        layers: 2,
        hidden: 64,
        intermediate: 96,
        heads: 4,
        kv_heads: 2,
        vocab: 512,
        max_positions: 128,
        tie_word_embeddings,
        ..SyntheticSpec::default()
    }
}

pub(crate) fn model(dir: &TempDir, spec: &SyntheticSpec) -> PathBuf {
    llem_model::ensure(spec, dir.path()).unwrap().dir
}

pub(crate) fn engine(model: &Path, options: Value) -> EngineSpec {
    let Value::Object(options) = options else { panic!("options are an object") };
    EngineSpec {
        backend: "candle".to_owned(),
        model: ModelLocation::Directory(model.to_owned()),
        dtype: "float32".to_owned(),
        options,
        extra: Map::new(),
        sampling: Map::new(),
        lora: None,
        random_seed: "42".to_owned(),
    }
}

pub(crate) fn batch(model: &Path, size: u32) -> EngineSpec {
    engine(model, json!({"batch_size": size, "threads": 1}))
}

/// Requests with the given prompt and output lengths; the tokens differ from request to request.
pub(crate) fn workload(lengths: &[(usize, u32)], vocab: u32) -> Vec<WorkloadLine> {
    (0_u32..)
        .zip(lengths)
        .map(|(index, (prompt, output_tokens))| WorkloadLine {
            index: u64::from(index),
            prompt_ids: (0..*prompt as u32).map(|position| (7 + 131 * index + 29 * position) % vocab).collect(),
            output_tokens: *output_tokens,
        })
        .collect()
}

pub(crate) fn write_workload(dir: &Path, workload: &[WorkloadLine]) -> PathBuf {
    let lines = workload.iter().map(|line| serde_json::to_string(line).unwrap() + "\n");
    let path = dir.join("workload.jsonl");
    fs_err::write(&path, lines.collect::<String>()).unwrap();
    path
}

/// Changes one key of a model's `config.json`.
pub(crate) fn edit_config(model: &Path, key: &str, value: Value) {
    let path = model.join("config.json");
    let mut config: Map<String, Value> = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    config.insert(key.to_owned(), value);
    fs_err::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
}
