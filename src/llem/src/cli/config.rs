use std::io::Write;
use std::path::Path;

use llem::config::{Profile, StudyConfig, starter, study_schema, user_schema};
use llem::plan::order::order;

use super::arguments::{ConfigArguments, ConfigCommand};
use super::{Exit, Failure, Printer};

/// `llem config check|schema|init`.
pub(crate) fn config(arguments: ConfigArguments, printer: Printer) -> Result<Exit, Failure> {
    match arguments.command {
        ConfigCommand::Check { file, set } => check(&file, &set, printer),
        ConfigCommand::Schema { user } => {
            let schema = if user { user_schema() } else { study_schema() };
            printer.result(&format!("{schema:#}"))?;
            Ok(Exit::Success)
        }
        ConfigCommand::Init { file } => init(&file, printer),
    }
}

fn check(file: &Path, set: &[String], printer: Printer) -> Result<Exit, Failure> {
    let study = StudyConfig::from_file(file, set, Profile::Standard)?;
    let runs = order(study.experiments.len(), &study.execution).len();
    let count = super::table::count(study.experiments.len(), "experiment");
    printer.result(&format!("{}: valid, {count}, {}", file.display(), super::table::count(runs, "run")))?;
    Ok(Exit::Success)
}

fn init(file: &Path, printer: Printer) -> Result<Exit, Failure> {
    let created = fs_err::OpenOptions::new().write(true).create_new(true).open(file);
    let mut target = created.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{}: exists already; name another file", file.display()))
        }
        _ => Failure::failed(error.to_string()),
    })?;
    target.write_all(starter().as_bytes()).map_err(|error| Failure::failed(error.to_string()))?;
    printer.result(&format!("wrote {}; next: llem run {}", file.display(), file.display()))?;
    Ok(Exit::Success)
}
