//! From what is wanted of a container to `apptainer exec`: pure functions.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What of llem's own environment Apptainer itself needs. Site and user may set flags by variables (`APPTAINER_BIND` …), which would
/// make containers other than the study says.
const KEPT: [&str; 8] = [
    "APPTAINER_CACHEDIR",
    "APPTAINER_CONFIGDIR",
    "HOME",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PATH",
    "USER",
    "XDG_RUNTIME_DIR",
];

/// The run's own temporary directory and its engine's home, inside.
const HOME: &str = "/tmp";

/// What of the scratch directory is `/tmp` inside: the name that Apptainer gives it.
pub(super) const SCRATCH_TMP: &str = "tmp";

/// How containers can be made on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    /// Root drops what it could do; others can do nothing.
    pub(super) is_root: bool,
    /// A user namespace is asked for, also where Apptainer is installed with setuid.
    pub(super) userns: bool,
    /// Containers have no network but their own loopback.
    pub(super) offline: bool,
}

impl Mode {
    /// All that can be tried, best first: a container without network is worth more than one in the usual namespace.
    pub(super) fn all(is_root: bool) -> [Self; 4] {
        let mode = |userns, offline| Self { is_root, userns, offline };
        [mode(false, true), mode(true, true), mode(false, false), mode(true, false)]
    }

    /// The flags that differ between machines.
    pub(super) fn flags(self) -> Vec<&'static str> {
        let mut flags = Vec::new();
        flags.extend(self.is_root.then_some("--no-privs"));
        flags.extend(self.userns.then_some("--userns"));
        if self.offline {
            flags.extend(["--net", "--network", "none"]);
        }
        flags
    }

    /// The flags as people write them.
    pub(super) fn shown(self) -> String {
        let flags = self.flags().join(" ");
        if flags.is_empty() { "no further flags".to_owned() } else { format!("`{flags}`") }
    }
}

/// A file or directory of this machine inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) read_only: bool,
}

impl Bind {
    /// That the container may only read.
    pub(super) fn read_only(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { source: source.into(), target: target.into(), read_only: true }
    }

    /// `--mount` reads one line of CSV: a field in quotes may hold commas and colons.
    fn argument(&self) -> String {
        let quoted = |name: &str, path: &Path| {
            let field = format!("{name}={}", path.display());
            format!("\"{}\"", field.replace('"', "\"\""))
        };
        let (source, target) = (quoted("source", &self.source), quoted("destination", &self.target));
        let read_only = if self.read_only { ",ro" } else { "" };
        format!("type=bind,{source},{target}{read_only}")
    }
}

/// A container and what runs in it.
#[derive(Clone, Debug)]
pub(super) struct Exec<'a> {
    /// SIF file or directory.
    pub(super) root: &'a Path,
    /// A directory of this machine whose [`SCRATCH_TMP`] is `/tmp` inside.
    pub(super) scratch: &'a Path,
    pub(super) binds: Vec<Bind>,
    /// Variables for the process inside.
    pub(super) env: BTreeMap<String, String>,
    /// Whether the driver's libraries and all device nodes of GPUs are given.
    pub(super) gpus: bool,
    /// Working directory inside.
    pub(super) directory: &'a str,
    pub(super) command: Vec<String>,
}

impl Exec<'_> {
    /// The arguments of `apptainer`. No variable is among them: everybody can read those.
    pub(super) fn arguments(&self, mode: Mode) -> Vec<OsString> {
        let fixed = [
            "--nocolor",
            "exec",
            "--containall",
            "--cleanenv",
            "--no-eval",
            "--no-mount",
            // A home that is mounted would be the host's `/tmp`; it only has that name.
            "hostfs,bind-paths,cwd,home",
            "--home",
            HOME,
            "--pwd",
            self.directory,
            "--workdir",
        ];
        let mut arguments: Vec<OsString> = fixed.map(Into::into).into();
        arguments.push(self.scratch.into());
        arguments.extend(mode.flags().into_iter().map(Into::into));
        arguments.extend(self.gpus.then(|| "--nv".into()));
        // A site can forbid the `/tmp` that comes with a working directory, and containers would have the host's or none.
        let tmp = Bind { source: self.scratch.join(SCRATCH_TMP), target: HOME.into(), read_only: false };
        for bind in std::iter::once(&tmp).chain(&self.binds) {
            arguments.extend(["--mount".into(), bind.argument().into()]);
        }
        arguments.push(self.root.into());
        arguments.extend(self.command.iter().map(Into::into));
        arguments
    }

    /// All of the environment of `apptainer`; `own` is that of llem.
    pub(super) fn environment(&self, own: impl Fn(&str) -> Option<OsString>) -> BTreeMap<String, OsString> {
        let kept = KEPT.iter().filter_map(|name| Some(((*name).to_owned(), own(name)?)));
        let inside = self.env.iter().map(|(name, value)| (format!("APPTAINERENV_{name}"), value.into()));
        let scratch = ("APPTAINER_TMPDIR".to_owned(), self.scratch.into());
        kept.chain(inside).chain([scratch]).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Bind, Exec, Mode};

    fn exec() -> Exec<'static> {
        Exec {
            root: Path::new("/i/x.sif"),
            scratch: Path::new("/tmp/llem-run-1"),
            binds: vec![Bind::read_only("/b/llem-agent", "/llem/agent")],
            env: [("SITE".to_owned(), "a b".to_owned())].into(),
            gpus: true,
            directory: "/llem",
            command: vec!["/llem/agent".into(), "/llem/job.json".into()],
        }
    }

    fn mode() -> Mode {
        Mode { is_root: true, userns: false, offline: true }
    }

    #[test]
    fn containers_see_nothing_but_what_they_are_given() {
        let arguments: Vec<_> = exec().arguments(mode()).into_iter().map(|a| a.into_string().unwrap()).collect();
        let text = arguments.join(" ");
        let expected = "--nocolor exec --containall --cleanenv --no-eval --no-mount hostfs,bind-paths,cwd,home --home /tmp --pwd /llem \
             --workdir /tmp/llem-run-1 --no-privs --net --network none --nv \
             --mount type=bind,\"source=/tmp/llem-run-1/tmp\",\"destination=/tmp\" --mount type=bind,\"source=/b/llem-agent\",\"destination=/llem/agent\",ro /i/x.sif /llem/agent /llem/job.json";
        assert_eq!(text, expected);
    }

    #[test]
    fn variables_are_not_among_the_arguments_and_few_come_from_outside() {
        let own = |name: &str| matches!(name, "PATH" | "HF_TOKEN" | "APPTAINER_BIND").then(|| "x".into());
        let environment = exec().environment(own);
        let names: Vec<_> = environment.keys().map(String::as_str).collect();
        assert_eq!(names, ["APPTAINERENV_SITE", "APPTAINER_TMPDIR", "PATH"]);
        assert!(!exec().arguments(mode()).iter().any(|argument| argument.to_string_lossy().contains("a b")));
    }

    #[test]
    fn paths_may_hold_commas_colons_and_quotes() {
        let bind = Bind { source: "/a,b:c\"d".into(), target: "/llem/out".into(), read_only: false };
        assert_eq!(bind.argument(), "type=bind,\"source=/a,b:c\"\"d\",\"destination=/llem/out\"");
    }

    #[test]
    fn an_ordinary_user_has_no_privilege_to_drop() {
        assert_eq!(Mode::all(false)[0].shown(), "`--net --network none`");
        assert_eq!(Mode::all(false)[2].shown(), "no further flags");
        assert_eq!(Mode::all(true)[3].flags(), ["--no-privs", "--userns"]);
    }
}
