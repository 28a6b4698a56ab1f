//! Which GPUs a job was given, by their UUIDs.

use llem_protocol::{Failure, FailureClass, Phase};

use crate::config::{GpuAccess, GpuConfig};
use crate::host::nvml::Library;
use crate::runner::host_gpus;

/// What SLURM sets to the GPUs of a job: indices of those that it may see, or UUIDs.
pub(super) const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// The GPUs of a run: those of its job that llem may use, as many as its experiment computes on (all without a number). A job that has its
/// node to itself (`exclusive`) has all GPUs of a node whose GPUs SLURM does not hand out.
pub(super) fn node_gpus(config: &GpuConfig, exclusive: bool, wanted: Option<usize>) -> Result<Vec<String>, Failure> {
    if config.access == GpuAccess::None || wanted == Some(0) {
        return Ok(Vec::new());
    }
    let given = std::env::var(VARIABLE).ok().or_else(|| (!exclusive).then(String::new));
    choose(given.as_deref(), &present(), &config.devices, wanted).map_err(|message| Failure {
        class: FailureClass::NoGpu,
        phase: Phase::Start,
        message,
        log_tail: Vec::new(),
    })
}

/// In NVML's order, which is SLURM's; where a site confines jobs to their devices, only those of the job.
fn present() -> Vec<String> {
    let seen = Library::load().and_then(|library| Ok(library.gpus()?.uuids()));
    seen.unwrap_or_else(|_| host_gpus().into_iter().map(|gpu| gpu.uuid).collect())
}

fn choose(
    given: Option<&str>,
    present: &[String],
    allowed: &[String],
    wanted: Option<usize>,
) -> Result<Vec<String>, String> {
    let mut gpus = match given {
        None => present.to_vec(),
        Some(text) => {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            words.map(|word| uuid(word, present)).collect::<Result<_, _>>()?
        }
    };
    gpus.retain(|gpu| allowed.is_empty() || allowed.contains(gpu));
    match wanted {
        Some(wanted) if gpus.len() < wanted => Err(format!(
            "the job has {} GPUs that llem may use, and the experiment computes on {wanted}: set `slurm.gres` in the user config, e.g. \
             `gpu:{wanted}`",
            gpus.len()
        )),
        Some(wanted) => {
            gpus.truncate(wanted);
            Ok(gpus)
        }
        None => Ok(gpus),
    }
}

fn uuid(word: &str, present: &[String]) -> Result<String, String> {
    if word.starts_with("GPU-") {
        return Ok(word.to_owned());
    }
    let found = word.parse::<usize>().ok().and_then(|index| present.get(index)).cloned();
    found.ok_or_else(|| {
        format!("{VARIABLE} of the job names `{word}`, which is no whole GPU among the {} of this node", present.len())
    })
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn a_job_computes_on_what_it_was_given() {
        let present = ["GPU-a".to_owned(), "GPU-b".to_owned(), "GPU-c".to_owned()];
        let of = |given, wanted| choose(given, &present, &[], wanted);
        assert_eq!(of(Some("1,2"), None).unwrap(), ["GPU-b", "GPU-c"]);
        assert_eq!(of(Some("GPU-c"), Some(1)).unwrap(), ["GPU-c"]);
        assert_eq!(of(None, Some(2)).unwrap(), ["GPU-a", "GPU-b"]);
        assert!(of(Some(""), Some(1)).unwrap_err().contains("set `slurm.gres` in the user config, e.g. `gpu:1`"));
        assert!(of(Some("3"), None).unwrap_err().contains("names `3`, which is no whole GPU among the 3"));
        assert!(of(Some("MIG-1"), None).is_err());
        let allowed = ["GPU-b".to_owned()];
        assert_eq!(choose(Some("0,1"), &present, &allowed, None).unwrap(), ["GPU-b"]);
    }
}
