//! Rules of the user configuration.

use std::collections::HashSet;
use std::path::{Component, Path};

use llem_protocol::CpuList;

use super::super::check::Finding;
use super::super::image;
use super::super::user::{GpuAccess, TOKEN_VARIABLES, UserConfig};
use super::super::wording::key;
use super::secrets::holds_hub_token;

/// Everything that the schema cannot say.
pub(crate) fn rules(config: &UserConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (backend, reference) in &config.images {
        let pointer = format!("/images/{backend}");
        findings.extend(image::problem(reference).map(|message| Finding::value(pointer.as_str(), message)));
        if image::is_path(reference) {
            absolute(&pointer, Path::new(reference), &mut findings);
        }
    }
    interpreters(config, &mut findings);
    gpus(config, &mut findings);
    cpus(config, &mut findings);
    mounts(config, &mut findings);
    environment(config, &mut findings);
    containers(config, &mut findings);
    calibration(config, &mut findings);
    super::slurm::rules(&config.slurm, &mut findings);
    findings
}

/// A relative path would mean another file for every working directory, and there is none in a container.
fn interpreters(config: &UserConfig, findings: &mut Vec<Finding>) {
    for (backend, python) in &config.python {
        let is_name = !python.is_empty() && !python.contains('/');
        if !(is_name || python.starts_with('/')) || python.chars().any(char::is_control) {
            let message = format!("`{}` is neither an absolute path nor the name of a program", key(python));
            let finding = Finding::value(format!("/python/{backend}"), message);
            findings.push(finding.hint("for example `/opt/venv/bin/python3`, or `python3.12`"));
        }
    }
}

fn gpus(config: &UserConfig, findings: &mut Vec<Finding>) {
    let mut seen = HashSet::new();
    for (index, device) in config.gpu.devices.iter().enumerate() {
        let pointer = format!("/gpu/devices/{index}");
        if device.starts_with("MIG-") {
            let finding = Finding::value(pointer, format!("`{}` is a part of a GPU", key(device)));
            findings
                .push(finding.hint("power is that of the whole GPU; name that, and set `measurement.allow_mig: true`"));
        } else if !device.starts_with("GPU-") {
            let finding = Finding::value(pointer, format!("`{}` is not a UUID", key(device)));
            findings.push(finding.hint("indices change between boots; `nvidia-smi -L` prints UUIDs (`GPU-…`)"));
        } else if !seen.insert(device) {
            findings.push(Finding::value(pointer, format!("`{}` is named twice", key(device))));
        }
    }
    // Studies in two directories would not see each other's locks.
    if let Some(lock_dir) = &config.gpu.lock_dir {
        absolute("/gpu/lock_dir", lock_dir, findings);
    }
    if config.gpu.access == GpuAccess::None && !config.gpu.devices.is_empty() {
        findings.push(super::no_effect("/gpu/devices", "`gpu.access` is none"));
    }
}

fn cpus(config: &UserConfig, findings: &mut Vec<Finding>) {
    let (engine, agent) = (&config.cpus.engine, &config.cpus.agent);
    for (field, list) in [("engine", engine), ("agent", agent)] {
        if let Some(error) = list.as_ref().and_then(|list| list.parse::<CpuList>().err()) {
            findings.push(Finding::value(format!("/cpus/{field}"), error.to_string()));
        }
    }
    if agent.is_some() && engine.is_none() {
        let finding = Finding::key("/cpus/agent", "`cpus.agent` is set and `cpus.engine` is not");
        findings.push(finding.hint("name those of the engine, too: else it would run on the agent's as well"));
    }
}

fn mounts(config: &UserConfig, findings: &mut Vec<Finding>) {
    let mut targets = HashSet::new();
    for (index, mount) in config.mounts.iter().enumerate() {
        for (field, path) in [("source", &mount.source), ("target", &mount.target)] {
            absolute(&format!("/mounts/{index}/{field}"), path, findings);
        }
        if let Some(why) = reserved(&mount.target) {
            let message = format!("`{}` cannot be mounted over: {why}", key(&mount.target.to_string_lossy()));
            findings.push(Finding::value(format!("/mounts/{index}/target"), message));
        }
        if !targets.insert(&mount.target) {
            let message = format!("`{}` is mounted twice", mount.target.display());
            findings.push(Finding::value(format!("/mounts/{index}/target"), message));
        }
    }
}

/// Why a place in the container is not free for the user's directories.
fn reserved(target: &Path) -> Option<&'static str> {
    if target.components().any(|part| part == Component::ParentDir) {
        return Some("write it without `..`");
    }
    match target {
        path if path == Path::new("/") => Some("it is the image itself"),
        path if path == Path::new("/tmp") => Some("it is the run's own temporary directory"),
        path if path.starts_with("/llem") => Some("llem's own files are there"),
        _ => None,
    }
}

fn absolute(pointer: &str, path: &Path, findings: &mut Vec<Finding>) {
    if !path.is_absolute() {
        let message = format!("`{}` is not an absolute path", key(&path.to_string_lossy()));
        findings.push(Finding::value(pointer, message));
    }
}

fn environment(config: &UserConfig, findings: &mut Vec<Finding>) {
    for (name, value) in &config.env {
        let pointer = format!("/env/{}", super::super::document::pointer_segment(name));
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            findings.push(Finding::key(pointer.as_str(), format!("`{}` cannot name a variable", key(name))));
        }
        if value.contains('\0') {
            findings.push(Finding::value(pointer.as_str(), "a variable cannot hold a null character"));
        }
        if !TOKEN_VARIABLES.contains(&name.as_str()) && holds_hub_token(value) {
            let message = "looks like an access token, which `docker inspect` would show";
            let finding = Finding::value(pointer.as_str(), message);
            findings.push(finding.secret().hint(
                "remove it: llem downloads models itself, with HF_TOKEN of its own environment or the token file; engines need none",
            ));
        }
        if TOKEN_VARIABLES.contains(&name.as_str()) {
            let message = format!("`{name}` is for the access token, which `docker inspect` would show");
            let finding = Finding::key(pointer, message);
            findings.push(finding.secret().hint(
                "remove it: llem downloads models itself, with HF_TOKEN of its own environment or the token file; engines need none",
            ));
        }
    }
}

fn calibration(config: &UserConfig, findings: &mut Vec<Finding>) {
    let mut devices = HashSet::new();
    for (index, entry) in config.calibration.iter().enumerate() {
        let place = |field: &str| format!("/calibration/{index}/{field}");
        if !is_sensor(&entry.device) {
            let message = format!("`{}` is not the id of a sensor", key(&entry.device));
            let hint =
                "results list the ids of their sensors: `GPU-…` of a graphics processor, `package-0`, `dram-0` …";
            findings.push(Finding::value(place("device"), message).hint(hint));
        } else if !devices.insert(&entry.device) {
            let message = format!("`{}` is calibrated twice", entry.device);
            findings.push(Finding::value(place("device"), message).hint("keep the newer entry"));
        }
        if entry.date.parse::<jiff::civil::Date>().is_err() {
            let message = format!("`{}` is not a date", key(&entry.date));
            findings.push(Finding::value(place("date"), message).hint("write it as `2026-11-22`"));
        }
    }
}

/// Whether energy can be measured under this id: a whole GPU, a processor package or its memory.
fn is_sensor(device: &str) -> bool {
    // Packages of several dies are `package-0-die-1`.
    let starts_with_digit = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    let numbered = |prefix| device.strip_prefix(prefix).is_some_and(starts_with_digit);
    device.strip_prefix("GPU-").is_some_and(|rest| !rest.is_empty()) || numbered("package-") || numbered("dram-")
}

fn containers(config: &UserConfig, findings: &mut Vec<Finding>) {
    for (index, device) in config.devices.iter().enumerate().filter(|(_, device)| !device.starts_with("/dev/")) {
        let message = format!("`{}` is not a device node below `/dev`", key(device));
        findings.push(Finding::value(format!("/devices/{index}"), message));
    }
    let capability = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    for (index, name) in config.cap_add.iter().enumerate().filter(|(_, name)| !capability(name)) {
        let finding = Finding::value(format!("/cap_add/{index}"), format!("`{}` is not a capability", key(name)));
        findings.push(finding.hint("write it in capitals, e.g. `SYS_NICE`"));
    }
    if let Some(cache_dir) = &config.cache_dir {
        absolute("/cache_dir", cache_dir, findings);
    }
    if let Some(engine_cache_dir) = &config.engine_cache_dir {
        absolute("/engine_cache_dir", engine_cache_dir, findings);
    }
    if let Some(host) = config.docker_host.as_ref().filter(|host| !host.starts_with("unix://")) {
        let finding = Finding::value("/docker_host", format!("`{}` is not a unix socket", key(host)));
        let hint =
            "for example `unix:///var/run/docker.sock`; results come back over a directory shared with the engine";
        findings.push(finding.hint(hint));
    }
}
