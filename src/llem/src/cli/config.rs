use std::io::Write;
use std::path::Path;

use llem::config::{Profile, StudyConfig, UserConfig, starter, study_schema, user_schema};
use llem::engine_cache::CacheSettings;
use llem::plan::order::order;
use llem::preflight::{self, Check, CheckState, Directories};
use llem::study::Programs;
use serde_json::json;

use super::arguments::{ConfigArguments, ConfigCommand, Format};
use super::{Exit, Failure, Printer};

/// `llem config` and `llem config check|schema|init`.
pub(crate) fn config(arguments: ConfigArguments, printer: Printer) -> Result<Exit, Failure> {
    let Some(command) = arguments.command else { return machine(&arguments, printer) };
    match command {
        ConfigCommand::Check { file, set } => check(&file, &set, printer),
        ConfigCommand::Schema { user } => {
            let schema = if user { user_schema() } else { study_schema() };
            printer.result(&format!("{schema:#}"))?;
            Ok(Exit::Success)
        }
        ConfigCommand::Init { file } => init(&file, printer),
    }
}

/// The checks of this machine; none of them needs a study.
fn machine(arguments: &ConfigArguments, printer: Printer) -> Result<Exit, Failure> {
    let user = UserConfig::load()?;
    let cache = CacheSettings::of(&user);
    let most =
        cache.max_bytes.map_or_else(|| "no limit".to_owned(), |bytes| format!("at most {} GB", bytes as f64 / 1e9));
    let limits = format!("{most}; runs wait {} s for one that another builds", cache.wait.as_secs());
    let directories = Directories { output: &arguments.output, engine_cache: &cache.dir, engine_cache_limits: &limits };
    let mut checks = super::runtime()?.block_on(preflight::machine(&user, directories));
    checks.insert(1, programs());
    match arguments.format {
        Format::Human => printer.result(&machine_table(&checks))?,
        Format::Json => {
            let schema_version = llem::result::SCHEMA_VERSION;
            printer.result(&format!("{:#}", json!({"schema_version": schema_version, "checks": checks})))?;
        }
    }
    let worst = checks.iter().map(|check| check.state).max();
    Ok(if worst == Some(CheckState::Fails) { Exit::Failed } else { Exit::Success })
}

/// llem's own binaries.
fn programs() -> Check {
    let what = "llem".to_owned();
    let version = format!("{} ({})", env!("CARGO_PKG_VERSION"), llem::host::LLEM_COMMIT.unwrap_or("no commit"));
    match Programs::locate() {
        Ok(_) => Check { what, state: CheckState::Ok, found: version, todo: None },
        Err(error) => Check { what, state: CheckState::Fails, found: version, todo: Some(error.to_string()) },
    }
}

fn machine_table(checks: &[Check]) -> String {
    let head = ["state", "what", "found"].map(str::to_owned).to_vec();
    let rows = checks.iter().map(|check| {
        let found =
            check.todo.as_ref().map_or_else(|| check.found.clone(), |todo| format!("{}\n→ {todo}", check.found));
        vec![check.state.name().to_owned(), check.what.clone(), found]
    });
    let text = super::table::grid(head, rows, 3);
    let of = |state| checks.iter().filter(|check| check.state == state).count();
    let (warnings, failures) = (of(CheckState::Warning), of(CheckState::Fails));
    let summary = match (failures, warnings) {
        (0, 0) => "all is well".to_owned(),
        (0, warnings) => format!("runs work; {} to look at", super::table::count(warnings, "warning")),
        (failures, _) => format!("no run works: {}", super::table::count(failures, "failure")),
    };
    text + "\n\n" + &summary + "\n"
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
