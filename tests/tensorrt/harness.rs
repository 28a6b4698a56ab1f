//! The driver under way with the stand-in, on this machine's Python.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use llem_protocol::{EngineSpec, FailureClass, ModelLocation, Request, WorkloadLine};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

pub(crate) use crate::conversation::{Driver, Pass, workload};

/// The checkout.
pub(crate) fn root() -> PathBuf {
    fs_err::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
}

/// A model, a workload, and how the stand-in is to behave.
pub(crate) struct Kitchen {
    directory: TempDir,
    /// The script of the stand-in.
    pub(crate) script: Value,
    /// More of the driver's environment.
    pub(crate) env: BTreeMap<String, String>,
}

impl Kitchen {
    /// `None`, with a line that says so, where there is no Python.
    pub(crate) fn new() -> Option<Self> {
        let old = "import sys; sys.exit(sys.version_info < (3, 10))";
        if !Command::new("python3").args(["-c", old]).status().is_ok_and(|status| status.success()) {
            let _ = writeln!(std::io::stderr(), "skipped: there is no python3 of version 3.10 or later");
            return None;
        }
        let kitchen = Self { directory: tempfile::tempdir().unwrap(), script: json!({}), env: BTreeMap::new() };
        fs_err::create_dir(kitchen.path("model")).unwrap();
        fs_err::create_dir(kitchen.path("temporary")).unwrap();
        kitchen.write_model(&json!({}));
        Some(kitchen)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The model's description; all that the stand-in reads of a model.
    pub(crate) fn write_model(&self, changes: &Value) {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 512, "max_position_embeddings": 128,
            "eos_token_id": [2, 3], "torch_dtype": "bfloat16",
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        fs_err::write(self.path("model/config.json"), config.to_string()).unwrap();
    }

    /// The driver, imported.
    pub(crate) fn driver(&self) -> Driver {
        Driver::start(self.command(), "tensorrt")
    }

    /// The driver, started.
    pub(crate) fn start(&self) -> Driver {
        Driver::spawn(self.command())
    }

    fn command(&self) -> Command {
        let root = root();
        let mut script = self.script.clone();
        script["log"] = json!(self.path("log"));
        let paths = ["images/common", "images/tensorrt", "tests/tensorrt/standin"].map(|part| root.join(part));
        let mut command = Command::new("python3");
        command
            .arg(root.join("images/tensorrt/driver.py"))
            .env("PYTHONPATH", std::env::join_paths(paths).unwrap())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("TMPDIR", self.path("temporary"))
            .env("LLEM_STANDIN", script.to_string())
            .envs(&self.env)
            .stderr(fs_err::File::create(self.path("driver.log")).unwrap().into_parts().0);
        command
    }

    /// What the driver and its engine wrote beside the protocol.
    pub(crate) fn log(&self) -> String {
        fs_err::read_to_string(self.path("driver.log")).unwrap()
    }

    /// What the stand-in was asked, of one kind, in order.
    pub(crate) fn told(&self, event: &str) -> Vec<Value> {
        let text = fs_err::read_to_string(self.path("log")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["event"] == event).collect()
    }

    /// What is left where the driver makes temporary files.
    pub(crate) fn temporary_files(&self) -> usize {
        fs_err::read_dir(self.path("temporary")).unwrap().count()
    }

    /// What the driver is asked to load: the PyTorch path, greedy.
    pub(crate) fn engine(&self, options: Value) -> EngineSpec {
        let Value::Object(options) = options else { panic!("options are an object") };
        EngineSpec {
            backend: "tensorrt".to_owned(),
            model: ModelLocation::Directory(self.path("model")),
            dtype: "auto".to_owned(),
            options,
            extra: Map::new(),
            sampling: Map::new(),
            lora: None,
            random_seed: "42".to_owned(),
        }
    }

    /// The request to load an engine with a workload.
    pub(crate) fn load(&self, engine: EngineSpec, workload: &[WorkloadLine], ignore_eos: bool) -> Request {
        let path = self.path("workload.jsonl");
        let lines = workload.iter().map(|line| serde_json::to_string(line).unwrap() + "\n");
        fs_err::write(&path, lines.collect::<String>()).unwrap();
        Request::Load { engine: Box::new(engine), workload: path, ignore_eos }
    }

    /// The driver's refusal of an engine: class, text with causes.
    #[track_caller]
    pub(crate) fn refusal(&self, engine: EngineSpec) -> (Option<FailureClass>, String) {
        let mut driver = self.driver();
        driver.send(&self.load(engine, &workload(&[(4, 2)]), true));
        error(driver)
    }
}

/// The error that a driver ends with: class, and kind, text and causes as one.
#[track_caller]
pub(crate) fn error(driver: Driver) -> (Option<FailureClass>, String) {
    let (class, kind, text) = driver.error();
    (class, format!("{kind}: {text}"))
}
