//! The watch of the GPUs, with a scripted NVML that lists real processes. The library's loader looks at its environment when the
//! program starts, so that each test starts this program again as the one that watches.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fake_nvml::{Affected, Device, Failure, Pid, Process, ProcessKind, Script, Span, code, monotonic_ns};
use llem::gpu_watch::{Expected, GpuProcess, GpuWatch, Owner};
use llem::host::GpusSnapshot;
use llem_protocol::{Reason, ReasonCode, Severity};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::process_runner::descendants;
use crate::support::{Bench, docker_text, eventually};

/// Longer than two looks take.
const LOOKS: Duration = Duration::from_millis(700);

/// What a test makes of the script.
type Change = fn(&mut Script);

/// What the watching program is told at the end.
#[derive(Serialize, Deserialize)]
struct Question {
    container: Option<String>,
    agent: Option<u32>,
    start_ns: u64,
    end_ns: u64,
}

/// What it says.
#[derive(Serialize, Deserialize)]
struct Answer {
    reasons: Vec<Reason>,
    processes: Vec<GpuProcess>,
    gpus: Option<GpusSnapshot>,
    cpu_share: f64,
}

/// A program that watches, and the GPUs that it sees.
struct Scene {
    directory: TempDir,
    program: Child,
    start_ns: u64,
}

impl Scene {
    /// A machine with GPU-0, GPU-1 and so on; the run has the first `of_run` of them. The file `N` lists the processes of GPU-N.
    fn start(gpus: usize, of_run: usize, change: Change) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = |number: usize, kind| Process {
            pid: Pid::File(directory.path().join(number.to_string()).display().to_string()),
            bytes: Some(900 << 20),
            kind,
            ..Process::default()
        };
        let device = |number| Device {
            uuid: format!("GPU-{number}"),
            processes: vec![process(number, ProcessKind::Compute)],
            ..Device::default()
        };
        let mut script = Script { devices: (0..gpus).map(device).collect(), ..Script::starting_now() };
        change(&mut script);
        let environment = fake_nvml::stage(directory.path(), &script).unwrap();
        let program = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "gpu_watch::watching_program"])
            .envs(environment)
            .env("SCENE", directory.path())
            .env("SCENE_GPUS", of_run.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let watching = directory.path().join("watching");
        eventually("the watch begins", || watching.exists().then_some(()));
        std::thread::sleep(LOOKS);
        Self { directory, program, start_ns: monotonic_ns() }
    }

    /// Puts processes on a GPU in place of those that are there, and lets them be seen.
    fn put(&self, gpu: usize, pids: &[u32]) {
        let text: String = pids.iter().flat_map(|pid| [pid.to_string(), "\n".to_owned()]).collect();
        replace(&self.directory.path().join(gpu.to_string()), &text);
        std::thread::sleep(LOOKS);
    }

    /// Opens the window; it is open from the start otherwise.
    fn open_window(&mut self) {
        self.start_ns = monotonic_ns();
    }

    /// Closes the window and ends the watch.
    fn judge(mut self, owner: Owner) -> Answer {
        let (container, agent) = match owner {
            Owner::Container(id) => (Some(id), None),
            Owner::Agent(pid) => (None, Some(pid)),
        };
        let question = Question { container, agent, start_ns: self.start_ns, end_ns: monotonic_ns() };
        std::thread::sleep(LOOKS);
        replace(&self.directory.path().join("question"), &serde_json::to_string(&question).unwrap());
        assert!(self.program.wait().unwrap().success());
        serde_json::from_str(&fs_err::read_to_string(self.directory.path().join("answer")).unwrap()).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Readers see all of it or nothing.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs_err::write(&new, text).unwrap();
    fs_err::rename(&new, path).unwrap();
}

#[test]
#[ignore = "the program that the tests below start"]
fn watching_program() {
    let directory = std::path::PathBuf::from(std::env::var_os("SCENE").unwrap());
    let of_run: usize = std::env::var("SCENE_GPUS").unwrap().parse().unwrap();
    let gpus: Vec<String> = (0..of_run).map(|number| format!("GPU-{number}")).collect();
    let cpu_s = || {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
    };
    let watch = GpuWatch::start(&gpus).unwrap();
    fs_err::write(directory.join("watching"), "").unwrap();
    std::thread::sleep(LOOKS);
    let (used_s, since_ns) = (cpu_s(), monotonic_ns());
    let mut looks = 0u32;
    let question = loop {
        if let Ok(text) = fs_err::read_to_string(directory.join("question")) {
            break text;
        }
        looks += 1;
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(looks > 0);
    let cpu_share = (cpu_s() - used_s) / ((monotonic_ns() - since_ns) as f64 / 1e9);
    let watched = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(watch.finish());
    let asked: Question = serde_json::from_str(&question).unwrap();
    let owner = asked.container.map(Owner::Container).or(asked.agent.map(Owner::Agent));
    let (start_ns, end_ns) = (asked.start_ns, asked.end_ns);
    let expected = Expected { start_ns, end_ns, baseline: None, prefill: None, parameters: Some(1_000_000_000) };
    let verdict = watched.judge(owner.as_ref(), Some(expected));
    let answer = Answer { reasons: verdict.reasons, processes: verdict.processes, gpus: watched.gpus, cpu_share };
    replace(&directory.join("answer"), &serde_json::to_string(&answer).unwrap());
}

/// A process of somebody else.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        Self(Command::new("sleep").arg("300").spawn().unwrap())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Codes and severities; in a PID namespace of its own, a watch says so each time.
fn codes(answer: &Answer) -> Vec<(ReasonCode, Severity)> {
    let own_namespace = |reason: &&Reason| !reason.message.contains("PID namespace");
    answer.reasons.iter().filter(own_namespace).map(|reason| (reason.code, reason.severity)).collect()
}

/// Ids of agent and driver of a run under way with the `process` runner.
fn agent_and_driver(llem: rustix::process::Pid) -> (u32, u32) {
    let below: Vec<u32> = descendants(llem).iter().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()).collect();
    let [agent, driver] = below[..] else { panic!("{below:?}") };
    (agent, driver)
}

#[test]
fn what_is_on_the_gpus_of_a_run_is_told_apart() {
    let bench = Bench::new("watch-process").long_window();
    let mut llem = bench.start(&["--runner", "process"]);
    llem.until_window();
    let (agent, driver) = agent_and_driver(llem.pid());
    let stranger = Stranger::new();
    let mut scene = Scene::start(3, 2, |_| {});
    scene.put(1, &[driver, stranger.0.id()]);
    scene.put(1, &[driver]);
    scene.put(0, &[driver]);
    scene.open_window();
    scene.put(0, &[driver, stranger.0.id()]);
    scene.put(0, &[driver]);
    scene.put(2, &[driver, stranger.0.id()]);
    let answer = scene.judge(Owner::Agent(agent));
    let expected = [
        (ReasonCode::ForeignProcess, Severity::Invalid),
        (ReasonCode::ForeignProcessOutside, Severity::Note),
        (ReasonCode::WrongDevice, Severity::Invalid),
    ];
    assert_eq!(codes(&answer), expected, "{:#?}", answer.reasons);
    let named =
        format!("process {} (sleep, uid {}, 900 MiB on GPU-0)", stranger.0.id(), rustix::process::getuid().as_raw());
    assert!(answer.reasons.iter().any(|reason| reason.message.starts_with(&named)), "{named}: {:#?}", answer.reasons);
    let is_own = |process: &GpuProcess| process.own == Some(process.pid == driver);
    assert!(answer.processes.len() == 6 && answer.processes.iter().all(is_own), "{:#?}", answer.processes);
    let gpus = answer.gpus.unwrap();
    assert_eq!((gpus.driver.as_deref(), gpus.cuda_driver.as_deref()), (Some("580.159.04"), Some("13.0")));
    assert_eq!((gpus.gpus.len(), gpus.other_gpus), (2, 1));
    let (gpu, default_w) = (&gpus.gpus[1], Some(700.0));
    assert_eq!((gpu.uuid.as_str(), gpu.ecc, gpu.mig, gpu.persistence), ("GPU-1", Some(true), Some(false), Some(true)));
    assert_eq!(
        (gpu.power_limit_w, gpu.power_limit_default_w, gpu.power_limit_enforced_w),
        (default_w, default_w, default_w)
    );
    assert_eq!((gpu.sm_clock_max_mhz, gpu.memory_clock_max_mhz), (Some(1980), Some(2619)));
    assert!(gpu.name.is_some() && gpu.vbios.is_some() && gpu.pci_bus_id.is_some() && gpu.memory_bytes > Some(1 << 36));
}

#[test]
fn processes_of_a_container_are_known_by_its_id() {
    let Some(bench) = Bench::docker("watch-docker") else { return };
    let bench = bench.long_window();
    let mut llem = bench.start(&["--runner", "docker"]);
    llem.until_window();
    let id = docker_text(&["inspect", "-f", "{{.Id}}", &llem.container()]).trim().to_owned();
    let top = docker_text(&["top", &id, "-eo", "pid"]);
    let inside: Vec<u32> = top.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert_eq!(inside.len(), 3, "init, agent and driver: {top}");
    if !inside.iter().all(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
        let _ = writeln!(std::io::stderr(), "skipped: the engine's processes are not in this PID namespace");
        return;
    }
    let stranger = Stranger::new();
    let scene = Scene::start(1, 1, |_| {});
    scene.put(0, &inside);
    scene.put(0, &[&inside[..], &[stranger.0.id()]].concat());
    let answer = scene.judge(Owner::Container(id));
    assert_eq!(codes(&answer), [(ReasonCode::ForeignProcess, Severity::Invalid)], "{:#?}", answer.reasons);
    let is_own = |process: &GpuProcess| process.own == Some(inside.contains(&process.pid));
    assert!(answer.processes.len() == 4 && answer.processes.iter().all(is_own), "{:#?}", answer.processes);
}

#[test]
fn a_process_that_is_gone_when_it_is_looked_up_is_foreign() {
    let gone = Stranger::new().0.id();
    let scene = Scene::start(1, 1, |_| {});
    scene.put(0, &[gone]);
    let answer = scene.judge(Owner::Agent(std::process::id()));
    assert!(answer.processes[0].name == "unknown" && answer.processes[0].uid.is_none(), "{:?}", answer.processes);
    // In a PID namespace of its own, nobody can say whose it is.
    let sees_all = answer.processes[0].own == Some(false);
    let foreign = [(ReasonCode::ForeignProcess, Severity::Invalid)];
    assert_eq!(codes(&answer), if sees_all { &foreign[..] } else { &[] });
}

#[test]
fn graphics_count_too() {
    let scene = Scene::start(1, 1, |script| script.devices[0].processes[0].kind = ProcessKind::Graphics);
    let stranger = Stranger::new();
    scene.put(0, &[stranger.0.id()]);
    let answer = scene.judge(Owner::Agent(1_000_000_000));
    assert!(codes(&answer).contains(&(ReasonCode::ForeignProcess, Severity::Invalid)), "{:?}", answer.reasons);
    assert!(answer.processes[0].graphics);
}

fn unsupported() -> Failure {
    Failure { affected: Affected::Processes, during: Span::default(), code: code::NOT_SUPPORTED }
}

#[test]
fn an_nvml_that_fails_is_a_note() {
    let changes: [(&str, Change); 3] = [
        ("NVML cannot be used", |script| script.init_code = Some(code::DRIVER_NOT_LOADED)),
        ("GPU-0 could not be listed", |script| script.devices[0].failures.push(unsupported())),
        ("NVML does not list GPU-0", |script| script.devices.clear()),
    ];
    for (expected, change) in changes {
        let answer = Scene::start(1, 1, change).judge(Owner::Agent(1));
        assert_eq!(codes(&answer), [(ReasonCode::ForeignCheckUnavailable, Severity::Note)], "{:?}", answer.reasons);
        assert!(answer.reasons.iter().any(|reason| reason.message.contains(expected)), "{:?}", answer.reasons);
    }
}

#[test]
fn a_gpu_that_is_lost_in_the_window_is_a_note() {
    let scene = Scene::start(1, 1, |script| script.devices[0].lost_at_s = Some(1.5));
    std::thread::sleep(Duration::from_secs(2));
    let answer = scene.judge(Owner::Agent(1));
    assert_eq!(codes(&answer), [(ReasonCode::ForeignCheckUnavailable, Severity::Note)], "{:?}", answer.reasons);
    assert!(answer.reasons.iter().any(|reason| reason.message.contains("of the window (")), "{:?}", answer.reasons);
}

#[test]
fn without_gpus_there_is_no_watch() {
    assert!(GpuWatch::start(&[]).is_none());
}

#[test]
fn the_watch_of_eight_gpus_costs_less_than_a_hundredth_of_a_core() {
    let scene = Scene::start(8, 1, |_| {});
    let strangers = [Stranger::new(), Stranger::new()];
    let pids = strangers.each_ref().map(|stranger| stranger.0.id());
    for gpu in 0..8 {
        replace(&scene.directory.path().join(gpu.to_string()), &format!("{} {}", pids[0], pids[1]));
    }
    std::thread::sleep(Duration::from_secs(5));
    let answer = scene.judge(Owner::Agent(1));
    assert_eq!(answer.processes.len(), 16);
    // With the stand-in's own share, which reads a file for every list.
    assert!(answer.cpu_share < 0.01, "{:.3} % of a core", answer.cpu_share * 100.0);
}
