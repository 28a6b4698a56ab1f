//! The job of a run: engine settings, workload, measurement and time-outs, with paths as the agent will see them.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;

use llem_protocol::{
    EngineSpec, JOB_SCHEMA_VERSION, Job, MeasurementSpec, ModelLocation, PROTOCOL_VERSION, WorkloadRef,
};

use serde_json::{Map, Value};

use super::engine::RunEngine;
use super::run::RunContext;
use crate::config::{ExperimentConfig, GpuAccess, UserConfig};
use crate::model::BesideWeights;
use crate::result::RunDirectory;
use crate::runner::{HostFiles, Limits, Places, RunSpec, host_gpus};

/// Bytes in a GiB.
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// What a runner needs to carry out a run.
pub(super) fn run_spec(context: &RunContext<'_>, directory: &RunDirectory, engine: &RunEngine) -> RunSpec {
    let prepared = context.prepared;
    let host = HostFiles {
        output_dir: directory.volume().to_owned(),
        workload: prepared.workload.path.clone(),
        model_dir: Some(prepared.weights.model.root.clone()),
        adapter_dir: prepared.weights.adapter.as_ref().map(|weights| weights.root.clone()),
        draft_dir: prepared.weights.draft.as_ref().map(|weights| weights.root.clone()),
        agent: context.programs.agent.clone(),
        driver: prepared.driver.clone(),
        engine: engine.mount(),
    };
    let mut places = context.runner.places(&host);
    places.driver.env.extend(engine.variables(places.engine_dir.as_deref()));
    let execution = context.execution;
    let bytes = |gib: f64| (gib * GIB) as u64;
    RunSpec {
        study_id: context.directory.study_id(),
        study_lock: context.directory.lock_path().to_owned(),
        image: prepared.image.clone(),
        job: job(context, &places),
        job_file: directory.job_file(),
        limits: Limits {
            memory_bytes: execution.memory_gib.map(bytes),
            shm_bytes: bytes(execution.shm_gib),
            pids: execution.pids_limit,
        },
        env: context.user.env.clone(),
        facts: prepared.facts.clone(),
        files: host,
    }
}

fn job(context: &RunContext<'_>, places: &Places) -> Job {
    let config = &context.experiment.config;
    let measurement = &config.measurement;
    let workload = &context.prepared.workload;
    // The standard library seeds each of these from the system.
    let nonce = RandomState::new().build_hasher().finish();
    Job {
        schema_version: JOB_SCHEMA_VERSION,
        protocol_version: PROTOCOL_VERSION,
        run_id: context.run_id.to_owned(),
        nonce: format!("{nonce:016x}"),
        output_dir: places.output_dir.clone(),
        driver: places.driver.clone(),
        engine: EngineSpec {
            backend: config.backend.name().to_owned(),
            model: ModelLocation::Directory(
                places.model_dir.clone().unwrap_or_default().join(&context.prepared.weights.model.subdirectory),
            ),
            dtype: config.dtype.name().to_owned(),
            options: options(context, places),
            extra: config.extra(),
            sampling: object(&config.sampling),
            lora: lora(context, places),
            random_seed: config.random_seed.to_string(),
        },
        workload: WorkloadRef {
            path: places.workload.clone(),
            sha256: workload.sha256.clone(),
            requests: workload.requests,
            ignore_eos: config.workload.ignore_eos,
        },
        measurement: MeasurementSpec {
            baseline_s: measurement.baseline_seconds,
            warmup_passes: measurement.warmup_passes,
            thermal_floor_s: measurement.thermal_floor_seconds,
            thermal_gate_timeout_s: measurement.thermal_gate_timeout_seconds,
            window_min_s: measurement.min_seconds,
            window_min_passes: measurement.min_passes,
            prefill_min_s: measurement.prefill_min_seconds,
            sample_hz: measurement.sample_hz,
            allow_mig: measurement.allow_mig,
        },
        timeouts_s: context.execution.timeouts_s.clone(),
        gpus: gpus(config, context.user),
        powercap: places.powercap.clone(),
        cpus: context.user.cpus.pinning(),
    }
}

/// The GPUs that an experiment's runs get: those that the machine's owner names, else all; none for one that computes on the processor.
pub(super) fn gpus(config: &ExperimentConfig, user: &UserConfig) -> Vec<String> {
    let mut gpus: Vec<String> = match user.gpu.access {
        GpuAccess::None => Vec::new(),
        _ if user.gpu.devices.is_empty() => host_gpus().into_iter().map(|gpu| gpu.uuid).collect(),
        _ => user.gpu.devices.clone(),
    };
    gpus.truncate(config.gpu_count().unwrap_or(usize::MAX));
    gpus
}

/// The backend's section; a model that drafts is named by its directory.
fn options(context: &RunContext<'_>, places: &Places) -> Map<String, Value> {
    let config = &context.experiment.config;
    let mut options = config.engine_options();
    let dir = beside_dir(places.draft_dir.as_ref(), context.prepared.weights.draft.as_deref());
    let section = options.get_mut("speculative").and_then(Value::as_object_mut);
    if let (Some((field, _)), Some(dir), Some(section)) = (config.draft_model(), dir, section) {
        section.insert(field.to_owned(), Value::String(dir.display().to_string()));
    }
    options
}

/// The experiment's adapter, named by its directory.
fn lora(context: &RunContext<'_>, places: &Places) -> Option<Map<String, Value>> {
    let mut lora = object(context.experiment.config.lora.as_ref()?);
    let dir = beside_dir(places.adapter_dir.as_ref(), context.prepared.weights.adapter.as_deref())?;
    lora.insert("adapter".to_owned(), Value::String(dir.display().to_string()));
    Some(lora)
}

/// The directory of weights beside the model as the driver sees it.
fn beside_dir(place: Option<&PathBuf>, weights: Option<&BesideWeights>) -> Option<PathBuf> {
    let (place, inside) = (place?, &weights?.subdirectory);
    Some(if inside.as_os_str().is_empty() { place.clone() } else { place.join(inside) })
}

fn object(value: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}
