//! Which runner carries out which backend on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Programs, RunOptions, StudyError, StudyEvent};
use crate::config::{Backend, NodeRunner, RunnerKind, UserConfig};
use crate::runner::apptainer::{ApptainerElsewhere, ApptainerError, ApptainerMachine};
use crate::runner::docker::{BindMount, Engine, EngineError, HostPaths, MachineConfig, host_powercap, remove_orphans};
use crate::runner::slurm::Slurm;
use crate::runner::{ApptainerRunner, DockerRunner, ProcessRunner, Runner};

/// The runners of a study.
pub(super) struct Fleet {
    runners: BTreeMap<Backend, Arc<dyn Runner>>,
    docker: Option<Arc<DockerRunner>>,
    apptainer: Option<Arc<ApptainerRunner>>,
    slurm: Option<Slurm>,
    elsewhere: Option<Arc<ApptainerElsewhere>>,
    engine: Option<Engine>,
    paths: HostPaths,
}

impl Fleet {
    /// Chooses a runner for each backend; connects to the container engine where one is needed, and clears what a dead controller
    /// left there, but for the containers `own`.
    pub(super) async fn choose(
        backends: impl Iterator<Item = Backend>,
        options: &RunOptions,
        programs: &Programs,
        own: &[String],
        notify: &impl Fn(StudyEvent),
    ) -> Result<Self, StudyError> {
        let wanted: BTreeMap<Backend, RunnerKind> = backends.map(|b| (b, choice(b, options))).collect();
        let slurm = slurm(&wanted, &options.user)?;
        if let Some(slurm) = &slurm {
            // Where there is no SLURM, nothing is to be made ready for it.
            slurm.site().await?;
        }
        let engine = connect(&wanted, &options.user, notify).await?;
        if let Some(engine) = &engine {
            reap(engine, own, notify).await;
        }
        let apptainer = if wanted.values().any(|choice| *choice == RunnerKind::Apptainer) {
            Some(Arc::new(find_apptainer(options, programs, notify).await?))
        } else {
            None
        };
        let elsewhere = match slurm {
            Some(_) if options.user.slurm.node_runner == NodeRunner::Apptainer => {
                Some(Arc::new(elsewhere(options, programs, notify)?))
            }
            _ => None,
        };
        let is_process = |choice: &RunnerKind| match choice {
            RunnerKind::Process => true,
            RunnerKind::Slurm => elsewhere.is_none(),
            RunnerKind::Apptainer => false,
            RunnerKind::Auto | RunnerKind::Docker => engine.is_none(),
        };
        if wanted.values().any(is_process) {
            note_ignored(&options.user, notify);
        }
        let paths = match &engine {
            Some(engine) => HostPaths::find(engine).await?,
            None => HostPaths::Same,
        };
        let new = |engine| Arc::new(DockerRunner::new(engine, machine(&options.user, paths.clone())));
        let docker = engine.clone().map(new);
        let runner = |choice| -> Arc<dyn Runner> {
            match (choice, &docker, &apptainer, &elsewhere) {
                (RunnerKind::Auto | RunnerKind::Docker, Some(docker), ..) => docker.clone(),
                (RunnerKind::Apptainer, _, Some(apptainer), _) => apptainer.clone(),
                (RunnerKind::Slurm, .., Some(elsewhere)) => elsewhere.clone(),
                _ => Arc::new(ProcessRunner),
            }
        };
        Ok(Self {
            runners: wanted.iter().map(|(backend, choice)| (*backend, runner(*choice))).collect(),
            docker,
            apptainer,
            slurm,
            elsewhere,
            engine,
            paths,
        })
    }

    /// The batch system, where the options ask for it.
    pub(super) fn slurm_of(
        backends: impl Iterator<Item = Backend>,
        options: &RunOptions,
    ) -> Result<Option<Slurm>, StudyError> {
        slurm(&backends.map(|backend| (backend, choice(backend, options))).collect(), &options.user)
    }

    /// One runner for everything.
    #[cfg(test)]
    pub(super) fn only(runner: &Arc<dyn Runner>) -> Self {
        let runners = Backend::ALL.into_iter().map(|backend| (backend, runner.clone())).collect();
        Self {
            runners,
            docker: None,
            apptainer: None,
            slurm: None,
            elsewhere: None,
            engine: None,
            paths: HostPaths::Same,
        }
    }

    /// The runner of a backend.
    pub(super) fn runner(&self, backend: Backend) -> Arc<dyn Runner> {
        self.runners.get(&backend).cloned().unwrap_or_else(|| Arc::new(ProcessRunner))
    }

    /// What a backend's runner is called in results.
    pub(super) fn runner_name(&self, backend: Backend) -> &'static str {
        match (&self.slurm, &self.elsewhere) {
            (None, _) => self.runner(backend).kind(),
            (Some(_), None) => SLURM,
            (Some(_), Some(_)) => SLURM_WITH_CONTAINERS,
        }
    }

    /// The batch system that carries out the study, if one does.
    pub(super) fn slurm(&self) -> Option<&Slurm> {
        self.slurm.as_ref()
    }

    /// What runs containers, if an engine answers.
    pub(super) fn docker(&self) -> Option<&DockerRunner> {
        self.docker.as_deref()
    }

    /// What makes containers of Apptainer, if any backend uses them.
    pub(super) fn apptainer(&self) -> Option<&Arc<ApptainerRunner>> {
        self.apptainer.as_ref()
    }

    /// The images of containers that nodes of the batch system make, if they do.
    pub(super) fn elsewhere(&self) -> Option<&ApptainerElsewhere> {
        self.elsewhere.as_deref()
    }

    /// Whether any backend's runs are in containers.
    pub(super) fn has_containers(&self) -> bool {
        self.runners.values().any(|runner| runner.has_images())
    }

    /// Whether the runs of a backend are in containers of the engine.
    pub(super) fn uses_engine(&self, backend: Backend) -> bool {
        self.runner(backend).kind() == "docker"
    }

    /// Whether the runs of a backend are in containers of Apptainer, here or on nodes.
    pub(super) fn uses_apptainer(&self, backend: Backend) -> bool {
        self.runner(backend).kind() == "apptainer"
    }

    /// Makes an image of Apptainer ready, here or for nodes. Why a SIF file had to be unpacked, if it was now.
    pub(super) async fn open_file(
        &self,
        reference: &str,
        path: &Path,
        stop: &CancellationToken,
    ) -> Result<Option<String>, ApptainerError> {
        match (&self.apptainer, &self.elsewhere) {
            (Some(apptainer), _) => apptainer.open(reference, path, stop).await.map(|(_, unpacked)| unpacked),
            (None, Some(elsewhere)) => elsewhere.open(reference, path).await.map(|_| None),
            (None, None) => Ok(None),
        }
    }

    /// The container engine, if any backend uses it.
    pub(super) fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// What the engine's machine calls paths of this process.
    pub(super) fn paths(&self) -> &HostPaths {
        &self.paths
    }

    /// Names of the runners in use.
    pub(super) fn names(&self) -> String {
        let names: std::collections::BTreeSet<_> =
            self.runners.keys().map(|backend| self.runner_name(*backend)).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    }
}

/// Name of the runner that hands runs to the batch system.
const SLURM: &str = "slurm";
/// The same where nodes make containers: figures of both are not of one study.
const SLURM_WITH_CONTAINERS: &str = "slurm+apptainer";

/// The batch system, where it is asked for: for all of a study, because its queue decides when and where runs happen.
fn slurm(wanted: &BTreeMap<Backend, RunnerKind>, user: &UserConfig) -> Result<Option<Slurm>, StudyError> {
    let on_slurm = wanted.values().filter(|choice| **choice == RunnerKind::Slurm).count();
    match wanted.iter().find(|(_, choice)| **choice != RunnerKind::Slurm) {
        _ if on_slurm == 0 => Ok(None),
        None => Ok(Some(Slurm::new(user.slurm.clone()))),
        Some((backend, _)) => Err(StudyError::HalfOnSlurm(*backend)),
    }
}

/// Settings of the machine that are about containers.
fn note_ignored(user: &UserConfig, notify: &impl Fn(StudyEvent)) {
    let set = [
        ("images", !user.images.is_empty()),
        ("mounts", !user.mounts.is_empty()),
        ("devices", !user.devices.is_empty()),
        ("cap_add", !user.cap_add.is_empty()),
    ];
    let names: Vec<_> = set.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| format!("`{name}`")).collect();
    if !names.is_empty() {
        let text = format!("runs without containers: {} of the user config have no effect", names.join(", "));
        notify(StudyEvent::Notice { text });
    }
}

/// What nodes will make containers of. Whether they have Apptainer is found out there.
fn elsewhere(
    options: &RunOptions,
    programs: &Programs,
    notify: &impl Fn(StudyEvent),
) -> Result<ApptainerElsewhere, StudyError> {
    note_ignored_by_apptainer(&options.user, notify);
    let embedded = programs.candle_image()?;
    Ok(ApptainerElsewhere::new(&embedded, options.user.cache_root())?)
}

/// Settings of the machine that Apptainer has nothing for.
fn note_ignored_by_apptainer(user: &UserConfig, notify: &impl Fn(StudyEvent)) {
    let set = [("devices", !user.devices.is_empty()), ("cap_add", !user.cap_add.is_empty())];
    for (name, _) in set.iter().filter(|(_, is_set)| *is_set) {
        let text = format!("`{name}` of the user config has no effect on containers of Apptainer");
        notify(StudyEvent::Notice { text });
    }
}

/// Finds Apptainer and says how it is used.
async fn find_apptainer(
    options: &RunOptions,
    programs: &Programs,
    notify: &impl Fn(StudyEvent),
) -> Result<ApptainerRunner, StudyError> {
    let user = &options.user;
    let machine = ApptainerMachine::of(user, &programs.agent);
    let embedded = programs.candle_image()?;
    let found = match ApptainerRunner::find(machine, &embedded, &options.stop.soft).await {
        Ok(found) => found,
        Err(ApptainerError::Stopped) => return Err(StudyError::Stopped),
        Err(error) => return Err(error.into()),
    };
    notify(StudyEvent::Detail { text: found.reason() });
    for text in found.caveats() {
        notify(StudyEvent::Notice { text });
    }
    note_ignored_by_apptainer(user, notify);
    Ok(found)
}

/// What cannot be removed must not keep a study from running.
async fn reap(engine: &Engine, own: &[String], notify: &impl Fn(StudyEvent)) {
    match remove_orphans(engine, own).await {
        Ok(orphans) => {
            for orphan in orphans {
                let text = format!("removed the container of {}, left by a controller that died", orphan.run_id);
                notify(StudyEvent::Notice { text });
            }
        }
        Err(error) => {
            let text = format!("a container that a dead controller left could not be removed: {error}");
            notify(StudyEvent::Notice { text });
        }
    }
}

/// The kind of runner that is asked for.
pub(super) fn choice(backend: Backend, options: &RunOptions) -> RunnerKind {
    options.user.runner_of(backend, options.runner)
}

/// The engine when one is asked for and must answer, or when none is asked for and one answers.
async fn connect(
    wanted: &BTreeMap<Backend, RunnerKind>,
    user: &UserConfig,
    notify: &impl Fn(StudyEvent),
) -> Result<Option<Engine>, EngineError> {
    if !wanted.values().any(|choice| choice.may_use_engine()) {
        return Ok(None);
    }
    match Engine::connect(user.docker_host.as_deref()).await {
        Ok(engine) => Ok(Some(engine)),
        Err(error) if wanted.values().any(|choice| *choice == RunnerKind::Docker) => Err(error),
        Err(error) => {
            let text = format!("{error}; running with the `process` runner, without containers");
            notify(StudyEvent::Notice { text });
            Ok(None)
        }
    }
}

fn machine(user: &UserConfig, paths: HostPaths) -> MachineConfig {
    MachineConfig {
        gpu_access: user.gpu.access,
        mounts: BindMount::all_of(user),
        devices: user.devices.iter().map(PathBuf::from).collect(),
        cap_add: user.cap_add.clone(),
        powercap: host_powercap(),
        paths,
    }
}
