//! A SLURM started for one test: the real daemons, on ports and in a directory of their own. Several nodes are several `slurmd` on this
//! machine, each with its name.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Bench, eventually};

/// Jobs that the node takes at the same time, whatever the machine has.
const PROCESSORS: u32 = 4;

/// Seconds without an answer after which the node has failed.
const NODE_TIMEOUT_S: u32 = 3;

/// A running SLURM. Its daemons end with it.
pub(crate) struct Site {
    directory: TempDir,
    munge: Option<Child>,
    controller: Option<Child>,
    nodes: BTreeMap<&'static str, Option<Child>>,
}

impl Site {
    /// `None`, with a line that says so, where SLURM is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&["localhost"], "")
    }

    /// As [`Site::start`] with two nodes, `n1` and `n2`, and further lines of `slurm.conf`.
    pub(crate) fn start_two(further: &str) -> Option<Self> {
        Self::start_with(&["n1", "n2"], further)
    }

    /// As [`Site::start`] with one node of two GPUs, `n1`. `None`, with a line that says so, for who may not make device files.
    pub(crate) fn start_gpus() -> Option<Self> {
        Self::start_with_files(&["n1"], "GresTypes=gpu", &[("gres.conf", "NodeName=n1 Name=gpu File=@/gpu[0-1]\n")])
    }

    /// As [`Site::start`] with other nodes and further lines of `slurm.conf`.
    pub(crate) fn start_with(nodes: &[&'static str], further: &str) -> Option<Self> {
        Self::start_with_files(nodes, further, &[])
    }

    /// As [`Site::start_with`] with files beside `slurm.conf`; `@` in all of them is the site's directory.
    pub(crate) fn start_with_files(nodes: &[&'static str], further: &str, files: &[(&str, &str)]) -> Option<Self> {
        let missing = ["munged", "slurmctld", "slurmd", "sbatch"].into_iter().find(|name| program(name).is_none());
        if let Some(missing) = missing {
            assert!(std::env::var_os("CI").is_none(), "{missing} is not installed: apt-get install slurm-wlm munge");
            let _ = writeln!(std::io::stderr(), "skipped: {missing} is not installed (slurm-wlm and munge)");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let nodes = nodes.iter().map(|name| (*name, None)).collect();
        let mut site = Self { directory, munge: None, controller: None, nodes };
        let has_gpus = files.iter().any(|(name, _)| *name == "gres.conf");
        if has_gpus && !site.make_devices() {
            return None;
        }
        site.configure(further, if has_gpus { "Gres=gpu:2" } else { "" });
        for (name, text) in files {
            let directory = site.directory.path().display().to_string();
            fs_err::write(site.path(name), text.replace('@', &directory)).unwrap();
        }
        site.start_munge();
        site.start_controller();
        for name in site.names() {
            site.start_node(name);
        }
        Some(site)
    }

    fn names(&self) -> Vec<&'static str> {
        self.nodes.keys().copied().collect()
    }

    /// A file of the site.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// SLURM takes only device files for GPUs; which, it does not care.
    fn make_devices(&self) -> bool {
        let make = |name| Command::new("mknod").arg(self.path(name)).args(["c", "1", "3"]).status().unwrap().success();
        let is_made = ["gpu0", "gpu1"].into_iter().all(make);
        if !is_made {
            assert!(std::env::var_os("CI").is_none(), "no device files can be made");
            let _ = writeln!(std::io::stderr(), "skipped: device files need root");
        }
        is_made
    }

    fn configure(&self, further: &str, of_nodes: &str) {
        fs_err::create_dir(self.path("munge")).unwrap();
        fs_err::create_dir(self.path("state")).unwrap();
        for path in [self.directory.path().to_owned(), self.path("munge")] {
            fs_err::set_permissions(path, PermissionsExt::from_mode(0o711)).unwrap();
        }
        // All are free until the daemons take them.
        let listen = |_| TcpListener::bind("127.0.0.1:0").unwrap();
        let ports: Vec<TcpListener> = (0..=self.nodes.len()).map(listen).collect();
        let mut ports = ports.into_iter().map(|port| port.local_addr().unwrap().port());
        let controller = ports.next().unwrap();
        let names = self.names();
        let node = |(name, port): (&&str, u16)| {
            fs_err::create_dir(self.path(&format!("spool-{name}"))).unwrap();
            format!(
                "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={PROCESSORS} RealMemory=1000 {of_nodes} State=UNKNOWN\n"
            )
        };
        let nodes: String = names.iter().zip(ports).map(node).collect();
        let user = Command::new("id").arg("-un").output().unwrap();
        let user = String::from_utf8(user.stdout).unwrap();
        let at = |name: &str| self.path(name).display().to_string();
        let text = format!(
            "ClusterName=test\nSlurmctldHost=localhost\nSlurmUser={user}\nSlurmdUser={user}\nAuthType=auth/munge\n\
             AuthInfo=socket={}\nCryptoType=crypto/munge\nSlurmctldPort={controller}\n\
             StateSaveLocation={}\nSlurmdSpoolDir={}\nSlurmctldPidFile={}\nSlurmdPidFile={}\nSlurmctldLogFile={}\nSlurmdLogFile={}\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core\n\
             SchedulerType=sched/backfill\nSchedulerParameters=sched_interval=1,bf_interval=1\nReturnToService=2\nMpiDefault=none\n\
             MessageTimeout=2\nSlurmdTimeout={NODE_TIMEOUT_S}\nSlurmdParameters=config_overrides\n\
             {nodes}PartitionName=test Nodes={all} Default=YES MaxTime=INFINITE State=UP\n{further}\n",
            at("munge/munge.sock"),
            at("state"),
            at("spool-%n"),
            at("slurmctld.pid"),
            at("slurmd-%n.pid"),
            at("slurmctld.log"),
            at("slurmd-%n.log"),
            user = user.trim(),
            all = names.join(","),
            further = further.replace('@', &self.directory.path().display().to_string()),
        );
        fs_err::write(self.path("slurm.conf"), text).unwrap();
    }

    fn start_munge(&mut self) {
        let key = self.path("munge/key");
        fs_err::write(&key, [7_u8; 1024]).unwrap();
        fs_err::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        let option = |name: &str, file: &str| format!("--{name}={}", self.path("munge").join(file).display());
        let files = [
            option("key-file", "key"),
            option("socket", "munge.sock"),
            option("pid-file", "munged.pid"),
            option("log-file", "munged.log"),
            option("seed-file", "seed"),
        ];
        let mut arguments = vec!["--force", "--foreground"];
        arguments.extend(files.iter().map(String::as_str));
        self.munge = Some(self.daemon("munged", &arguments));
        eventually("the socket of munge", || self.path("munge/munge.sock").exists().then_some(()));
    }

    fn daemon(&self, name: &str, arguments: &[&str]) -> Child {
        let output = fs_err::File::options().create(true).append(true).open(self.path(&format!("{name}.out")));
        let output = output.unwrap().into_file();
        let mut command = Command::new(program(name).unwrap());
        command.args(arguments).env("SLURM_CONF", self.path("slurm.conf"));
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap()
    }

    /// Starts SLURM's own controller; what it knew before, it knows again.
    pub(crate) fn start_controller(&mut self) {
        self.controller = Some(self.daemon("slurmctld", &["-D"]));
    }

    /// As an administrator does who looks after nodes that SLURM has taken out of use: a launch that dies with the controller makes it do so.
    pub(crate) fn take_nodes_back(&self) {
        for name in self.names() {
            // A node in use needs none of it, and SLURM refuses.
            let _ = self.command("scontrol", &["update", &format!("NodeName={name}"), "State=RESUME"]);
        }
    }

    /// Nobody answers any more.
    pub(crate) fn kill_controller(&mut self) {
        let mut daemon = self.controller.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Starts a node's daemon and waits until the node takes jobs.
    pub(crate) fn start_node(&mut self, name: &'static str) {
        self.nodes.insert(name, Some(self.daemon("slurmd", &["-D", "-N", name])));
        eventually("a node that takes jobs", || {
            let said = self.ask("sinfo", &["--noheader", "--format=%T", &format!("--nodes={name}")]);
            let is_up = ["idle", "mixed", "allocated"].iter().any(|state| said.trim() == *state);
            is_up.then_some(())
        });
    }

    /// A node dies with everything on it.
    pub(crate) fn kill_node(&mut self, name: &str) {
        let mut daemon = self.nodes.get_mut(name).and_then(Option::take).unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let on_node: Vec<Pid> = self.processes().into_iter().filter(|pid| is_on(*pid, name)).collect();
        // The daemon of a job first: it would tell SLURM how the job ended.
        for pid in on_node.iter().filter_map(|pid| parent(*pid)).chain(on_node.iter().copied()) {
            if self.processes().contains(&pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    /// The node of a process of a job.
    pub(crate) fn node_of(&self, pid: Pid) -> &'static str {
        self.names().into_iter().find(|name| is_on(pid, name)).unwrap()
    }

    /// What runs on the node for this site's jobs, but for its daemon.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let conf = format!("SLURM_CONF={}", self.path("slurm.conf").display());
        let is_of_job = |pid: &Path| {
            let environ = fs_err::read(pid.join("environ")).unwrap_or_default();
            let has =
                |text: &str| environ.split(|byte| *byte == 0).any(|variable| variable.starts_with(text.as_bytes()));
            let name = fs_err::read_to_string(pid.join("comm")).unwrap_or_default();
            has(&conf) && (has("SLURM_JOB_ID=") || name.trim() == "slurmstepd")
        };
        let entries = fs_err::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let pid = |path: PathBuf| path.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw);
        entries.filter(|path| is_of_job(path)).filter_map(pid).collect()
    }

    /// One of SLURM's commands.
    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> Output {
        Command::new(name).args(arguments).env("SLURM_CONF", self.path("slurm.conf")).output().unwrap()
    }

    fn ask(&self, name: &str, arguments: &[&str]) -> String {
        String::from_utf8(self.command(name, arguments).stdout).unwrap()
    }

    /// Jobs in these states, as `scancel` takes them.
    pub(crate) fn jobs(&self, states: &str) -> Vec<String> {
        let states = format!("--states={states}");
        let said = self.ask("squeue", &["--noheader", "--array", &states, "--format=%F_%K"]);
        said.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// Checks that nothing of a study is left in the queue or on the node.
    #[track_caller]
    pub(crate) fn is_idle(&self) {
        eventually("an empty queue", || self.jobs("PENDING,RUNNING,COMPLETING,SUSPENDED").is_empty().then_some(()));
        eventually("a node without jobs", || self.processes().is_empty().then_some(()));
    }

    /// A study of one short run for this site.
    pub(crate) fn bench(&self, name: &str) -> Bench {
        let mut bench = Bench::new(name);
        bench.user = json!({"runner": "slurm", "slurm": {"poll_seconds": 1, "exclusive": false}});
        bench.variables.insert("SLURM_CONF", self.path("slurm.conf").display().to_string());
        bench
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let nodes = self.nodes.values_mut();
        for daemon in nodes.chain([&mut self.munge, &mut self.controller]).flatten() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Whether a process belongs to a job on a node.
fn is_on(pid: Pid, node: &str) -> bool {
    let environ = fs_err::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    let wanted = format!("SLURMD_NODENAME={node}");
    environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs_err::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    Pid::from_raw(stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?)
}

/// Where a program is; daemons are not in everybody's PATH.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}
