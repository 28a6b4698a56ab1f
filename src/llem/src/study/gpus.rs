//! Whether containers get the GPUs that runs will be given: tried out before the first run.

use std::collections::BTreeMap;

use llem_protocol::VisibleGpus;

use super::fleet::Fleet;
use super::gpu_claim::no_such_gpu;
use super::job::gpus;
use super::{Programs, RunOptions, StudyError, StudyEvent};
use crate::config::{GpuAccess, StudyConfig};
use crate::preflight::KnownFacts;
use crate::runner::apptainer::ApptainerError;
use crate::runner::docker::{BindMount, DockerRunner, GpuProbeSpec, ImageError, MachineConfig, ProbeSpec, probe_gpus};
use crate::runner::{Gpu, host_gpus};

/// Starts each image whose runs compute on GPUs once with all of them, and refuses the study when one is not there. Without a container
/// engine, or without GPUs, there is nothing to try; jobs of a batch system get theirs on nodes, where every agent looks for them.
pub(super) async fn prove_access(
    study: &StudyConfig,
    options: &RunOptions,
    programs: &Programs,
    fleet: &Fleet,
    known: &KnownFacts,
    notify: &impl Fn(StudyEvent),
) -> Result<(), StudyError> {
    if fleet.slurm().is_some() {
        return Ok(());
    }
    let present = host_gpus();
    let mounts = BindMount::all_of(&options.user);
    for ((backend, image), wanted) in wanted(study, options, known) {
        let asked = find(&wanted, &present).map_err(StudyError::Gpus)?;
        let notice = if let Some(apptainer) = fleet.apptainer().filter(|_| fleet.uses_apptainer(backend)) {
            let seen = apptainer.probe_gpus(&image, &options.stop.soft).await;
            let seen = seen.map_err(|error| match error {
                ApptainerError::Stopped => StudyError::Stopped,
                other => other.into(),
            })?;
            judge(&image, &BY_APPTAINER, &wanted, seen)
        } else if let Some(engine) = fleet.engine() {
            let machine = MachineConfig { gpu_access: options.user.gpu.access, ..MachineConfig::default() };
            let access = DockerRunner::new(engine.clone(), machine).gpu_access();
            let interpreters = options.user.interpreters(Some(backend));
            let spec = GpuProbeSpec {
                image: ProbeSpec {
                    reference: &image,
                    interpreters: &interpreters,
                    agent: &programs.agent,
                    mounts: &mounts,
                    env: &options.user.env,
                },
                access,
                gpus: asked,
            };
            let seen = match probe_gpus(engine, &spec, &options.stop.soft).await {
                Ok(seen) => seen,
                Err(ImageError::Stopped) => return Err(StudyError::Stopped),
                Err(error) => return Err(error.into()),
            };
            judge(&image, &Handover::of(access), &wanted, seen)
        } else {
            continue;
        };
        if let Some(notice) = notice.map_err(StudyError::Gpus)? {
            notify(StudyEvent::Notice { text: notice });
        }
    }
    Ok(())
}

/// How GPUs get into containers, and what to do where they do not.
struct Handover {
    by: &'static str,
    /// Whether NVML comes with the GPUs whatever the image holds: where it is missing, nothing was handed over.
    brings_nvml: bool,
    hint: &'static str,
}

/// Apptainer has one way.
const BY_APPTAINER: Handover = Handover {
    by: "apptainer --nv",
    brings_nvml: true,
    hint: "look at what `apptainer exec --nv` says, and whether this user may open /dev/nvidia*",
};

impl Handover {
    fn of(access: GpuAccess) -> Self {
        let hint = "set `gpu.access` in the user config to another way (`nvidia`, `cdi`, `devices`)";
        Self { by: access.name(), brings_nvml: matches!(access, GpuAccess::Nvidia | GpuAccess::Cdi), hint }
    }
}

/// The GPUs of each image, most of all its experiments.
fn wanted(
    study: &StudyConfig,
    options: &RunOptions,
    known: &KnownFacts,
) -> BTreeMap<(crate::config::Backend, String), Vec<String>> {
    let mut found = BTreeMap::<_, Vec<String>>::new();
    for config in study.experiments.iter().map(|experiment| &experiment.config) {
        let image = config.image().or_else(|| options.user.images.get(&config.backend).map(String::as_str));
        let key = (config.backend, image.unwrap_or_default().to_owned());
        let uuids = gpus(config, &options.user);
        if known.contains_key(&key) && found.get(&key).is_none_or(|most| most.len() < uuids.len()) && !uuids.is_empty()
        {
            found.insert(key, uuids);
        }
    }
    found
}

/// The GPUs of these UUIDs with their device nodes; a driver that NVML knows need not list them.
fn find(uuids: &[String], present: &[Gpu]) -> Result<Vec<Gpu>, String> {
    let of = |uuid: &String| {
        present
            .iter()
            .find(|gpu| gpu.uuid == *uuid)
            .cloned()
            .ok_or_else(|| no_such_gpu(uuid, present.iter().map(|gpu| gpu.uuid.as_str()), None))
    };
    uuids.iter().map(of).collect()
}

/// What a container saw: nothing to say, something to say, or why no run can work.
fn judge(
    image: &str,
    handover: &Handover,
    wanted: &[String],
    seen: Result<VisibleGpus, String>,
) -> Result<Option<String>, String> {
    let (by, hint) = (format!("handed over by `{}`", handover.by), handover.hint);
    let seen = seen.map_err(|problem| format!("no container of {image} starts with GPUs {by}: {problem}; {hint}"))?;
    if let Some(problem) = seen.problem.as_ref().filter(|_| handover.brings_nvml) {
        return Err(format!(
            "a container of {image} is not given the GPUs that were asked for, {by}: {problem} inside; some engines ignore the request and say \
             nothing; {hint}"
        ));
    }
    if let Some(problem) = seen.problem {
        return Ok(Some(format!("GPUs {by} could not be looked at inside {image}: {problem}; energy may be null")));
    }
    match wanted.iter().find(|uuid| !seen.uuids.contains(uuid)) {
        None => Ok(None),
        Some(missing) => {
            let there = if seen.uuids.is_empty() { "none".to_owned() } else { seen.uuids.join(", ") };
            Err(format!("a container of {image} does not see {missing}, {by} (it sees: {there}); {hint}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use llem_protocol::VisibleGpus;

    use super::{Handover, find, judge};
    use crate::config::GpuAccess;
    use crate::runner::Gpu;

    fn seen(uuids: &[&str], problem: Option<&str>) -> VisibleGpus {
        let uuids = uuids.iter().map(|&uuid| uuid.to_owned()).collect();
        VisibleGpus { uuids, problem: problem.map(str::to_owned) }
    }

    #[test]
    fn every_gpu_must_arrive() {
        let wanted = ["GPU-a".to_owned(), "GPU-b".to_owned()];
        let by = |access, seen| judge("i:1", &Handover::of(access), &wanted, seen);
        let of = |seen| by(GpuAccess::Cdi, seen);
        assert_eq!(of(Ok(seen(&["GPU-b", "GPU-a", "GPU-c"], None))), Ok(None));
        let missing = of(Ok(seen(&["GPU-a"], None))).unwrap_err();
        assert!(
            missing.starts_with("a container of i:1 does not see GPU-b, handed over by `cdi` (it sees: GPU-a); set")
        );
        let refused = of(Err("could not select device driver".to_owned())).unwrap_err();
        assert!(refused.contains("no container of i:1 starts with GPUs handed over by `cdi`: could not select"));
        let ignored = of(Ok(seen(&[], Some("libnvidia-ml.so.1 is not there")))).unwrap_err();
        assert!(ignored.contains("is not given the GPUs that were asked for, handed over by `cdi`: libnvidia-ml.so.1"));
        let notice = by(GpuAccess::Devices, Ok(seen(&[], Some("libnvidia-ml.so.1 is not there")))).unwrap().unwrap();
        assert!(notice.contains("libnvidia-ml.so.1 is not there; energy may be null"), "{notice}");
    }

    #[test]
    fn a_gpu_that_is_not_here_is_named_with_those_that_are() {
        let present = [Gpu { uuid: "GPU-a".to_owned(), minor: 0 }];
        assert_eq!(find(&["GPU-a".to_owned()], &present).unwrap(), present);
        let error = find(&["GPU-x".to_owned()], &present).unwrap_err();
        assert!(error.starts_with("no GPU `GPU-x` on this machine (GPUs present: GPU-a); correct `gpu.devices`"));
    }
}
