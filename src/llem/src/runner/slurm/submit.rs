//! What `sbatch` is given: options on its command line, where they win over variables of the environment, and a script on its stdin.

use std::path::Path;

use super::ArrayRequest;
use crate::config::SlurmConfig;

/// The options of an array.
pub(super) fn arguments(config: &SlurmConfig, array: &ArrayRequest) -> Vec<String> {
    let at_a_time = config.max_parallel.map_or_else(String::new, |most| format!("%{most}"));
    let indices = format!("0-{}{at_a_time}", array.jobs.saturating_sub(1));
    let mut arguments: Vec<String> = vec![
        "--parsable".into(),
        format!("--job-name={}", array.name),
        format!("--array={indices}"),
        "--nodes=1".into(),
        "--ntasks=1".into(),
        format!("--time={}", array.time_limit_minutes),
        // llem decides what is tried again, and under which name.
        "--no-requeue".into(),
        format!("--chdir={}", array.directory.display()),
        format!("--output={}", output(&array.log)),
        "--open-mode=append".into(),
    ];
    if config.exclusive {
        arguments.push("--exclusive".into());
    }
    let named = [
        ("partition", &config.partition),
        ("account", &config.account),
        ("qos", &config.qos),
        ("gres", &config.gres),
        ("constraint", &config.constraint),
    ];
    arguments.extend(named.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))));
    arguments.extend(array.after.map(|job| format!("--dependency=afterany:{job}")));
    arguments
}

/// A pattern of which `sbatch` replaces nothing in the names of directories.
fn output(log: &Path) -> String {
    let directory = log.parent().unwrap_or(Path::new("")).display().to_string().replace('%', "%%");
    format!("{directory}/{}", log.file_name().unwrap_or_default().display())
}

/// The id that `sbatch --parsable` prints as `id` or `id;cluster`, after what a site may print before it.
pub(super) fn job_id(text: &str) -> Option<u64> {
    text.lines().rev().find_map(|line| line.trim().split(';').next()?.parse().ok())
}

/// The script: the site's lines, then llem in place of the shell, so that signals reach it. A line that fails ends the job: what runs
/// without the modules that were asked for is another deployment.
pub(super) fn script(config: &SlurmConfig, array: &ArrayRequest) -> String {
    let command: Vec<String> = array.command.iter().map(|word| quoted(word)).collect();
    let mut lines = vec!["#!/bin/bash".to_owned()];
    // Options of `sbatch` count only before the first command.
    let options = config.prologue.iter().take_while(|line| line.starts_with('#')).count();
    let (options, prologue) = config.prologue.split_at(options);
    lines.extend(options.iter().cloned());
    if !prologue.is_empty() {
        lines.push(format!("trap {} EXIT", quoted(FAILED)));
        lines.push("set -e".to_owned());
        lines.extend(prologue.iter().cloned());
        lines.push("set +e; trap - EXIT".to_owned());
    }
    lines.push(format!("exec {}", command.join(" ")));
    lines.join("\n") + "\n"
}

/// What a job says that its prologue has ended.
const FAILED: &str = r#"echo "llem: slurm.prologue ended the job with exit code $?: $BASH_COMMAND" >&2"#;

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{arguments, job_id, script};
    use crate::config::SlurmConfig;
    use crate::runner::slurm::ArrayRequest;

    fn array() -> ArrayRequest {
        ArrayRequest {
            name: "llem-0123".to_owned(),
            jobs: 40,
            time_limit_minutes: 20,
            directory: "/s".into(),
            log: "/s/100%/slurm/1-%a.log".into(),
            command: vec!["/opt/it's here/llem".to_owned(), "slurm-task".to_owned()],
            after: None,
        }
    }

    #[test]
    fn a_site_says_what_its_jobs_need() {
        let text = |value: &str| Some(value.to_owned());
        let config = SlurmConfig {
            partition: text("gpu"),
            account: text("p123"),
            gres: text("gpu:h100:1"),
            exclusive: false,
            max_parallel: Some(4),
            ..SlurmConfig::default()
        };
        let array = ArrayRequest { after: Some(77), ..array() };
        let said = arguments(&config, &array).join(" ");
        assert_eq!(
            said,
            "--parsable --job-name=llem-0123 --array=0-39%4 --nodes=1 --ntasks=1 --time=20 --no-requeue --chdir=/s \
             --output=/s/100%%/slurm/1-%a.log --open-mode=append --partition=gpu --account=p123 --gres=gpu:h100:1 \
             --dependency=afterany:77"
        );
        assert!(arguments(&SlurmConfig::default(), &array).contains(&"--exclusive".to_owned()));
    }

    #[test]
    fn the_script_is_the_prologue_and_llem() {
        let prologue = ["#SBATCH --mem=8G", "module load cuda", "# for all"].map(str::to_owned).to_vec();
        let said = script(&SlurmConfig { prologue, ..SlurmConfig::default() }, &array());
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..2], ["#!/bin/bash", "#SBATCH --mem=8G"], "{said}");
        assert_eq!(lines[3..], ["set -e", "module load cuda", "# for all", "set +e; trap - EXIT", EXEC], "{said}");
        assert_eq!(script(&SlurmConfig::default(), &array()), format!("#!/bin/bash\n{EXEC}\n"));
    }

    const EXEC: &str = r"exec '/opt/it'\''s here/llem' 'slurm-task'";

    #[test]
    fn an_id_may_have_company() {
        let said = ["77\n", "77;cluster\n", "Welcome to the cluster\n77;cluster\n", "you have 3 jobs\n77\n\n"];
        assert!(said.iter().all(|text| job_id(text) == Some(77)));
        assert_eq!(job_id("Submitted\n"), None);
    }
}
