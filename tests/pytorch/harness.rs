//! What a driver needs: that of PyTorch in a container, or the embedded one on this machine to compare with.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use llem_model::SyntheticSpec;
use llem_protocol::{EngineSpec, ModelLocation, Request, RequestRecord, WorkloadLine};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

pub(crate) use crate::conversation::{Driver, Pass, workload};

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
