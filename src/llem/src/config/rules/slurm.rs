//! Rules of the section on SLURM.

use super::super::check::Finding;
use super::super::slurm::SlurmConfig;
use super::super::wording::key;

/// Everything that the schema cannot say.
pub(super) fn rules(slurm: &SlurmConfig, findings: &mut Vec<Finding>) {
    let texts = [
        ("partition", &slurm.partition),
        ("account", &slurm.account),
        ("qos", &slurm.qos),
        ("gres", &slurm.gres),
        ("constraint", &slurm.constraint),
    ];
    for (field, text) in texts.into_iter().filter_map(|(field, text)| Some((field, text.as_ref()?))) {
        if text.trim().is_empty() || text.chars().any(char::is_control) {
            let message = format!("`{}` is nothing that `sbatch --{field}` takes", key(text));
            findings
                .push(Finding::value(format!("/slurm/{field}"), message).hint("remove the key for the site's default"));
        }
    }
    for (index, line) in slurm.prologue.iter().enumerate().filter(|(_, line)| line.contains(['\n', '\0'])) {
        let message = format!("`{}` is more than one line", key(line));
        findings.push(Finding::value(format!("/slurm/prologue/{index}"), message).hint("one entry for each line"));
    }
}
