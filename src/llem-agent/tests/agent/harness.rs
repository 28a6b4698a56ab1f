//! Starts the built agent against the stand-in driver and reads what it says and writes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use llem_protocol::{
    DriverCommand, EngineSpec, Event, EventBody, Failure, Job, MeasurementSpec, ModelLocation, PROTOCOL_VERSION, Phase,
    PowerSample, Report, RequestRecord, WorkloadRef, decode_event, files,
};
use sha2::{Digest, Sha256};

/// Requests of the workload and the tokens that each generates.
pub(crate) const REQUESTS: u64 = 4;
/// Tokens to generate for each request.
pub(crate) const OUTPUT_TOKENS: u32 = 3;

/// A results volume with job, workload and nonce.
pub(crate) struct Bench {
    directory: tempfile::TempDir,
    /// Variables of the agent's own environment.
    environment: Vec<(&'static str, PathBuf)>,
    /// Changed by a test before the start.
    pub(crate) job: Job,
}

/// What a finished agent left.
pub(crate) struct Outcome {
    pub(crate) status: Option<i32>,
    pub(crate) events: Vec<Event>,
    pub(crate) stderr: String,
}

/// `None`, with a line that says why, where there is no Python 3.
pub(crate) fn bench(fault: &str) -> Option<Bench> {
    if Command::new("python3").arg("--version").output().is_err() {
        let _ = writeln!(std::io::stderr(), "skipped: the stand-in driver needs python3");
        return None;
    }
    Some(Bench::new(fault))
}

impl Bench {
    /// A bench whose driver misbehaves as `fault` says.
    pub(crate) fn new(fault: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let output_dir = directory.path().join("results");
        fs_err::create_dir(&output_dir).unwrap();
        fs_err::write(output_dir.join(files::NONCE), "the-nonce\n").unwrap();
        let line = |index| format!("{{\"index\":{index},\"prompt_ids\":[1,2],\"output_tokens\":{OUTPUT_TOKENS}}}\n");
        let workload = (0..REQUESTS).map(line).collect::<Vec<_>>().concat();
        let path = directory.path().join("workload.jsonl");
        fs_err::write(&path, &workload).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agent/driver.py");
        let job = Job {
            schema_version: llem_protocol::JOB_SCHEMA_VERSION,
            protocol_version: PROTOCOL_VERSION,
            run_id: "001-test-c1".to_owned(),
            nonce: "the-nonce".to_owned(),
            output_dir,
            driver: DriverCommand {
                programs: vec!["/nowhere/python3".to_owned(), "python3".to_owned()],
                args: vec![script.display().to_string(), fault.to_owned()],
                env: BTreeMap::new(),
            },
            engine: engine(),
            workload: WorkloadRef {
                path,
                sha256: hex::encode(Sha256::digest(&workload)),
                requests: REQUESTS,
                ignore_eos: true,
            },
            measurement: MeasurementSpec {
                baseline_s: 0.0,
                warmup_passes: 1,
                thermal_floor_s: 0.0,
                thermal_gate_timeout_s: 0.0,
                window_min_s: 0.0,
                window_min_passes: 2,
                prefill_min_s: 0.0,
                sample_hz: 10.0,
                allow_mig: false,
            },
            timeouts_s: BTreeMap::from([(Phase::Import, 30.0), (Phase::Load, 30.0), (Phase::Window, 30.0)]),
            gpus: Vec::new(),
            powercap: None,
            cpus: None,
        };
        Self { directory, environment: Vec::new(), job }
    }

    /// Gives the run a sensor: a processor package whose counter stands still.
    pub(crate) fn with_sensor(&mut self) {
        let zone = self.path("powercap/intel-rapl:0");
        fs_err::create_dir_all(&zone).unwrap();
        for (name, content) in
            [("name", "package-0"), ("energy_uj", "1000000"), ("max_energy_range_uj", "262143328850")]
        {
            fs_err::write(zone.join(name), format!("{content}\n")).unwrap();
        }
        self.job.powercap = Some(self.path("powercap"));
    }

    /// Puts a scripted NVML in the agent's way.
    pub(crate) fn with_nvml(&mut self, script: &fake_nvml::Script) {
        self.environment = fake_nvml::stage(self.directory.path(), script).unwrap().to_vec();
    }

    /// The variables that put it there.
    pub(crate) fn environment(&self) -> &[(&'static str, PathBuf)] {
        &self.environment
    }

    /// Takes it away again.
    pub(crate) fn without_nvml(&mut self) {
        self.environment.clear();
    }

    /// A path beside the results.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The agent's command line with the job written to its file.
    pub(crate) fn command(&self) -> Command {
        let job_file = self.path("job.json");
        fs_err::write(&job_file, serde_json::to_vec(&self.job).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_llem-agent"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg(job_file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the agent to its end.
    pub(crate) fn run(&self) -> Outcome {
        finish(self.command().spawn().unwrap())
    }

    /// Runs the agent and sends SIGTERM as soon as `reached` is true of an event.
    pub(crate) fn run_until(&self, reached: impl Fn(&EventBody) -> bool) -> Outcome {
        let mut child = self.command().spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
        let mut events = Vec::new();
        for line in lines.by_ref() {
            let event = decode_event(&line.unwrap()).unwrap();
            let is_it = reached(&event.body);
            events.push(event);
            if is_it {
                signal(child.id(), rustix::process::Signal::TERM);
                break;
            }
        }
        events.extend(lines.map(|line| decode_event(&line.unwrap()).unwrap()));
        let outcome = finish(child);
        Outcome { events, ..outcome }
    }

    /// `report.json`, if it was written.
    pub(crate) fn report(&self) -> Option<Report> {
        let text = fs_err::read(self.job.output_dir.join(files::REPORT)).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// `requests.jsonl`.
    pub(crate) fn records(&self) -> Vec<RequestRecord> {
        let text = fs_err::read_to_string(self.job.output_dir.join(files::REQUESTS)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `samples.jsonl`.
    pub(crate) fn samples(&self) -> Vec<PowerSample> {
        let text = fs_err::read_to_string(self.job.output_dir.join(files::SAMPLES)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `driver.log`.
    pub(crate) fn driver_log(&self) -> String {
        String::from_utf8_lossy(&fs_err::read(self.job.output_dir.join(files::DRIVER_LOG)).unwrap()).into_owned()
    }
}

impl Outcome {
    /// The failure of the last event, after checking that the exit status says the same.
    pub(crate) fn failure(&self) -> Failure {
        assert_eq!(self.status, Some(3), "{}", self.stderr);
        match self.events.last().map(|event| &event.body) {
            Some(EventBody::Failed { failure }) => failure.clone(),
            other => panic!("the last event is {other:?}; stderr: {}", self.stderr),
        }
    }
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Whether a process exists and has not ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

/// Waits for the agent and takes what it wrote.
pub(crate) fn finish(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Outcome {
        status: output.status.code(),
        events: lines.map(|line| decode_event(line).unwrap()).collect(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn engine() -> EngineSpec {
    EngineSpec {
        backend: "stand-in".to_owned(),
        model: ModelLocation::Directory("/nowhere/model".into()),
        dtype: "float32".to_owned(),
        options: serde_json::Map::new(),
        extra: serde_json::Map::new(),
        sampling: serde_json::Map::new(),
        lora: None,
        random_seed: "42".to_owned(),
    }
}
