//! The processors that runs are kept to, as the kernel tells while and after they last.

use llem_protocol::CpuList;

use crate::process_runner::descendants;
use crate::support::{Bench, docker_text};
use serde_json::json;

/// The processors that the kernel lets a process run on.
fn allowed(process: &str) -> Option<CpuList> {
    let status = fs_err::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().parse().ok()
}

/// One processor for the engine and, where there is another, one for the agent.
fn two() -> [String; 2] {
    let own = allowed("self").unwrap();
    [own.iter().last(), own.iter().next()].map(|number| number.unwrap().to_string())
}

fn pinned(bench: Bench) -> Bench {
    let [engine, agent] = two();
    let mut bench = bench;
    bench.user = json!({"cpus": {"engine": engine, "agent": agent}});
    bench
}

/// The result says what was asked, and what was in effect.
fn is_recorded(bench: &Bench, runner: &str) {
    let finished = bench.run(&["--runner", runner]);
    finished.exits(0);
    let result = finished.results().remove(0);
    let [engine, agent] = two();
    let asked = result.cpus.unwrap();
    assert_eq!([asked.engine.to_string(), asked.agent.to_string()], [engine.clone(), agent.clone()]);
    let environment = result.environment.unwrap();
    assert_eq!((environment.engine_cpus, environment.agent_cpus), (Some(engine), Some(agent)));
}

/// The processors of the processes with these ids, in their order; `None` where they are not in this PID namespace.
fn of_all(pids: &[String]) -> Option<Vec<String>> {
    pids.iter().map(|pid| Some(allowed(pid)?.to_string())).collect()
}

#[test]
fn agent_and_engine_of_a_process_keep_to_their_processors() {
    let bench = pinned(Bench::new("cpus-process"));
    is_recorded(&bench, "process");
    let bench = bench.long_window();
    let mut llem = bench.start(&["--runner", "process"]);
    llem.until_window();
    let below: Vec<String> = descendants(llem.pid()).iter().map(|pid| pid.as_raw_nonzero().to_string()).collect();
    let [engine, agent] = two();
    assert_eq!(of_all(&below), Some(vec![agent, engine]), "agent and driver");
    assert_eq!(allowed(&llem.pid().as_raw_nonzero().to_string()), allowed("self"), "llem itself stays where it was");
}

#[test]
fn agent_and_engine_of_a_container_keep_to_their_processors() {
    let Some(bench) = Bench::docker("cpus-docker") else { return };
    let bench = pinned(bench);
    is_recorded(&bench, "docker");
    let bench = bench.long_window();
    let mut llem = bench.start(&["--runner", "docker"]);
    llem.until_window();
    let container = llem.container();
    let [engine, agent] = two();
    let both = engine.parse::<CpuList>().unwrap().and(&agent.parse().unwrap());
    let cpuset = docker_text(&["inspect", "-f", "{{.HostConfig.CpusetCpus}}", &container]);
    assert_eq!(cpuset.trim(), both.to_string());
    let top = docker_text(&["top", &container, "-eo", "pid"]);
    let mut inside: Vec<u32> = top.lines().filter_map(|line| line.trim().parse().ok()).collect();
    inside.sort_unstable();
    let inside: Vec<String> = inside.iter().map(u32::to_string).collect();
    let Some(found) = of_all(&inside) else {
        let text = b"skipped: the engine's processes are not in this PID namespace\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text);
        return;
    };
    assert_eq!(found, [both.to_string(), agent, engine], "init, agent and driver: {top}");
}

#[test]
fn processors_that_are_not_there_are_refused_before_anything_is_started() {
    for (cpus, code, said) in [
        (json!({"engine": "0,8000"}), 1, "this machine has no processor 8000 (it has 0"),
        (json!({"engine": "3-1"}), 2, "`3-1` is no list of processors such as `0-3,8`"),
        (json!({"agent": "0"}), 2, "`cpus.agent` is set and `cpus.engine` is not"),
    ] {
        let mut bench = Bench::new("cpus-absent");
        bench.user = json!({ "cpus": cpus });
        let finished = bench.run(&["--runner", "process"]);
        finished.exits(code).says(&[said]);
        assert!(!bench.output.exists(), "{cpus}");
    }
}
