use llem::config::UserConfig;
use llem::runner::docker::{Engine, remove_all};

use super::{Exit, Failure, Printer};

/// `llem clean`: removes every container of llem whose controller is dead.
pub(crate) async fn clean(printer: Printer) -> Result<Exit, Failure> {
    let user = UserConfig::load()?;
    let engine = Engine::connect(user.docker_host.as_deref()).await?;
    let reaped = remove_all(&engine).await?;
    for container in &reaped {
        let short = container.id.get(..12).unwrap_or(&container.id);
        printer.result(&format!("removed {short} ({})", container.run_id))?;
    }
    if reaped.is_empty() {
        printer.line("nothing to remove");
    }
    Ok(Exit::Success)
}
