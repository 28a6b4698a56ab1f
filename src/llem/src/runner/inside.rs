//! Where things are inside a container, whichever runner makes it.

use llem_protocol::DriverCommand;

use super::{DriverFiles, HostFiles, Places, driver_command};

/// The agent's binary.
pub(super) const AGENT: &str = "/llem/agent";
/// The embedded backend's driver, in images that do not bring it.
pub(super) const CANDLE: &str = "/llem/llem-candle";
/// The embedded backend's driver in the image that llem makes for it.
pub(super) const CANDLE_DRIVER: &str = "/usr/local/bin/llem-candle";
/// The directory of a driver's scripts.
pub(super) const SCRIPTS: &str = "/llem/driver";
/// The job.
pub(super) const JOB: &str = "/llem/job.json";
/// The tokenised workload.
pub(super) const WORKLOAD: &str = "/llem/workload.jsonl";
/// The model's directory.
pub(super) const MODEL: &str = "/llem/model";
/// The LoRA adapter's directory.
pub(super) const ADAPTER: &str = "/llem/adapter";
/// The directory of the model that drafts tokens.
pub(super) const DRAFT: &str = "/llem/draft";
/// The directory of the compiled engine.
pub(super) const ENGINE: &str = "/llem/engine";
/// The results volume.
pub(super) const OUT: &str = "/llem/out";
/// The host's RAPL zones.
pub(super) const POWERCAP: &str = "/llem/powercap";

/// Where agent and driver find the files of a run in its container.
pub(super) fn places(files: &HostFiles, has_powercap: bool) -> Places {
    Places {
        output_dir: OUT.into(),
        workload: WORKLOAD.into(),
        model_dir: files.model_dir.as_ref().map(|_| MODEL.into()),
        adapter_dir: files.adapter_dir.as_ref().map(|_| ADAPTER.into()),
        draft_dir: files.draft_dir.as_ref().map(|_| DRAFT.into()),
        engine_dir: files.engine.as_ref().map(|_| ENGINE.into()),
        driver: driver(&files.driver),
        powercap: has_powercap.then(|| POWERCAP.into()),
    }
}

/// How a driver is started inside. An image that llem made for the embedded backend has its driver already.
fn driver(files: &DriverFiles) -> DriverCommand {
    match files {
        DriverFiles::Program(_) => driver_command([CANDLE_DRIVER, CANDLE].map(str::to_owned).to_vec(), Vec::new()),
        DriverFiles::Scripts { names, interpreters, .. } => {
            let script = names.first().map(|name| format!("{SCRIPTS}/{name}"));
            driver_command(interpreters.clone(), script.into_iter().collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::driver;
    use crate::runner::DriverFiles;

    #[test]
    fn scripts_are_started_by_the_images_interpreter() {
        let scripts = DriverFiles::Scripts {
            directory: "/c/drivers/x".into(),
            names: vec!["driver.py".into(), "other.py".into()],
            interpreters: vec!["python3".into(), "python".into()],
        };
        let command = driver(&scripts);
        assert_eq!(
            (command.programs, command.args),
            (vec!["python3".into(), "python".into()], vec!["/llem/driver/driver.py".into()])
        );
        let embedded = driver(&DriverFiles::Program("/b/llem-candle".into()));
        assert_eq!(embedded.programs, ["/usr/local/bin/llem-candle", "/llem/llem-candle"]);
    }
}
