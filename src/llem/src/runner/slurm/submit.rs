//! What `sbatch` is given: options on its command line, where they win over variables of the environment, and a script on its stdin.

use crate::config::SlurmConfig;

use super::ArrayRequest;

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
        format!("--output={}", array.log.display()),
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

/// The script: the site's lines, then llem in place of the shell, so that signals reach it.
pub(super) fn script(config: &SlurmConfig, array: &ArrayRequest) -> String {
    let command: Vec<String> = array.command.iter().map(|word| quoted(word)).collect();
    let mut lines = vec!["#!/bin/bash".to_owned()];
    lines.extend(config.prologue.iter().cloned());
    lines.push(format!("exec {}", command.join(" ")));
    lines.join("\n") + "\n"
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{arguments, script};
    use crate::config::SlurmConfig;
    use crate::runner::slurm::ArrayRequest;

    fn array() -> ArrayRequest {
        ArrayRequest {
            name: "llem-0123".to_owned(),
            jobs: 40,
            time_limit_minutes: 20,
            directory: "/s".into(),
            log: "/s/slurm/1-%a.log".into(),
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
             --output=/s/slurm/1-%a.log --open-mode=append --partition=gpu --account=p123 --gres=gpu:h100:1 \
             --dependency=afterany:77"
        );
        assert!(arguments(&SlurmConfig::default(), &array).contains(&"--exclusive".to_owned()));
    }

    #[test]
    fn the_script_is_the_prologue_and_llem() {
        let config = SlurmConfig { prologue: vec!["module load cuda".to_owned()], ..SlurmConfig::default() };
        let expected = "#!/bin/bash\nmodule load cuda\nexec '/opt/it'\\''s here/llem' 'slurm-task'\n";
        assert_eq!(script(&config, &array()), expected);
    }
}
