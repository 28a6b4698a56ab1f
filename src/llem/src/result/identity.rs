//! What a comparison has to know of a run beside its figures.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RunResult, RunRow, WeightsIdentity};

/// What a run was made of and where: a part of `study.json`, so that this file alone can be compared with another. Null in older
/// files, and what could not be read is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunIdentity {
    /// `docker`, `process` or `slurm`.
    pub runner: String,
    /// The node that the batch system had the run carried out on.
    #[serde(default)]
    pub node: Option<String>,
    /// SHA-256 of the tokenised workload.
    pub workload_sha256: String,
    /// `synthetic`, a directory, or a hub id.
    pub model: String,
    /// Content id of a synthetic model, commit of a hub model; null for a directory.
    pub model_revision: Option<String>,
    /// The adapter on top of it.
    #[serde(default)]
    pub adapter: Option<WeightsIdentity>,
    /// The model that drafted tokens.
    #[serde(default)]
    pub draft_model: Option<WeightsIdentity>,
    /// Engine by its own account.
    pub engine: Option<String>,
    /// Its version.
    pub engine_version: Option<String>,
    /// Data type of the weights as loaded.
    pub dtype: Option<String>,
    /// Content id of the image; null for a run without a container.
    pub image_id: Option<String>,
    /// Processor model.
    pub cpu_model: Option<String>,
    /// Logical processors of the machine.
    pub cpus: Option<u32>,
    /// The processors that the kernel let the engine run on, by its own list (`0-3,8`).
    #[serde(default)]
    pub engine_cpus: Option<String>,
    /// The same of the agent.
    #[serde(default)]
    pub agent_cpus: Option<String>,
    /// Main memory of the machine in bytes.
    pub memory_bytes: Option<u64>,
    /// Frequency governor.
    pub cpu_governor: Option<String>,
    /// The run's GPUs; empty for a run on the processor.
    pub gpus: Vec<GpuIdentity>,
    /// Version of the GPU driver.
    pub gpu_driver: Option<String>,
    /// Version of llem.
    pub llem_version: String,
}

/// One GPU of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuIdentity {
    /// `GPU-…`.
    pub uuid: Option<String>,
    /// Product name.
    pub name: Option<String>,
    /// The lowest of all power limits in force, in watts.
    pub power_limit_w: Option<f64>,
}

impl RunIdentity {
    /// Taken from everything that is known of a run.
    pub fn of(run: &RunResult) -> Self {
        let engine = run.engine.as_ref();
        let (host, environment) = (run.host.as_ref(), run.environment.as_ref());
        Self {
            runner: run.runner.clone(),
            node: run.slurm.as_ref().and_then(|slurm| slurm.node.clone()),
            workload_sha256: run.workload.sha256.clone(),
            model: run.model.source.clone(),
            model_revision: run.model.revision.clone(),
            adapter: run.adapter.clone(),
            draft_model: run.draft_model.clone(),
            engine: engine.map(|engine| engine.engine.clone()),
            engine_version: engine.map(|engine| engine.engine_version.clone()),
            dtype: engine.and_then(|engine| engine.dtype.clone()),
            image_id: run.container.as_ref().map(|container| container.image_id.clone()),
            cpu_model: host.and_then(|host| host.cpu_model.clone()),
            cpus: host.and_then(|host| host.cpus),
            engine_cpus: environment.and_then(|environment| environment.engine_cpus.clone()),
            agent_cpus: environment.and_then(|environment| environment.agent_cpus.clone()),
            memory_bytes: host.and_then(|host| host.memory_bytes),
            cpu_governor: host.and_then(|host| host.cpu_governor.clone()),
            gpus: gpus(run),
            gpu_driver: host.and_then(|host| host.nvidia.as_ref()?.driver.clone()),
            llem_version: run.llem_version.clone(),
        }
    }
}

/// As the host saw them, else as the engine names them.
fn gpus(run: &RunResult) -> Vec<GpuIdentity> {
    if let Some(seen) = run.host.as_ref().and_then(|host| host.nvidia.as_ref()) {
        let one = |gpu: &crate::host::GpuSnapshot| GpuIdentity {
            uuid: Some(gpu.uuid.clone()),
            name: gpu.name.clone(),
            power_limit_w: gpu.power_limit_enforced_w,
        };
        return seen.gpus.iter().map(one).collect();
    }
    let devices = run.engine.iter().flat_map(|engine| &engine.devices);
    let gpus = devices.filter(|device| device.kind == llem_protocol::DeviceKind::Gpu);
    gpus.map(|gpu| GpuIdentity { uuid: gpu.uuid.clone(), name: gpu.name.clone(), power_limit_w: None }).collect()
}

impl RunRow {
    /// A run's line in its study.
    pub fn of(run: &RunResult, label: &str) -> Self {
        Self {
            run_id: run.run_id.clone(),
            label: label.to_owned(),
            cycle: run.cycle,
            status: run.status,
            valid: run.valid,
            reasons: run.reasons.clone(),
            failure: run.failure.clone(),
            metrics: run.metrics.clone(),
            engine_cache: run.engine_cache.clone().map(Box::new),
            identity: Some(RunIdentity::of(run)),
        }
    }
}
