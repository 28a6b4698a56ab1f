//! From a run to a container: pure functions, no engine.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, DeviceMapping, DeviceRequest, HostConfig, HostConfigLogConfig, Mount, MountType,
};

use super::neighbour::{HostPaths, NotShared};
use super::{BindMount, LABEL_LOCK, LABEL_RUN, LABEL_STUDY, LABEL_VERSION, MachineConfig};
use crate::config::GpuAccess;
use crate::runner::offline::OFFLINE;
use crate::runner::{Gpu, Limits, RunSpec, inside};

/// How a container gets its GPUs, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GpuPlan {
    /// Never [`GpuAccess::Auto`].
    pub(super) access: GpuAccess,
    /// The run's GPUs.
    pub(super) gpus: Vec<Gpu>,
}

/// The body of the create call.
///
/// # Errors
///
/// A directory that the container must see is none of the engine's machine.
pub(super) fn container(
    spec: &RunSpec,
    machine: &MachineConfig,
    gpus: &GpuPlan,
    user: &str,
) -> Result<ContainerCreateBody, NotShared> {
    Ok(ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: Some(vec![inside::AGENT.to_owned()]),
        cmd: Some(vec![inside::JOB.to_owned()]),
        env: Some(environment(spec, gpus)),
        labels: Some(labels(spec)),
        user: Some(user.to_owned()),
        working_dir: Some("/llem".to_owned()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        host_config: Some(host_config(spec, machine, gpus)?),
        ..ContainerCreateBody::default()
    })
}

fn labels(spec: &RunSpec) -> HashMap<String, String> {
    HashMap::from([
        (LABEL_STUDY.to_owned(), spec.study_id.clone()),
        (LABEL_RUN.to_owned(), spec.job.run_id.clone()),
        (LABEL_LOCK.to_owned(), spec.study_lock.display().to_string()),
        (LABEL_VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ])
}

/// A user without an entry in the image's /etc/passwd has no home; engines want one for their caches.
fn environment(spec: &RunSpec, gpus: &GpuPlan) -> Vec<String> {
    let mut env: BTreeMap<String, String> = OFFLINE
        .into_iter()
        .chain([("HOME", "/tmp")])
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    env.extend(
        visible_devices(gpus)
            .and_then(|text| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))),
    );
    env.extend(spec.env.clone());
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// With raw device nodes nothing else tells CUDA which GPUs are the container's.
pub(super) fn visible_devices(gpus: &GpuPlan) -> Option<String> {
    let uuids = || gpus.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect::<Vec<_>>().join(",");
    (gpus.access == GpuAccess::Devices).then(|| format!("CUDA_VISIBLE_DEVICES={}", uuids()))
}

fn host_config(spec: &RunSpec, machine: &MachineConfig, gpus: &GpuPlan) -> Result<HostConfig, NotShared> {
    Ok(HostConfig {
        mounts: Some(on_host(mounts(spec, machine), &machine.paths)?),
        cap_add: (!machine.cap_add.is_empty()).then(|| machine.cap_add.clone()),
        devices: Some(devices(machine, gpus)),
        device_requests: device_requests(gpus),
        // Within it, the agent keeps itself and the engine each to its own.
        cpuset_cpus: spec.job.cpus.as_ref().map(|cpus| cpus.engine.and(&cpus.agent).to_string()),
        ..confinement(&spec.limits)
    })
}

/// The least that a container can do with: what every container of llem starts from.
pub(super) fn confinement(limits: &Limits) -> HostConfig {
    let memory = limits.memory_bytes.map(|bytes| bytes as i64);
    HostConfig {
        tmpfs: Some(HashMap::from([("/tmp".to_owned(), "mode=1777,exec".to_owned())])),
        network_mode: Some("none".to_owned()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        memory,
        memory_swap: memory,
        shm_size: Some(limits.shm_bytes as i64),
        pids_limit: Some(i64::from(limits.pids)),
        init: Some(true),
        // Events are read from the engine's log; a site's own default driver may keep none.
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([("max-size".to_owned(), "64m".to_owned())])),
        }),
        ..HostConfig::default()
    }
}

/// The same mounts by the names that the engine's machine has for their sources.
pub(super) fn on_host(mounts: Vec<Mount>, paths: &HostPaths) -> Result<Vec<Mount>, NotShared> {
    let translate = |mount: Mount| {
        let source = mount.source.as_ref().map(|source| paths.on_host(Path::new(source))).transpose()?;
        Ok(Mount { source: source.map(|source| source.display().to_string()), ..mount })
    };
    mounts.into_iter().map(translate).collect()
}

fn mounts(spec: &RunSpec, machine: &MachineConfig) -> Vec<Mount> {
    let mut mounts = vec![bind(&spec.files.output_dir, Path::new(inside::OUT), false)];
    let weights = [
        (&spec.files.model_dir, inside::MODEL),
        (&spec.files.adapter_dir, inside::ADAPTER),
        (&spec.files.draft_dir, inside::DRAFT),
    ];
    mounts.extend(weights.iter().filter_map(|(dir, target)| Some(bind(dir.as_deref()?, Path::new(target), true))));
    mounts.extend(spec.files.engine.as_ref().map(|e| bind(&e.dir, Path::new(inside::ENGINE), e.read_only)));
    mounts.extend(machine.powercap.as_deref().map(|zones| bind(zones, Path::new(inside::POWERCAP), true)));
    mounts.extend(machine_mounts(&machine.mounts));
    mounts
}

/// What the machine's owner adds to every container.
pub(super) fn machine_mounts(own: &[BindMount]) -> impl Iterator<Item = Mount> {
    own.iter().map(|mount| bind(&mount.source, &mount.target, mount.read_only))
}

fn bind(source: &Path, target: &Path, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.display().to_string()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn devices(machine: &MachineConfig, gpus: &GpuPlan) -> Vec<DeviceMapping> {
    machine.devices.iter().map(|node| device(node)).chain(gpu_devices(gpus)).collect()
}

/// The raw device nodes of GPUs, where these are how they get in.
pub(super) fn gpu_devices(gpus: &GpuPlan) -> Vec<DeviceMapping> {
    if gpus.access != GpuAccess::Devices || gpus.gpus.is_empty() {
        return Vec::new();
    }
    let own = gpus.gpus.iter().map(|gpu| PathBuf::from(format!("/dev/nvidia{}", gpu.minor)));
    let common = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"].map(PathBuf::from);
    own.chain(common.into_iter().filter(|node| node.exists())).map(|node| device(&node)).collect()
}

fn device(node: &Path) -> DeviceMapping {
    let path = node.display().to_string();
    DeviceMapping {
        path_on_host: Some(path.clone()),
        path_in_container: Some(path),
        cgroup_permissions: Some("rw".to_owned()),
    }
}

/// `utility` makes the NVIDIA runtime mount NVML whatever the image asks for.
pub(super) fn device_requests(plan: &GpuPlan) -> Option<Vec<DeviceRequest>> {
    if plan.gpus.is_empty() {
        return None;
    }
    let uuids = plan.gpus.iter().map(|gpu| gpu.uuid.clone());
    let (driver, ids): (&str, Vec<String>) = match plan.access {
        GpuAccess::Nvidia => ("nvidia", uuids.collect()),
        GpuAccess::Cdi => ("cdi", uuids.map(|uuid| format!("nvidia.com/gpu={uuid}")).collect()),
        GpuAccess::Auto | GpuAccess::Devices | GpuAccess::None => return None,
    };
    let capabilities = ["gpu", "utility", "compute"].map(str::to_owned).to_vec();
    Some(vec![DeviceRequest {
        driver: Some(driver.to_owned()),
        device_ids: Some(ids),
        capabilities: Some(vec![capabilities]),
        ..DeviceRequest::default()
    }])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use llem_protocol::CpuPinning;

    use super::{GpuPlan, OFFLINE, container, device_requests};
    use crate::config::GpuAccess;
    use crate::runner::docker::{BindMount, MachineConfig};
    use crate::runner::{DriverFiles, EngineMount, Gpu, HostFiles, Limits, RunSpec};
    use crate::testing::job;

    fn spec() -> RunSpec {
        let files = HostFiles {
            output_dir: "/s/runs/1/.volume".into(),
            workload: "/c/w.jsonl".into(),
            model_dir: Some("/c/model".into()),
            adapter_dir: Some("/c/adapter".into()),
            draft_dir: Some("/c/draft".into()),
            agent: "/b/llem-agent".into(),
            driver: DriverFiles::Program("/b/llem-candle".into()),
            engine: Some(EngineMount { dir: "/c/engine".into(), read_only: true }),
        };
        RunSpec {
            study_id: "study".into(),
            study_lock: "/s/.lock".into(),
            image: "image:1".into(),
            files,
            job: job(),
            job_file: "/s/runs/1/job.json".into(),
            env: [("SITE".to_owned(), "x".to_owned())].into(),
            limits: Limits { memory_bytes: Some(1 << 30), shm_bytes: 1 << 20, pids: 99 },
            facts: None,
        }
    }

    fn plan(access: GpuAccess) -> GpuPlan {
        GpuPlan { access, gpus: vec![Gpu { uuid: "GPU-a".into(), minor: 3 }] }
    }

    #[test]
    fn containers_have_the_least_privilege() {
        let machine = MachineConfig { cap_add: vec!["SYS_NICE".into()], ..MachineConfig::default() };
        let body = container(&spec(), &machine, &GpuPlan { access: GpuAccess::None, gpus: vec![] }, "7:8").unwrap();
        let host = body.host_config.unwrap();
        assert_eq!(body.user.as_deref(), Some("7:8"));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.cap_add.unwrap(), ["SYS_NICE"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!((host.memory, host.memory_swap), (Some(1 << 30), Some(1 << 30)));
        assert_eq!((host.pids_limit, host.shm_size), (Some(99), Some(1 << 20)));
        assert_eq!(host.device_requests, None);
        let env = body.env.unwrap();
        let offline = OFFLINE.map(|(name, value)| format!("{name}={value}"));
        let (own, rest): (Vec<_>, Vec<_>) = env.iter().partition(|pair| offline.contains(pair));
        assert_eq!(own.len(), offline.len());
        assert_eq!(rest, ["HOME=/tmp", "SITE=x"]);
    }

    #[test]
    fn containers_are_kept_to_the_processors_of_engine_and_agent() {
        let mut spec = spec();
        let cpuset = |spec: &RunSpec| {
            let none = GpuPlan { access: GpuAccess::None, gpus: vec![] };
            container(spec, &MachineConfig::default(), &none, "7:8").unwrap().host_config.unwrap().cpuset_cpus
        };
        assert_eq!(cpuset(&spec), None);
        let (engine, agent) = ("0-2".parse().unwrap(), "7".parse().unwrap());
        spec.job.cpus = Some(CpuPinning { engine, agent });
        assert_eq!(cpuset(&spec).as_deref(), Some("0-2,7"));
    }

    #[test]
    fn only_the_results_are_writable() {
        let share = BindMount { source: "/data".into(), target: "/data".into(), read_only: true };
        let powercap = Some("/sys/devices/virtual/powercap/intel-rapl".into());
        let machine = MachineConfig { mounts: vec![share], powercap, ..MachineConfig::default() };
        let body = container(&spec(), &machine, &GpuPlan { access: GpuAccess::None, gpus: vec![] }, "0:0").unwrap();
        let mounts = body.host_config.unwrap().mounts.unwrap();
        let shown: Vec<_> = mounts.iter().map(|m| (m.target.as_deref().unwrap(), m.read_only.unwrap())).collect();
        let expected = [
            ("/llem/out", false),
            ("/llem/model", true),
            ("/llem/adapter", true),
            ("/llem/draft", true),
            ("/llem/engine", true),
            ("/llem/powercap", true),
            ("/data", true),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn gpus_are_asked_for_by_uuid() {
        let ids =
            |access| device_requests(&plan(access)).map(|r| (r[0].driver.clone(), r[0].device_ids.clone().unwrap()));
        assert_eq!(ids(GpuAccess::Nvidia), Some((Some("nvidia".into()), vec!["GPU-a".to_owned()])));
        assert_eq!(ids(GpuAccess::Cdi), Some((Some("cdi".into()), vec!["nvidia.com/gpu=GPU-a".to_owned()])));
        assert_eq!(ids(GpuAccess::Devices), None);
        let request = device_requests(&plan(GpuAccess::Nvidia)).unwrap().remove(0);
        // The engine refuses a request with both a count and ids.
        assert_eq!(request.count, None);
        assert!(request.capabilities.unwrap()[0].contains(&"utility".to_owned()));
    }

    #[test]
    fn raw_devices_are_those_of_the_runs_gpus() {
        let machine = MachineConfig { devices: vec![PathBuf::from("/dev/fuse")], ..MachineConfig::default() };
        let body = container(&spec(), &machine, &plan(GpuAccess::Devices), "0:0").unwrap();
        let nodes: Vec<_> =
            body.host_config.unwrap().devices.unwrap().into_iter().map(|d| d.path_on_host.unwrap()).collect();
        assert_eq!(nodes[..2], ["/dev/fuse", "/dev/nvidia3"]);
        assert!(body.env.unwrap().contains(&"CUDA_VISIBLE_DEVICES=GPU-a".to_owned()));
    }
}
