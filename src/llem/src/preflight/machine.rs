//! The machine, looked at without a study. Nothing is started and nothing is written.

use std::path::Path;

use super::Check;
use super::disk::directory;
use crate::config::{Backend, GpuAccess, RunnerKind, UserConfig, is_image_path};
use crate::host::cpus::obstacle;
use crate::host::{GpuInventory, GpuSnapshot, HostSnapshot};
use crate::hub::Hub;
use crate::runner::ApptainerRunner;
use crate::runner::apptainer::{ApptainerError, glance};
use crate::runner::docker::{DockerRunner, Engine, MachineConfig, host_powercap};
use crate::runner::slurm::Slurm;

/// Directories that llem writes to.
#[derive(Clone, Copy, Debug)]
pub struct Directories<'a> {
    /// Where study directories are made.
    pub output: &'a Path,
    /// Where compiled engines are kept.
    pub engine_cache: &'a Path,
    /// How that cache is limited.
    pub engine_cache_limits: &'a str,
}

/// Looks at everything that runs depend on, in the order in which they do.
pub async fn machine(user: &UserConfig, directories: Directories<'_>) -> Vec<Check> {
    let mut checks = vec![config()];
    let engine = engine(user, &mut checks).await;
    if let Some(engine) = &engine {
        images(user, engine, &mut checks).await;
    }
    checks.extend(slurm(user).await);
    checks.extend(apptainer(user).await);
    gpus(user, engine.as_ref(), &mut checks);
    checks.extend(cpus(user, engine.as_ref()));
    checks.push(processor_energy());
    checks.extend(governor());
    checks.push(directory("results", directories.output, "`--output` or LLEM_OUTPUT"));
    checks.push(directory("cache", &user.cache_root(), "`cache_dir` of the user config"));
    let mut engines = directory("engine cache", directories.engine_cache, "`engine_cache_dir` of the user config");
    engines.found = format!("{}; {}", engines.found, directories.engine_cache_limits);
    checks.push(engines);
    checks.push(hub());
    checks
}

fn config() -> Check {
    match UserConfig::location() {
        Some(path) => Check::ok("user config", path.display().to_string()),
        None => Check::ok("user config", "none; defaults"),
    }
}

async fn engine(user: &UserConfig, checks: &mut Vec<Check>) -> Option<Engine> {
    let kinds = || user.runners.values().copied().chain([user.runner]);
    if !kinds().any(RunnerKind::may_use_engine) {
        let runner = match user.runner {
            RunnerKind::Slurm => "slurm",
            RunnerKind::Apptainer => "apptainer",
            _ => "process",
        };
        checks.push(Check::ok("container engine", format!("not used: `runner: {runner}`")));
        return None;
    }
    match Engine::connect(user.docker_host.as_deref()).await {
        Ok(engine) => {
            checks.push(Check::ok("container engine", format!("{} at {}", engine.version(), engine.address())));
            Some(engine)
        }
        Err(error) => {
            let todo = "start one, or name its socket with `docker_host` or DOCKER_HOST";
            checks.push(if kinds().any(|kind| kind == RunnerKind::Docker) {
                Check::fails("container engine", error.to_string(), todo)
            } else {
                let found = format!("{error}; runs are processes of this machine");
                Check::warning("container engine", found, todo)
            });
            None
        }
    }
}

/// The batch system, where runs go to it.
async fn slurm(user: &UserConfig) -> Option<Check> {
    let mut kinds = user.runners.values().chain([&user.runner]);
    kinds.find(|kind| **kind == RunnerKind::Slurm)?;
    let slurm = Slurm::new(user.slurm.clone());
    let how = slurm.describe(1, user.slurm.time_limit_minutes.unwrap_or(1));
    let limit = if user.slurm.time_limit_minutes.is_some() { "" } else { "; time limits are estimated" };
    Some(match slurm.site().await {
        Ok((version, most_jobs)) => {
            Check::ok("slurm", format!("{version}, arrays of at most {most_jobs} jobs; {how}{limit}"))
        }
        Err(error) => {
            Check::fails("slurm", format!("{error}; {how}{limit}"), "run llem where `sinfo` shows the partitions")
        }
    })
}

/// Apptainer and its images, where a backend uses it. That containers start is tried out by a study.
async fn apptainer(user: &UserConfig) -> Vec<Check> {
    let kind = |backend| user.runner_of(backend, None);
    let mut checks = Vec::new();
    // On nodes it is looked for by their jobs.
    if Backend::ALL.into_iter().any(|backend| kind(backend) == RunnerKind::Apptainer) {
        checks.push(match ApptainerRunner::find_version().await {
            Ok(version) => Check::ok("apptainer", version),
            Err(error) => Check::fails("apptainer", error.to_string(), "load or install it, or choose another runner"),
        });
    }
    let images = user.images.iter().filter(|(backend, _)| user.takes_files(kind(**backend)));
    checks.extend(images.map(|(backend, image)| {
        let what = format!("image of {backend}");
        let todo = "`llem image export REFERENCE --sif FILE`, and name FILE by its absolute path";
        match glance(Path::new(image)) {
            Ok(()) if is_image_path(image) => Check::ok(&what, image.as_str()),
            Err(ApptainerError::NoImage { path, problem }) => {
                Check::warning(&what, format!("{}: {problem}", path.display()), todo)
            }
            Err(ApptainerError::Architecture { path, found, own }) => {
                Check::warning(&what, format!("{} is for {found}, and this machine is {own}", path.display()), todo)
            }
            _ => Check::warning(&what, format!("{image} is no SIF file or sandbox directory here"), todo),
        }
    }));
    checks
}

async fn images(user: &UserConfig, engine: &Engine, checks: &mut Vec<Check>) {
    for (backend, image) in user.images.iter().filter(|(backend, _)| user.runner_of(**backend, None).may_use_engine()) {
        let what = format!("image of {backend}");
        if is_image_path(image) {
            let todo = format!("`runners: {{{backend}: apptainer}}` in the user config, or `--runner apptainer`");
            checks.push(Check::warning(&what, format!("{image} is a file for Apptainer, and not for an engine"), todo));
            continue;
        }
        checks.push(match engine.image(image).await {
            Ok(Some(_)) => Check::ok(&what, image.as_str()),
            Ok(None) => Check::warning(&what, format!("{image} is missing"), format!("`llem image pull {image}`")),
            Err(error) => Check::warning(&what, format!("{image}: {error}"), "look at the engine"),
        });
    }
}

fn gpus(user: &UserConfig, engine: Option<&Engine>, checks: &mut Vec<Check>) {
    if user.gpu.access == GpuAccess::None {
        checks.push(Check::ok("GPUs", "none, by `gpu.access: none`"));
        return;
    }
    let inventory = GpuInventory::read(user);
    if inventory.uuids.is_empty() {
        checks.push(Check::ok("GPUs", "none; runs compute on the processor"));
        return;
    }
    if let Some(problem) = &inventory.problem {
        checks.push(Check::fails(
            "GPUs",
            problem.as_str(),
            "look at `nvidia-smi -L` and `gpu.devices` of the user config",
        ));
    }
    let driver = inventory.nvml.as_ref().and_then(|nvml| nvml.driver.as_deref()).unwrap_or("unknown").to_owned();
    for gpu in inventory.gpus() {
        let name = gpu.name.as_deref().unwrap_or("a GPU without a name");
        checks.push(Check::ok("GPU", format!("{name}, {}, driver {driver}", gpu.uuid)));
        checks.extend(settings(gpu));
    }
    for (uuid, processes) in &inventory.processes {
        let computes = processes.iter().filter(|process| !process.graphics).count();
        if computes > 0 {
            let found = format!("{computes} computing on {uuid}");
            checks.push(Check::warning("foreign processes", found, "end them: runs beside them are not valid"));
        }
    }
    if let Some(engine) = engine {
        let machine = MachineConfig { gpu_access: user.gpu.access, ..MachineConfig::default() };
        let access = DockerRunner::new(engine.clone(), machine).gpu_access();
        checks.push(Check::ok("GPU access", format!("{}; not tried out by this command", access.name())));
    }
}

/// Settings that change what is measured.
fn settings(gpu: &GpuSnapshot) -> Vec<Check> {
    let mut checks = Vec::new();
    if gpu.persistence == Some(false) {
        let found = format!("off on {}: the driver starts anew for every run", gpu.uuid);
        checks.push(Check::warning("persistence mode", found, "`nvidia-smi -pm 1` as root"));
    }
    if let (Some(limit), Some(default)) = (gpu.power_limit_w, gpu.power_limit_default_w)
        && limit < default
    {
        let found = format!("{limit:.0} W on {}, {default:.0} W by default", gpu.uuid);
        checks.push(Check::warning("power limit", found, "say so in what you publish, or set the default"));
    }
    if gpu.mig == Some(true) {
        let found = format!("on, on {}: power is that of the whole GPU", gpu.uuid);
        checks.push(Check::warning("MIG", found, "switch it off, or set `measurement.allow_mig: true`"));
    }
    checks
}

/// The processors that runs are kept to, where the user config names any.
fn cpus(user: &UserConfig, engine: Option<&Engine>) -> Option<Check> {
    let pinning = user.cpus.pinning()?;
    let found = format!("engine {}, agent {}", pinning.engine, pinning.agent);
    Some(match obstacle(user, engine.is_none(), engine) {
        None => Check::ok("processors of runs", found),
        Some(problem) => {
            Check::fails("processors of runs", format!("{found}: {problem}"), "correct `cpus` of the user config")
        }
    })
}

fn processor_energy() -> Check {
    let what = "energy of the processor";
    let Some(zones) = host_powercap() else {
        let todo = "nothing on this machine: energy of runs on the processor is null";
        return Check::warning(what, "the kernel shows no RAPL zones", todo);
    };
    let counter = zones.join("intel-rapl:0/energy_uj");
    match fs_err::read_to_string(&counter) {
        Ok(_) => Check::ok(what, format!("RAPL at {}", zones.display())),
        Err(error) => {
            let todo = format!("as root: chmod o+r {}/*/energy_uj", zones.display());
            Check::warning(what, format!("RAPL cannot be read: {error}"), todo)
        }
    }
}

fn governor() -> Option<Check> {
    let governor = HostSnapshot::read().cpu_governor?;
    Some(if governor == "performance" {
        Check::ok("processor governor", governor)
    } else {
        Check::warning(
            "processor governor",
            governor,
            "`cpupower frequency-set -g performance` as root for steady clocks",
        )
    })
}

fn hub() -> Check {
    match Hub::from_env() {
        Err(error) => Check::fails("model hub", error.to_string(), "correct the variable or the file"),
        Ok(hub) => {
            let settings = hub.settings();
            let line = if settings.offline { "offline (HF_HUB_OFFLINE)" } else { settings.endpoint.as_str() };
            let token = if hub.token().is_some() { "with a token" } else { "without a token" };
            Check::ok("model hub", format!("{line}, {token}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::settings;
    use crate::host::GpuSnapshot;

    #[test]
    fn settings_that_change_what_is_measured_are_named() {
        let steady = GpuSnapshot {
            uuid: "GPU-a".to_owned(),
            persistence: Some(true),
            mig: Some(false),
            power_limit_w: Some(700.0),
            power_limit_default_w: Some(700.0),
            ..GpuSnapshot::default()
        };
        assert!(settings(&steady).is_empty());
        let other =
            GpuSnapshot { persistence: Some(false), mig: Some(true), power_limit_w: Some(400.0), ..steady.clone() };
        let named: Vec<_> = settings(&other).into_iter().map(|check| (check.what, check.found)).collect();
        let expected = [
            ("persistence mode", "off on GPU-a: the driver starts anew for every run"),
            ("power limit", "400 W on GPU-a, 700 W by default"),
            ("MIG", "on, on GPU-a: power is that of the whole GPU"),
        ];
        assert_eq!(named, expected.map(|(what, found)| (what.to_owned(), found.to_owned())));
        // What a driver does not tell is no finding.
        assert!(settings(&GpuSnapshot::default()).is_empty());
    }
}
