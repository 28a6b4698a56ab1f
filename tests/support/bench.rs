//! One test's study file, user config and output directory.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fs_err::File;
use serde_json::{Value, json};

use super::finished::{Directory, Place};
use super::{Finished, PATIENCE, Program, engine_answers};

/// The built program.
const LLEM: &str = env!("CARGO_BIN_EXE_llem");

/// The user and group of that name.
const NOBODY: u32 = 65534;

/// A place for one test: nothing of it is shared but the cache of models.
pub(crate) struct Bench {
    directory: Arc<Directory>,
    /// The study; JSON is YAML too.
    pub(crate) study: Value,
    /// The user config.
    pub(crate) user: Value,
    /// Value of `DOCKER_HOST`; the usual socket without one.
    pub(crate) docker_host: Option<String>,
    /// User and group to run `llem` as, where they are not the test's own.
    pub(crate) user_and_group: Option<(u32, u32)>,
    /// Further variables of `llem`'s environment; they win over those of the bench.
    pub(crate) variables: BTreeMap<&'static str, String>,
    /// Where study directories are made.
    pub(crate) output: PathBuf,
    /// What is started as `llem`.
    pub(crate) program: PathBuf,
    /// How long `llem` may take.
    patience: Duration,
}

impl Bench {
    /// A study of one short run of a tiny model. `name` must be the test's own: it is part of the containers' labels.
    pub(crate) fn new(name: &str) -> Self {
        check_programs();
        let directory = Arc::new(Directory(
            tempfile::tempdir_in(fs_err::canonicalize(env!("CARGO_TARGET_TMPDIR")).unwrap()).unwrap(),
        ));
        let model = json!({"layers": 1, "hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "vocab": 512});
        let study = json!({
            "name": name,
            "model": {"synthetic": model},
            "backend": "candle",
            "dtype": "float32",
            "candle": {"batch_size": 4},
            "workload": {"dataset": "synthetic", "n": 4, "input_tokens": 12, "output_tokens": 6},
            "measurement": {"min_seconds": 0.3, "warmup_passes": 1, "baseline_seconds": 0},
            "execution": {"n_cycles": 1},
        });
        let output = directory.0.path().join("results");
        Self {
            directory,
            study,
            user: json!({}),
            docker_host: None,
            user_and_group: None,
            variables: BTreeMap::new(),
            output,
            program: LLEM.into(),
            patience: PATIENCE,
        }
    }

    /// As [`Bench::new`]; `None`, with a line that says so, where no engine answers.
    pub(crate) fn docker(name: &str) -> Option<Self> {
        engine_answers().then(|| Self::new(name))
    }

    /// Gives `llem` more time than most studies take.
    #[must_use]
    pub(crate) fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Reaches the hub at `url` and has caches of its own, the user's Hugging Face cache and token file in `hf`.
    #[must_use]
    pub(crate) fn with_hub(mut self, url: &str) -> Self {
        let place = |name: &str| self.path(name).display().to_string();
        self.variables =
            [("HF_ENDPOINT", url.to_owned()), ("HF_HOME", place("hf")), ("XDG_CACHE_HOME", place("cache"))].into();
        self
    }

    /// Makes the window so long that a test can do something to the run while it is open.
    #[must_use]
    pub(crate) fn long_window(mut self) -> Self {
        self.study["measurement"]["min_seconds"] = json!(300);
        self
    }

    /// Runs the driver of an image that misbehaves as `fault` says.
    #[must_use]
    pub(crate) fn with_fault(mut self, image: &str, fault: &str) -> Self {
        self.study["candle"]["image"] = json!(image);
        self.user = json!({"env": {"FAULT": fault}});
        self
    }

    /// Runs `llem` as a user without privileges but that to use the engine. `None`, with a line that says so, where the tests
    /// themselves run as such a user.
    pub(crate) fn for_ordinary_user(self) -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: only root can become somebody else; the other tests are an ordinary user's already"
            );
            return None;
        }
        let group = fs_err::metadata("/var/run/docker.sock").unwrap().gid();
        Some(self.of_user(1000, group))
    }

    /// As [`Bench::for_ordinary_user`], one without any privilege who is in every list of users.
    pub(crate) fn for_nobody(self) -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: only root can become somebody else; this test is another user's already"
            );
            return None;
        }
        Some(self.of_user(NOBODY, NOBODY))
    }

    fn of_user(mut self, user: u32, group: u32) -> Self {
        self.user_and_group = Some((user, group));
        std::os::unix::fs::chown(self.directory.0.path(), Some(user), Some(group)).unwrap();
        self
    }

    /// A file beside the study.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.0.path().join(name)
    }

    /// Shared with the other tests, unless it would be somebody else's.
    fn cache(&self) -> PathBuf {
        match self.user_and_group {
            None => Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
            Some(_) => self.path("cache"),
        }
    }

    /// `llem` with this bench's configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&self.program, arguments)
    }

    /// As [`Bench::command`] with another copy of the program.
    pub(crate) fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        fs_err::write(self.path("user.yaml"), self.user.to_string()).unwrap();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("LLEM_CONFIG", self.path("user.yaml"))
            .env("LLEM_OUTPUT", &self.output)
            .env("XDG_CACHE_HOME", self.cache())
            .env_remove("RUST_LOG")
            .env_remove("DOCKER_HOST")
            .envs(self.docker_host.as_ref().map(|host| ("DOCKER_HOST", host)))
            .envs(&self.variables)
            .stdin(Stdio::null());
        if let Some((user, group)) = self.user_and_group {
            command.uid(user).gid(group);
        }
        command
    }

    /// `llem run` of the study, to its end. `-v` is not among the arguments.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        self.start_with(arguments, &[]).finish()
    }

    /// As [`Bench::run`] of another study file.
    pub(crate) fn run_file(&self, file: &Path, arguments: &[&str]) -> Finished {
        let file = file.display().to_string();
        Program::start(self.command(&[&["run", &file], arguments].concat()), self.place()).finish()
    }

    /// `llem -v run` of the study, under way.
    pub(crate) fn start(&self, arguments: &[&str]) -> Program {
        self.start_with(arguments, &["-v"])
    }

    /// As [`Bench::start`] with llem's own log.
    pub(crate) fn start_loud(&self, arguments: &[&str]) -> Program {
        self.start_with(arguments, &["-vv"])
    }

    /// As [`Bench::run`] while no other test's `llem` starts, see [`super::alone`].
    pub(crate) fn run_alone(&self, alone: File, arguments: &[&str]) -> Finished {
        let finished = Program::start_alone(self.run_command(arguments, &[]), self.place()).finish();
        drop(alone);
        finished
    }

    /// As [`Bench::start`] for a caller that holds [`super::alone`].
    pub(crate) fn start_alone(&self, _alone: &File, arguments: &[&str]) -> Program {
        Program::start_alone(self.run_command(arguments, &["-v"]), self.place())
    }

    fn start_with(&self, arguments: &[&str], loudness: &[&str]) -> Program {
        Program::start(self.run_command(arguments, loudness), self.place())
    }

    fn place(&self) -> Place {
        Place { output: self.output.clone(), patience: self.patience, _directory: Arc::clone(&self.directory) }
    }

    fn run_command(&self, arguments: &[&str], loudness: &[&str]) -> Command {
        let file = self.path("study.yaml");
        fs_err::write(&file, self.study.to_string()).unwrap();
        let file = file.display().to_string();
        self.command(&[loudness, &["run", &file], arguments].concat())
    }
}

/// `cargo test` builds the program under test but not those that it starts.
fn check_programs() {
    let directory = Path::new(LLEM).parent().unwrap();
    for name in ["llem-agent", "llem-candle"] {
        assert!(directory.join(name).is_file(), "no {name} beside {LLEM}: run `cargo build --workspace` first");
    }
}
