//! The variables of the environment that llem reads: this list is the help's and the documentation's.

use std::fmt::Write;

/// A variable with what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name; `*` at the end stands for several.
    pub name: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

const fn variable(name: &'static str, meaning: &'static str) -> Variable {
    Variable { name, meaning }
}

/// All of them, llem's own first. Arguments win over variables, variables over the user config, unless the meaning says otherwise.
pub const VARIABLES: [Variable; 18] = [
    variable(
        "LLEM_CONFIG",
        "user config in place of llem/config.yaml in the XDG configuration directory; it must exist",
    ),
    variable("LLEM_OUTPUT", "directory in which study directories are made; default: results"),
    variable("LLEM_DATASETS_DIR", "directory with local copies of built-in data sets"),
    variable("XDG_CONFIG_HOME", "where llem/config.yaml is looked for; default: ~/.config"),
    variable(
        "XDG_CACHE_HOME",
        "where llem/ keeps models, images' facts, workloads; default: ~/.cache; `cache_dir` wins over it",
    ),
    variable("DOCKER_HOST", "socket of the container engine; `docker_host` wins over it"),
    variable("HF_TOKEN", "access token for the model hub; never enters a container"),
    variable("HUGGING_FACE_HUB_TOKEN", "the old name of HF_TOKEN"),
    variable("HF_TOKEN_PATH", "file with the access token; default: $HF_HOME/token"),
    variable("HF_HOME", "Hugging Face's directory; default: huggingface/ in the XDG cache directory"),
    variable("HF_HUB_CACHE", "models that other tools downloaded; default: $HF_HOME/hub"),
    variable("HF_ENDPOINT", "address of the model hub"),
    variable("HF_HUB_OFFLINE", "1: never ask the hub"),
    variable("CUDA_VISIBLE_DEVICES", "with the `process` runner: kept as it is; unset, llem sets it to the run's GPUs"),
    variable("NO_COLOR", "no colours; they are only on terminals anyway"),
    variable("COLUMNS", "width of tables where stdout is no terminal; default: 80"),
    variable("RUST_LOG", "llem's own log, e.g. llem=debug; -vv does the same"),
    variable("HOME", "the user's directory, for `~/` and the defaults above"),
];

/// The list as text, names and meanings in two columns.
pub fn environment_help() -> String {
    let width = VARIABLES.iter().map(|variable| variable.name.len()).max().unwrap_or_default();
    VARIABLES.iter().fold("Environment:\n".to_owned(), |mut text, Variable { name, meaning }| {
        let _ = writeln!(text, "  {name:width$}  {meaning}");
        text
    })
}
